package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/identity"
)

// authority is a CA of a test, with its files.
type authority struct {
	*identity.Authority
	file string
	pool *x509.CertPool
	sign func(*x509.Certificate) tls.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	a := authority{file: filepath.Join(dir, "ca.crt"), pool: x509.NewCertPool()}
	require.NoError(t, os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600))
	a.Authority, err = identity.Open(a.file, filepath.Join(dir, "ca.key"), time.Hour)
	require.NoError(t, err)
	ca, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	a.pool.AddCert(ca)
	a.sign = func(leaf *x509.Certificate) tls.Certificate {
		leaf.SerialNumber, leaf.NotBefore, leaf.NotAfter = big.NewInt(2), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
		require.NoError(t, err)
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	return a
}

func (a authority) issue(t *testing.T, folder string, subject identity.Subject) {
	t.Helper()
	pair, err := a.Issue(subject, time.Now())
	require.NoError(t, err)
	require.NoError(t, identity.MakeFolder(folder))
	require.NoError(t, identity.Replace(folder, pair))
}

// stand is a proxy with two listeners before an application.
type stand struct {
	t      *testing.T
	ca     authority
	folder string
	app    *application
	cfg    Config
	// routers and containers are the addresses of the two listeners; end tells the proxy to end, and done says that it has.
	routers, containers string
	end                 context.CancelFunc
	done                chan error
}

const guid = "instance-1"

func newStand(t *testing.T, app *application, change func(*stand)) *stand {
	t.Helper()
	s := &stand{t: t, ca: newAuthority(t), folder: t.TempDir(), app: app}
	s.ca.issue(t, filepath.Join(s.folder, IdentityFolder), identity.Subject{GUID: guid})
	s.ca.issue(t, filepath.Join(s.folder, C2CFolder), identity.Subject{GUID: guid, Hostnames: []string{"app.apps.internal"}})
	s.cfg = Config{
		Upstream: "127.0.0.1", HTTP2: true, DrainTime: time.Minute,
		Listeners: []Listener{{AppPort: app.port()}, {AppPort: app.port(), C2C: true}}, // port 0: any
	}
	if change != nil {
		change(s)
	}
	require.NoError(t, s.cfg.Write(s.folder))
	ctx, end := context.WithCancel(t.Context())
	proxy, err := open(ctx, s.folder, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	address := func(i int) string {
		return fmt.Sprintf("127.0.0.1:%d", proxy.listeners[i].Addr().(*net.TCPAddr).Port)
	}
	s.routers, s.containers = address(0), address(1)
	s.end, s.done = end, make(chan error, 1)
	go func() { s.done <- proxy.run(ctx) }()
	t.Cleanup(func() {
		end()
		app.close()
		select {
		case err := <-s.done:
			require.NoError(t, err)
		case <-time.After(10 * time.Second):
			t.Error("the proxy does not end")
		}
	})
	return s
}

// dial connects as a router that asks for the instance, unless cfg says otherwise.
func (s *stand) dial(address string, cfg *tls.Config) (*tls.Conn, error) {
	if cfg == nil {
		cfg = &tls.Config{}
	}
	if cfg.RootCAs == nil {
		cfg.RootCAs = s.ca.pool
	}
	if cfg.ServerName == "" {
		cfg.ServerName = guid
	}
	cfg.MinVersion = tls.VersionTLS12
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	client := conn.(*tls.Conn)
	s.t.Cleanup(func() { _ = client.Close() })
	require.NoError(s.t, client.SetDeadline(time.Now().Add(20*time.Second)))
	return client, nil
}

func (s *stand) mustDial(address string, cfg *tls.Config) *tls.Conn {
	s.t.Helper()
	conn, err := s.dial(address, cfg)
	require.NoError(s.t, err)
	return conn
}

// echo sends a line and wants it back.
func echo(t *testing.T, conn net.Conn, line string) {
	t.Helper()
	require.NoError(t, tryEcho(conn, line))
}

func tryEcho(conn net.Conn, line string) error {
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return err
	}
	got, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && got != line+"\n" {
		err = fmt.Errorf("got %q for %q", got, line)
	}
	return err
}

// application takes connections and gives them to a function, which has to return when the connection ends.
type application struct {
	listener net.Listener
	handlers sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func newApplication(t *testing.T, handle func(*net.TCPConn)) *application {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	a := &application{listener: listener}
	a.handlers.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			a.mu.Lock()
			a.conns = append(a.conns, conn)
			a.mu.Unlock()
			a.handlers.Go(func() {
				handle(conn.(*net.TCPConn))
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(a.close)
	return a
}

func (a *application) port() uint32 { return uint32(a.listener.Addr().(*net.TCPAddr).Port) }

// taken counts the connections that came.
func (a *application) taken() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.conns)
}

func (a *application) close() {
	_ = a.listener.Close()
	a.mu.Lock()
	for _, conn := range a.conns {
		_ = conn.Close()
	}
	a.mu.Unlock()
	a.handlers.Wait()
}

// echoes is an application that sends back what it gets, until it gets no more.
func echoes(conn *net.TCPConn) { _, _ = conn.ReadFrom(struct{ net.Conn }{conn}) }

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	return u
}
