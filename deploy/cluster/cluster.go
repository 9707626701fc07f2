package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"diego.internal/executor/garden/busybox"
	"diego.internal/executor/garden/containerd/privatedaemon"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/postgres/privateserver"
)

// Cluster is a running system. Its methods may be called concurrently, except Stop.
type Cluster struct {
	plan         *plan
	certificates *certificates
	operator     mtls.Config

	mu         sync.Mutex
	postgres   *privateserver.Server // guarded by mu; replaced by RestartPostgres
	containers []*privatedaemon.Daemon
	processes  []*Process // in order of start
}

// Start starts everything and returns when all of it accepts work. What an earlier cluster left in the folder is removed
// first. When it fails it stops what it had started; the logs stay.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("starting a cluster: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("starting a cluster: containers need root")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.StartTimeout, fmt.Errorf("the cluster was not ready within %v", o.StartTimeout))
	defer cancel()
	if err := Remove(ctx, o.Folder, o.Bin); errors.Is(err, errRunning) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("removing what an earlier cluster left: %w", err)
	}
	s, err := takeSlot()
	if err != nil {
		return nil, err
	}
	c := &Cluster{}
	if err := c.start(ctx, o, s); err != nil {
		// The logs of who failed are worth more than an empty folder.
		stopping, done := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer done()
		return nil, errors.Join(err, c.stop(stopping, s))
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context, o Options, s slot) (err error) {
	for _, folder := range []string{"logs", "config"} {
		if err := os.MkdirAll(filepath.Join(o.Folder, folder), 0o755); err != nil { //nolint:gosec // postgres runs as another user
			return fmt.Errorf("making the folder of the cluster: %w", err)
		}
	}
	if c.certificates, err = newCertificates(filepath.Join(o.Folder, "certificates")); err != nil {
		return err
	}
	if c.plan, err = newPlan(o, s, c.certificates); err != nil {
		return err
	}
	if err := c.plan.record(); err != nil {
		return err
	}
	if c.operator, err = c.certificates.issue("operator", mtls.RoleOperator, "admin"); err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"root filesystem", c.buildRootFS},
		{"postgres", c.startPostgres},
		{"nats", c.startNATS},
		{"containerd", c.startContainerd},
		{"locket, bbs, auctioneer", c.startControlPlane},
		{"cells, route emitters, router", c.startDataPlane},
		{"all of it ready", c.waitReady},
	}
	for _, step := range steps {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("starting %s: %w", step.name, err)
		}
		_, _ = fmt.Fprintf(o.Progress, "  %-32s %6.1f s\n", step.name, time.Since(began).Seconds())
	}
	return nil
}

// buildRootFS makes the root filesystem with the sample application in it.
func (c *Cluster) buildRootFS(ctx context.Context) error {
	if len(c.plan.cells) == 0 {
		return nil // nobody would use it
	}
	folder := c.plan.path("rootfs")
	if err := busybox.Build(ctx, folder); err != nil {
		return err
	}
	return copyFile(filepath.Join(c.plan.Bin, "sample"), filepath.Join(folder, "bin", "sample"))
}

func copyFile(from, to string) error {
	source, err := os.Open(from) //nolint:gosec // our own binary
	if err != nil {
		return fmt.Errorf("copying %s (run make build first): %w", from, err)
	}
	defer func() { _ = source.Close() }()                                     // read only
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755) //nolint:gosec // a program
	if err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	if _, err := io.Copy(target, source); err != nil {
		_ = target.Close()
		return fmt.Errorf("copying %s: %w", from, err)
	}
	return target.Close()
}

func (c *Cluster) startPostgres(ctx context.Context) error {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	if err := os.WriteFile(c.plan.path("certificates", "encryption-key"), key, 0o600); err != nil {
		return fmt.Errorf("writing the encryption key: %w", err)
	}
	server, err := privateserver.Start(ctx, privateserver.Config{Folder: c.plan.path("postgres")})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.postgres = server
	c.mu.Unlock()
	return errors.Join(server.CreateDatabase(ctx, "bbs"), server.CreateDatabase(ctx, "locket"))
}

func (c *Cluster) startNATS(context.Context) error {
	path, err := c.plan.writeText("nats.conf", c.plan.natsConfig())
	if err != nil {
		return err
	}
	return c.launch("nats", "nats-server", "--config", path)
}

func (c *Cluster) startContainerd(ctx context.Context) error {
	for i := range c.plan.cells {
		if err := os.MkdirAll(c.plan.containerd(i), 0o711); err != nil { //nolint:gosec // users of containers pass through
			return err
		}
		daemon, err := privatedaemon.Start(ctx, c.plan.containerd(i))
		if err != nil {
			return err
		}
		c.containers = append(c.containers, daemon)
	}
	return nil
}

