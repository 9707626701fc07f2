package gardentest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
)

// serve starts a server in a container that answers each connection with a word.
func (s *suite) serve(c garden.Container, word string) {
	s.Helper()
	s.start(c, Program{Shell: fmt.Sprintf("mkdir -p /srv && cd /srv && echo -n %s > word && httpd -f -p 8080", word), Lasts: true}, garden.ProcessIO{})
}

// dial reads the word from an address.
func (s *suite) dial(address string) (string, error) {
	ctx, cancel := context.WithTimeout(s.ctx(), 2*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET /word HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	return body, err
}

func testPortReached(s *suite) {
	c := s.create(func(spec *garden.ContainerSpec) { spec.NetIn = []garden.NetIn{{ContainerPort: 8080}} })
	s.serve(c, "hello")
	info, err := c.Info(s.ctx())
	require.NoError(s, err)
	port := strconv.Itoa(int(info.MappedPorts[0].HostPort))
	addresses := []string{
		net.JoinHostPort("127.0.0.1", port),
		net.JoinHostPort(info.ExternalIP, port),
		net.JoinHostPort(info.ContainerIP, "8080"),
	}
	for range 2 {
		for _, address := range addresses {
			var word string
			var err error
			s.eventually(address+" answers", func() bool {
				word, err = s.dial(address)
				return err == nil && word != ""
			})
			assert.Equal(s, "hello", word)
		}
		s.reopen()
	}
	require.NoError(s, s.Client.Destroy(s.ctx(), c.Handle()))
	_, err = s.dial(addresses[0])
	require.Error(s, err, "a port is closed with its container")
}

// listen serves a word on an address of the machine.
func (s *suite) listen(address string) *net.TCPAddr {
	s.Helper()
	listener, err := (&net.ListenConfig{}).Listen(s.ctx(), "tcp", net.JoinHostPort(address, "0"))
	require.NoError(s, err)
	s.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "machine")
			_ = conn.Close()
		}
	}()
	return listener.Addr().(*net.TCPAddr)
}

// fetch is a command that prints the word of a server, or fails within seconds. (The wget of Debian's static busybox
// crashes.)
func fetch(host string, port int) string {
	return fmt.Sprintf(`printf 'GET /word HTTP/1.0\r\n\r\n' | nc -w 2 %s %d | grep -o -E 'hello|self|machine'`, host, port)
}

func allow(host string, port uint16) garden.NetOutRule {
	addr := netip.MustParseAddr(host)
	return garden.NetOutRule{
		Protocol: garden.ProtocolTCP,
		Networks: []garden.IPRange{{Start: addr, End: addr}},
		Ports:    []garden.PortRange{{Start: port, End: port}},
	}
}

func testEgress(s *suite) {
	// Another container's mapped port is a destination like any other: what counts is the address that is asked for.
	server := s.create(func(spec *garden.ContainerSpec) { spec.NetIn = []garden.NetIn{{ContainerPort: 8080}} })
	s.serve(server, "hello")
	info, err := server.Info(s.ctx())
	require.NoError(s, err)
	port := uint16(info.MappedPorts[0].HostPort)
	s.eventually("the server answers", func() bool {
		word, err := s.dial(net.JoinHostPort(info.ExternalIP, strconv.Itoa(int(port))))
		return err == nil && word == "hello"
	})
	command := fetch(info.ExternalIP, int(port))

	denied := s.create()
	out, status := s.output(denied, command)
	assert.NotZero(s, status.Code, "without a rule: %s", out)

	other := allow(info.ExternalIP, port)
	other.Ports = []garden.PortRange{{Start: port + 1, End: port + 9}}
	wrongPort := s.create(func(spec *garden.ContainerSpec) { spec.NetOut = []garden.NetOutRule{other} })
	out, status = s.output(wrongPort, command)
	assert.NotZero(s, status.Code, "with a rule for other ports: %s", out)

	for sentence, rule := range map[string]garden.NetOutRule{
		"a rule for the address": allow(info.ExternalIP, port),
		"a rule for everything":  {Protocol: garden.ProtocolAll},
		"a rule with sets": {
			Protocol: garden.ProtocolTCP,
			Networks: []garden.IPRange{
				{Start: netip.MustParseAddr("9.9.9.0"), End: netip.MustParseAddr("9.9.9.255")},
				{Start: netip.MustParseAddr("9.9.9.128"), End: netip.MustParseAddr("9.9.10.255")},
				{Start: netip.MustParseAddr(info.ExternalIP), End: netip.MustParseAddr("255.255.255.255")},
			},
			Ports: []garden.PortRange{{Start: 1, End: 2}, {Start: 3, End: 4}, {Start: port, End: 65535}},
			Log:   true,
		},
	} {
		allowed := s.create(func(spec *garden.ContainerSpec) { spec.NetOut = []garden.NetOutRule{rule} })
		out, status := s.output(allowed, command)
		assert.Zero(s, status.Code, "%s: %s", sentence, out)
		assert.Equal(s, "hello\n", out, sentence)
		s.reopen()
		out, status = s.output(s.lookup(allowed.Handle()), command)
		assert.Zero(s, status.Code, "%s, after a new client: %s", sentence, out)
	}
	itself := s.create(func(spec *garden.ContainerSpec) {
		spec.NetIn = []garden.NetIn{{ContainerPort: 8080}}
		spec.NetOut = []garden.NetOutRule{{Protocol: garden.ProtocolAll}}
	})
	s.serve(itself, "self")
	own, err := itself.Info(s.ctx())
	require.NoError(s, err)
	s.eventually("a container reaches itself through its mapped port", func() bool {
		out, _ := s.output(itself, fetch(own.ExternalIP, int(own.MappedPorts[0].HostPort)))
		return out == "self\n"
	})
}

func testIsolation(s *suite) {
	server := s.create()
	s.serve(server, "hello")
	info, err := server.Info(s.ctx())
	require.NoError(s, err)
	s.eventually("the server answers the machine", func() bool {
		word, err := s.dial(net.JoinHostPort(info.ContainerIP, "8080"))
		return err == nil && word == "hello"
	})
	open := s.create(func(spec *garden.ContainerSpec) {
		spec.NetOut = []garden.NetOutRule{{Protocol: garden.ProtocolTCP, Ports: []garden.PortRange{{Start: 1, End: 65535}}}}
	})
	closed := s.create()
	own, err := closed.Info(s.ctx())
	require.NoError(s, err)
	gateway := netip.MustParseAddr(own.ContainerIP).Prev().String()
	machine := s.listen("0.0.0.0")
	out, status := s.output(closed, fetch(info.ContainerIP, 8080))
	assert.NotZero(s, status.Code, "another container: %s", out)
	for _, host := range []string{gateway, info.ExternalIP} {
		for sentence, c := range map[string]garden.Container{"without rules": closed, "with a rule for everything": open} {
			out, status := s.output(c, fetch(host, machine.Port))
			assert.NotZero(s, status.Code, "%s, the machine at %s: %s", sentence, host, out)
		}
	}
}
