package cluster

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSlotsShareNothing checks that no two cells of any clusters get the same ports, networks or names.
func TestSlotsShareNothing(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	var networks []netip.Prefix
	var ranges [][2]int
	for number := range slots {
		s := slot{number: number}
		for i := range maxCells {
			require.NotContains(t, names, s.cellID(i))
			names[s.cellID(i)] = true

			network, err := netip.ParsePrefix(s.network(i))
			require.NoError(t, err)
			require.Equal(t, network, network.Masked(), "a network, not an address in one")
			for _, other := range networks {
				require.False(t, network.Overlaps(other), "%v and %v", network, other)
			}
			networks = append(networks, network)

			first, last := s.ports(i)
			require.Less(t, first, last)
			require.LessOrEqual(t, last, 65535)
			for _, other := range ranges {
				require.True(t, last < other[0] || first > other[1], "%d-%d and %v", first, last, other)
			}
			ranges = append(ranges, [2]int{first, last})
		}
	}
}

func TestSlotIsFreeAgainAfterRelease(t *testing.T) {
	t.Parallel()
	first, err := takeSlot()
	require.NoError(t, err)
	second, err := takeSlot()
	require.NoError(t, err)
	require.NotEqual(t, first.number, second.number)
	first.release()
	second.release()
	again, err := takeSlot()
	require.NoError(t, err)
	again.release()
}
