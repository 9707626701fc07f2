package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
	"diego.internal/executor/healthcheck"
	"diego.internal/executor/identity"
	"diego.internal/executor/logs"
	"diego.internal/executor/proxy"
	"diego.internal/executor/step"
)

// What a container sees of its proxy.
const (
	pathProxy       = "/etc/cf-assets/proxy"
	pathProxyFolder = "/etc/cf-assets/proxy_config"
	placeProxy      = "proxy"
	proxySource     = "PROXY"
	// proxyTasks are the threads that a proxy may have; the limit of a container is meant for what runs beside it.
	proxyTasks = 16
	// proxyFiles is how many files a proxy may open: two for each connection.
	proxyFiles = 65536
	// proxyCheckTimeout is the limit of one check of a proxy.
	proxyCheckTimeout = time.Second
	// proxyFirstPause doubles up to proxyLastPause between attempts of one check of a proxy that starts.
	proxyFirstPause = 5 * time.Millisecond
	proxyLastPause  = 40 * time.Millisecond
)

// clientCA returns nil when clients need no certificates.
func (c *Client) clientCA() ([]byte, error) {
	cfg := c.cfg.ContainerProxy
	if !cfg.RequireClientCertificates {
		return nil, nil
	}
	return proxy.ReadClientCA(cfg.TrustedCA)
}

// ProxyMemoryMB is what is reserved on top of the memory of a container that may have a proxy; 0 if there are none.
func (c *Client) ProxyMemoryMB() int {
	if !c.cfg.ContainerProxy.Enabled {
		return 0
	}
	return c.cfg.ContainerProxy.MemoryMB
}

func (c *Client) proxiesDir() string { return filepath.Join(c.cfg.StateDir, "proxies") }

func (n *node) proxyFolder() string { return filepath.Join(n.client.proxiesDir(), n.handle) }

// wantsProxy says whether a container that is to be built gets one.
func (c *Client) wantsProxy(info *container.RunInfo) bool {
	return c.cfg.ContainerProxy.Enabled && info.Proxied && len(info.Ports) > 0
}

// proxyListeners are those of a container that is to be built; nil if it gets no proxy.
func (c *Client) proxyListeners(info *container.RunInfo) ([]proxy.Listener, error) {
	if !c.wantsProxy(info) {
		return nil, nil
	}
	return proxy.Allocate(info.UniquePorts())
}

// addProxy shows the proxy and the folder of its files in the container that is to be built, and maps its ports.
func (n *node) addProxy(spec *garden.ContainerSpec, listeners []proxy.Listener) error {
	if len(listeners) == 0 {
		return nil
	}
	c := n.client
	dir := n.proxyFolder()
	err := errors.Join(identity.MakeFolder(filepath.Join(dir, proxy.IdentityFolder)), identity.MakeFolder(filepath.Join(dir, proxy.C2CFolder)))
	if err == nil {
		err = os.Chmod(dir, 0o755) //nolint:gosec // users of the container pass; on the host, the folder above keeps others out
	}
	if err == nil {
		err = n.writeClientCA()
	}
	if err != nil {
		return &creationError{text: "failed to create credentials directory", err: err}
	}
	spec.BindMounts = append(spec.BindMounts,
		garden.BindMount{SrcPath: c.cfg.ContainerProxy.Binary, DstPath: pathProxy, ReadOnly: true},
		garden.BindMount{SrcPath: dir, DstPath: pathProxyFolder, ReadOnly: true})
	if !*c.cfg.ContainerProxy.UnproxiedPortMappings {
		spec.NetIn = nil
	}
	for _, l := range listeners {
		if !l.C2C {
			spec.NetIn = append(spec.NetIn, garden.NetIn{ContainerPort: l.Port})
		}
	}
	if spec.Limits.Pids > 0 {
		spec.Limits.Pids += proxyTasks
	}
	return nil
}

func (n *node) writeClientCA() error {
	certificates, err := n.client.clientCA()
	if err != nil || certificates == nil {
		return err
	}
	return proxy.WriteClientCA(n.proxyFolder(), certificates)
}

