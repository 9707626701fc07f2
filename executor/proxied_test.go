package executor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
	"diego.internal/executor/proxy"
)

// proxied is a cell whose containers get proxies, and what its engine was asked for.
type proxied struct {
	*cell

	mu    sync.Mutex
	specs map[string]garden.ContainerSpec
	runs  map[string][]garden.ProcessSpec
}

func newProxied(t *testing.T, s script, change func(*Config)) *proxied {
	t.Helper()
	p := &proxied{specs: map[string]garden.ContainerSpec{}, runs: map[string][]garden.ProcessSpec{}}
	p.cell = newCell(t, nil, func(cfg *simulated.Config) {
		cfg.OnCreate = func(spec garden.ContainerSpec) (time.Duration, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.specs[spec.Handle] = spec
			return 0, nil
		}
		cfg.OnRun = func(spec garden.ContainerSpec, process garden.ProcessSpec) simulated.Fate {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.runs[spec.Handle] = append(p.runs[spec.Handle], process)
			if fate, ok := s[process.Path]; ok {
				return fate
			}
			return simulated.Fate{UntilSignalled: true}
		}
		cfg.OnMetrics = func(spec garden.ContainerSpec) garden.Metrics {
			return garden.Metrics{MemoryInBytes: 48 * mebibyte, MemoryLimit: spec.Limits.MemoryInBytes}
		}
	})
	binary := filepath.Join(t.TempDir(), "container-proxy")
	require.NoError(t, os.WriteFile(binary, nil, 0o600))
	p.cfg.InstanceIdentity = cellCA(t, 240*time.Hour)
	p.cfg.ContainerProxy = ContainerProxy{Enabled: true, Binary: binary}
	p.cfg.Dial = answering
	if change != nil {
		change(&p.cfg)
	}
	p.open()
	return p
}

func answering(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	return near, far.Close()
}

// begin reserves and runs an application with ports, as the rep does.
func (p *proxied) begin(guid string, info RunInfo) {
	p.t.Helper()
	require.Empty(p.t, p.client.AllocateContainers(p.t.Context(), []AllocationRequest{{
		GUID: guid, Resources: ContainerResources{MemoryMB: 64, DiskMB: 64, MaxPids: 10}, Proxied: true,
	}}))
	info.RootFS, info.LogRateLimit, info.Proxied = "preloaded:busybox", -1, len(info.Ports) > 0
	info.LogConfig = LogConfig{GUID: "app", Index: 1, SourceName: "CELL"}
	info.Action = new(process("/app", "APP"))
	require.NoError(p.t, p.client.RunContainer(p.t.Context(), RunRequest{GUID: guid, Info: info}))
	synctest.Wait()
}

// processes that were started in a container, by path.
func (p *proxied) processes(guid string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var paths []string
	for _, run := range p.runs[guid] {
		paths = append(paths, run.Path)
	}
	slices.Sort(paths)
	return paths
}

// leaf is the certificate that the proxy of container i shows.
func (p *proxied) leaf(folder string) *x509.Certificate {
	p.t.Helper()
	dir := filepath.Join(p.client.proxiesDir(), "i", folder)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "instance.crt"), filepath.Join(dir, "instance.key"))
	require.NoError(p.t, err)
	return pair.Leaf
}

