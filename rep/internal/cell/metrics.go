package cell

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/executor"
	"diego.internal/rep/internal/evacuation"
)

// ShowMetrics registers the amounts of all cells that list returns, as sums. List is called for each reading, concurrently.
func ShowMetrics(registry prometheus.Registerer, list func() []*Cell) {
	s := sums{registry: registry, list: list}
	s.capacity()
	s.containers()
	s.lifecycle()
	s.evacuation()
	registry.MustRegister(volumeCollector{list: list})
}

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

// sums registers metrics that add up over the cells of a process.
type sums struct {
	registry prometheus.Registerer
	list     func() []*Cell
}

func (s sums) read(value func(*Cell) float64) func() float64 {
	return func() float64 {
		var total float64
		for _, c := range s.list() {
			total += value(c)
		}
		return total
	}
}

func (s sums) gauge(name, help string, value func(*Cell) float64) {
	s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, s.read(value)))
}

func (s sums) capacity() {
	total := func(value func(executor.Resources) int) func(*Cell) float64 {
		return func(c *Cell) float64 { return float64(value(c.exec.TotalResources())) }
	}
	remaining := func(value func(executor.Resources) int) func(*Cell) float64 {
		return func(c *Cell) float64 { return float64(value(c.exec.RemainingResources())) }
	}
	allocated := func(value func(executor.Resources) int) func(*Cell) float64 {
		return func(c *Cell) float64 {
			return float64(value(c.exec.TotalResources()) - value(c.exec.RemainingResources()))
		}
	}
	memory := func(r executor.Resources) int { return r.MemoryMB }
	disk := func(r executor.Resources) int { return r.DiskMB }
	slots := func(r executor.Resources) int { return r.Containers }
	s.gauge("capacity_total_memory_mebibytes", "Memory that the cell offers.", total(memory))
	s.gauge("capacity_total_disk_mebibytes", "Disk that the cell offers.", total(disk))
	s.gauge("capacity_total_containers", "Containers that the cell offers.", total(slots))
	s.gauge("capacity_remaining_memory_mebibytes", "Memory that is not reserved.", remaining(memory))
	s.gauge("capacity_remaining_disk_mebibytes", "Disk that is not reserved.", remaining(disk))
	s.gauge("capacity_remaining_containers", "Containers that are not reserved.", remaining(slots))
	s.gauge("capacity_allocated_memory_mebibytes", "Memory that is reserved.", allocated(memory))
	s.gauge("capacity_allocated_disk_mebibytes", "Disk that is reserved.", allocated(disk))
	// Every container takes one slot until it is gone, in any state.
	s.gauge("container_count", "Containers in any state.", allocated(slots))
}

func (s sums) containers() {
	s.gauge("starting_container_count", "Containers that are being made or do not run yet.", func(c *Cell) float64 {
		count := 0
		for e := range c.exec.Containers() {
			switch e.State {
			case executor.StateReserved, executor.StateInitializing, executor.StateCreated:
				count++
			case executor.StateRunning, executor.StateCompleted:
			}
		}
		return float64(count)
	})
	s.gauge("cell_engine_restrictions", "What the container engine has to do without on this machine: user namespaces, limits of disk.", func(c *Cell) float64 {
		return float64(len(c.exec.Restrictions()))
	})
	s.gauge("garden_health_check_failed", "1 while the newest check of the container engine has failed.", unhealthy)
	s.gauge("container_usage_memory_mebibytes", "Memory that containers used at the last sample; -1 if it cannot be read.", used(func(m executor.Metrics) uint64 { return m.MemoryUsageInBytes }))
	s.gauge("container_usage_disk_mebibytes", "Disk that containers used at the last sample; -1 if it cannot be read.", used(func(m executor.Metrics) uint64 { return m.DiskUsageInBytes }))
	s.gauge("cell_unhealthy", "1 while the container engine fails its check.", unhealthy)
}

func unhealthy(c *Cell) float64 {
	if healthy, _ := c.exec.Healthy(); healthy {
		return 0
	}
	return 1
}

// used adds up what all containers of a cell use.
func used(value func(executor.Metrics) uint64) func(*Cell) float64 {
	return func(c *Cell) float64 {
		samples, _, err := c.exec.Samples()
		if err != nil {
			return -1
		}
		var sum uint64
		for _, m := range samples {
			sum += value(m)
		}
		return float64(sum) / (1 << 20)
	}
}

// lifecycle publishes what the executors count.
func (s sums) lifecycle() {
	for _, f := range executor.Figures() {
		s.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: f.Name, Help: f.Help},
			s.read(func(c *Cell) float64 { return f.Value(c.exec) })))
	}
}

func (s sums) evacuation() {
	progress := func(value func(evacuation.Progress) int) func(*Cell) float64 {
		return func(c *Cell) float64 {
			if !c.evacuator.Evacuating() {
				return 0
			}
			return float64(value(c.evacuator.Progress()))
		}
	}
	s.gauge("evacuating", "1 while the cell is being emptied.", func(c *Cell) float64 {
		if c.evacuator.Evacuating() {
			return 1
		}
		return 0
	})
	s.gauge("evacuation_remaining_lrps", "Instances that are still here while the cell is being emptied.", progress(func(p evacuation.Progress) int { return p.LRPs }))
	s.gauge("evacuation_remaining_tasks", "Tasks that are still here while the cell is being emptied.", progress(func(p evacuation.Progress) int { return p.Tasks }))
	s.gauge("stranded_evacuating_actual_lrps", "Instances whose replacement did not serve before the evacuation timed out.", progress(func(p evacuation.Progress) int { return p.Stranded }))
}