// configureProxy writes what the proxy reads when it starts.
func (n *node) configureProxy(network container.NetInfo, listeners []proxy.Listener) error {
	if len(listeners) == 0 {
		return nil
	}
	cfg := n.client.cfg.ContainerProxy
	return proxy.Config{
		Upstream: network.InternalIP, Listeners: listeners, HTTP2: *cfg.HTTP2, DrainTime: cfg.DrainTime,
		ClientCertificates: cfg.RequireClientCertificates, SubjectAltNames: cfg.VerifySubjectAltNames,
	}.Write(n.proxyFolder())
}

// mappings are the ports of a new container: one row for each listener of its proxy, or for each mapped port without one.
func mappings(mapped []garden.NetIn, listeners []proxy.Listener) []container.PortMapping {
	var rows []container.PortMapping
	if len(listeners) == 0 {
		for _, port := range mapped {
			rows = append(rows, container.PortMapping{ContainerPort: port.ContainerPort, HostPort: port.HostPort})
		}
		return rows
	}
	host := make(map[uint32]uint32, len(mapped)) // what is not mapped is 0
	for _, port := range mapped {
		host[port.ContainerPort] = port.HostPort
	}
	for _, l := range listeners {
		rows = append(rows, container.PortMapping{
			ContainerPort: l.AppPort, HostPort: host[l.AppPort], ContainerTLSPort: l.Port, HostTLSPort: host[l.Port],
		})
	}
	return rows
}

// withProxy runs the proxy beside what the container is for. The end of one ends the other; a container that is told to stop
// keeps its proxy until it is destroyed, so that what the application still has to say reaches its clients.
func (n *node) withProxy(env *step.Env, record container.Record, longLived step.Step) step.Step {
	if !record.Net.Proxied() {
		return longLived
	}
	run := container.RunAction{
		Path: pathProxy, Args: []string{pathProxyFolder}, Dir: "/", User: "root", LogSource: proxySource, Nofile: new(uint64(proxyFiles)),
		// What a user tells the runtime of an application of the same language is not meant for the proxy.
		Env: []container.EnvVar{{Name: "GODEBUG"}, {Name: "GOGC"}, {Name: "GOMAXPROCS"}, {Name: "GOMEMLIMIT"}},
	}
	inside := step.Background(lasting(env.Build(container.Action{Run: &run}, placeProxy)))
	return step.Codependent(step.Group{CancelOnExit: true}, longLived, inside)
}

// lasting makes a failure of an end that nobody asked for.
func lasting(inner step.Step) step.Step {
	return func(ctx context.Context, ready func()) error {
		err := inner(ctx, ready)
		if err == nil && ctx.Err() == nil {
			return &step.ShownError{Text: proxySource + ": Exited with status 0"}
		}
		return err
	}
}

// proxyChecks ask the ports of the proxy until they take connections, and after that if the cell is configured so.
func (n *node) proxyChecks(env *step.Env, record container.Record, wasRunning bool) []healthcheck.Check {
	if !record.Net.Proxied() {
		return nil
	}
	interval := time.Duration(0)
	if n.client.cfg.ContainerProxy.HealthChecks {
		interval = n.client.cfg.HealthyInterval
	}
	var checks []healthcheck.Check
	for _, row := range record.Net.Ports {
		ask := healthcheck.TCP(env.Dial, env.Address, row.ContainerTLSPort, proxyCheckTimeout)
		checks = append(checks, healthcheck.Check{Probe: proxyProbe(ask, wasRunning), HealthyInterval: interval})
	}
	return checks
}

// proxyProbe words a failure by whether the proxy has been up. One that is just starting is ready within milliseconds, sooner
// than a check is repeated, and so it is asked more than once in one check.
func proxyProbe(ask healthcheck.Probe, wasUp bool) healthcheck.Probe {
	var up atomic.Bool
	up.Store(wasUp)
	return func(ctx context.Context) error {
		err := ask(ctx)
		for pause := proxyFirstPause; err != nil && !up.Load() && pause <= proxyLastPause && wait(ctx, pause); pause *= 2 {
			err = ask(ctx)
		}
		switch {
		case err == nil:
			up.Store(true)
			return nil
		case up.Load():
			return fmt.Errorf("instance proxy health check failed: %w", err)
		default:
			return fmt.Errorf("instance proxy failed to start: %w", err)
		}
	}
}

// failures tells of failed checks only: of a container that is watched for its proxy alone, there is nothing else to tell.
type failures struct{ reporter }

func (f failures) Transition(good bool, message string) {
	if !good {
		f.sink.Emit(f.source, logs.Err, message)
	}
}

