// Package consultest runs real Consul servers for tests: one server with mutual TLS, on ports and in a
// folder of its own, gone with the test. It builds the server when there is none yet, which takes some
// minutes once; `make setup` does so in advance. It knows nothing of claims beyond their configuration.
package consultest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"diego.internal/locket/lockclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

const (
	patience     = time.Minute
	pollInterval = 50 * time.Millisecond
	// portTries is how often a start is repeated because somebody else took a port that was free.
	portTries = 5
)

// Config says what to start. What is zero is made.
type Config struct {
	CA *mtlstest.Authority
	// SessionTTLMin is session_ttl_min of the server; 0 is Consul's own default of 10 s.
	SessionTTLMin time.Duration
	// ManagementToken turns on ACLs that deny by default, and is the token that may do everything.
	ManagementToken string
}

// Server is a running Consul server.
type Server struct {
	tb     testing.TB
	cfg    Config
	binary string
	folder string
	files  mtls.Config
	ports  ports

	cmd    *exec.Cmd
	exited chan struct{}
	client *api.Client
}

type ports struct{ https, server, serf int }

// Start runs a server until the end of the test. It returns when the server has elected itself.
func Start(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	if cfg.CA == nil {
		cfg.CA = mtlstest.NewAuthority(tb)
	}
	binary, err := build()
	if err != nil {
		tb.Fatalf("building the consul server: %v", err)
	}
	s := &Server{
		tb: tb, cfg: cfg, binary: binary, folder: tb.TempDir(),
		files: cfg.CA.Issue(mtls.Identity{Role: "consul"}, mtlstest.Hosts("127.0.0.1", "localhost", "server.dc1.consul")),
	}
	tb.Cleanup(func() {
		s.Kill()
		if tb.Failed() {
			tb.Logf("log of consul:\n%s", s.logTail())
		}
	})
	for try := 1; ; try++ {
		s.ports = allocate(tb)
		err := s.launch()
		if err == nil {
			return s
		}
		if !errors.Is(err, errEnded) || try == portTries {
			tb.Fatalf("starting consul: %v: %s", err, s.logTail())
		}
	}
}

// build makes the binary, once for all tests of a package; the script sees to it that packages wait for
// each other.
var build = sync.OnceValues(func() (string, error) { //nolint:gochecknoglobals // one build for all tests of a package
	script, err := findUp("tools/consul-server.sh")
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd := exec.Command(script)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("running %s: %w: %s", script, err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
})

// findUp looks for a file from the working directory, which is that of the tested package, upwards.
func findUp(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", name, err)
	}
	for {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("finding %s: it is in no folder above this one", name)
		}
		dir = parent
	}
}

// allocate returns ports that are free now, for TCP and UDP alike.
func allocate(tb testing.TB) ports {
	tb.Helper()
	var p ports
	for _, port := range []*int{&p.https, &p.server, &p.serf} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatalf("finding a free port: %v", err)
		}
		defer func() { _ = l.Close() }() // kept until all are found, so that they differ
		*port = l.Addr().(*net.TCPAddr).Port
	}
	return p
}

// settings is the configuration file.
func (s *Server) settings() map[string]any {
	settings := map[string]any{
		"server": true, "bootstrap": true, "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
		"data_dir": filepath.Join(s.folder, "data"), "node_name": "consul-test", "disable_update_check": true,
		"ports": map[string]int{
			"http": -1, "https": s.ports.https, "dns": -1, "grpc": -1, "grpc_tls": -1,
			"server": s.ports.server, "serf_lan": s.ports.serf, "serf_wan": -1,
		},
		"performance": map[string]int{"raft_multiplier": 1},
		"tls": map[string]any{"https": map[string]any{
			"ca_file": s.files.CA, "cert_file": s.files.Certificate, "key_file": s.files.Key,
			"verify_incoming": true, "tls_min_version": "TLSv1_3",
		}},
	}
	if token := s.cfg.ManagementToken; token != "" {
		settings["acl"] = map[string]any{
			"enabled": true, "default_policy": "deny", "tokens": map[string]string{"initial_management": token, "agent": token},
		}
	}
	if s.cfg.SessionTTLMin != 0 {
		settings["session_ttl_min"] = s.cfg.SessionTTLMin.String()
	}
	return settings
}

var errEnded = errors.New("the server ended")

// launch starts the process from a thread that lives as long as it: the kernel kills the process when
// that thread ends, so it does not outlive the test binary.
func (s *Server) launch() error {
	text, err := json.Marshal(s.settings())
	if err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	file := filepath.Join(s.folder, "consul.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	cmd := exec.Command(s.binary, "agent", "-config-file="+file)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, exited := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		defer close(exited)
		err := cmd.Start()
		_ = log.Close() // the server has its own copy
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", s.binary, err)
	}
	s.cmd, s.exited = cmd, exited
	return s.waitReady()
}

// waitReady waits until the server leads and takes sessions.
func (s *Server) waitReady() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.tb.Context()), patience)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	s.client = nil
	for {
		leader, err := s.API().Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
		if err == nil && leader != "" {
			if _, _, err = s.API().KV().Get("ready", (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)); err == nil {
				return nil
			}
		}
		select {
		case <-s.exited:
			s.cmd = nil
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("waiting for consul: %w: %w", ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

// Client is the configuration of a client of this server.
func (s *Server) Client() lockclient.ConsulConfig {
	files := s.cfg.CA.Issue(mtls.Identity{Role: mtls.RoleOperator, Name: "ada"})
	return lockclient.ConsulConfig{
		Address: "https://" + s.Addr(), SessionTTLMin: s.cfg.SessionTTLMin,
		TLS: lockclient.ConsulTLS{CA: files.CA, Certificate: files.Certificate, Key: files.Key},
	}
}

// Addr is where the server listens.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.ports.https) }

// API returns a client to look at what is in the server.
func (s *Server) API() *api.Client {
	s.tb.Helper()
	if s.client != nil {
		return s.client
	}
	cfg := api.DefaultConfig()
	cfg.Address, cfg.Scheme = s.Addr(), "https"
	cfg.Token = s.cfg.ManagementToken
	cfg.TLSConfig = api.TLSConfig{CAFile: s.files.CA, CertFile: s.files.Certificate, KeyFile: s.files.Key}
	client, err := api.NewClient(cfg)
	if err != nil {
		s.tb.Fatalf("making a consul client: %v", err)
	}
	s.client = client
	return client
}

// Signal sends sig, for example SIGSTOP.
func (s *Server) Signal(sig syscall.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatalf("sending %v to consul: %v", sig, err)
	}
}

// Kill ends the server at once. Its data stays. It may be repeated.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.exited
	s.cmd = nil
}

// Restart starts a killed server again, with its data and at its address.
func (s *Server) Restart() {
	s.tb.Helper()
	if err := s.launch(); err != nil {
		s.tb.Fatalf("starting consul again: %v: %s", err, s.logTail())
	}
}

func (s *Server) logFile() string { return filepath.Join(s.folder, "consul.log") }

func (s *Server) logTail() string {
	data, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-4000):])
}
