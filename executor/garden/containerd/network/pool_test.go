package network

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/executor/garden"
)

// TestPool leases, adopts and releases at random: nothing is ever leased twice, and what is released can be leased again.
func TestPool(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		prefix, ports := netip.MustParsePrefix("10.1.2.0/28"), garden.PortRange{Start: 100, End: 107}
		pool := NewPool(prefix, ports)
		held := map[int]Lease{}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				wanted := make([]garden.NetIn, rapid.IntRange(0, 3).Draw(t, "ports"))
				for at := range wanted {
					wanted[at].ContainerPort = uint32(at + 1)
				}
				lease, err := pool.Take(wanted)
				used := 0
				for _, other := range held {
					used += len(other.Ports)
				}
				if len(held) == 4 {
					require.ErrorIs(t, err, garden.ErrNoAddress)
					return
				}
				if used+len(wanted) > 8 {
					require.ErrorIs(t, err, garden.ErrPortsExhausted)
					return
				}
				require.NoError(t, err)
				require.NotContains(t, held, lease.Index)
				require.True(t, prefix.Contains(lease.Container) && prefix.Contains(lease.Gateway))
				for _, other := range held {
					require.NotEqual(t, other.Container, lease.Container)
					for _, in := range lease.Ports {
						require.NotContains(t, other.Ports, in)
					}
				}
				held[lease.Index] = lease
			},
			"release": func(*rapid.T) {
				for index, lease := range held {
					pool.Release(lease)
					pool.Release(lease)
					delete(held, index)
					return
				}
			},
			"a later program adopts": func(t *rapid.T) {
				pool = NewPool(prefix, ports)
				for _, lease := range held {
					require.NoError(t, pool.Adopt(lease))
					require.Error(t, pool.Adopt(lease))
				}
			},
		})
	})
}

func TestPoolGivesTheOldestBackFirst(t *testing.T) {
	t.Parallel()
	pool := NewPool(netip.MustParsePrefix("10.1.2.0/24"), garden.PortRange{Start: 7, End: 9})
	first, err := pool.Take([]garden.NetIn{{ContainerPort: 1}})
	require.NoError(t, err)
	pool.Release(first)
	second, err := pool.Take([]garden.NetIn{{ContainerPort: 1}, {ContainerPort: 2, HostPort: 8}})
	require.NoError(t, err)
	require.NotEqual(t, first.Container, second.Container)
	require.Equal(t, []garden.NetIn{{HostPort: 9, ContainerPort: 1}, {HostPort: 8, ContainerPort: 2}}, second.Ports)
	_, err = pool.Take([]garden.NetIn{{ContainerPort: 1, HostPort: 9}})
	require.ErrorIs(t, err, garden.ErrPortsExhausted)
	require.Error(t, pool.Adopt(Lease{Index: 3, Container: netip.MustParseAddr("10.9.9.9")}), "of another pool")
}

func TestMerge(t *testing.T) {
	t.Parallel()
	last := ^uint32(0)
	for sentence, test := range map[string]struct{ in, want []interval }{
		"nothing":                {nil, nil},
		"neighbours become one":  {[]interval{{5, 6}, {1, 4}}, []interval{{1, 6}}},
		"overlaps become one":    {[]interval{{1, 9}, {2, 3}, {8, 12}}, []interval{{1, 12}}},
		"the last value is kept": {[]interval{{3, last}, {7, last}}, []interval{{3, last}}},
		"gaps stay":              {[]interval{{1, 1}, {3, 3}}, []interval{{1, 1}, {3, 3}}},
	} {
		got := merge(test.in)
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(interval{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: merge(%v) (-want +got):\n%s", sentence, test.in, diff)
		}
	}
}