// refreshClientCA follows a change of the file that vouches for clients.
func (n *node) refreshClientCA() error {
	certificates, err := n.client.clientCA()
	if err != nil || certificates == nil {
		return err
	}
	shown, err := os.ReadFile(filepath.Join(n.proxyFolder(), proxy.ClientCAFile))
	if err == nil && bytes.Equal(shown, certificates) || errors.Is(err, fs.ErrNotExist) { // built when clients needed none
		return nil
	}
	return proxy.WriteClientCA(n.proxyFolder(), certificates)
}

// issueProxyCredentials gives the proxy what routers see. Nothing else may write to its folder meanwhile.
func (n *node) issueProxyCredentials(record container.Record, pair identity.Pair) error {
	if !record.Net.Proxied() || record.Result.Stopped { // who is to stop has been given a worthless one
		return nil
	}
	return identity.Replace(filepath.Join(n.proxyFolder(), proxy.IdentityFolder), pair)
}

// issueC2CCredentials gives the proxy what other containers see: a certificate with the host names of its internal routes, and
// those with its index in front. Nothing else may write to its folder meanwhile.
func (n *node) issueC2CCredentials(record container.Record) error {
	c, start := n.client, time.Now()
	if !forContainers(record.Net) || record.Result.Stopped || c.authority == nil {
		return nil
	}
	subject := n.subject(record)
	for _, route := range record.RunInfo.InternalRoutes {
		subject.Hostnames = append(subject.Hostnames, route.Hostname)
		if index := record.RunInfo.LogConfig.Index; index >= 0 {
			subject.Hostnames = append(subject.Hostnames, strconv.Itoa(index)+"."+route.Hostname)
		}
	}
	pair, err := c.authority.Issue(subject, start)
	if err == nil {
		err = identity.Replace(filepath.Join(n.proxyFolder(), proxy.C2CFolder), pair)
	}
	c.counters.C2CCredentials.add(err, time.Since(start))
	return err
}

// forContainers says whether the proxy listens for other containers.
func forContainers(network container.NetInfo) bool {
	return slices.ContainsFunc(network.Ports, func(p container.PortMapping) bool { return p.ContainerTLSPort == proxy.C2CPort })
}

// renewC2CCredentials follows a change of internal routes.
func (n *node) renewC2CCredentials() error {
	n.rotating.Lock()
	defer n.rotating.Unlock()
	record := n.snapshot()
	if !record.HasContainer() {
		return nil
	}
	return n.issueC2CCredentials(record)
}

// spoilCredentials has the proxy show a certificate that is good for nobody: routers that check it turn to other instances
// and forget this one. What has been connected goes on.
func (n *node) spoilCredentials() {
	n.rotating.Lock()
	defer n.rotating.Unlock()
	if !n.snapshot().HasContainer() || n.client.authority == nil {
		return // it has ended meanwhile, and its folder may be gone; or this cell issues no certificates any more
	}
	pair, err := n.client.authority.Issue(identity.Subject{}, time.Now())
	for _, folder := range []string{proxy.IdentityFolder, proxy.C2CFolder} {
		if err == nil {
			err = identity.Replace(filepath.Join(n.proxyFolder(), folder), pair)
		}
	}
	if err != nil {
		n.log().Warn("spoiling-proxy-credentials-failed", slog.Any("error", err)) // routers are told by the routes, too
	}
}

// proxyReload is how long routers need to learn from the proxy that a container is to stop.
func (n *node) proxyReload() time.Duration {
	if !n.record.Net.Proxied() || n.client.authority == nil {
		return 0
	}
	return n.client.cfg.ContainerProxy.ReloadTime
}

// withoutProxyMemory gives up what was reserved for a proxy that will not run.
func withoutProxyMemory(r container.Resources) container.Resources {
	r.MemoryMB -= r.ProxyMemoryMB
	r.ProxyMemoryMB = 0
	return r
}

// applicationMemory is what of a container's memory counts as the application's: the limit that it asked for, and of what is used
// the same share. An unlimited container is the application's.
func applicationMemory(r container.Resources, used, limit uint64) (ofUsed, ofLimit uint64) {
	surcharge := uint64(r.ProxyMemoryMB) * mebibyte //nolint:gosec // not negative
	if surcharge == 0 || limit <= surcharge {
		return used, limit
	}
	own := limit - surcharge
	return uint64(float64(used) * float64(own) / float64(limit)), own
}
