package containerd

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
)

// BenchmarkCreate compares a container with network and its first process with what containerd alone needs for a
// container without either. Lines are "name n value unit", values medians.
func BenchmarkCreate(b *testing.B) {
	cfg := shared.cell(b)
	backend, err := New(b.Context(), cfg)
	require.NoError(b, err)
	defer func() {
		require.NoError(b, backend.Clean(b.Context()))
		require.NoError(b, backend.Close())
	}()
	var create, limited, first, destroy, floor []time.Duration
	for n := 0; b.Loop(); n++ {
		began := time.Now()
		c, err := backend.Create(b.Context(), garden.ContainerSpec{
			Handle: "h", Image: garden.Image{URI: "preloaded:busybox"}, NetIn: []garden.NetIn{{ContainerPort: 8080}},
			Limits: garden.Limits{MemoryInBytes: 64 << 20, Pids: 100},
		})
		require.NoError(b, err)
		create = append(create, time.Since(began))
		_, err = c.Run(b.Context(), shell("p", "sleep 1000"), garden.ProcessIO{})
		require.NoError(b, err)
		first = append(first, time.Since(began))
		began = time.Now()
		require.NoError(b, backend.Destroy(b.Context(), "h"))
		destroy = append(destroy, time.Since(began))
		began = time.Now()
		_, err = backend.Create(b.Context(), garden.ContainerSpec{
			Handle: "limited", Image: garden.Image{URI: "preloaded:busybox"}, Limits: garden.Limits{MemoryInBytes: 64 << 20, DiskInBytes: 64 << 20},
		})
		require.NoError(b, err)
		limited = append(limited, time.Since(began))
		require.NoError(b, backend.Destroy(b.Context(), "limited"))
		floor = append(floor, bare(b, backend, fmt.Sprintf("bare-%d", n)))
	}
	for name, values := range map[string][]time.Duration{"create": create, "create_with_disk": limited, "create_and_first_process": first, "destroy": destroy, "floor_containerd_create_start": floor} {
		slices.Sort(values)
		fmt.Printf("container_%s %d %.1f ms\n", name, len(values), float64(values[len(values)/2].Microseconds())/1000)
	}
}

// bare is the time of a container by containerd's services alone.
func bare(b *testing.B, backend *Backend, id string) time.Duration {
	b.Helper()
	ctx := backend.within(b.Context())
	runc, err := typeurl.MarshalAnyToProto(&options.Options{Root: backend.cfg.runcFolder()})
	require.NoError(b, err)
	began := time.Now()
	spec, err := oci.GenerateSpec(ctx, backend.client, &containers.Container{ID: id}, oci.WithRootFSPath(shared.rootfs),
		oci.WithProcessArgs("/bin/sleep", "1000"), oci.WithCgroup(backend.cfg.cgroupParent()+"/"+id), oci.WithMemoryLimit(64<<20))
	require.NoError(b, err)
	encoded, err := typeurl.MarshalAny(spec)
	require.NoError(b, err)
	_, err = backend.client.ContainerService().Create(ctx, containers.Container{ID: id, Runtime: containers.RuntimeInfo{Name: runtimeName}, Spec: encoded})
	require.NoError(b, err)
	_, err = backend.client.TaskService().Create(ctx, &tasks.CreateTaskRequest{ContainerID: id, Options: runc})
	require.NoError(b, err)
	_, err = backend.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id})
	require.NoError(b, err)
	took := time.Since(began)
	require.NoError(b, backend.destroyTask(ctx, id))
	require.NoError(b, backend.client.ContainerService().Delete(ctx, id))
	return took
}

// BenchmarkCreateParallel creates 50 containers at a time, with disks and ports, each with its first process.
func BenchmarkCreateParallel(b *testing.B) {
	const count = 50
	cfg := shared.cell(b)
	cfg.NetworkPool, cfg.HostPortLast = netip.PrefixFrom(cfg.NetworkPool.Masked().Addr(), 22), cfg.HostPortFirst+count
	backend, err := New(b.Context(), cfg)
	require.NoError(b, err)
	defer func() {
		require.NoError(b, backend.Clean(b.Context()))
		require.NoError(b, backend.Close())
	}()
	took := make([]time.Duration, count)
	for b.Loop() {
		var wait sync.WaitGroup
		for at := range count {
			wait.Go(func() {
				began := time.Now()
				c, err := backend.Create(b.Context(), garden.ContainerSpec{
					Handle: fmt.Sprintf("h%d", at), Image: garden.Image{URI: "preloaded:busybox"}, NetIn: []garden.NetIn{{ContainerPort: 8080}},
					Limits: garden.Limits{MemoryInBytes: 64 << 20, DiskInBytes: 64 << 20, Pids: 100},
				})
				if err == nil {
					_, err = c.Run(b.Context(), shell("p", "sleep 1000"), garden.ProcessIO{})
				}
				if err != nil {
					b.Error(err)
				}
				took[at] = time.Since(began)
			})
		}
		wait.Wait()
		for at := range count {
			wait.Go(func() {
				if err := backend.Destroy(b.Context(), fmt.Sprintf("h%d", at)); err != nil {
					b.Error(err)
				}
			})
		}
		wait.Wait()
	}
	slices.Sort(took)
	fmt.Printf("container_create_50_parallel_p50 %d %.1f ms\n", count, float64(took[count/2].Microseconds())/1000)
	fmt.Printf("container_create_50_parallel_max %d %.1f ms\n", count, float64(took[count-1].Microseconds())/1000)
}
