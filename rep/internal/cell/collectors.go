package cell

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/executor"
)

// volumeCollector publishes what each volume driver did, as sums over the cells.
type volumeCollector struct{ list func() []*Cell }

// driverCounters are the counters of one driver in the order of their descriptions.
type driverCounters [6]float64

func volumeDescriptions() [6]*prometheus.Desc {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"driver"}, nil)
	}
	return [6]*prometheus.Desc{
		desc("volume_mounts_total", "Volumes mounted for a container."),
		desc("volume_mount_seconds_total", "Time taken by volumes mounted for a container."),
		desc("volume_mounts_failed_total", "Volumes that could not be mounted for a container."),
		desc("volume_unmounts_total", "Volumes unmounted."),
		desc("volume_unmount_seconds_total", "Time taken by volumes unmounted."),
		desc("volume_unmounts_failed_total", "Attempts to unmount a volume that failed."),
	}
}

// Describe implements prometheus.Collector.
func (v volumeCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range volumeDescriptions() {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (v volumeCollector) Collect(out chan<- prometheus.Metric) {
	sums := map[string]driverCounters{}
	for _, c := range v.list() {
		for driver, s := range c.exec.VolumeStats() {
			own := driverCounters{
				float64(s.Mounts.Load()), time.Duration(s.MountNanos.Load()).Seconds(), float64(s.MountsFailed.Load()),
				float64(s.Unmounts.Load()), time.Duration(s.UnmountNanos.Load()).Seconds(), float64(s.UnmountsFailed.Load()),
			}
			sum := sums[driver]
			for i, value := range own {
				sum[i] += value
			}
			sums[driver] = sum
		}
	}
	descriptions := volumeDescriptions()
	for driver, sum := range sums {
		for i, value := range sum {
			out <- prometheus.MustNewConstMetric(descriptions[i], prometheus.CounterValue, value, driver)
		}
	}
}

// containerMetric is one value of a container; those that are absent are not published.
type containerMetric struct {
	name, help string
	kind       prometheus.ValueType
	value      func(executor.Metrics) (value float64, present bool)
}

// containerMetrics are the gauges and counters of a container under the names of the platform, with units.
func containerMetrics() []containerMetric {
	number := func(value func(executor.Metrics) float64) func(executor.Metrics) (float64, bool) {
		return func(m executor.Metrics) (float64, bool) { return value(m), true }
	}
	moment := func(value func(executor.Metrics) time.Time) func(executor.Metrics) (float64, bool) {
		return func(m executor.Metrics) (float64, bool) {
			at := value(m)
			return float64(at.UnixNano()) / 1e9, !at.IsZero()
		}
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	return []containerMetric{
		{"container_cpu_percent", "Of one core, 100 being all of it, between the last two samples.", gauge, number(func(m executor.Metrics) float64 { return m.CPUPercent })},
		{"container_cpu_entitlement_percent", "Of what it is entitled to, 100 being all of it, between the last two samples.", gauge, number(func(m executor.Metrics) float64 { return m.CPUEntitlementPercent })},
		{"container_absolute_usage_seconds_total", "Processor time used.", counter, number(func(m executor.Metrics) float64 { return m.CPUUsage.Seconds() })},
		{"container_absolute_entitlement_seconds_total", "Processor time that it was entitled to.", counter, number(func(m executor.Metrics) float64 { return m.CPUEntitlement.Seconds() })},
		{"container_age_seconds", "Time since its creation.", gauge, number(func(m executor.Metrics) float64 { return m.ContainerAge.Seconds() })},
		{"container_memory_bytes", "Memory used.", gauge, number(func(m executor.Metrics) float64 { return float64(m.MemoryUsageInBytes) })},
		{"container_memory_quota_bytes", "Limit of memory; 0 is none.", gauge, number(func(m executor.Metrics) float64 { return float64(m.MemoryLimitInBytes) })},
		{"container_disk_bytes", "Disk used.", gauge, number(func(m executor.Metrics) float64 { return float64(m.DiskUsageInBytes) })},
		{"container_disk_quota_bytes", "Limit of disk; 0 is none.", gauge, number(func(m executor.Metrics) float64 { return float64(m.DiskLimitInBytes) })},
		{"container_rx_bytes_total", "Bytes received.", counter, number(func(m executor.Metrics) float64 { return float64(m.RxBytes) })},
		{"container_tx_bytes_total", "Bytes sent.", counter, number(func(m executor.Metrics) float64 { return float64(m.TxBytes) })},
		{"container_pids", "Processes.", gauge, number(func(m executor.Metrics) float64 { return float64(m.PidCount) })},
		{"container_log_rate_bytes_per_second", "Bytes of log lines that passed the limit.", gauge, number(func(m executor.Metrics) float64 { return m.LogRate })},
		{"container_log_rate_limit_bytes_per_second", "Limit of the log rate; -1 is none.", gauge, number(func(m executor.Metrics) float64 { return float64(m.LogRateLimit) })},
		{"container_log_lines_dropped_total", "Lines that the limit of the log rate kept out.", counter, number(func(m executor.Metrics) float64 { return float64(m.LogLinesDropped) })},
		{"container_spike_start_timestamp_seconds", "Since when it used more than its entitlement, at the latest time that it did.", gauge, moment(func(m executor.Metrics) time.Time { return m.SpikeStart })},
		{"container_spike_end_timestamp_seconds", "Until when it did; absent while it does.", gauge, moment(func(m executor.Metrics) time.Time { return m.SpikeEnd })},
	}
}

// containerLabels name a container: the first two as the application's own metrics and log lines do.
func containerLabels() []string { return []string{"source_id", "instance_id", "container_guid"} }

// containerCollector publishes the last sample of each container of one cell.
type containerCollector struct {
	exec    *executor.Client
	metrics []containerMetric
	descs   []*prometheus.Desc
}

// ShowContainers registers the metrics of each container of a cell, save those that are excluded by name. It is for a process
// with one cell: those of a thousand would be more than anybody reads.
func ShowContainers(registry prometheus.Registerer, c *Cell, exclude []string) {
	collector := containerCollector{exec: c.exec}
	for _, m := range containerMetrics() {
		if !slices.Contains(exclude, m.name) {
			collector.metrics = append(collector.metrics, m)
			collector.descs = append(collector.descs, prometheus.NewDesc(m.name, m.help, containerLabels(), nil))
		}
	}
	registry.MustRegister(collector)
}

// Describe implements prometheus.Collector.
func (c containerCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector. While the engine cannot be read nothing is published.
func (c containerCollector) Collect(out chan<- prometheus.Metric) {
	samples, _, err := c.exec.Samples()
	if err != nil {
		return
	}
	for guid, sample := range samples {
		for i, m := range c.metrics {
			if value, present := m.value(sample); present {
				out <- prometheus.MustNewConstMetric(c.descs[i], m.kind, value, sample.Tags["source_id"], sample.Tags["instance_id"], guid)
			}
		}
	}
}
