package step

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"diego.internal/executor/garden"
	"diego.internal/executor/healthcheck"
	"diego.internal/executor/logs"
	"diego.internal/executor/transfer"
)

// Log takes what users read. *logs.Sink is one.
type Log interface {
	Writer(source string, stream logs.Stream) *logs.Writer
	Emit(source string, stream logs.Stream, message string)
}

// Progress remembers how far a tree has come, over restarts of this process. Implementations log their own failures: a
// mark that is lost makes the container unaccounted for after a restart, which is no reason to end it now.
type Progress interface {
	// Process returns what is known of a process, zero if nothing.
	Process(id string) ProcessMark
	// SetProcess remembers it before returning; a zero mark forgets it.
	SetProcess(id string, mark ProcessMark)
	// Done says whether something that must happen once has been noted, and SetDone notes it.
	Done(key string) bool
	SetDone(key string)
	// Since returns the time at which key was asked for first.
	Since(key string, now time.Time) time.Time
}

// ProcessMark is what is remembered of a process.
type ProcessMark struct {
	// Starting was noted before the engine was asked to start it, Started after, Ended with its status.
	Starting bool              `json:"starting,omitempty"`
	Started  bool              `json:"started,omitempty"`
	Ended    bool              `json:"ended,omitempty"`
	Status   garden.ExitStatus `json:"status,omitzero"`
	// Interrupted and Killed tell what we did to it.
	Interrupted bool `json:"interrupted,omitempty"`
	Killed      bool `json:"killed,omitempty"`
}

// Transfers fetches and sends files.
type Transfers interface {
	// Archive fetches a source, or finds it under its cache key if it has one.
	Archive(ctx context.Context, cacheKey string, source transfer.Source) (*transfer.Archive, error)
	Upload(ctx context.Context, to string, open func(context.Context) (io.ReadCloser, error)) (int64, error)
}

// Counters of a whole cell.
type Counters struct {
	// ExitedOnTimeout counts processes that had to be killed or did not exit (ContainerExitedOnTimeoutCount).
	ExitedOnTimeout atomic.Int64
}

// Env is what the leaves of one container's tree need.
type Env struct {
	Container garden.Container
	Log       Log
	// Source of log lines whose action names none.
	Source string
	// Variables makes those that are added behind each process's own. They are not kept, because most containers start one.
	Variables func() []garden.EnvVar
	Progress  Progress
	Transfers Transfers
	// Address of the container for network checks.
	Address string
	Dial    healthcheck.Dialer
	// HTTP makes the probes of network checks by request, through Dial.
	HTTP *healthcheck.HTTP
	// CheckTimeout is the limit of a network check that names none.
	CheckTimeout time.Duration
	// GraceTime is the time from SIGTERM to SIGKILL.
	GraceTime time.Duration
	// Detached is closed when processes are to go on without us. Contexts are then cancelled with ErrDetached, but a step
	// that was being interrupted already keeps its first cause, and looks here.
	Detached <-chan struct{}
	Counters *Counters
	// Slog is that of the whole cell; lines name the container themselves.
	Slog *slog.Logger

	// probing says that the tree is one attempt of a monitor: processes get new names each time and are forgotten when
	// they end, exit lines are not logged, and output is never suppressed, because it is captured.
	probing bool
}

// detached says whether we are leaving.
func (e *Env) detached() bool {
	select {
	case <-e.Detached:
		return true
	default:
		return false
	}
}

func (e *Env) source(own string) string {
	if own != "" {
		return own
	}
	if e.Source != "" {
		return e.Source
	}
	return logs.DefaultSource
}
