package executor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
	"diego.internal/executor/logs"
	"diego.internal/executor/proxy"
	"diego.internal/executor/step"
)

// Properties of our containers in the engine.
const (
	propertyOwner     = "executor:owner"
	propertyLogConfig = "log_config"
	propertyNetwork   = "network."
)

// pathServiceBindings is where volume-mounted files appear in a container.
const pathServiceBindings = "/etc/cf-service-bindings"

// live is the life of a new container: it is built, run, and completed.
func (n *node) live(ctx context.Context) {
	var (
		inside garden.Container
		err    error
	)
	step.Aside(func() {
		start := time.Now()
		inside, err = n.build(ctx)
		if ctx.Err() == nil { // one that was interrupted tells nothing of the engine
			n.client.counters.Creations.add(err, time.Since(start))
		}
	})
	if err != nil {
		n.unbuilt(ctx, err)
		return
	}
	n.outcome(ctx, n.run(ctx, inside, false))
}

// unbuilt completes a container whose building failed or was interrupted.
func (n *node) unbuilt(ctx context.Context, err error) {
	switch cause := context.Cause(ctx); {
	case n.client.leaving():
		// What was built is undone or will be destroyed by the next process, which finds the record initializing.
	case cause != nil:
		n.complete(true, "stopped-before-running", false)
	default:
		n.log().Warn("creating-container-failed", slog.Any("error", err))
		if cellAtFault(err) {
			// At once, and before the work is given back: nobody is to be sent here until a check has passed.
			n.client.SetHealthy(err)
			n.client.doubtEngine()
			n.undo(creationFailure(err))
			return
		}
		n.client.doubtEngine()
		n.complete(true, creationFailure(err), true)
	}
}

// cellAtFault says whether a container could not be built for want of something that every container of this cell needs.
func cellAtFault(err error) bool {
	for _, fault := range []error{garden.ErrEngineNotRunning, garden.ErrDiskFull, garden.ErrPortsExhausted, garden.ErrNoAddress, garden.ErrMaxContainers} {
		if errors.Is(err, fault) {
			return true
		}
	}
	// What the cell puts on its own disk for a container: downloads, files, certificates. A disk of the container that is
	// too small for its image is another matter.
	_, ours := errors.AsType[*creationError](err)
	return ours && errors.Is(err, syscall.ENOSPC)
}

// creationError says which part of the building failed, in the words that users see.
type creationError struct {
	text string
	err  error
}

func (e *creationError) Error() string { return e.text + ": " + e.err.Error() }

func (e *creationError) Unwrap() error { return e.err }

func creationFailure(err error) string {
	if failed, ok := errors.AsType[*creationError](err); ok {
		return failed.text
	}
	return "failed to create container: " + err.Error()
}

// build makes the container and everything it needs on the host.
func (n *node) build(ctx context.Context) (garden.Container, error) {
	c := n.client
	if err := acquire(ctx, c.pools.create); err != nil {
		return nil, err
	}
	defer func() { <-c.pools.create }()
	info := n.snapshot().RunInfo
	mounts, err := c.fetchDependencies(ctx, n.handle, info.CachedDependencies, n.sink)
	if err != nil {
		return nil, &creationError{text: "failed to download cached artifacts", err: err}
	}
	volumes, err := n.mountVolumes(ctx, info.VolumeMounts)
	if err != nil {
		return nil, err
	}
	listeners, err := c.proxyListeners(info)
	if err != nil {
		return nil, err
	}
	spec, err := n.containerSpec(info, append(mounts, volumes...))
	if err == nil {
		spec.Image, err = c.withToken(ctx, spec.Image)
	}
	if err == nil {
		err = n.addProxy(&spec, listeners)
	}
	if err != nil {
		return nil, err
	}
	n.platform(logs.Out, "Cell %s creating container for instance %s", c.cfg.CellID, n.guid)
	inside, err := c.engine.Create(ctx, spec)
	if err == nil {
		err = n.noteCreated(ctx, inside, listeners)
	}
	if err != nil {
		if ctx.Err() == nil {
			n.platform(logs.Err, "Cell %s failed to create container for instance %s: %v", c.cfg.CellID, n.guid, err)
		}
		return nil, err
	}
	n.platform(logs.Out, "Cell %s successfully created container for instance %s", c.cfg.CellID, n.guid)
	return inside, nil
}

func (n *node) noteCreated(ctx context.Context, inside garden.Container, listeners []proxy.Listener) error {
	info, err := inside.Info(ctx)
	if err != nil {
		return fmt.Errorf("reading addresses: %w", err)
	}
	net := container.NetInfo{
		ExternalIP: info.ExternalIP, InternalIP: info.ContainerIP, Ports: mappings(info.MappedPorts, listeners),
		PreferInternal: n.client.cfg.AdvertiseInstanceAddress,
	}
	// Before the record says created: a process that takes it up from there finds a certificate.
	built := n.snapshot()
	built.Net = net
	if err := errors.Join(n.issueCredentials(built), n.issueC2CCredentials(built), n.configureProxy(net, listeners)); err != nil {
		return err
	}
	return n.change(0, func(r container.Record) (container.Record, error) { return r.Created(net) })
}

