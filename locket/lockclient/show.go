package lockclient

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// showHeld registers the gauge of a lock. A process that takes a lock again shows the later one.
func showHeld(registry prometheus.Registerer, l *Lock) error {
	if registry == nil {
		return nil
	}
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "lock_held", Help: "1 while this process may act as the holder of the lock.",
		ConstLabels: prometheus.Labels{"lock": l.claim.Key},
	}, func() float64 {
		if l.acquired.Load() && l.Valid() {
			return 1
		}
		return 0
	})
	err := registry.Register(gauge)
	if earlier, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		registry.Unregister(earlier.ExistingCollector)
		err = registry.Register(gauge)
	}
	if err != nil {
		return fmt.Errorf("registering the gauge of the lock: %w", err)
	}
	return nil
}

// lockState is what /readyz tells of a lock.
type lockState struct {
	Lock   string `json:"lock"`
	Role   string `json:"role"` // active or standby
	Owner  string `json:"owner"`
	Holder string `json:"holder,omitempty"` // of a standby: who held the lock when it was last asked for
	Token  int64  `json:"fencing_token,omitempty"`
	// ValidFor is how long the active one may go on without another renewal.
	ValidFor string `json:"valid_for,omitempty"`
}

// readiness tells who holds the lock. It is an error not to hold it.
func (l *Lock) readiness() (any, error) {
	state := lockState{Lock: l.claim.Key, Role: "standby", Owner: l.claim.Owner}
	if l.acquired.Load() {
		state.Token = l.Token()
		if !l.Valid() {
			return state, errNotValid
		}
		state.Role, state.ValidFor = "active", time.Until(l.Deadline()).Round(time.Millisecond).String()
		return state, nil
	}
	if holder := l.holder.Load(); holder != nil {
		state.Holder = *holder
		return state, fmt.Errorf("%q holds the lock", *holder)
	}
	return state, errNotAnswered
}

var (
	errNotValid    = errors.New("the lock is lost or given up")
	errNotAnswered = errors.New("the store of locks has not answered yet")
)