func TestContainersGetProxies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProxied(t, nil, nil)
		defer func() { p.stop() }()
		p.begin("i", RunInfo{Ports: []uint32{8080, 9000}, InternalRoutes: []InternalRoute{{Hostname: "a.internal"}}})
		record := p.get("i")
		require.Equal(t, StateRunning, record.State)
		spec := p.specs["i"]
		require.Equal(t, []uint32{8080, 9000, 61001, 61002}, containerPorts(spec.NetIn), "61443 does not lead to the host")
		require.Equal(t, int64(10+proxyTasks), spec.Limits.Pids)
		require.Equal(t, uint64(96*mebibyte), spec.Limits.MemoryInBytes)
		for _, path := range []string{pathProxy, pathProxyFolder} {
			i := slices.IndexFunc(spec.BindMounts, func(m garden.BindMount) bool { return m.DstPath == path })
			require.GreaterOrEqual(t, i, 0, path)
			require.True(t, spec.BindMounts[i].ReadOnly, path)
		}
		rows := record.Net.Ports
		want := []PortMapping{
			{ContainerPort: 8080, HostPort: rows[0].HostPort, ContainerTLSPort: 61001, HostTLSPort: rows[0].HostTLSPort},
			{ContainerPort: 8080, HostPort: rows[0].HostPort, ContainerTLSPort: 61443},
			{ContainerPort: 9000, HostPort: rows[2].HostPort, ContainerTLSPort: 61002, HostTLSPort: rows[2].HostTLSPort},
		}
		if diff := cmp.Diff(want, rows); diff != "" {
			t.Errorf("ports (-want +got):\n%s", diff)
		}
		for _, port := range []uint32{rows[0].HostPort, rows[0].HostTLSPort, rows[2].HostPort, rows[2].HostTLSPort} {
			require.NotZero(t, port)
		}

		require.Equal(t, []string{"/app", pathProxy}, p.processes("i"))
		i := slices.IndexFunc(p.runs["i"], func(run garden.ProcessSpec) bool { return run.Path == pathProxy })
		run := p.runs["i"][i]
		require.Equal(t, "root", run.User)
		require.Equal(t, []string{pathProxyFolder}, run.Args)
		require.Contains(t, run.Env, garden.EnvVar{Name: "CF_INSTANCE_PORTS", Value: portsVariable(rows)})

		var cfg proxy.Config
		encoded, err := os.ReadFile(filepath.Join(p.client.proxiesDir(), "i", "proxy.json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(encoded, &cfg))
		listeners := []proxy.Listener{{AppPort: 8080, Port: 61001}, {AppPort: 8080, Port: 61443, C2C: true}, {AppPort: 9000, Port: 61002}}
		if diff := cmp.Diff(proxy.Config{Upstream: record.Net.InternalIP, Listeners: listeners, HTTP2: true, DrainTime: 15 * time.Minute}, cfg); diff != "" {
			t.Errorf("configuration of the proxy (-want +got):\n%s", diff)
		}

		require.Equal(t, []string{"i"}, p.leaf(proxy.IdentityFolder).DNSNames)
		c2c := p.leaf(proxy.C2CFolder)
		require.Equal(t, []string{"i", "a.internal", "1.a.internal"}, c2c.DNSNames)
		require.Equal(t, record.Net.InternalIP, c2c.IPAddresses[0].String())

		require.NoError(t, p.client.DeleteContainer(t.Context(), "i"))
		require.NoDirExists(t, filepath.Join(p.client.proxiesDir(), "i"))
	})
}

func containerPorts(in []garden.NetIn) []uint32 {
	var ports []uint32
	for _, row := range in {
		ports = append(ports, row.ContainerPort)
	}
	return ports
}

// portsVariable is CF_INSTANCE_PORTS as applications know it.
func portsVariable(rows []PortMapping) string {
	type mapping struct {
		External         uint32 `json:"external,omitempty"`
		Internal         uint32 `json:"internal,omitempty"`
		ExternalTLSProxy uint32 `json:"external_tls_proxy,omitempty"`
		InternalTLSProxy uint32 `json:"internal_tls_proxy,omitempty"`
	}
	var all []mapping
	for _, row := range rows {
		all = append(all, mapping{row.HostPort, row.ContainerPort, row.HostTLSPort, row.ContainerTLSPort})
	}
	encoded, _ := json.Marshal(all)
	return string(encoded)
}

