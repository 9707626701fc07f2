package executor

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/proxy"
)

// proxiedMachine is a machine whose containers get proxies, with the authority of their certificates.
func proxiedMachine(t *testing.T) (*machine, *x509.CertPool) {
	t.Helper()
	m := newMachine(t)
	m.stop()
	binary := filepath.Join(filepath.Dir(m.config.InitBinary), "container-proxy")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "diego.internal/executor/cmd/container-proxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "building the proxy: %s", out)
	m.cfg.InstanceIdentity = cellCA(t, 24*time.Hour)
	m.cfg.ContainerProxy = ContainerProxy{Enabled: true, Binary: binary, ReloadTime: 3 * time.Second}
	m.start()
	ca, err := os.ReadFile(m.cfg.InstanceIdentity.CACertificate)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(ca))
	return m, pool
}

// asked is a request over a connection of its own, or one that is open.
func asked(conn net.Conn, path string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: app\r\n\r\n", path); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(response.Body)
	return string(body), errors.Join(err, response.Body.Close())
}

// TestRealProxies needs root and containerd, as TestRealContainers does, and is not beside it: their networks are the same.
func TestRealProxies(t *testing.T) {
	m, roots := proxiedMachine(t)
	connect := func(host string, port uint32, name string) (*tls.Conn, error) {
		dialer := &tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}}
		conn, err := dialer.DialContext(t.Context(), "tcp", net.JoinHostPort(host, fmt.Sprint(port)))
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn.(*tls.Conn), nil
	}
	server := shell("APP", `mkdir www; echo hello > www/index.html; httpd -f -p 8080 -h www & nc -ll -p 9000 -e cat &
		sleep 1; kill -9 $(pidof proxy) 2>/dev/null && echo killed || echo not permitted
		trap 'echo going; exit 0' TERM; while true; do sleep 1 & wait $!; done`)
	m.run("app", RunInfo{
		Action: &server, Ports: []uint32{8080, 9000}, Proxied: true, StartTimeout: 30 * time.Second,
		InternalRoutes:  []InternalRoute{{Hostname: "app.internal"}},
		CheckDefinition: &CheckDefinition{Checks: []Check{{HTTP: &HTTPCheck{Port: 8080, Path: "/index.html"}}}},
	})
	record := m.await("app", StateRunning)
	rows := record.Net.Ports
	require.Len(t, rows, 3)
	require.Equal(t, uint32(proxy.C2CPort), rows[1].ContainerTLSPort)
	require.Zero(t, rows[1].HostTLSPort)

	conn, err := connect(record.Net.ExternalIP, rows[0].HostTLSPort, "app")
	require.NoError(t, err)
	leaf := conn.ConnectionState().PeerCertificates[0]
	require.Equal(t, "app", leaf.Subject.CommonName)
	require.Equal(t, record.Net.InternalIP, leaf.IPAddresses[0].String())
	body, err := asked(conn, "/index.html")
	require.NoError(t, err)
	require.Equal(t, "hello\n", body)
	_, err = connect(record.Net.ExternalIP, rows[0].HostTLSPort, "other")
	require.ErrorContains(t, err, "not other")

	// Other containers reach it by its internal name, if they may; the host has no port that leads there.
	inside, err := connect(record.Net.InternalIP, proxy.C2CPort, "app.internal")
	require.NoError(t, err)
	_, err = asked(inside, "/index.html")
	require.NoError(t, err)
	_, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", net.JoinHostPort(record.Net.ExternalIP, fmt.Sprint(proxy.C2CPort)))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	m.run("neighbour", RunInfo{
		Action:      new(shell("APP", fmt.Sprintf("nc -w 5 %s %d </dev/null && echo reached", record.Net.InternalIP, proxy.C2CPort))),
		EgressRules: []EgressRule{{Protocol: "tcp", Destinations: []string{record.Net.InternalIP}, Ports: []uint32{proxy.C2CPort}}},
	})
	m.await("neighbour", StateCompleted)
	require.Contains(t, m.lines("neighbour"), "APP OUT reached")

	// A restart of our process, a change of routes, the beginning of a stop: connections stay.
	open, err := connect(record.Net.ExternalIP, rows[2].HostTLSPort, "app")
	require.NoError(t, err)
	stays(t, open, "before")
	pid := proxyPID(t, m, "app")
	t.Logf("the proxy takes %s", memoryOf(t, pid))
	m.stop()
	m.start()
	m.await("app", StateRunning)
	require.NoError(t, m.client.UpdateContainer(t.Context(), UpdateRequest{GUID: "app", InternalRoutes: []InternalRoute{{Hostname: "new.internal"}}}))
	again, err := connect(record.Net.InternalIP, proxy.C2CPort, "new.internal")
	require.NoError(t, err)
	_, err = asked(again, "/index.html")
	require.NoError(t, err)
	_, err = connect(record.Net.InternalIP, proxy.C2CPort, "app.internal")
	require.Error(t, err)
	require.Equal(t, pid, proxyPID(t, m, "app"), "it was not started again")
	stays(t, open, "after a restart")

	await(t, "the application to try", func() bool { return strings.Contains(strings.Join(m.lines("app"), "\n"), "APP OUT not permitted") })

	// A stop shows a worthless certificate first. The application, which ends at once then, takes the rest with it.
	require.NoError(t, m.client.StopContainer(t.Context(), "app"))
	await(t, "routers to be turned away", func() bool {
		_, err := connect(record.Net.ExternalIP, rows[0].HostTLSPort, "app")
		return err != nil
	})
	stays(t, open, "while it is drained")
	require.True(t, m.await("app", StateCompleted).Result.Stopped)
	require.Contains(t, m.lines("app"), "APP OUT going")
	require.NoError(t, m.client.DeleteContainer(t.Context(), "app"))
	require.False(t, running(pid), "it is gone with its container")

	// The end of the proxy is the end of the container.
	m.run("killed", RunInfo{Action: new(shell("APP", "sleep 1000")), Ports: []uint32{9000}, Proxied: true})
	m.await("killed", StateRunning)
	require.NoError(t, syscall.Kill(proxyPID(t, m, "killed"), syscall.SIGKILL))
	require.Equal(t, "PROXY: Exited with status 137", m.await("killed", StateCompleted).Result.FailureReason)
	for _, guid := range []string{"killed", "neighbour"} {
		require.NoError(t, m.client.DeleteContainer(t.Context(), guid))
	}
	left, err := os.ReadDir(m.client.proxiesDir())
	require.NoError(t, err)
	require.Empty(t, left)
}

