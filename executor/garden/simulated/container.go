package simulated

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"diego.internal/executor/garden"
)

// stopGrace is the time between the two signals of Container.Stop.
const stopGrace = 10 * time.Second

// container is one record. engine.mu guards created; mu guards what can change later.
type container struct {
	engine    *Engine
	spec      garden.ContainerSpec
	address   netip.Addr
	ports     []garden.NetIn
	createdAt time.Time
	created   bool

	mu         sync.Mutex
	properties garden.Properties // not written to but replaced: as long as nobody sets one it is that of spec
	processes  map[string]*process
	files      files
}

var _ garden.Container = (*container)(nil)

func (c *container) Handle() string { return c.spec.Handle }

func (c *container) Info(ctx context.Context) (garden.Info, error) {
	if err := c.alive(ctx); err != nil {
		return garden.Info{}, fmt.Errorf("reading info of %q: %w", c.spec.Handle, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return garden.Info{
		ExternalIP:  c.engine.cfg.ExternalIP,
		ContainerIP: c.address.String(),
		MappedPorts: slices.Clone(c.ports),
		Properties:  maps.Clone(c.properties),
		CreatedAt:   c.createdAt,
	}, nil
}

// Run starts a process whose fate Config.OnRun decides.
func (c *container) Run(ctx context.Context, spec garden.ProcessSpec, out garden.ProcessIO) (garden.Process, error) {
	p, err := c.start(ctx, spec, out)
	if err != nil {
		return nil, fmt.Errorf("running process %q in %q: %w", spec.ID, c.spec.Handle, err)
	}
	return p, nil
}

func (c *container) start(ctx context.Context, spec garden.ProcessSpec, out garden.ProcessIO) (*process, error) {
	if err := c.alive(ctx); err != nil {
		return nil, err
	}
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if spec.User != "" && !slices.Contains(c.engine.cfg.Users, spec.User) {
		return nil, fmt.Errorf("%w %q", garden.ErrUnknownUser, spec.User)
	}
	fate := Fate{UntilSignalled: true}
	if c.engine.cfg.OnRun != nil {
		fate = c.engine.cfg.OnRun(c.spec, spec)
	}
	if fate.Err != nil {
		return nil, fate.Err
	}
	p := newProcess(spec.ID, fate)
	if err := c.adopt(p); err != nil {
		return nil, err
	}
	p.attach(&out)
	p.begin()
	return p, nil
}

func (c *container) adopt(p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.processes[p.id] != nil {
		return fmt.Errorf("%w: process id %q is taken", garden.ErrInvalidSpec, p.id)
	}
	if c.processes == nil {
		c.processes = map[string]*process{}
	}
	c.processes[p.id] = p
	for path, content := range p.fate.Files {
		c.files.put(path, []byte(content))
	}
	return nil
}

// Attach replaces the writers of the process; what nobody was given yet is written to the new ones first.
func (c *container) Attach(ctx context.Context, processID string, out garden.ProcessIO) (garden.Process, error) {
	if err := c.alive(ctx); err != nil {
		return nil, fmt.Errorf("attaching to process %q in %q: %w", processID, c.spec.Handle, err)
	}
	c.mu.Lock()
	p := c.processes[processID]
	c.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("attaching to process %q in %q: %w", processID, c.spec.Handle, garden.ErrUnknownProcess)
	}
	p.attach(&out)
	return p, nil
}

// Stop returns when every process has ended.
func (c *container) Stop(ctx context.Context, kill bool) error {
	if err := c.alive(ctx); err != nil {
		return fmt.Errorf("stopping %q: %w", c.spec.Handle, err)
	}
	all := c.all()
	for _, p := range all {
		p.stop(kill)
	}
	for _, p := range all {
		if _, err := p.Wait(ctx); err != nil {
			return fmt.Errorf("stopping %q: %w", c.spec.Handle, err)
		}
	}
	return nil
}

func (c *container) SetProperty(ctx context.Context, name, value string) error {
	if err := c.alive(ctx); err != nil {
		return fmt.Errorf("setting property %q of %q: %w", name, c.spec.Handle, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	properties := garden.Properties{name: value}
	for other, value := range c.properties {
		if other != name {
			properties[other] = value
		}
	}
	c.properties = properties
	return nil
}

func (c *container) Metrics(ctx context.Context) (garden.Metrics, error) {
	if err := c.alive(ctx); err != nil {
		return garden.Metrics{}, fmt.Errorf("reading metrics of %q: %w", c.spec.Handle, err)
	}
	return c.metrics(), nil
}

func (c *container) metrics() garden.Metrics {
	m := garden.Metrics{MemoryLimit: c.spec.Limits.MemoryInBytes, PidCount: 1}
	if c.engine.cfg.OnMetrics != nil {
		m = c.engine.cfg.OnMetrics(c.spec)
	}
	m.Age = time.Since(c.createdAt)
	return m
}

// alive refuses calls on a container that was destroyed, as the real engine does.
func (c *container) alive(ctx context.Context) error {
	if err := c.engine.check(ctx); err != nil {
		return err
	}
	c.engine.mu.Lock()
	defer c.engine.mu.Unlock()
	if c.engine.containers[c.spec.Handle] != c {
		return garden.ErrUnknownHandle
	}
	return nil
}

func (c *container) matches(filter garden.Properties) bool {
	c.engine.mu.Lock()
	created := c.created
	c.engine.mu.Unlock()
	if !created && !filter.IncludesHalfCreated() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.properties.Match(filter)
}

func (c *container) all() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.processes))
}

func (c *container) killAll(status garden.ExitStatus) {
	for _, p := range c.all() {
		p.end(status)
	}
}