func (c *Cluster) startControlPlane(context.Context) error {
	for i := range pair {
		l, b, a := c.plan.lockets[i], c.plan.bbses[i], c.plan.auctioneers[i]
		err := errors.Join(
			c.configure(l.name, "locket", c.plan.locket(l, c.postgres.ConnectionString("locket"))),
			c.configure(b.name, "bbs", c.plan.bbs(b, c.postgres.ConnectionString("bbs"))),
			c.configure(a.name, "auctioneer", c.plan.auctioneer(a)),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startDataPlane(context.Context) error {
	for i, cell := range c.plan.cells {
		emitter := c.plan.emitters[i]
		err := errors.Join(
			c.configure(cell.name, "rep", c.plan.rep(i)),
			c.configure(emitter.name, "route-emitter", c.plan.emitter(emitter)),
		)
		if err != nil {
			return err
		}
	}
	return c.configure(c.plan.router.name, "router", c.plan.routerConfig())
}

// configure writes the configuration of a process and starts it.
func (c *Cluster) configure(name, binary string, config section) error {
	path, err := c.plan.write(name, config)
	if err != nil {
		return err
	}
	return c.launch(name, binary, "-config", path)
}

func (c *Cluster) launch(name, binary string, args ...string) error {
	p := &Process{Name: name, Log: c.plan.path("logs", name+".log"), path: filepath.Join(c.plan.Bin, binary), args: args}
	c.mu.Lock()
	c.processes = append(c.processes, p)
	c.mu.Unlock()
	return p.Start()
}

// Add writes the configuration of a process that the cluster does not know, after Options.Tune, and starts it. From then on it is
// one of Processes, supervised and stopped like all of them. The name must be new.
func (c *Cluster) Add(name, binary string, config map[string]any) (*Process, error) {
	if slices.ContainsFunc(c.Processes(), func(p *Process) bool { return p.Name == name }) {
		return nil, fmt.Errorf("adding a process: there is a %s already", name)
	}
	if err := c.configure(name, binary, config); err != nil {
		return nil, fmt.Errorf("adding a process: %w", err)
	}
	return c.Process(name), nil
}

// Process returns the process of that name: locket-1, bbs-2, auctioneer-1, rep-1, route-emitter-2, router, nats, or
// one that Add started. It panics for a name that there is not.
func (c *Cluster) Process(name string) *Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.processes, func(p *Process) bool { return p.Name == name })
	if i < 0 {
		panic("cluster: no process is called " + name)
	}
	return c.processes[i]
}

// Processes in order of their start.
func (c *Cluster) Processes() []*Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.processes)
}

// CellIDs of the cells, in the order of rep-1, rep-2 …
func (c *Cluster) CellIDs() []string {
	ids := make([]string, 0, len(c.plan.cells))
	for _, cell := range c.plan.cells {
		ids = append(ids, cell.cell)
	}
	return ids
}

// RestartPostgres ends the database and starts it again over the same data.
func (c *Cluster) RestartPostgres(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.postgres.Stop(ctx); err != nil {
		return err
	}
	server, err := privateserver.Start(ctx, privateserver.Config{Folder: c.plan.path("postgres")})
	if err != nil {
		return err
	}
	c.postgres = server
	return nil
}

// PostgresPID is the main process of the database; the processes of its connections are children of it.
func (c *Cluster) PostgresPID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.postgres.PID()
}

// RouterAddress is host:port of the router, LogFolder where every process has its log.
func (c *Cluster) RouterAddress() string { return c.plan.router.address }

// LogFolder is where every process has its log.
func (c *Cluster) LogFolder() string { return c.plan.path("logs") }

// BinFolder is where the binaries are.
func (c *Cluster) BinFolder() string { return c.plan.Bin }

// Issue makes a certificate of this cluster's authority, for clients of other roles.
func (c *Cluster) Issue(file, role, name string) (mtls.Config, error) {
	return c.certificates.issue(file, role, name)
}

// InstanceCA is the file of the authority that certifies instances.
func (c *Cluster) InstanceCA() string { return c.plan.instanceCA }

// Operator is the certificate of an operator.
func (c *Cluster) Operator() mtls.Config { return c.operator }

// BBSAddresses and LocketAddresses are where clients connect.
func (c *Cluster) BBSAddresses() []string { return list(c.plan.bbses) }

// LocketAddresses are where clients connect.
func (c *Cluster) LocketAddresses() []string { return list(c.plan.lockets) }

// AuctioneerAddresses are where clients connect.
func (c *Cluster) AuctioneerAddresses() []string { return list(c.plan.auctioneers) }

func list(nodes []node) []string {
	out := make([]string, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, n.address)
	}
	return out
}

// Stop stops everything and removes containers, networks and mounts. The logs stay in the folder.
func (c *Cluster) Stop(ctx context.Context) error { return c.stop(ctx, c.plan.slot) }

func (c *Cluster) stop(ctx context.Context, s slot) error {
	defer s.release()
	var problems []error
	processes := c.Processes()
	// Traffic and cells first, then those that they depend on.
	slices.Reverse(processes)
	var group sync.WaitGroup
	for _, p := range processes {
		if p.Name != "nats" && !isLocket(p.Name) {
			group.Go(p.Stop)
		}
	}
	group.Wait()
	if c.plan != nil {
		for i := range c.containers {
			problems = append(problems, c.clean(ctx, i))
		}
	}
	for _, daemon := range c.containers {
		problems = append(problems, daemon.Stop())
	}
	for _, p := range processes {
		p.Stop()
	}
	if c.postgres != nil {
		problems = append(problems, c.postgres.Stop(ctx))
	}
	if c.plan != nil {
		problems = append(problems, os.RemoveAll(c.plan.path(recordFile)))
	}
	return errors.Join(problems...)
}

func isLocket(name string) bool { return len(name) > 6 && name[:6] == "locket" }

// clean removes what a cell owns on the machine.
func (c *Cluster) clean(ctx context.Context, i int) error {
	return runClean(ctx, c.plan.Bin, c.plan.path("config", c.plan.cells[i].name+".yml"))
}

func runClean(ctx context.Context, bin, config string) error {
	if _, err := os.Stat(config); err != nil {
		return nil //nolint:nilerr // the cell was never configured, so it owns nothing
	}
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "rep"), "-clean", "-config", config).CombinedOutput() //nolint:gosec // our own binary
	if err != nil {
		return fmt.Errorf("cleaning a cell: %w\n%s", err, out)
	}
	return nil
}