// proxyPID finds the one proxy that has the address of a container for its network: a process of that name that listens there.
func proxyPID(t *testing.T, m *machine, guid string) int {
	t.Helper()
	folder := filepath.Join(m.client.proxiesDir(), guid, "proxy.json")
	want, err := os.ReadFile(folder)
	require.NoError(t, err)
	found := 0
	processes, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, process := range processes {
		name, err := os.ReadFile(filepath.Join(process, "comm"))
		if err != nil || string(name) != "proxy\n" {
			continue
		}
		have, err := os.ReadFile(filepath.Join(process, "root", pathProxyFolder, "proxy.json"))
		if err == nil && string(have) == string(want) {
			require.Zero(t, found, "there are two")
			found, err = strconv.Atoi(filepath.Base(process))
			require.NoError(t, err)
		}
	}
	require.NotZero(t, found, "no proxy of %s", guid)
	return found
}

// stays sends a line to an application that sends it back.
func stays(t *testing.T, conn net.Conn, line string) {
	t.Helper()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err := fmt.Fprintln(conn, line)
	require.NoError(t, err)
	got, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, line+"\n", got)
}

func running(pid int) bool { return syscall.Kill(pid, 0) == nil }

// memoryOf tells what of a process is its own and what it shares.
func memoryOf(t *testing.T, pid int) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	var lines []string
	for line := range strings.Lines(string(status)) {
		for _, name := range []string{"RssAnon", "RssFile", "Threads"} {
			if strings.HasPrefix(line, name) {
				lines = append(lines, strings.Join(strings.Fields(line), " "))
			}
		}
	}
	return strings.Join(lines, ", ")
}
