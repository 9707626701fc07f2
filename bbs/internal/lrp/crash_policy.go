package lrp

// CrashPolicy says how often and how fast a crashed instance starts again. A nil member takes the
// built-in value.
type CrashPolicy struct {
	// ImmediateRestarts is the number of the crash that first waits, 0..9.
	ImmediateRestarts *uint32
	// MaxSecondsBetweenRestarts is the longest delay, in seconds, more than 30.
	MaxSecondsBetweenRestarts *uint32
	// MaxRestartAttempts is the number of the crash after which the instance stays down; 0 never
	// gives up.
	MaxRestartAttempts *uint32
}
