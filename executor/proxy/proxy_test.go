package proxy

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/identity"
)

func TestHandshake(t *testing.T) {
	t.Parallel()
	app := newApplication(t, echoes)
	s := newStand(t, app, nil)
	stranger := newAuthority(t)

	tests := map[string]struct {
		address string
		cfg     *tls.Config
		wantErr string
	}{
		"a router that asks for the instance":        {address: s.routers},
		"one that asks for another instance":         {address: s.routers, cfg: &tls.Config{ServerName: "instance-2"}, wantErr: "not instance-2"},
		"one that trusts another authority":          {address: s.routers, cfg: &tls.Config{RootCAs: stranger.pool}, wantErr: "unknown authority"},
		"a container that asks for an internal name": {address: s.containers, cfg: &tls.Config{ServerName: "app.apps.internal"}},
		"one that does at the listener for routers":  {address: s.routers, cfg: &tls.Config{ServerName: "app.apps.internal"}, wantErr: "not app.apps.internal"},
		"an old protocol":                            {address: s.routers, cfg: &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}, wantErr: "handshake failure"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := s.dial(tc.address, tc.cfg)
			if tc.wantErr != "" {
				require.ErrorContains(t, err, tc.wantErr)
				return
			}
			require.NoError(t, err)
			require.Equal(t, uint16(tls.VersionTLS13), conn.ConnectionState().Version)
			echo(t, conn, "hello")
		})
	}
}

func TestSuitesOfTLS12(t *testing.T) {
	t.Parallel()
	s := newStand(t, newApplication(t, echoes), nil)
	for _, suite := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256} {
		conn := s.mustDial(s.routers, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
		require.Equal(t, suite, conn.ConnectionState().CipherSuite)
		echo(t, conn, "hello")
	}
}

func TestProtocolNegotiation(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		http2   bool
		c2c     bool
		offered []string
		want    string
	}{
		"http/2 if the client wants it":     {http2: true, offered: []string{"h2", "http/1.1"}, want: "h2"},
		"http/1.1 if it wants no more":      {http2: true, offered: []string{"http/1.1"}, want: "http/1.1"},
		"none if it asks for none":          {http2: true},
		"none where http/2 is off":          {offered: []string{"h2", "http/1.1"}},
		"never any between containers":      {http2: true, c2c: true, offered: []string{"h2", "http/1.1"}},
		"the client's order does not count": {http2: true, offered: []string{"http/1.1", "h2"}, want: "h2"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStand(t, newApplication(t, echoes), func(s *stand) { s.cfg.HTTP2 = tc.http2 })
			address := s.routers
			if tc.c2c {
				address = s.containers
			}
			conn := s.mustDial(address, &tls.Config{NextProtos: tc.offered})
			require.Equal(t, tc.want, conn.ConnectionState().NegotiatedProtocol)
		})
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	routers, stranger := newAuthority(t), newAuthority(t)
	client := func(a authority, leaf x509.Certificate) *tls.Config {
		leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		own := a.sign(&leaf)
		// A client that shows only what the server says it trusts would hide the strangers.
		return &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }}
	}
	tests := map[string]struct {
		names []string
		cfg   *tls.Config
		ok    bool
	}{
		"none is refused":                        {cfg: nil},
		"one of the authority is let in":         {cfg: client(routers, x509.Certificate{DNSNames: []string{"any"}}), ok: true},
		"one of another authority is refused":    {cfg: client(stranger, x509.Certificate{DNSNames: []string{"router"}})},
		"one with the name is let in":            {names: []string{"x", "router"}, cfg: client(routers, x509.Certificate{DNSNames: []string{"router"}}), ok: true},
		"one with another name is refused":       {names: []string{"router"}, cfg: client(routers, x509.Certificate{DNSNames: []string{"router.example.com"}})},
		"no pattern matches":                     {names: []string{"router.example.com"}, cfg: client(routers, x509.Certificate{DNSNames: []string{"*.example.com"}})},
		"a URI is a name":                        {names: []string{"spiffe://d/router"}, cfg: client(routers, x509.Certificate{URIs: []*url.URL{mustURL(t, "spiffe://d/router")}}), ok: true},
		"an address is a name":                   {names: []string{"10.0.0.1"}, cfg: client(routers, x509.Certificate{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}), ok: true},
		"one without any name is refused":        {names: []string{"router"}, cfg: client(routers, x509.Certificate{})},
		"the right name of a stranger is no use": {names: []string{"router"}, cfg: client(stranger, x509.Certificate{DNSNames: []string{"router"}})},
	}
	ca, err := os.ReadFile(routers.file)
	require.NoError(t, err)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := newApplication(t, echoes)
			s := newStand(t, app, func(s *stand) {
				s.cfg.ClientCertificates, s.cfg.SubjectAltNames = true, tc.names
				require.NoError(t, WriteClientCA(s.folder, ca))
			})
			cfg := &tls.Config{}
			if tc.cfg != nil {
				cfg = tc.cfg.Clone()
			}
			conn, err := s.dial(s.routers, cfg)
			if err == nil { // with TLS 1.3 a client hears of a refusal when it reads
				err = tryEcho(conn, "hello")
			}
			if tc.ok {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, "remote error: tls:")
			require.Zero(t, app.taken(), "who is refused does not reach the application")
			echo(t, s.mustDial(s.containers, nil), "containers show no certificate")
		})
	}
}

