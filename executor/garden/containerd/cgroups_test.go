package containerd

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/anypb"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/containerd/spawn"
)

// fakeCgroups is a tree as the kernel shows it, with the given files.
func fakeCgroups(t *testing.T, unified bool, files map[string]string) hierarchy {
	t.Helper()
	h := hierarchy{root: t.TempDir(), unified: unified}
	for name, content := range files {
		path := filepath.Join(h.root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	return h
}

// The two versions have the same facts in different places.
func TestCgroupVersions(t *testing.T) {
	t.Parallel()
	const group = "/garden-1/1-h"
	for version, test := range map[string]struct {
		unified bool
		files   map[string]string
		folders []string
	}{
		"version 1": {
			files: map[string]string{
				"memory/garden-1/1-h/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
				"memory/memory.memsw.limit_in_bytes":     "1",
				"cpu/garden-1/1-h/cpu.shares":            "2",
				"pids/garden-2/pids.max":                 "max",
			},
			folders: []string{"cpu/garden-1/1-h", "memory/garden-1/1-h"},
		},
		"version 2": {
			unified: true,
			files: map[string]string{
				"garden-1/1-h/memory.events": "low 0\nhigh 0\nmax 17\noom 4\noom_kill 3\noom_group_kill 0\n",
				"garden-1/1-x/memory.events": "oom_kill 9\n",
			},
			folders: []string{"garden-1/1-h"},
		},
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			h := fakeCgroups(t, test.unified, test.files)
			var want []string
			for _, folder := range test.folders {
				want = append(want, filepath.Join(h.root, folder))
			}
			require.Equal(t, want, h.folders(group))
			require.EqualValues(t, 3, h.oomKills(group))
			require.Zero(t, h.oomKills("/garden-1/1-none"))
			require.True(t, h.limitsSwap())
			require.Empty(t, h.folders("/garden-1/1-none"))
		})
	}
	require.False(t, fakeCgroups(t, false, map[string]string{"memory/tasks": ""}).limitsSwap(), "a kernel that does not count swap")
}

// The kernel removes a group with its files; here its folders have none.
func TestRemoveCgroups(t *testing.T) {
	t.Parallel()
	for _, unified := range []bool{false, true} {
		h := fakeCgroups(t, unified, nil)
		parent := h.root
		if !unified {
			parent = filepath.Join(h.root, "memory")
		}
		require.NoError(t, os.MkdirAll(filepath.Join(parent, "garden-1/1-h/below/it"), 0o755))
		require.NoError(t, os.MkdirAll(filepath.Join(parent, "garden-1/1-hh"), 0o755))
		require.NoError(t, h.remove("/garden-1/1-h"))
		require.NoDirExists(t, filepath.Join(parent, "garden-1/1-h"))
		require.DirExists(t, filepath.Join(parent, "garden-1/1-hh"))
		require.NoError(t, h.remove("/garden-1/1-h"), "it may be repeated")
	}
}

func TestMemberOf(t *testing.T) {
	t.Parallel()
	for groups, want := range map[string]bool{
		"0::/garden-1/1-h\n":       true,
		"0::/garden-1/1-h/below\n": true,
		"0::/garden-1/1-hh\n":      false,
		"0::/\n":                   false,
		"12:pids:/garden-1/1-h\n11:memory:/garden-1/1-h\n0::/\n": true,
		"12:pids:/user.slice\n0::/\n":                            false,
		"":                                                       false,
	} {
		require.Equal(t, want, memberOf(groups, "1-h"), groups)
	}
}

// What shims report of the two versions means the same.
func TestDecodeMetrics(t *testing.T) {
	t.Parallel()
	want := garden.Metrics{CPUUsage: 3 * time.Second, MemoryInBytes: 40, PidCount: 7}
	for version, reported := range map[string]any{
		"version 1": &v1.Metrics{
			CPU:    &v1.CPUStat{Usage: &v1.CPUUsage{Total: 3_000_000_000}},
			Memory: &v1.MemoryStat{Usage: &v1.MemoryEntry{Usage: 100}, TotalInactiveFile: 60},
			Pids:   &v1.PidsStat{Current: 7},
		},
		"version 2": &v2.Metrics{
			CPU:    &v2.CPUStat{UsageUsec: 3_000_000},
			Memory: &v2.MemoryStat{Usage: 100, InactiveFile: 60},
			Pids:   &v2.PidsStat{Current: 7},
		},
	} {
		encoded, err := typeurl.MarshalAny(reported)
		require.NoError(t, err)
		got, err := decodeMetrics(&types.Metric{Data: &anypb.Any{TypeUrl: encoded.GetTypeUrl(), Value: encoded.GetValue()}})
		require.NoError(t, err)
		require.Equal(t, want, got, version)
	}
	_, err := decodeMetrics(&types.Metric{Data: &anypb.Any{TypeUrl: "unknown"}})
	require.Error(t, err)
}

// A limit on the total of memory and swap forbids swap, whichever version counts it.
func TestLimits(t *testing.T) {
	t.Parallel()
	spec, err := emptySpec(t.Context(), garden.Limits{MemoryInBytes: 100, Pids: 10, CPUShares: 512})
	require.NoError(t, err)
	require.EqualValues(t, 100, *spec.Linux.Resources.Memory.Limit)
	require.EqualValues(t, 10+spawn.Threads-1, *spec.Linux.Resources.Pids.Limit)
	require.EqualValues(t, 512, *spec.Linux.Resources.CPU.Shares)
	spec, err = emptySpec(t.Context(), garden.Limits{})
	require.NoError(t, err)
	require.Nil(t, spec.Linux.Resources.Memory)
	require.Nil(t, spec.Linux.Resources.Pids)
}

func emptySpec(ctx context.Context, limits garden.Limits) (*oci.Spec, error) {
	s := &oci.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
	return s, withLimits(limits)(ctx, nil, nil, s)
}

func TestUserRange(t *testing.T) {
	t.Parallel()
	r := UserRange{First: 1 << 30, Size: 1 << 30}
	for inside, host := range map[uint32]uint32{0: 1 << 30, 1000: 1<<30 + 1000, 1<<30 - 1: 1<<31 - 1} {
		require.Equal(t, host, r.host(inside))
		require.Equal(t, inside, r.inside(host))
	}
	require.EqualValues(t, 1<<31-1, r.host(1<<32-1), "what is beyond the range is its last")
	require.EqualValues(t, 65534, r.inside(0), "the machine's own are nobody")
	require.EqualValues(t, 7, UserRange{}.host(7))
	require.EqualValues(t, 7, UserRange{}.inside(7))
	require.NoError(t, r.validate())
	for _, bad := range []UserRange{{}, {First: 0, Size: 65536}, {First: 1, Size: 100}, {First: 1 << 31, Size: 65536}, {First: 1 << 30, Size: 1<<30 + 1}} {
		require.Error(t, bad.validate(), "%v", bad)
	}
}
