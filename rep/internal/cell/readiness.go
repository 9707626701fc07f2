package cell

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/executor"
	"diego.internal/servicekit/telemetry"
)

// AwaitEngine shows, while the cell is not open yet, that it waits for its container engine and for how long: in readiness,
// which the cell takes over when it is open, and as the metric of the time that the engine has not answered.
func AwaitEngine(tel *telemetry.Telemetry, stall *executor.Stall) {
	tel.AddReadiness("presence", func() (any, error) {
		if waited := stall.Duration(); waited > 0 {
			return nil, fmt.Errorf("the container engine has not answered for %v", waited.Round(time.Second))
		}
		return nil, errors.New("the cell is not open yet")
	})
	tel.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "container_engine_stalled_seconds", Help: "How long the container engine has not answered.",
	}, func() float64 { return stall.Duration().Seconds() }))
}

// addReadiness says what must hold for the cell to take work, and what operators want to see beside it.
func (c *Cell) addReadiness(tel *telemetry.Telemetry) {
	tel.AddReadiness("presence", func() (any, error) {
		if !c.registration.Held() {
			return nil, errors.New("the presence of the cell is not held")
		}
		return map[string]string{"owner": c.registration.Owner()}, nil
	})
	tel.AddReadiness("garden", func() (any, error) {
		_, err := c.exec.Healthy()
		if restrictions := c.exec.Restrictions(); len(restrictions) > 0 {
			return map[string][]string{"restrictions": restrictions}, err
		}
		return nil, err
	})
	tel.AddReadiness("bulk_sync", func() (any, error) {
		at, problem := c.reconciler.LastRound()
		detail := map[string]string{"last": at.Format(time.RFC3339)}
		if problem != "" {
			return detail, errors.New(problem)
		}
		return detail, nil
	})
	tel.AddReadiness("evacuation", func() (any, error) {
		if c.evacuator.Evacuating() {
			return c.evacuator.Progress(), errors.New("the cell is evacuating")
		}
		return nil, nil
	})
}
