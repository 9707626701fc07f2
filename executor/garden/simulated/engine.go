// Package simulated is a container engine without containers: a garden.Client whose containers are records in memory
// and whose processes end as a script says. It serves tests of the executor and the rep, and runs of a thousand cells
// on one machine; an idle container costs a few hundred bytes and no goroutine, and a process that will end by itself
// costs one timer.
//
// It owns the fates of its processes and nothing else: no file, port or address of the machine is touched. It keeps
// the promises of the garden interfaces that a caller can see (handles, properties, output exactly once, exit status
// after a restart) and passes gardentest; isolation and limits it cannot show.
package simulated

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"diego.internal/executor/garden"
)

// Config of an Engine; the zero value is a machine of 16 GiB whose processes run until they are signalled.
type Config struct {
	// Capacity defaults to 16 GiB of memory, 100 GiB of disk and 250 containers.
	Capacity garden.Capacity
	// ExternalIP defaults to 127.0.0.1.
	ExternalIP string
	// Network is where container addresses come from; it defaults to 10.254.0.0/16.
	Network netip.Prefix
	// HostPorts defaults to 61001-65534.
	HostPorts garden.PortRange
	// Users are the names that processes may run as; it defaults to root and vcap.
	Users []string
	// OnCreate, if set, says how long a creation takes and whether it fails. It is called concurrently.
	OnCreate func(garden.ContainerSpec) (time.Duration, error)
	// OnRun, if set, says what becomes of a process. It is called concurrently.
	OnRun func(garden.ContainerSpec, garden.ProcessSpec) Fate
	// OnMetrics, if set, answers Metrics; the age is filled in.
	OnMetrics func(garden.ContainerSpec) garden.Metrics
}

// Engine is the simulated machine and the garden.Client to it. It is safe for concurrent use.
type Engine struct {
	cfg Config

	mu         sync.Mutex
	down       error
	containers map[string]*container
	usedPorts  map[uint32]bool
	nextPort   uint32
	addresses  map[netip.Addr]*container
	nextAddr   netip.Addr
}

var _ garden.Client = (*Engine)(nil)

// New makes a machine without containers.
func New(cfg Config) *Engine {
	cfg.Capacity.MemoryInBytes = cmp.Or(cfg.Capacity.MemoryInBytes, 16<<30)
	cfg.Capacity.DiskInBytes = cmp.Or(cfg.Capacity.DiskInBytes, 100<<30)
	cfg.Capacity.MaxContainers = cmp.Or(cfg.Capacity.MaxContainers, 250)
	cfg.ExternalIP = cmp.Or(cfg.ExternalIP, "127.0.0.1")
	if !cfg.Network.IsValid() {
		cfg.Network = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 254, 0, 0}), 16)
	}
	cfg.HostPorts = cmp.Or(cfg.HostPorts, garden.PortRange{Start: 61001, End: 65534})
	if cfg.Users == nil {
		cfg.Users = []string{"root", "vcap"}
	}
	return &Engine{
		cfg:        cfg,
		containers: map[string]*container{},
		usedPorts:  map[uint32]bool{},
		nextPort:   uint32(cfg.HostPorts.Start),
		addresses:  map[netip.Addr]*container{},
		nextAddr:   cfg.Network.Masked().Addr().Next(),
	}
}

// SetDown makes every call fail with garden.ErrEngineNotRunning and the given reason until it is called with nil.
// Processes go on meanwhile, as they do when containerd is restarted.
func (e *Engine) SetDown(reason error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down = reason
}

// Detach takes the writers from every process, as if the program that holds them had been killed: output is kept until
// somebody attaches.
func (e *Engine) Detach() {
	for _, c := range e.snapshot() {
		for _, p := range c.all() {
			p.attach(nil)
		}
	}
}

// Vanish removes a container as if somebody had deleted it behind the client's back. Its processes end with 137.
func (e *Engine) Vanish(handle string) {
	e.mu.Lock()
	c := e.containers[handle]
	e.removeLocked(c)
	e.mu.Unlock()
	if c != nil {
		c.killAll(garden.ExitStatus{Code: exitKilled})
	}
}

// Ping answers nil unless SetDown was called.
func (e *Engine) Ping(ctx context.Context) error { return e.check(ctx) }

// Capacity answers what the configuration says.
func (e *Engine) Capacity(ctx context.Context) (garden.Capacity, error) {
	return e.cfg.Capacity, e.check(ctx)
}

// Create records a container after the delay that OnCreate asks for.
func (e *Engine) Create(ctx context.Context, spec garden.ContainerSpec) (garden.Container, error) {
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("creating container %q: %w", spec.Handle, err)
	}
	c, err := e.reserve(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("creating container %q: %w", spec.Handle, err)
	}
	if err := e.build(ctx, c); err != nil {
		e.mu.Lock()
		e.removeLocked(c)
		e.mu.Unlock()
		return nil, fmt.Errorf("creating container %q: %w", spec.Handle, err)
	}
	return c, nil
}

