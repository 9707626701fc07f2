// Package executor runs the containers of one cell: it accounts for their resources, builds and destroys them through a
// garden engine, runs their actions and health checks, keeps their logs, and tells of every change. A restarted process
// finds the containers of the one before it and goes on with them.
//
// It knows nothing of gRPC, of the BBS or of why a container should exist; that is the rep's.
package executor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"diego.internal/executor/cache"
	"diego.internal/executor/container"
	"diego.internal/executor/ecr"
	"diego.internal/executor/garden"
	"diego.internal/executor/healthcheck"
	"diego.internal/executor/identity"
	"diego.internal/executor/logs"
	"diego.internal/executor/step"
	"diego.internal/executor/transfer"
	"diego.internal/executor/volume"
)

// Client owns the containers of one cell. Its methods may be called concurrently.
type Client struct {
	cfg       Config
	log       *slog.Logger
	engine    garden.Client
	events    *hub
	logs      *logs.Store
	cache     *cache.Cache
	transfers *transfer.Client
	volumes   *volume.Volumes
	authority *identity.Authority // nil: containers get no certificates
	http      *healthcheck.HTTP
	ecr       *ecr.Client
	counters  *Counters
	pools     pools
	// restrictions are what the engine cannot do on this machine; they do not change.
	restrictions []string

	// ctx is the life of the client; it ends with step.ErrDetached, after detached has been closed.
	ctx      context.Context
	cancel   context.CancelCauseFunc
	detached chan struct{}
	busy     sync.WaitGroup
	closing  sync.Once

	changes *changelog

	mu     sync.Mutex
	nodes  map[string]*node
	ledger ledger
	closed bool

	health struct {
		mu  sync.Mutex
		err error
	}
	samples struct {
		mu sync.Mutex
		sampled
	}
	// suspicious asks for a full check of the engine, because a creation has failed; doubt has it made soon.
	suspicious atomic.Bool
	doubt      chan struct{}
}

// pools bound how many of each kind of work run at a time.
type pools struct{ create, remove, read, metrics, monitor chan struct{} }

