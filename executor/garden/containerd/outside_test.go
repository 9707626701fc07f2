package containerd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
)

// otherMachine is a network namespace that stands for a machine on the cell's network.
type otherMachine struct {
	namespace netns.NsHandle
	address   string
}

func newOtherMachine(t *testing.T) *otherMachine {
	t.Helper()
	holder := exec.CommandContext(t.Context(), "sleep", "1000")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	require.NoError(t, holder.Start())
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	name := fmt.Sprintf("o%d", os.Getpid())
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsPid(holder.Process.Pid)}))
	t.Cleanup(func() {
		if link, err := netlink.LinkByName(name); err == nil {
			_ = netlink.LinkDel(link)
		}
	})
	link, err := netlink.LinkByName(name)
	require.NoError(t, err)
	block := os.Getpid() % 60 * 4
	address := func(host int) *netlink.Addr {
		return &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(198, 18, 7, byte(block+host)), Mask: net.CIDRMask(30, 32)}}
	}
	require.NoError(t, netlink.AddrAdd(link, address(1)))
	require.NoError(t, netlink.LinkSetUp(link))
	// The cell sets this for interfaces with a default route; this one has none.
	require.NoError(t, os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", name, "forwarding"), []byte("1"), 0))

	namespace, err := netns.GetFromPid(holder.Process.Pid)
	require.NoError(t, err)
	t.Cleanup(func() { _ = namespace.Close() })
	inside, err := netlink.NewHandleAt(namespace, unix.NETLINK_ROUTE)
	require.NoError(t, err)
	defer inside.Close()
	peer, err := inside.LinkByName("eth0")
	require.NoError(t, err)
	require.NoError(t, inside.AddrAdd(peer, address(2)))
	require.NoError(t, inside.LinkSetUp(peer))
	require.NoError(t, inside.RouteAdd(&netlink.Route{Gw: address(1).IP}))
	return &otherMachine{namespace: namespace, address: address(2).IP.String()}
}

// do runs fn on a thread in the namespace; sockets that fn opens stay there.
func (m *otherMachine) do(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(m.namespace); err != nil {
			result <- err
			return
		}
		result <- fn()
	}()
	return <-result
}

func (m *otherMachine) fetch(ctx context.Context, address string) (string, error) {
	var conn net.Conn
	err := m.do(func() error {
		var err error
		conn, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET /word HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	return body, err
}

// TestOutside looks at a container from another machine and at the other machine from the container.
func TestOutside(t *testing.T) {
	t.Parallel()
	other := newOtherMachine(t)
	b := newBench(t)
	c, err := b.backend.Create(t.Context(), garden.ContainerSpec{
		Handle: "h", Image: b.image(),
		NetIn: []garden.NetIn{{ContainerPort: 8080}},
		NetOut: []garden.NetOutRule{{
			Protocol: garden.ProtocolTCP,
			Networks: []garden.IPRange{{Start: netip.MustParseAddr(other.address), End: netip.MustParseAddr(other.address)}},
		}},
	})
	require.NoError(t, err)
	_, err = c.Run(t.Context(), shell("server", "mkdir /srv && cd /srv && echo -n hello > word && httpd -f -p 8080"), garden.ProcessIO{})
	require.NoError(t, err)
	info, err := c.Info(t.Context())
	require.NoError(t, err)

	mapped := fmt.Sprintf("%s:%d", info.ExternalIP, info.MappedPorts[0].HostPort)
	eventually(t, "the mapped port answers from outside", func() bool {
		word, err := other.fetch(t.Context(), mapped)
		return err == nil && word == "hello"
	})
	_, err = other.fetch(t.Context(), info.ContainerIP+":8080")
	require.Error(t, err, "the container's own address does not answer from outside")

	var listener net.Listener
	require.NoError(t, other.do(func() error {
		var err error
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", other.address+":0")
		return err
	}))
	defer func() { _ = listener.Close() }()
	callers := make(chan string, 1)
	go func() {
		if conn, err := listener.Accept(); err == nil {
			callers <- conn.RemoteAddr().String()
			_ = conn.Close()
		}
	}()
	call := fmt.Sprintf("nc -w 2 %s %d < /dev/null", other.address, listener.Addr().(*net.TCPAddr).Port)
	p, err := c.Run(t.Context(), shell("client", call), garden.ProcessIO{})
	require.NoError(t, err)
	status, err := p.Wait(t.Context())
	require.NoError(t, err)
	require.Zero(t, status.Code)
	require.NotContains(t, <-callers, info.ContainerIP, "others see the machine's address")

	denied := b.create(t, "denied")
	p, err = denied.Run(t.Context(), shell("client", call), garden.ProcessIO{})
	require.NoError(t, err)
	status, err = p.Wait(t.Context())
	require.NoError(t, err)
	require.NotZero(t, status.Code)
}
