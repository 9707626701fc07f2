package cell

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/servicekit/telemetry"
)

// roundDuration is one for all cells of a process, which share a registry.
func roundDuration(registry prometheus.Registerer) (prometheus.Histogram, error) {
	rounds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "rep_bulk_sync_duration_seconds", Help: "Duration of complete rounds that compared containers with records.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
	})
	err := registry.Register(rounds)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := already.ExistingCollector.(prometheus.Histogram); ok {
			return existing, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("registering the metrics of a cell: %w", err)
	}
	return rounds, nil
}

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
