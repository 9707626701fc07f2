package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/containerd/network"
)

// dialTimeout bounds the first connection to the daemon.
const dialTimeout = 10 * time.Second

// redial is how soon a daemon that went away is tried again: it is on this machine, and trying costs nothing.
var redial = backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: time.Second} //nolint:gochecknoglobals // a constant

// cleanupTimeout bounds work that must be done although the caller's context has ended.
const cleanupTimeout = 2 * time.Minute

// Backend is the containers of one cell. It is safe for concurrent use. At most one Backend may be open for a state
// folder at a time; New makes sure of it.
type Backend struct {
	cfg          Config
	client       *client.Client
	network      *network.Network
	tails        *tails
	images       singleflight.Group // layers that are being unpacked, by key
	templates    singleflight.Group // disks that are being formatted, by path
	layers       *layers
	folders      folders
	registries   *registries
	users        userNamespaces
	disks        bool                // containers with a limit get a disk of their own
	loops        sync.Mutex          // held while a loop device is taken
	slots        *semaphore.Weighted // of creations, first come first served
	restrictions []string            // set by start
	lock         *os.File            // held while this Backend is open
	nothing      *os.File            // /dev/null, the input of all processes
	unreachable  sync.Once           // of the warning about inits

	// ctx ends with Close; followers of processes live in it.
	ctx    context.Context //nolint:containedctx // the life of the Backend, not of a call
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu         sync.Mutex
	containers map[string]*container // by handle, in every phase
}

var _ garden.Client = (*Backend)(nil)

// ErrInUse says that another process has the state folder open.
var ErrInUse = errors.New("state folder is in use")

// New connects to containerd and takes up what an earlier Backend of the same state folder left: whole containers with
// their addresses, ports and processes; everything else of this cell is removed. It returns garden.ErrEngineNotRunning
// if the daemon does not answer within 10 s.
func New(ctx context.Context, cfg Config) (*Backend, error) {
	b, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("opening containers of cell %q: %w", cfg.CellID, err)
	}
	if err := b.start(b.within(ctx)); err != nil {
		return nil, errors.Join(fmt.Errorf("taking up containers of cell %q: %w", cfg.CellID, err), b.Close())
	}
	return b, nil
}

// open has no effect on the machine but the folders of the cell.
func open(cfg Config) (*Backend, error) {
	cfg.SetDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.DNSServers == nil {
		cfg.DNSServers = hostResolvers()
	}
	for _, folder := range []string{cfg.containersFolder(), cfg.runcFolder(), cfg.mountsFolder()} {
		if err := os.MkdirAll(folder, 0o711); err != nil { //nolint:gosec // bind mounts are looked up below
			return nil, fmt.Errorf("making state folder: %w", err)
		}
	}
	lock, err := lockFolder(cfg.StateFolder)
	if err != nil {
		return nil, err
	}
	b := &Backend{cfg: cfg, lock: lock, containers: map[string]*container{}, layers: newLayers(), folders: folders{seen: map[string]seenFolder{}}, registries: newRegistries(cfg)}
	b.slots = semaphore.NewWeighted(int64(creationsPerCore * runtime.NumCPU()))
	if b.nothing, err = os.Open(os.DevNull); err != nil {
		return nil, errors.Join(fmt.Errorf("opening input of processes: %w", err), lock.Close())
	}
	b.ctx, b.cancel = context.WithCancel(namespaces.WithNamespace(context.Background(), cfg.Namespace))
	if err := b.connect(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Backend) connect() error {
	var err error
	if b.network, err = network.New(b.cfg.networkConfig()); err != nil {
		return fmt.Errorf("preparing network: %w", err)
	}
	if b.tails, err = newTails(); err != nil {
		return err
	}
	b.client, err = client.New(b.cfg.Socket, client.WithTimeout(dialTimeout), client.WithDefaultNamespace(b.cfg.Namespace),
		client.WithExtraDialOpts([]grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: redial, MinConnectTimeout: dialTimeout})}))
	if err != nil {
		return fmt.Errorf("%w: %w", garden.ErrEngineNotRunning, err)
	}
	return nil
}