func TestProxiesAloneCanBeMapped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProxied(t, nil, func(cfg *Config) { cfg.ContainerProxy.UnproxiedPortMappings = new(false) })
		defer func() { p.stop() }()
		p.begin("i", RunInfo{Ports: []uint32{9000}})
		require.Equal(t, []uint32{61001}, containerPorts(p.specs["i"].NetIn))
		row := p.get("i").Net.Ports[0]
		require.Equal(t, PortMapping{ContainerPort: 9000, ContainerTLSPort: 61001, HostTLSPort: row.HostTLSPort}, row)
		require.NotZero(t, row.HostTLSPort)
		for _, v := range p.runs["i"][0].Env {
			require.NotContains(t, []string{"CF_INSTANCE_PORT", "CF_INSTANCE_ADDR"}, v.Name, "nothing leads to the application itself")
		}
	})
}

func TestContainersWithoutProxies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProxied(t, nil, nil)
		defer func() { p.stop() }()
		total := p.client.TotalResources().MemoryMB
		require.Empty(t, p.client.AllocateContainers(t.Context(), []AllocationRequest{{GUID: "reserved", Resources: ContainerResources{MemoryMB: 64}, Proxied: true}}))
		require.Equal(t, total-96, p.client.RemainingResources().MemoryMB, "whether it has ports is not known")
		require.Empty(t, p.client.AllocateContainers(t.Context(), []AllocationRequest{
			{GUID: "task", Resources: ContainerResources{MemoryMB: 64}}, {GUID: "unlimited", Proxied: true},
		}))
		require.Equal(t, total-96-64, p.client.RemainingResources().MemoryMB)

		p.begin("i", RunInfo{})
		require.Equal(t, StateRunning, p.get("i").State)
		require.Equal(t, total-96-64-64, p.client.RemainingResources().MemoryMB, "one without ports gives back what it does not need")
		require.Equal(t, uint64(64*mebibyte), p.specs["i"].Limits.MemoryInBytes)
		require.Equal(t, []string{"/app"}, p.processes("i"))
		require.NoDirExists(t, filepath.Join(p.client.proxiesDir(), "i"))
		stale := filepath.Join(p.client.proxiesDir(), "gone", proxy.IdentityFolder)
		require.NoError(t, os.MkdirAll(stale, 0o700))
		p.restart()
		require.NoDirExists(t, filepath.Dir(stale), "what a container that is gone has left is removed")
		require.NoError(t, p.client.DeleteContainer(t.Context(), "i"))
		require.Equal(t, total, p.client.RemainingResources().MemoryMB, "reservations are not kept over a restart")

		// 61443 is the cell's.
		p.begin("j", RunInfo{Ports: []uint32{8080, 61443}})
		require.Equal(t, "failed to create container: port 61443 is reserved for container networking", p.get("j").Result.FailureReason)
	})
}

func TestProxyMemoryIsNotTheApplications(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProxied(t, nil, nil)
		defer func() { p.stop() }()
		p.begin("i", RunInfo{Ports: []uint32{9000}})
		metrics, err := p.client.GetBulkMetrics(t.Context())
		require.NoError(t, err)
		require.Equal(t, uint64(64*mebibyte), metrics["i"].MemoryLimitInBytes)
		require.Equal(t, uint64(32*mebibyte), metrics["i"].MemoryUsageInBytes, "48 MiB of 96 are as much as 32 of 64")
	})
	used, limit := applicationMemory(container.Resources{}, 7, 0)
	require.Equal(t, [2]uint64{7, 0}, [2]uint64{used, limit}, "an unlimited container")
}