func TestClientCAIsReadAgain(t *testing.T) {
	t.Parallel()
	before, after := newAuthority(t), newAuthority(t)
	leaf := func(a authority) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{a.sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})}}
	}
	write := func(s *stand, a authority) {
		ca, err := ReadClientCA(a.file)
		require.NoError(t, err)
		require.NoError(t, WriteClientCA(s.folder, ca))
	}
	s := newStand(t, newApplication(t, echoes), func(s *stand) {
		s.cfg.ClientCertificates = true
		write(s, before)
	})
	open := s.mustDial(s.routers, leaf(before))
	echo(t, open, "before")
	write(s, after)
	echo(t, s.mustDial(s.routers, leaf(after)), "after")
	echo(t, open, "what is open stays open")
	require.NoError(t, WriteClientCA(s.folder, []byte("damaged")))
	echo(t, s.mustDial(s.routers, leaf(after)), "a damaged file changes nothing")
}

func TestReadClientCARefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, err := os.ReadFile(newAuthority(t).file)
	require.NoError(t, err)
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	fill := func(size int) []byte { return append(bytes.Clone(ca), bytes.Repeat([]byte("\n"), size-len(ca))...) }
	_, err = ReadClientCA(file("full", fill(512<<10)))
	require.NoError(t, err)
	_, err = ReadClientCA(file("more", fill(512<<10+1)))
	require.ErrorContains(t, err, "more than 524288")
	_, err = ReadClientCA(file("none", []byte("nothing")))
	require.ErrorContains(t, err, "no certificate")
	_, err = ReadClientCA(filepath.Join(dir, "missing"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestCredentialsAreReadAgain(t *testing.T) {
	t.Parallel()
	s := newStand(t, newApplication(t, echoes), nil)
	serial := func(address string) string {
		return s.mustDial(address, nil).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	open := s.mustDial(s.routers, nil)
	echo(t, open, "before")
	first, firstC2C := serial(s.routers), serial(s.containers)
	require.Equal(t, first, serial(s.routers))

	s.ca.issue(t, filepath.Join(s.folder, IdentityFolder), identity.Subject{GUID: guid})
	require.NotEqual(t, first, serial(s.routers), "the next handshake has the new one")
	require.Equal(t, firstC2C, serial(s.containers))
	echo(t, open, "what is open stays open")

	s.ca.issue(t, filepath.Join(s.folder, C2CFolder), identity.Subject{GUID: guid, Hostnames: []string{"new.apps.internal"}})
	echo(t, s.mustDial(s.containers, &tls.Config{ServerName: "new.apps.internal"}), "a new route")

	second := serial(s.routers)
	require.NoError(t, identity.Replace(filepath.Join(s.folder, IdentityFolder), identity.Pair{Certificate: []byte("damaged")}))
	require.Equal(t, second, serial(s.routers), "a damaged pair changes nothing")

	s.ca.issue(t, filepath.Join(s.folder, IdentityFolder), identity.Subject{})
	_, err := s.dial(s.routers, nil)
	require.ErrorContains(t, err, "certificate is not valid for any names", "a worthless certificate turns routers away")
	echo(t, open, "and what is open still goes on")
}

func TestSessionsAreNotResumed(t *testing.T) {
	t.Parallel()
	s := newStand(t, newApplication(t, echoes), nil)
	sessions := tls.NewLRUClientSessionCache(1)
	for range 2 {
		conn := s.mustDial(s.routers, &tls.Config{ClientSessionCache: sessions})
		echo(t, conn, "hello")
		require.False(t, conn.ConnectionState().DidResume)
	}
}

// TestHalfClose has a client that ends its request before it reads the answer, and an application that answers only then.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	app := newApplication(t, func(conn *net.TCPConn) {
		request, _ := io.ReadAll(conn)
		_, _ = conn.Write(append([]byte("answer to "), request...))
	})
	s := newStand(t, app, nil)
	conn := s.mustDial(s.routers, nil)
	large := make([]byte, 300_000)
	_, _ = rand.Read(large)
	_, err := conn.Write(large)
	require.NoError(t, err)
	require.NoError(t, conn.CloseWrite())
	answer, err := io.ReadAll(conn)
	require.NoError(t, err, "the end is one that was meant")
	require.True(t, bytes.Equal(append([]byte("answer to "), large...), answer))
}