func (n *node) containerSpec(info *container.RunInfo, mounts []garden.BindMount) (garden.ContainerSpec, error) {
	cfg, resources := n.client.cfg, n.snapshot().Resources
	spec := garden.ContainerSpec{
		Handle:     n.handle,
		Image:      garden.Image{URI: info.RootFS, Username: info.ImageUsername, Password: info.ImagePassword},
		Privileged: info.Privileged,
		BindMounts: mounts,
		Limits: garden.Limits{
			MemoryInBytes: uint64(resources.MemoryMB) * mebibyte, //nolint:gosec // not negative, see allocate
			DiskInBytes:   uint64(resources.DiskMB) * mebibyte,   //nolint:gosec // as above
			DiskScope:     diskScope(info.RootFS),
			Pids:          int64(resources.MaxPids),
			CPUShares:     cfg.CPUShares * uint64(info.CPUWeight) / 100,
		},
		Properties: garden.Properties{propertyOwner: cfg.OwnerName},
	}
	for _, v := range info.Env {
		spec.Env = append(spec.Env, garden.EnvVar(v))
	}
	logConfig, err := json.Marshal(info.LogConfig)
	if err != nil {
		return spec, fmt.Errorf("encoding log config: %w", err)
	}
	spec.Properties[propertyLogConfig] = string(logConfig)
	for name, value := range info.NetworkProperties {
		spec.Properties[propertyNetwork+name] = value
	}
	for _, port := range info.UniquePorts() {
		spec.NetIn = append(spec.NetIn, garden.NetIn{ContainerPort: port})
	}
	if spec.NetOut, err = netOut(info.EgressRules); err != nil {
		return spec, err
	}
	if cfg.TrustedCertificates != "" && info.TrustedSystemCertificatesPath != "" {
		path := info.TrustedSystemCertificatesPath
		spec.BindMounts = append(spec.BindMounts, garden.BindMount{SrcPath: cfg.TrustedCertificates, DstPath: path, ReadOnly: true})
		spec.Env = append(spec.Env, garden.EnvVar{Name: "CF_SYSTEM_CERT_PATH", Value: path})
	}
	if err := n.addCredentials(&spec); err != nil {
		return spec, err
	}
	return spec, n.addFiles(&spec, info.VolumeMountedFiles)
}

// diskScope says what the limit of disk is for: images that a user brings count against it, preloaded ones do not.
func diskScope(rootfs string) garden.DiskScope {
	if strings.HasPrefix(rootfs, "preloaded:") || filepath.IsAbs(rootfs) {
		return garden.DiskScopeExclusive
	}
	return garden.DiskScopeTotal
}

// addFiles writes the files that the container is to see and mounts their folder.
func (n *node) addFiles(spec *garden.ContainerSpec, files []container.File) error {
	if len(files) == 0 {
		return nil
	}
	dir := filepath.Join(n.client.filesDir(), n.handle)
	if err := writeFiles(dir, files); err != nil {
		return &creationError{text: "failed to create volume mounted files", err: err}
	}
	spec.BindMounts = append(spec.BindMounts, garden.BindMount{SrcPath: dir, DstPath: pathServiceBindings, ReadOnly: true})
	spec.Env = append(spec.Env, garden.EnvVar{Name: "SERVICE_BINDING_ROOT", Value: pathServiceBindings})
	return nil
}

func writeFiles(dir string, files []container.File) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // read by users of the container
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // a handle of a folder has nothing to lose
	for _, file := range files {
		service, name, ok := strings.Cut(strings.TrimPrefix(file.Path, "/"), "/")
		if !ok || service == "" || name == "" || strings.Contains(name, "/") {
			return fmt.Errorf("failed to extract volume-mounted-files directory. format is: /serviceName/fileName: %q", file.Path)
		}
		if err := root.MkdirAll(service, 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(filepath.Join(service, name), []byte(file.Content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// instanceVariables tell a process where it runs; they win over the action's own.
func instanceVariables(net container.NetInfo) []garden.EnvVar {
	type mapping struct {
		External    uint32 `json:"external,omitempty"`
		Internal    uint32 `json:"internal,omitempty"`
		ExternalTLS uint32 `json:"external_tls_proxy,omitempty"`
		InternalTLS uint32 `json:"internal_tls_proxy,omitempty"`
	}
	vars := []garden.EnvVar{
		{Name: "CF_INSTANCE_IP", Value: net.ExternalIP},
		{Name: "CF_INSTANCE_INTERNAL_IP", Value: net.InternalIP},
	}
	mappings := make([]mapping, 0, len(net.Ports))
	for _, port := range net.Ports {
		mappings = append(mappings, mapping{
			External: port.HostPort, Internal: port.ContainerPort, ExternalTLS: port.HostTLSPort, InternalTLS: port.ContainerTLSPort,
		})
	}
	switch {
	case len(net.Ports) == 0:
		vars = append(vars, garden.EnvVar{Name: "CF_INSTANCE_PORT"}, garden.EnvVar{Name: "CF_INSTANCE_ADDR"})
	case net.Ports[0].HostPort != 0:
		port := fmt.Sprint(net.Ports[0].HostPort)
		vars = append(vars,
			garden.EnvVar{Name: "CF_INSTANCE_PORT", Value: port},
			garden.EnvVar{Name: "CF_INSTANCE_ADDR", Value: net.ExternalIP + ":" + port})
	}
	encoded, _ := json.Marshal(mappings) // numbers always encode
	return append(vars, garden.EnvVar{Name: "CF_INSTANCE_PORTS", Value: string(encoded)})
}