func TestProxyAndApplicationEndTogether(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		script script
		want   Result
	}{
		"the application fails":     {script: script{"/app": {Code: 3, After: time.Second}}, want: Result{Failed: true, FailureReason: "APP: Exited with status 3"}},
		"the application ends well": {script: script{"/app": {After: time.Second}}},
		"the proxy fails":           {script: script{pathProxy: {Code: 1, After: time.Second}}, want: Result{Failed: true, FailureReason: "PROXY: Exited with status 1"}},
		"the proxy ends":            {script: script{pathProxy: {After: time.Second}}, want: Result{Failed: true, FailureReason: "PROXY: Exited with status 0"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newProxied(t, tc.script, nil)
				defer func() { p.stop() }()
				p.begin("i", RunInfo{Ports: []uint32{9000}})
				require.Equal(t, StateRunning, p.get("i").State)
				time.Sleep(2 * time.Second) //nolint:forbidigo // the clock of the bubble
				synctest.Wait()
				require.Equal(t, StateCompleted, p.get("i").State)
				require.Equal(t, tc.want, p.get("i").Result)
				require.NoError(t, p.client.DeleteContainer(t.Context(), "i"))
			})
		})
	}
}

func TestProxyIsPartOfTheHealth(t *testing.T) {
	t.Parallel()
	refused := func(_ context.Context, _, address string) (net.Conn, error) {
		if _, port, _ := net.SplitHostPort(address); port == "61443" {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}
		return answering(nil, "", "") //nolint:staticcheck // it is not looked at
	}
	tests := map[string]struct {
		info RunInfo
		want string
	}{
		"beside declarative checks": {
			info: RunInfo{CheckDefinition: &CheckDefinition{Checks: []Check{{TCP: &TCPCheck{Port: 8080}}}}},
			want: "Instance never healthy after 5s: Timed out after 5s (6 attempts) waiting for startup check to succeed: instance proxy failed to start: failed to make TCP connection to 10.254.0.1:61443: connection refused",
		},
		"beside a monitor action": {
			info: RunInfo{Monitor: new(Action{NetCheck: &NetCheckAction{Port: 8080}})},
			want: "Instance never healthy after 5s: instance proxy failed to start: failed to make TCP connection to 10.254.0.1:61443: connection refused",
		},
		"alone": {
			want: "Instance never healthy after 5s: instance proxy failed to start: failed to make TCP connection to 10.254.0.1:61443: connection refused",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newProxied(t, nil, func(cfg *Config) { cfg.Dial = refused })
				defer func() { p.stop() }()
				tc.info.Ports, tc.info.StartTimeout = []uint32{8080}, 5*time.Second
				p.begin("i", tc.info)
				require.Equal(t, StateCreated, p.get("i").State)
				time.Sleep(6 * time.Second) //nolint:forbidigo // the clock of the bubble
				synctest.Wait()
				require.Equal(t, tc.want, p.get("i").Result.FailureReason)
			})
		})
	}
}

// TestProxyThatStopsAnswering: only a cell that is configured so goes on asking.
func TestProxyThatStopsAnswering(t *testing.T) {
	t.Parallel()
	for name, asks := range map[string]bool{"asked": true, "not asked": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				network := &ports{start: time.Now(), open: map[string][2]time.Duration{"61001": {0, time.Minute}}}
				p := newProxied(t, nil, func(cfg *Config) { cfg.Dial, cfg.ContainerProxy.HealthChecks = network.dial, asks })
				defer func() { p.stop() }()
				p.begin("i", RunInfo{Ports: []uint32{9000}})
				require.Equal(t, StateRunning, p.get("i").State)
				require.Empty(t, p.sourced("PROXY"), "nothing to tell of a proxy that works")
				time.Sleep(2 * time.Minute) //nolint:forbidigo // the clock of the bubble
				synctest.Wait()
				if !asks {
					require.Equal(t, StateRunning, p.get("i").State)
					return
				}
				require.Equal(t, "Instance became unhealthy: instance proxy health check failed: failed to make TCP connection to 10.254.0.1:61001: connection refused",
					p.get("i").Result.FailureReason)
			})
		})
	}
}

func (p *proxied) sourced(source string) []string {
	return slices.DeleteFunc(p.lines("i"), func(line string) bool { return len(line) < len(source) || line[:len(source)] != source })
}

func TestStopShowsRoutersAWorthlessCertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProxied(t, nil, nil)
		defer func() { p.stop() }()
		p.begin("i", RunInfo{Ports: []uint32{8080}})
		own := filepath.Join(p.client.credentialsDir(), "i", "instance.crt")
		before, err := os.ReadFile(own)
		require.NoError(t, err)
		require.NoError(t, p.client.StopContainer(t.Context(), "i"))
		synctest.Wait()
		require.Equal(t, StateRunning, p.get("i").State)
		require.False(t, p.get("i").Routable)
		for _, folder := range []string{proxy.IdentityFolder, proxy.C2CFolder} {
			leaf := p.leaf(folder)
			require.Empty(t, leaf.Subject.String())
			require.Empty(t, leaf.DNSNames)
			require.Empty(t, leaf.IPAddresses)
		}
		after, err := os.ReadFile(own)
		require.NoError(t, err)
		require.Equal(t, before, after, "the application keeps its own")
		require.NoError(t, p.client.UpdateContainer(t.Context(), UpdateRequest{GUID: "i", InternalRoutes: []InternalRoute{{Hostname: "late.internal"}}}))
		require.Empty(t, p.leaf(proxy.C2CFolder).DNSNames, "a change of routes does not bring it back")

		time.Sleep(4 * time.Second) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.Equal(t, StateRunning, p.get("i").State, "routers have five seconds to notice")
		time.Sleep(time.Second) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.True(t, p.get("i").Result.Stopped)
		require.Equal(t, StateCompleted, p.get("i").State)
		require.NotContains(t, p.lines("i"), "PROXY OUT Exit status 143", "the proxy stays until the container goes")
	})
}

func TestInternalRoutesAreInTheCertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProxied(t, nil, nil)
		defer func() { p.stop() }()
		p.begin("i", RunInfo{Ports: []uint32{8080}, InternalRoutes: []InternalRoute{{Hostname: "a.internal"}}})
		identity := p.leaf(proxy.IdentityFolder).SerialNumber
		update := UpdateRequest{GUID: "i", InternalRoutes: []InternalRoute{{Hostname: "b.internal"}, {Hostname: "münchen.internal"}}}
		require.NoError(t, p.client.UpdateContainer(t.Context(), update))
		require.Equal(t, []string{"i", "b.internal", "1.b.internal"}, p.leaf(proxy.C2CFolder).DNSNames, "no certificate can hold the other")
		require.Equal(t, identity, p.leaf(proxy.IdentityFolder).SerialNumber)
		require.NoError(t, p.client.UpdateContainer(t.Context(), UpdateRequest{GUID: "i", InternalRoutes: []InternalRoute{}}))
		require.Equal(t, []string{"i"}, p.leaf(proxy.C2CFolder).DNSNames)
		require.Equal(t, int64(3), p.client.Counters().C2CCredentials.Succeeded.Load())
		require.Equal(t, int64(1), p.client.Counters().Credentials.Succeeded.Load())
	})
}

// TestProxiesOutliveTheProcess: the next process takes up the proxy, and goes on with what its files need.
func TestProxiesOutliveTheProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		router := cellCA(t, time.Hour).CACertificate
		p := newProxied(t, nil, func(cfg *Config) {
			cfg.ContainerProxy.RequireClientCertificates, cfg.ContainerProxy.TrustedCA = true, router
		})
		defer func() { p.stop() }()
		p.begin("i", RunInfo{Ports: []uint32{8080}})
		first, firstC2C := p.leaf(proxy.IdentityFolder), p.leaf(proxy.C2CFolder)
		p.restart()
		synctest.Wait()
		require.Equal(t, StateRunning, p.get("i").State)
		require.Equal(t, []string{"/app", pathProxy}, p.processes("i"), "neither is started again")

		replaced, err := os.ReadFile(cellCA(t, time.Hour).CACertificate)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(router, replaced, 0o600))
		time.Sleep(23*time.Hour + 32*time.Minute) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.NotEqual(t, first.SerialNumber, p.leaf(proxy.IdentityFolder).SerialNumber)
		require.NotEqual(t, firstC2C.SerialNumber, p.leaf(proxy.C2CFolder).SerialNumber)
		shown, err := os.ReadFile(filepath.Join(p.client.proxiesDir(), "i", proxy.ClientCAFile))
		require.NoError(t, err)
		require.Equal(t, replaced, shown, "the authorities of clients follow the operator's file")

		// A cell that is configured without proxies keeps those that it has.
		p.cfg.ContainerProxy.Enabled = false
		p.restart()
		synctest.Wait()
		require.True(t, p.get("i").Net.Proxied())
		p.begin("j", RunInfo{Ports: []uint32{8080}})
		require.False(t, p.get("j").Net.Proxied())
		require.NoError(t, p.client.StopContainer(t.Context(), "i"))
		synctest.Wait()
		require.Empty(t, p.leaf(proxy.IdentityFolder).DNSNames)
		require.NoError(t, p.client.DeleteContainer(t.Context(), "i"))
		require.NoDirExists(t, filepath.Join(p.client.proxiesDir(), "i"))
	})
}

