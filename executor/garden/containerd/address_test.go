package containerd

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// externalIP is the first address of the machine that is not loopback, or loopback on a machine that has no other.
func externalIP(tb testing.TB) netip.Addr {
	tb.Helper()
	interfaces, err := net.Interfaces()
	require.NoError(tb, err)
	for _, i := range interfaces {
		// Those of containers come and go.
		if i.Flags&net.FlagLoopback != 0 || i.Name[0] == 'w' {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, address := range addresses {
			if prefix, err := netip.ParsePrefix(address.String()); err == nil && prefix.Addr().Is4() {
				return prefix.Addr()
			}
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