// Open waits for the engine to answer, measures the capacity, adopts the containers that an earlier process left behind,
// destroys those that it cannot account for, and returns a client that is ready for orders. A call of Run or Close must
// follow.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	cfg.SetDefaults()
	if cfg.Engine == nil || cfg.CellID == "" || !filepath.IsAbs(cfg.StateDir) {
		return nil, errors.New("opening executor: engine, cell id and an absolute state folder are needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	if err := awaitEngine(ctx, cfg); err != nil {
		return nil, fmt.Errorf("waiting for the container engine: %w", err)
	}
	capacity, err := cfg.Engine.Capacity(ctx)
	if err != nil {
		return nil, fmt.Errorf("measuring the container engine: %w", err)
	}
	total, err := measure(cfg, capacity)
	if err != nil {
		return nil, err
	}
	c := &Client{
		cfg:          cfg,
		log:          cfg.Log,
		engine:       cfg.Engine,
		events:       newHub(),
		http:         healthcheck.NewHTTP(cfg.Dial),
		ecr:          ecr.New(cfg.ECRTransport),
		counters:     &Counters{},
		restrictions: capacity.Restrictions,
		detached:     make(chan struct{}),
		doubt:        make(chan struct{}, 1),
		changes:      newChangelog(),
		nodes:        make(map[string]*node),
		ledger:       ledger{total: total},
		pools: pools{
			create:  make(chan struct{}, cfg.CreatePool),
			remove:  make(chan struct{}, cfg.DeletePool),
			read:    make(chan struct{}, cfg.ReadPool),
			metrics: make(chan struct{}, cfg.MetricsPool),
			monitor: make(chan struct{}, cfg.HealthCheckPool),
		},
	}
	if cfg.SelfCheck.RootFS != "" {
		c.health.err = errUnchecked
	}
	// Containers outlive the call that opens the client, and its values (a trace) are not theirs.
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	if err := c.prepare(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// prepare makes the folders and takes up what an earlier process left.
func (c *Client) prepare(ctx context.Context) error {
	temporary := filepath.Join(c.cfg.StateDir, "tmp")
	if err := os.RemoveAll(temporary); err != nil {
		return fmt.Errorf("emptying temporary folder: %w", err)
	}
	folders := []string{temporary, c.filesDir()}
	if !c.cfg.Ephemeral {
		folders = append(folders, c.journalDir())
	}
	for _, dir := range folders {
		if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // users of containers pass through it
			return fmt.Errorf("making state folder: %w", err)
		}
	}
	for _, dir := range []string{c.credentialsDir(), c.proxiesDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil { // keys: nobody else on the host passes
			return fmt.Errorf("making state folder: %w", err)
		}
	}
	servers, err := c.cfg.DownloadTLS.load()
	if err != nil {
		return err
	}
	if c.authority, err = c.openAuthority(); err != nil {
		return err
	}
	if err := c.checkProxies(); err != nil {
		return err
	}
	c.transfers = transfer.New(transfer.Config{
		TempDir:   temporary,
		TLS:       servers,
		Downloads: c.cfg.Downloads,
		Uploads:   c.cfg.Uploads,
		MaxBytes:  c.cfg.MaxInflatedBytes,
	})
	if c.cfg.Ephemeral {
		c.logs = logs.Discard()
		return c.adopt(ctx)
	}
	limits := logs.Limits{Bytes: c.cfg.LogBytes, Lines: c.cfg.LogLines}
	if c.logs, err = logs.NewStore(filepath.Join(c.cfg.StateDir, "logs"), limits, c.log); err != nil {
		return err
	}
	return c.adopt(ctx)
}

func (c *Client) journalDir() string { return filepath.Join(c.cfg.StateDir, "containers") }

func (c *Client) filesDir() string { return filepath.Join(c.cfg.StateDir, "files") }

// Run does the periodic care until ctx ends, then detaches as Close does. It returns nil then.
func (c *Client) Run(ctx context.Context) error {
	defer c.Close()
	var group errgroup.Group
	group.Go(func() error { return c.prune(ctx) })
	group.Go(func() error { return c.reap(ctx) })
	group.Go(func() error { return c.watchEngine(ctx) })
	group.Go(func() error { return c.rotateCredentials(ctx) })
	if !c.cfg.Ephemeral {
		group.Go(func() error { return c.sample(ctx) })
	}
	if len(c.cfg.Volumes.DriverFolders) > 0 {
		group.Go(func() error { return c.volumes.Run(ctx) })
	}
	return group.Wait()
}

// Close lets go of all containers, which go on without us, and waits for our own goroutines. Work half way through a
// creation is undone. It may be repeated.
func (c *Client) Close() {
	c.closing.Do(func() {
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		close(c.detached)
		c.cancel(step.ErrDetached)
		c.busy.Wait()
		c.events.close()
		if c.cache != nil {
			if err := c.cache.Close(); err != nil {
				c.log.Warn("closing-cache-failed", slog.Any("error", err))
			}
		}
		if c.logs != nil {
			if err := c.logs.Close(); err != nil {
				c.log.Warn("closing-logs-failed", slog.Any("error", err))
			}
		}
	})
}

// AllocateContainers makes reservations; each request is answered alone, and those not returned as failures succeeded.
// Together, parallel calls never take more than the cell has.
func (c *Client) AllocateContainers(_ context.Context, requests []AllocationRequest) []AllocationFailure {
	var failures []AllocationFailure
	for _, request := range requests {
		if err := c.allocate(request); err != nil {
			failures = append(failures, AllocationFailure{Request: request, Err: err})
		}
	}
	return failures
}

func (c *Client) allocate(request AllocationRequest) error {
	switch {
	case request.GUID == "":
		return ErrGUIDNotSpecified
	case !validGUID(request.GUID):
		return ErrGUIDInvalid
	}
	r := request.Resources
	if r.MemoryMB < 0 || r.DiskMB < 0 || r.MaxPids < 0 {
		return fmt.Errorf("resources %+v are negative: %w", r, ErrInsufficientResources)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if _, known := c.nodes[request.GUID]; known {
		return ErrGUIDNotAvailable
	}
	if request.Proxied && r.MemoryMB > 0 {
		r.ProxyMemoryMB = c.ProxyMemoryMB()
		r.MemoryMB += r.ProxyMemoryMB
	}
	if err := c.ledger.take(r); err != nil {
		return err
	}
	n := c.newNode(container.Reserve(request.GUID, r, request.Tags, time.Now()))
	c.nodes[request.GUID] = n
	c.changes.changed(request.GUID)
	c.events.emit(EventReserved, n.record)
	return nil
}

// RunContainer attaches run information to a reservation and returns; building and running go on by themselves, and
// their end is told by an event. It returns ErrContainerNotFound, ErrInvalidTransition, ErrEmptyAction or what is wrong
// with the run information; the reservation is unchanged then.
func (c *Client) RunContainer(_ context.Context, request RunRequest) error {
	n, err := c.node(request.GUID)
	if err != nil {
		return err
	}
	if err := request.Info.Validate(); err != nil {
		return fmt.Errorf("running container %q: %w", request.GUID, err)
	}
	return n.begin(request) //nolint:contextcheck // containers outlive the call
}

// UpdateContainer replaces internal routes and metric tags. It returns ErrContainerNotFound, or ErrInvalidTransition if
// the container has no run information yet or has ended.
func (c *Client) UpdateContainer(ctx context.Context, request UpdateRequest) error {
	n, err := c.node(request.GUID)
	if err != nil {
		return err
	}
	return n.update(ctx, request)
}

// StopContainer asks the container to stop and returns without waiting. It may be repeated, and is no error for a
// container that has ended. It returns ErrContainerNotFound.
func (c *Client) StopContainer(_ context.Context, guid string) error {
	n, err := c.node(guid)
	if err != nil {
		return err
	}
	n.stop(errStopped)
	return nil
}

// DeleteContainer stops and destroys the container and forgets it; its resources are free afterwards. Concurrent calls
// share one deletion, which goes on when the callers give up. After an error the container is still known and the call
// can be repeated. It returns ErrContainerNotFound if there is none of that guid.
func (c *Client) DeleteContainer(ctx context.Context, guid string) error {
	n, err := c.node(guid)
	if err != nil {
		return err
	}
	return n.delete(ctx)
}

// GetContainer returns a snapshot, or ErrContainerNotFound.
func (c *Client) GetContainer(guid string) (Container, error) {
	n, err := c.node(guid)
	if err != nil {
		return Container{}, err
	}
	return n.snapshot(), nil
}

// ListContainers returns snapshots of all containers in order of guid.
func (c *Client) ListContainers() []Container {
	nodes := c.all()
	records := make([]Container, len(nodes))
	for i, n := range nodes {
		records[i] = n.snapshot()
	}
	return records
}

// Containers goes through snapshots of all containers in no order. It is for those who look often, and keep little: unlike
// ListContainers it sorts and copies nothing.
func (c *Client) Containers() iter.Seq[Container] {
	return func(yield func(Container) bool) {
		c.mu.Lock()
		nodes := slices.Collect(maps.Values(c.nodes))
		c.mu.Unlock()
		for _, n := range nodes {
			if !yield(n.snapshot()) {
				return
			}
		}
	}
}

// GetFiles streams a file or folder of a container out as tar, read as root. The caller closes it.
func (c *Client) GetFiles(ctx context.Context, guid, path string) (io.ReadCloser, error) {
	if _, err := c.node(guid); err != nil {
		return nil, err
	}
	if err := acquire(ctx, c.pools.read); err != nil {
		return nil, err
	}
	free := sync.OnceFunc(func() { <-c.pools.read })
	inside, err := c.engine.Lookup(ctx, handleOf(guid))
	if err != nil {
		free()
		return nil, fmt.Errorf("reading files of container %q: %w", guid, err)
	}
	stream, err := inside.StreamOut(ctx, garden.StreamOutSpec{Path: path, User: "root"})
	if err != nil {
		free()
		return nil, fmt.Errorf("reading %q of container %q: %w", path, guid, err)
	}
	return &pooledReader{ReadCloser: stream, free: free}, nil
}

// pooledReader gives its slot back when it is closed.
type pooledReader struct {
	io.ReadCloser
	free func()
}

func (r *pooledReader) Close() error {
	defer r.free()
	return r.ReadCloser.Close()
}

// TotalResources of the cell, used or not.
func (c *Client) TotalResources() Resources {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ledger.total
}

// RemainingResources are the total less what every known container takes. They are negative when a restarted process was
// configured with less than its containers take.
func (c *Client) RemainingResources() Resources {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ledger.remaining()
}

// SubscribeToEvents starts to collect events. The caller closes the subscription.
func (c *Client) SubscribeToEvents() *Subscription { return c.events.subscribe() }

// Logs yields the lines of a container that are kept and, if asked, those to come, until the container is deleted or ctx
// ends. Lines of a deleted container can be read for Config.LogRetention; after that the error is ErrContainerNotFound.
func (c *Client) Logs(ctx context.Context, guid string, request logs.Request) iter.Seq2[logs.Line, error] {
	return func(yield func(logs.Line, error) bool) {
		for line, err := range c.logs.Read(ctx, handleOf(guid), request) {
			if errors.Is(err, logs.ErrNotFound) {
				if _, known := c.node(guid); known != nil {
					yield(logs.Line{}, fmt.Errorf("logs of container %q: %w", guid, ErrContainerNotFound))
				}
				return // a reservation has no lines yet
			}
			if !yield(line, err) {
				return
			}
		}
	}
}

// Cleanup deletes all containers that this cell owns in the engine, known or not, stopping them first as DeleteContainer
// does. Journals go with them. It is for emptying a machine.
func (c *Client) Cleanup(ctx context.Context) error {
	var group errgroup.Group
	for _, n := range c.all() {
		group.Go(func() error {
			if err := n.delete(ctx); err != nil {
				return fmt.Errorf("deleting container %q: %w", n.guid, err)
			}
			return nil
		})
	}
	return errors.Join(group.Wait(), c.destroyUnknown(ctx, nil))
}

func (c *Client) node(guid string) (*node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[guid]
	if !ok {
		return nil, fmt.Errorf("container %q: %w", guid, ErrContainerNotFound)
	}
	return n, nil
}

// all returns the nodes in order of guid.
func (c *Client) all() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	nodes := slices.Collect(maps.Values(c.nodes))
	slices.SortFunc(nodes, func(a, b *node) int { return strings.Compare(a.guid, b.guid) })
	return nodes
}

// giveBackMemory frees memory of a container that goes on with less.
func (c *Client) giveBackMemory(megabytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.used.MemoryMB -= megabytes
}

func (c *Client) forget(n *node, resources container.Resources) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.nodes, n.guid)
	c.changes.forgotten(n.guid)
	c.ledger.giveBack(resources)
}

// spawn runs work that Close waits for. It returns false, and runs nothing, once the client is closed.
func (c *Client) spawn(work func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.busy.Go(work)
	return true
}

// leaving says whether Close has been called.
func (c *Client) leaving() bool {
	select {
	case <-c.detached:
		return true
	default:
		return false
	}
}

// acquire takes a slot of a pool; the caller gives it back by receiving.
func acquire(ctx context.Context, pool chan struct{}) error {
	select {
	case pool <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