// TestCutConnections has one side vanish in the middle: the other must not take it for the end.
func TestCutConnections(t *testing.T) {
	t.Parallel()
	ends := make(chan error, 1)
	app := newApplication(t, func(conn *net.TCPConn) {
		line := make([]byte, 4)
		_, err := io.ReadFull(conn, line)
		if err == nil && string(line) == "cut\n" {
			_, _ = conn.Write([]byte("half of "))
			_ = conn.SetLinger(0) // a reset
			return
		}
		_, err = io.ReadAll(conn)
		ends <- err
	})
	s := newStand(t, app, nil)
	conn := s.mustDial(s.routers, nil)
	_, err := conn.Write([]byte("cut\n"))
	require.NoError(t, err)
	_, err = io.ReadAll(conn)
	require.Error(t, err, "an answer that was cut looks cut")
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)

	conn = s.mustDial(s.routers, nil)
	_, err = conn.Write([]byte("stay"))
	require.NoError(t, err)
	reset(conn.NetConn())
	require.ErrorIs(t, <-ends, syscall.ECONNRESET)
}

func TestApplicationThatDoesNotListen(t *testing.T) {
	t.Parallel()
	app := newApplication(t, echoes)
	s := newStand(t, app, nil)
	app.close()
	conn := s.mustDial(s.routers, nil)
	began := time.Now()
	_, err := io.ReadAll(conn)
	require.NoError(t, err, "the connection ends")
	require.Less(t, time.Since(began), 5*time.Second)
}

func TestDrain(t *testing.T) {
	t.Parallel()
	s := newStand(t, newApplication(t, echoes), nil)
	open := s.mustDial(s.routers, nil)
	echo(t, open, "before")
	s.end()
	require.Eventually(t, func() bool {
		_, err := s.dial(s.routers, nil)
		return errors.Is(err, syscall.ECONNREFUSED)
	}, 10*time.Second, 10*time.Millisecond, "no new ones")
	echo(t, open, "what is open goes on")
	require.Empty(t, s.done)
	require.NoError(t, open.Close())
	err := <-s.done
	require.NoError(t, err)
	s.done <- err // for the clean-up
}

func TestDrainEnds(t *testing.T) {
	t.Parallel()
	s := newStand(t, newApplication(t, echoes), func(s *stand) { s.cfg.DrainTime = time.Millisecond })
	open := s.mustDial(s.routers, nil)
	echo(t, open, "before")
	s.end()
	err := <-s.done
	require.NoError(t, err)
	s.done <- err // for the clean-up
	require.Error(t, tryEcho(open, "cut"))
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "0.0.0.0:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, taken.Close()) }) // after the parallel cases
	port := uint32(taken.Addr().(*net.TCPAddr).Port)
	good := Config{Upstream: "127.0.0.1", Listeners: []Listener{{AppPort: 8080}}}
	tests := map[string]struct {
		cfg    Config
		remove string
		want   string
	}{
		"a port that is taken":     {cfg: Config{Upstream: "127.0.0.1", Listeners: []Listener{{AppPort: 8080}, {AppPort: 9090, Port: port}}}, want: "listening for port 9090 of the application"},
		"no configuration":         {remove: configFile, cfg: good, want: "reading the configuration"},
		"no address":               {cfg: Config{Listeners: good.Listeners}, want: "no address of the application"},
		"no listener":              {cfg: Config{Upstream: "127.0.0.1"}, want: "no listener"},
		"no credentials":           {remove: IdentityFolder, cfg: good, want: "no credentials"},
		"no authority for clients": {cfg: Config{Upstream: "127.0.0.1", Listeners: good.Listeners, ClientCertificates: true}, want: "no authorities for clients"},
	}
	ca := newAuthority(t)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			ca.issue(t, filepath.Join(folder, IdentityFolder), identity.Subject{GUID: guid})
			require.NoError(t, tc.cfg.Write(folder))
			if tc.remove != "" {
				require.NoError(t, os.RemoveAll(filepath.Join(folder, tc.remove)))
			}
			_, err := open(t.Context(), folder, slog.New(slog.DiscardHandler))
			require.ErrorContains(t, err, tc.want)
		})
	}
}

// TestPassReturnsTheLargeBuffer checks that a stream that was busy waits with a small buffer again.
func TestPassReturnsTheLargeBuffer(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	pool := newLargeBuffers()
	text := strings.Repeat("0123456789", 50_000)
	sizes := &sizes{Reader: strings.NewReader(text)}
	require.NoError(t, pass(&out, sizes, pool))
	require.Equal(t, text, out.String())
	require.Equal(t, smallBuffer, sizes.of[0])
	require.Equal(t, largeBuffer, sizes.of[1])
	require.Equal(t, smallBuffer, sizes.of[len(sizes.of)-1], "after a read that did not fill it")
}

type sizes struct {
	io.Reader
	of []int
}

func (s *sizes) Read(p []byte) (int, error) {
	s.of = append(s.of, len(p))
	return s.Reader.Read(p)
}
