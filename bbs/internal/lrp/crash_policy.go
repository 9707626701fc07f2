package lrp

import "time"

const (
	// healthyAfter is how long an instance must run for its next crash to count as the first.
	healthyAfter = 5 * time.Minute
	// firstRestartDelay is the delay after the first crash that waits. It doubles with each more.
	firstRestartDelay = 30 * time.Second
)

// The built-in crash policy.
const (
	DefaultImmediateRestarts         = 3
	DefaultMaxSecondsBetweenRestarts = 960
	DefaultMaxRestartAttempts        = 200
)

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

// Policy is a crash policy with every member decided.
type Policy struct {
	ImmediateRestarts  int32
	MaxDelay           time.Duration
	MaxRestartAttempts int32 // 0 never gives up
}

// ResolvePolicy decides by which policy an LRP restarts: its own, else its domain's, else the
// built-in one; the policies are not mixed. Either argument may be nil. It is asked at each decision
// and never copied into a record, so a changed policy counts from then on.
func ResolvePolicy(d *Desired, domain *Domain) Policy {
	switch {
	case d != nil && d.CrashPolicy != nil:
		return d.CrashPolicy.resolve()
	case domain != nil && domain.DefaultCrashPolicy != nil:
		return domain.DefaultCrashPolicy.resolve()
	default:
		return (&CrashPolicy{}).resolve()
	}
}

func (p *CrashPolicy) resolve() Policy {
	or := func(value *uint32, builtIn uint32) uint32 {
		if value == nil {
			return builtIn
		}
		return *value
	}
	return Policy{
		ImmediateRestarts:  int32(min(or(p.ImmediateRestarts, DefaultImmediateRestarts), 9)),
		MaxDelay:           time.Duration(or(p.MaxSecondsBetweenRestarts, DefaultMaxSecondsBetweenRestarts)) * time.Second,
		MaxRestartAttempts: int32(min(or(p.MaxRestartAttempts, DefaultMaxRestartAttempts), 1<<31-1)),
	}
}

// Valid reports what is wrong with the policy by itself: the name of the field and the rule, or two
// empty strings. A policy that restarts more often at once than it restarts at all contradicts itself.
func (p *CrashPolicy) Valid() (field, problem string) {
	r := p.resolve()
	switch {
	case p.ImmediateRestarts != nil && *p.ImmediateRestarts > 9:
		return "number_of_immediate_restarts", "must be from 0 to 9"
	case r.MaxDelay <= firstRestartDelay:
		return "max_seconds_between_restarts", "must be more than 30"
	case r.MaxRestartAttempts != 0 && r.ImmediateRestarts >= r.MaxRestartAttempts:
		return "number_of_immediate_restarts", "must be less than max_restart_attempts"
	}
	return "", ""
}

// RestartsAtOnce reports whether the crash of this number is followed by a restart without delay.
func (p Policy) RestartsAtOnce(count int32) bool {
	return count < p.ImmediateRestarts && !p.gaveUp(count)
}

func (p Policy) gaveUp(count int32) bool {
	return p.MaxRestartAttempts != 0 && count >= p.MaxRestartAttempts
}

// Delay is how long the index stays Crashed after the crash of this number; false means for ever.
func (p Policy) Delay(count int32) (time.Duration, bool) {
	if p.gaveUp(count) {
		return 0, false
	}
	delay := firstRestartDelay
	// MaxDelay is finite, so the loop ends after some twenty doublings however often it crashed.
	for n := p.ImmediateRestarts; n < count && delay < p.MaxDelay; n++ {
		delay *= 2
	}
	return min(delay, p.MaxDelay), true
}

// RestartDue is when the Crashed record is to start again, in nanoseconds since the Unix epoch; false
// if it is not Crashed or stays down.
func (p Policy) RestartDue(a *Actual) (int64, bool) {
	if a.State != Crashed {
		return 0, false
	}
	delay, restarts := p.Delay(a.CrashCount)
	if !restarts {
		return 0, false
	}
	return a.Since + delay.Nanoseconds(), true
}
