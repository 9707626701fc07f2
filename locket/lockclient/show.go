package lockclient

import (
	"errors"
	"fmt"

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