// TestProxiesWithoutAuthority: a cell that issues no certificates any more goes on with the containers that have them.
func TestProxiesWithoutAuthority(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProxied(t, nil, nil)
		defer func() { p.stop() }()
		p.begin("i", RunInfo{Ports: []uint32{8080}})
		p.cfg.ContainerProxy.Enabled, p.cfg.InstanceIdentity = false, InstanceIdentity{}
		p.restart()
		synctest.Wait()
		require.NoError(t, p.client.UpdateContainer(t.Context(), UpdateRequest{GUID: "i", InternalRoutes: []InternalRoute{{Hostname: "a.internal"}}}))
		require.Equal(t, []string{"i"}, p.leaf(proxy.C2CFolder).DNSNames)
		require.NoError(t, p.client.StopContainer(t.Context(), "i"))
		time.Sleep(2 * time.Second) //nolint:forbidigo // the clock of the bubble
		synctest.Wait()
		require.Equal(t, StateCompleted, p.get("i").State)
	})
}

func TestContainerProxyIsChecked(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		cfg  ContainerProxy
		want string
	}{
		"off":                           {},
		"on":                            {cfg: ContainerProxy{Enabled: true, Binary: "/b"}},
		"no program":                    {cfg: ContainerProxy{Enabled: true}, want: `binary "" is not an absolute path`},
		"memory that is negative":       {cfg: ContainerProxy{MemoryMB: -1}, want: "memory_mb is not positive"},
		"clients that nobody vouches":   {cfg: ContainerProxy{RequireClientCertificates: true}, want: "require_client_certificates needs a trusted_ca"},
		"an authority at any place":     {cfg: ContainerProxy{TrustedCA: "ca"}, want: `trusted_ca "ca" is not an absolute path`},
		"names of clients without them": {cfg: ContainerProxy{VerifySubjectAltNames: []string{"a"}}, want: "verify_subject_alt_names needs require_client_certificates"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.cfg.SetDefaults()
			err := tc.cfg.Validate()
			if tc.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tc.want)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t, nil)
		c.cfg.ContainerProxy = ContainerProxy{Enabled: true, Binary: "/none"}
		_, err := Open(t.Context(), c.cfg)
		require.ErrorContains(t, err, "container_proxy needs instance_identity")
		c.cfg.InstanceIdentity = cellCA(t, time.Hour)
		_, err = Open(t.Context(), c.cfg)
		require.ErrorContains(t, err, "looking for the program of container proxies")
		c.cfg.ContainerProxy.Binary = c.cfg.InstanceIdentity.CACertificate // any file
		c.cfg.ContainerProxy.RequireClientCertificates, c.cfg.ContainerProxy.TrustedCA = true, c.cfg.InstanceIdentity.CAKey
		_, err = Open(t.Context(), c.cfg)
		require.ErrorContains(t, err, "no certificate in")
	})
}
