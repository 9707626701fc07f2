package cell

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/executor"
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

// ShowMetrics registers the amounts of all cells that list returns, as sums. List is called for each reading, concurrently.
func ShowMetrics(registry prometheus.Registerer, list func() []*Cell) {
	sum := func(name, help string, value func(*executor.Client) int) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			total := 0
			for _, c := range list() {
				total += value(c.exec)
			}
			return float64(total)
		}))
	}
	sum("capacity_total_memory_mebibytes", "Memory that the cell offers.", func(e *executor.Client) int { return e.TotalResources().MemoryMB })
	sum("capacity_total_disk_mebibytes", "Disk that the cell offers.", func(e *executor.Client) int { return e.TotalResources().DiskMB })
	sum("capacity_total_containers", "Containers that the cell offers.", func(e *executor.Client) int { return e.TotalResources().Containers })
	sum("capacity_remaining_memory_mebibytes", "Memory that is not reserved.", func(e *executor.Client) int { return e.RemainingResources().MemoryMB })
	sum("capacity_remaining_disk_mebibytes", "Disk that is not reserved.", func(e *executor.Client) int { return e.RemainingResources().DiskMB })
	sum("capacity_remaining_containers", "Containers that are not reserved.", func(e *executor.Client) int { return e.RemainingResources().Containers })
	// Every container takes one slot until it is gone, in any state.
	sum("container_count", "Containers in any state.", func(e *executor.Client) int {
		return e.TotalResources().Containers - e.RemainingResources().Containers
	})
	sum("cell_unhealthy", "1 while the container engine fails its check.", func(e *executor.Client) int {
		if healthy, _ := e.Healthy(); healthy {
			return 0
		}
		return 1
	})
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
