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
	"slices"
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
	number := shared.machines.Add(1)
	name := fmt.Sprintf("o%d-%d", os.Getpid(), number)
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
		return &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(198, 18, byte(6+number), byte(block+host)), Mask: net.CIDRMask(30, 32)}}
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

// listen answers on the other machine with the word "heard", by TCP and UDP at one port.
func (m *otherMachine) listen(t *testing.T, port int) {
	t.Helper()
	address := fmt.Sprintf("%s:%d", m.address, port)
	var stream net.Listener
	var packets net.PacketConn
	require.NoError(t, m.do(func() (err error) {
		if stream, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", address); err != nil {
			return err
		}
		packets, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", address)
		return err
	}))
	t.Cleanup(func() { _ = stream.Close(); _ = packets.Close() })
	go func() {
		for {
			conn, err := stream.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "heard")
			_ = conn.Close()
		}
	}()
	go func() {
		buffer := make([]byte, 100)
		for {
			_, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			// In the words of TFTP, whose client is the one for UDP that busybox has: an error, number 1.
			_, _ = packets.WriteTo([]byte("\x00\x05\x00\x01heard\x00"), from)
		}
	}()
}

// TestEgressForms has every form of a rule, and what it must not let out.
func TestEgressForms(t *testing.T) {
	t.Parallel()
	other := newOtherMachine(t)
	for _, port := range []int{53, 7001, 7005, 7009} {
		other.listen(t, port)
	}
	b := newBench(t, func(c *Config) {
		c.DNSServers = []netip.Addr{netip.MustParseAddr(other.address)}
		c.NetworkPool = netip.PrefixFrom(c.NetworkPool.Addr(), 26)
	})
	there := netip.MustParseAddr(other.address)
	only := []garden.IPRange{{Start: there, End: there}}
	around := []garden.IPRange{{Start: netip.MustParseAddr("1.2.3.4"), End: netip.MustParseAddr("1.2.3.5")}, {Start: there.Prev(), End: there.Next()}}
	elsewhere := []garden.IPRange{{Start: netip.MustParseAddr("1.2.3.4"), End: netip.MustParseAddr("1.2.3.5")}}
	number := func(n uint8) *uint8 { return &n }
	const (
		dnsOnly    = "u53 t53" // always open
		everything = dnsOnly + " t7001 t7005 t7009 u7001 u7005 u7009 icmp"
	)
	for sentence, test := range map[string]struct {
		rules []garden.NetOutRule
		want  string
	}{
		"no rule":                          {want: dnsOnly},
		"all protocols, everywhere":        {rules: []garden.NetOutRule{{Protocol: garden.ProtocolAll}}, want: everything},
		"all protocols to an address":      {rules: []garden.NetOutRule{{Protocol: garden.ProtocolAll, Networks: only}}, want: everything},
		"all protocols to another address": {rules: []garden.NetOutRule{{Protocol: garden.ProtocolAll, Networks: elsewhere}}, want: dnsOnly},
		"tcp to one port":                  {rules: []garden.NetOutRule{{Protocol: garden.ProtocolTCP, Networks: only, Ports: []garden.PortRange{{Start: 7001, End: 7001}}}}, want: dnsOnly + " t7001"},
		"tcp to a range of ports":          {rules: []garden.NetOutRule{{Protocol: garden.ProtocolTCP, Networks: around, Ports: []garden.PortRange{{Start: 7002, End: 7008}}}}, want: dnsOnly + " t7005"},
		"udp to several ports":             {rules: []garden.NetOutRule{{Protocol: garden.ProtocolUDP, Networks: around, Ports: []garden.PortRange{{Start: 7001, End: 7001}, {Start: 7009, End: 7010}}}}, want: dnsOnly + " u7001 u7009"},
		"udp elsewhere":                    {rules: []garden.NetOutRule{{Protocol: garden.ProtocolUDP, Networks: elsewhere, Ports: []garden.PortRange{{Start: 1, End: 65535}}}}, want: dnsOnly},
		"icmp of any kind":                 {rules: []garden.NetOutRule{{Protocol: garden.ProtocolICMP, Networks: only}}, want: dnsOnly + " icmp"},
		"icmp echo":                        {rules: []garden.NetOutRule{{Protocol: garden.ProtocolICMP, Networks: only, ICMP: &garden.ICMPControl{Type: number(8), Code: number(0)}}}, want: dnsOnly + " icmp"},
		"icmp echo of any code":            {rules: []garden.NetOutRule{{Protocol: garden.ProtocolICMP, Networks: only, ICMP: &garden.ICMPControl{Type: number(8)}}}, want: dnsOnly + " icmp"},
		"icmp of another type":             {rules: []garden.NetOutRule{{Protocol: garden.ProtocolICMP, Networks: only, ICMP: &garden.ICMPControl{Type: number(13)}}}, want: dnsOnly},
		"icmpv6, which means nothing here": {rules: []garden.NetOutRule{{Protocol: garden.ProtocolICMPv6}}, want: dnsOnly},
		"two rules are two ways out":       {rules: []garden.NetOutRule{{Protocol: garden.ProtocolICMP}, {Protocol: garden.ProtocolUDP, Ports: []garden.PortRange{{Start: 7005, End: 7005}}}}, want: dnsOnly + " u7005 icmp"},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			c, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: engineName(sentence), Image: b.image(), NetOut: test.rules})
			require.NoError(t, err)
			// All at a time, because what is refused by silence takes seconds.
			script := "cd /tmp; "
			for way := range strings.FieldsSeq(everything) {
				probe := fmt.Sprintf("ping -c 1 -W 3 %s >/dev/null 2>&1 && echo heard", other.address)
				switch way[0] {
				case 't':
					probe = fmt.Sprintf("nc -w 3 %s %s 2>/dev/null", other.address, way[1:])
				case 'u':
					probe = fmt.Sprintf("timeout 3 tftp -g -r x -l /dev/null %s %s 2>&1 | grep -q 'server error' && echo heard", other.address, way[1:])
				}
				script += fmt.Sprintf("( %s ) > %s 2>/dev/null & ", probe, way)
			}
			out := run(t, c, shell("p", "exec 2>/dev/null; "+script+"wait; grep -l heard *"))
			got, want := strings.Fields(out), strings.Fields(test.want)
			slices.Sort(want)
			slices.Sort(got)
			require.Equal(t, want, got)
			require.NoError(t, b.backend.Destroy(t.Context(), engineName(sentence)))
		})
	}
}