// reserve takes handle, address and ports, as the real engine does before the slow part.
func (e *Engine) reserve(ctx context.Context, spec garden.ContainerSpec) (*container, error) {
	if err := e.check(ctx); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.containers[spec.Handle] != nil {
		return nil, garden.ErrHandleInUse
	}
	if len(e.containers) >= e.cfg.Capacity.MaxContainers {
		return nil, garden.ErrMaxContainers
	}
	spec.Properties = maps.Clone(spec.Properties)
	c := &container{engine: e, spec: spec, properties: spec.Properties, createdAt: time.Now()}
	ports, err := e.takePortsLocked(spec.NetIn)
	if err != nil {
		return nil, err
	}
	c.ports = ports
	if c.address, err = e.takeAddressLocked(c); err != nil {
		e.releaseLocked(c)
		return nil, err
	}
	e.containers[spec.Handle] = c
	return c, nil
}

func (e *Engine) build(ctx context.Context, c *container) error {
	if e.cfg.OnCreate != nil {
		delay, err := e.cfg.OnCreate(c.spec)
		if err := wait(ctx, delay); err != nil {
			return err
		}
		if err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.containers[c.spec.Handle] != c {
		return garden.ErrBeingDestroyed
	}
	c.created = true
	return nil
}

// Destroy ends every process of the container with 137 and forgets it.
func (e *Engine) Destroy(ctx context.Context, handle string) error {
	if err := e.check(ctx); err != nil {
		return fmt.Errorf("destroying container %q: %w", handle, err)
	}
	e.mu.Lock()
	c := e.containers[handle]
	e.removeLocked(c)
	e.mu.Unlock()
	if c == nil {
		return fmt.Errorf("destroying container %q: %w", handle, garden.ErrUnknownHandle)
	}
	c.killAll(garden.ExitStatus{Code: exitKilled})
	return nil
}

// Containers lists in the order of handles.
func (e *Engine) Containers(ctx context.Context, filter garden.Properties) ([]garden.Container, error) {
	if err := e.check(ctx); err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	var found []garden.Container
	for _, c := range e.snapshot() {
		if c.matches(filter) {
			found = append(found, c)
		}
	}
	return found, nil
}

// Lookup finds a container.
func (e *Engine) Lookup(ctx context.Context, handle string) (garden.Container, error) {
	if err := e.check(ctx); err != nil {
		return nil, fmt.Errorf("looking up container %q: %w", handle, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[handle]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("looking up container %q: %w", handle, garden.ErrUnknownHandle)
}

// BulkMetrics leaves out handles that are gone.
func (e *Engine) BulkMetrics(ctx context.Context, handles []string) (map[string]garden.Metrics, error) {
	if err := e.check(ctx); err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	found := make(map[string]garden.Metrics, len(handles))
	for _, handle := range handles {
		if c := e.containers[handle]; c != nil {
			found[handle] = c.metrics()
		}
	}
	return found, nil
}

// check is the first step of every call.
func (e *Engine) check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down != nil {
		return fmt.Errorf("%w: %w", garden.ErrEngineNotRunning, e.down)
	}
	return nil
}

func (e *Engine) snapshot() []*container {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.SortedFunc(maps.Values(e.containers), func(a, b *container) int {
		return cmp.Compare(a.spec.Handle, b.spec.Handle)
	})
}

// takePortsLocked walks the range from where it last stopped, so that a port freed a moment ago is used last.
func (e *Engine) takePortsLocked(wanted []garden.NetIn) ([]garden.NetIn, error) {
	taken := make([]garden.NetIn, 0, len(wanted))
	undo := func() {
		for _, in := range taken {
			delete(e.usedPorts, in.HostPort)
		}
	}
	for _, in := range wanted {
		if in.HostPort == 0 {
			in.HostPort = e.freePortLocked()
		}
		if in.HostPort == 0 || e.usedPorts[in.HostPort] {
			undo()
			return nil, garden.ErrPortsExhausted
		}
		e.usedPorts[in.HostPort] = true
		taken = append(taken, in)
	}
	return taken, nil
}

func (e *Engine) freePortLocked() uint32 {
	first, last := uint32(e.cfg.HostPorts.Start), uint32(e.cfg.HostPorts.End)
	for range last - first + 1 {
		port := e.nextPort
		if e.nextPort++; e.nextPort > last {
			e.nextPort = first
		}
		if !e.usedPorts[port] {
			return port
		}
	}
	return 0
}

func (e *Engine) takeAddressLocked(c *container) (netip.Addr, error) {
	// Each lap may meet all used addresses and the end of the network once.
	for range len(e.addresses) + 2 {
		addr := e.nextAddr
		e.nextAddr = addr.Next()
		if !e.cfg.Network.Contains(addr) {
			e.nextAddr = e.cfg.Network.Masked().Addr().Next()
			continue
		}
		if e.addresses[addr] == nil {
			e.addresses[addr] = c
			return addr, nil
		}
	}
	return netip.Addr{}, garden.ErrNoAddress
}

func (e *Engine) removeLocked(c *container) {
	if c == nil || e.containers[c.spec.Handle] != c {
		return
	}
	delete(e.containers, c.spec.Handle)
	e.releaseLocked(c)
}

func (e *Engine) releaseLocked(c *container) {
	for _, in := range c.ports {
		delete(e.usedPorts, in.HostPort)
	}
	delete(e.addresses, c.address)
}

// wait returns after d or when ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
