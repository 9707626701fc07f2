package containerd

import (
	"context"
	"fmt"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sync/errgroup"

	"diego.internal/executor/garden"
)

// usageReaders bounds how many snapshots are measured at a time; each is a walk over the files that a container wrote.
const usageReaders = 4

// Metrics of one container.
func (c *container) Metrics(ctx context.Context) (garden.Metrics, error) {
	err := c.usable(ctx)
	if err == nil {
		var found map[string]garden.Metrics
		if found, err = c.backend.metrics(c.backend.within(ctx), []*container{c}); err == nil {
			if metrics, ok := found[c.handle]; ok {
				return metrics, nil
			}
			err = garden.ErrUnknownHandle
		}
	}
	return garden.Metrics{}, fmt.Errorf("reading metrics of %q: %w", c.handle, engineError(err))
}

// BulkMetrics asks containerd once for all.
func (b *Backend) BulkMetrics(ctx context.Context, handles []string) (map[string]garden.Metrics, error) {
	var wanted []*container
	for _, handle := range handles {
		if c := b.find(handle); c != nil && c.phase() == phaseCreated {
			wanted = append(wanted, c)
		}
	}
	found, err := b.metrics(b.within(ctx), wanted)
	if err != nil {
		return nil, fmt.Errorf("reading metrics of %d containers: %w", len(wanted), engineError(err))
	}
	return found, nil
}

func (b *Backend) metrics(ctx context.Context, wanted []*container) (map[string]garden.Metrics, error) {
	found := make(map[string]garden.Metrics, len(wanted))
	if len(wanted) == 0 {
		return found, nil
	}
	var filters []string
	for _, c := range wanted {
		filters = append(filters, "id=="+c.id)
	}
	response, err := b.client.TaskService().Metrics(ctx, &tasks.MetricsRequest{Filters: filters})
	if err != nil {
		return nil, fmt.Errorf("asking containerd: %w", errgrpc.ToNative(err))
	}
	byID := map[string]*types.Metric{}
	for _, metric := range response.GetMetrics() {
		byID[metric.GetID()] = metric
	}
	disk, err := b.diskUsage(ctx, wanted)
	if err != nil {
		return nil, err
	}
	for at, c := range wanted {
		metric := byID[c.id]
		if metric == nil {
			continue // it went away meanwhile
		}
		m, err := decodeMetrics(metric)
		if err != nil {
			return nil, err
		}
		r := c.view()
		m.MemoryLimit = r.Limits.MemoryInBytes
		m.DiskInBytes = disk[at]
		m.Age = time.Since(r.CreatedAt)
		m.RxBytes, m.TxBytes = b.network.Traffic(r.Lease)
		found[c.handle] = m
	}
	return found, nil
}

// diskUsage measures what containers wrote; a snapshot that is gone has none.
func (b *Backend) diskUsage(ctx context.Context, wanted []*container) ([]uint64, error) {
	sizes := make([]uint64, len(wanted))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(usageReaders)
	for at, c := range wanted {
		group.Go(func() (err error) {
			sizes[at], err = b.diskUsageOf(ctx, c)
			return err
		})
	}
	return sizes, group.Wait()
}

// diskUsageOf is what a container wrote, and with the total scope the size of its image too.
func (b *Backend) diskUsageOf(ctx context.Context, c *container) (uint64, error) {
	var image uint64
	r := c.view()
	if r.Limits.DiskScope == garden.DiskScopeTotal {
		image = r.ImageBytes
	}
	if r.hasDisk() {
		usage, err := r.diskUsed()
		if isMissing(err) {
			return 0, nil // it has ended
		}
		return image + usage.used, err
	}
	usage, err := b.snapshots().Usage(ctx, c.id)
	if err != nil && !gone(err) {
		return 0, fmt.Errorf("measuring disk of %q: %w", c.handle, err)
	}
	return image + uint64(max(usage.Size, 0)), nil
}

// decodeMetrics reads what the shim found in cgroups of either version. Memory leaves out file pages that the kernel
// can drop at any moment.
func decodeMetrics(metric *types.Metric) (garden.Metrics, error) {
	decoded, err := typeurl.UnmarshalAny(metric.GetData())
	if err != nil {
		return garden.Metrics{}, fmt.Errorf("decoding metrics: %w", err)
	}
	switch m := decoded.(type) {
	case *v1.Metrics:
		memory := m.GetMemory()
		return garden.Metrics{
			CPUUsage:      time.Duration(m.GetCPU().GetUsage().GetTotal()), //nolint:gosec // nanoseconds of a container's life
			MemoryInBytes: saturatingSub(memory.GetUsage().GetUsage(), memory.GetTotalInactiveFile()),
			PidCount:      m.GetPids().GetCurrent(),
		}, nil
	case *v2.Metrics:
		memory := m.GetMemory()
		return garden.Metrics{
			CPUUsage:      time.Duration(m.GetCPU().GetUsageUsec()) * time.Microsecond, //nolint:gosec // as above
			MemoryInBytes: saturatingSub(memory.GetUsage(), memory.GetInactiveFile()),
			PidCount:      m.GetPids().GetCurrent(),
		}, nil
	default:
		return garden.Metrics{}, fmt.Errorf("decoding metrics: unexpected type %T", decoded)
	}
}

func saturatingSub(a, b uint64) uint64 { return a - min(a, b) }