// lockFolder keeps a second program from reconciling the same containers away. The kernel drops the lock when the
// program ends, however it ends.
func lockFolder(folder string) (*os.File, error) {
	file, err := os.Open(folder) //nolint:gosec // the state folder of the configuration
	if err != nil {
		return nil, fmt.Errorf("opening state folder: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("%w: %s: %w", ErrInUse, folder, err)
	}
	return file, nil
}

// Close ends everything that this program does about the containers and leaves them running. Calls that are under way
// fail. The Backend cannot be used afterwards.
func (b *Backend) Close() error {
	b.cancel()
	b.wait.Wait()
	for _, c := range b.all() {
		c.letGo()
	}
	errs := []error{b.nothing.Close()}
	if b.client != nil {
		errs = append(errs, b.client.Close())
	}
	if b.tails != nil {
		errs = append(errs, b.tails.close())
	}
	// A program that is being started at this moment has a copy of the file until it runs; the lock must not wait for that.
	errs = append(errs, b.closeUsers(), unix.Flock(int(b.lock.Fd()), unix.LOCK_UN), b.lock.Close())
	return errors.Join(errs...)
}

// within names the containerd namespace for calls made with ctx.
func (b *Backend) within(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, b.cfg.Namespace)
}

// cleanup is a context for what must be done although ctx may have ended.
func (b *Backend) cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(b.within(context.WithoutCancel(ctx)), cleanupTimeout, errors.New("cleaning up took too long"))
}

// Ping asks containerd for its version. A daemon that is away is waited for as long as ctx allows, 10 s at most.
func (b *Backend) Ping(ctx context.Context) error {
	if _, err := b.client.Version(b.within(ctx)); err != nil {
		return fmt.Errorf("pinging containerd: %w: %w", garden.ErrEngineNotRunning, err)
	}
	return nil
}

// Capacity measures memory and the file system of the state folder.
func (b *Backend) Capacity(context.Context) (garden.Capacity, error) {
	var memory unix.Sysinfo_t
	if err := unix.Sysinfo(&memory); err != nil {
		return garden.Capacity{}, fmt.Errorf("measuring memory: %w", err)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(b.cfg.StateFolder, &disk); err != nil {
		return garden.Capacity{}, fmt.Errorf("measuring disk: %w", err)
	}
	return garden.Capacity{
		MemoryInBytes: memory.Totalram * uint64(memory.Unit),
		DiskInBytes:   disk.Blocks * uint64(disk.Bsize), //nolint:gosec // never negative
		MaxContainers: b.cfg.MaxContainers,
		Restrictions:  slices.Clone(b.restrictions),
	}, nil
}

// Containers lists in the order of handles, from memory.
func (b *Backend) Containers(_ context.Context, filter garden.Properties) ([]garden.Container, error) {
	var found []garden.Container
	for _, c := range b.all() {
		if c.matches(filter) {
			found = append(found, c)
		}
	}
	return found, nil
}

// Lookup finds a container that is created.
func (b *Backend) Lookup(_ context.Context, handle string) (garden.Container, error) {
	c := b.find(handle)
	if c == nil || c.phase() != phaseCreated {
		return nil, fmt.Errorf("looking up container %q: %w", handle, garden.ErrUnknownHandle)
	}
	return c, nil
}

func (b *Backend) find(handle string) *container {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.containers[handle]
}

func (b *Backend) all() []*container {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.containers), func(x, y *container) int {
		return cmp.Compare(x.handle, y.handle)
	})
}

// forget takes a container out of memory, unless another one has its handle by now.
func (b *Backend) forget(c *container) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.containers[c.handle] == c {
		delete(b.containers, c.handle)
	}
}

// engineError tells a daemon that is away from one that says no.
func engineError(err error) error {
	if errdefs.IsUnavailable(err) || errdefs.IsUnavailable(errgrpc.ToNative(err)) {
		return fmt.Errorf("%w: %w", garden.ErrEngineNotRunning, err)
	}
	return err
}