// TestEgressIsLogged looks for connections in the kernel's log: those of a rule that asks for it, and only new ones.
func TestEgressIsLogged(t *testing.T) {
	t.Parallel()
	other := newOtherMachine(t)
	other.listen(t, 7001)
	other.listen(t, 7002)
	log, err := os.Open("/dev/kmsg")
	require.NoError(t, err)
	defer func() { _ = log.Close() }()
	_, err = log.Seek(0, io.SeekEnd)
	require.NoError(t, err)
	b := newBench(t)
	handle := fmt.Sprintf("logged-%d-and-a-handle-that-is-cut-off", os.Getpid())
	c, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: handle, Image: b.image(), NetOut: []garden.NetOutRule{
		{Protocol: garden.ProtocolTCP, Ports: []garden.PortRange{{Start: 7001, End: 7001}}, Log: true},
		{Protocol: garden.ProtocolTCP, Ports: []garden.PortRange{{Start: 7002, End: 7002}}},
	}})
	require.NoError(t, err)
	call := "nc -w 2 " + other.address + " "
	require.Equal(t, "heardheardheard", run(t, c, shell("p", call+"7001; "+call+"7002; "+call+"7001")))
	// The log is the machine's; a read beyond its end waits.
	lines := make(chan string)
	go func() {
		buffer := make([]byte, 8192)
		for {
			n, err := log.Read(buffer)
			if err != nil {
				return
			}
			select {
			case lines <- string(buffer[:n]):
			case <-t.Context().Done():
				return
			}
		}
	}()
	seen := 0
	for seen < 2 {
		select {
		case line := <-lines:
			if strings.Contains(line, handle[:28]+" ") {
				seen++
				require.Contains(t, line, "DPT=7001")
				require.Contains(t, line, "DST="+other.address)
			}
		case <-time.After(10 * time.Second):
			require.Fail(t, "not logged", "seen: %d", seen)
		}
	}
}
