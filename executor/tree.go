package executor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
	"diego.internal/executor/healthcheck"
	"diego.internal/executor/logs"
	"diego.internal/executor/step"
)

// Places of the actions of a container. Names of processes follow from them, so they must never change: a newer release
// has to find the processes of an older one.
const (
	placeSetup   = "setup"
	placeAction  = "action"
	placeSidecar = "sidecar"
	placeHook    = "post-setup"
	placeMonitor = "monitor"
)

const defaultHealthSource = "HEALTH"

// run runs the tree of a container that exists and returns its result.
func (n *node) run(ctx context.Context, inside garden.Container, resumed bool) error {
	var tree step.Step
	step.Aside(func() {
		if resumed {
			n.killProbes(ctx, inside)
		}
		record := n.snapshot()
		tree = n.tree(n.stepEnv(inside, record), record, resumed)
	})
	return tree(ctx, n.becameRunning)
}

func (n *node) stepEnv(inside garden.Container, record container.Record) *step.Env {
	c, net := n.client, record.Net
	return &step.Env{
		Container:    inside,
		Log:          n.sink,
		Source:       record.RunInfo.LogConfig.SourceName,
		Variables:    func() []garden.EnvVar { return instanceVariables(net) },
		Progress:     n.progress,
		Transfers:    transfers{Cache: c.cache, Client: c.transfers},
		Address:      record.Net.InternalIP,
		Dial:         c.cfg.Dial,
		HTTP:         c.http,
		CheckTimeout: c.cfg.CheckTimeout,
		GraceTime:    pick(record.RunInfo.GraceTime, c.cfg.GraceTime),
		Detached:     c.detached,
		Counters:     &c.counters.Steps,
		Slog:         c.log,
	}
}

// tree is serial(setup, codependent(codependent(action, sidecars), watched by health and readiness, and the proxy)).
func (n *node) tree(env *step.Env, record container.Record, resumed bool) step.Step {
	info := record.RunInfo
	longLived := env.Build(*info.Action, placeAction)
	if len(info.Sidecars) > 0 {
		members := []step.Step{longLived}
		for i, sidecar := range info.Sidecars {
			members = append(members, env.Build(sidecar.Action, placeSidecar+"."+strconv.Itoa(i)))
		}
		longLived = step.Codependent(step.Group{CancelOnExit: true}, members...)
	}
	wasRunning := resumed && record.State == container.StateRunning
	var watches []step.Watch
	health, own := n.healthWatch(env, info, n.proxyChecks(env, record, wasRunning), wasRunning)
	if health != nil {
		watches = append(watches, health)
	}
	if checks := n.readinessChecks(env, info); len(checks) > 0 {
		watches = append(watches, healthcheck.Readiness{
			Checks:      checks,
			Timing:      n.checkTiming(info),
			Texts:       healthcheck.DeclarativeTexts,
			Report:      n.reporter(checkSource(info)),
			SetRoutable: n.setReady,
			Routable:    record.Routable,
			Resumed:     wasRunning,
		}.Watch)
	}
	// An action that ends cleanly has become a daemon only if somebody watches the daemon.
	daemon := own && len(info.Sidecars) == 0
	longLived = n.withProxy(env, record, step.Watched(longLived, daemon, watches...))
	if setup := n.setup(env, info); setup != nil {
		return step.Serial(n.noted(setup), longLived)
	}
	return longLived
}

// setup is the workload's own and then the cell's, or nil if there is none or it is behind us.
func (n *node) setup(env *step.Env, info *container.RunInfo) step.Step {
	var parts []step.Step
	if info.Setup != nil {
		parts = append(parts, env.Build(*info.Setup, placeSetup))
	}
	if hook := n.client.cfg.PostSetup; hook.Path != "" {
		run := container.RunAction{Path: hook.Path, Args: hook.Args, User: hook.User, SuppressLogOutput: true}
		parts = append(parts, env.Build(container.Action{Run: &run}, placeHook))
	}
	if len(parts) == 0 || n.progress.Done(keySetupDone) {
		return nil
	}
	return step.Serial(parts...)
}

// noted remembers the success of a setup, so that it is not repeated after a restart of this process.
func (n *node) noted(setup step.Step) step.Step {
	return func(ctx context.Context, ready func()) error {
		start := n.began
		if start.IsZero() { // an earlier process of ours began it
			start = time.Now()
		}
		err := setup(ctx, ready)
		if err == nil {
			n.progress.SetDone(keySetupDone)
		}
		if ctx.Err() == nil {
			n.client.counters.Setups.add(err, time.Since(start))
		}
		return err
	}
}

// healthWatch is nil when nothing says how to know health; then the container runs as soon as its action does. Own says that
// the workload itself asks to be watched, and not only the cell because of its proxy.
func (n *node) healthWatch(env *step.Env, info *container.RunInfo, proxied []healthcheck.Check, wasRunning bool) (watch step.Watch, own bool) {
	monitor := healthcheck.Monitor{Resumed: wasRunning, Timing: n.checkTiming(info), Unhealthy: n.client.countLiveness}
	healthy := pick(info.HealthTiming.HealthyInterval, n.client.cfg.HealthyInterval)
	switch {
	case info.CheckDefinition != nil:
		monitor.Checks = n.checks(env, info.CheckDefinition.Checks, healthy)
		monitor.Texts = healthcheck.DeclarativeTexts
		monitor.Report = n.reporter(checkSource(info))
	case info.Monitor != nil:
		if info.Monitor.NetCheck == nil {
			monitor.Timing.FirstRetry = 0 // an attempt is a process, and not as cheap as a connection
		}
		probe := env.BuildProbe(*info.Monitor, placeMonitor)
		monitor.Checks = []healthcheck.Check{{Probe: n.pooled(probe), HealthyInterval: healthy}}
		monitor.Report = n.reporter(info.LogConfig.SourceName)
	}
	own = len(monitor.Checks) > 0
	if !own {
		monitor.Report = failures{reporter{sink: n.sink, source: proxySource}}
	}
	if monitor.Checks = append(monitor.Checks, proxied...); len(monitor.Checks) == 0 {
		return nil, false
	}
	limit := info.StartTimeout
	return func(ctx context.Context, ready func(), failed func(error)) (stop func()) {
		if limit > 0 && !monitor.Resumed {
			// The time to become healthy counts on over a restart of this process.
			now := time.Now()
			spent := now.Sub(n.progress.Since(keyHealthStart, now))
			monitor.Timing.StartTimeout = max(limit-spent, time.Millisecond)
		}
		return monitor.Watch(ctx, ready, failed)
	}, own
}

// countLiveness counts a container that became unhealthy by what its check asks.
func (c *Client) countLiveness(err error) {
	switch healthcheck.KindOf(err) {
	case healthcheck.KindTCP:
		c.counters.LivenessTCPFailed.Add(1)
	case healthcheck.KindHTTP:
		c.counters.LivenessHTTPFailed.Add(1)
	case healthcheck.KindOther:
	}
}

// checkTiming is the cell's, save where the workload has its own. Quick first attempts are the cell's idea: a workload that
// names an interval gets that one from the beginning.
func (n *node) checkTiming(info *container.RunInfo) healthcheck.Timing {
	own, cfg := info.HealthTiming, n.client.cfg
	timing := healthcheck.Timing{
		InitialDelay:      pick(own.InitialDelay, 0),
		UnhealthyInterval: pick(own.UnhealthyInterval, cfg.UnhealthyInterval),
	}
	if own.UnhealthyInterval == nil {
		timing.FirstRetry = cfg.FirstRetry
	}
	return timing
}

// pooled bounds how many monitor actions of the cell run at a time.
func (n *node) pooled(probe step.Step) healthcheck.Probe {
	return func(ctx context.Context) error {
		if err := acquire(ctx, n.client.pools.monitor); err != nil {
			return err
		}
		defer func() { <-n.client.pools.monitor }()
		return probe(ctx, func() {})
	}
}

// checks turns declarative checks into probes; invalid ones are logged and left out.
func (n *node) checks(env *step.Env, definitions []container.Check, healthy time.Duration) []healthcheck.Check {
	cfg := n.client.cfg
	checks := make([]healthcheck.Check, 0, len(definitions))
	for _, d := range definitions {
		if err := d.Problem(); err != nil {
			n.log().Warn("invalid-check-skipped", slog.Any("error", err))
			continue
		}
		if d.TCP != nil {
			checks = append(checks, healthcheck.Check{
				Probe:           healthcheck.TCP(cfg.Dial, env.Address, d.TCP.Port, positive(d.TCP.ConnectTimeout, cfg.CheckTimeout)),
				HealthyInterval: positive(d.TCP.Interval, healthy),
			})
			continue
		}
		checks = append(checks, healthcheck.Check{
			Probe:           env.HTTP.Probe(env.Address, d.HTTP.Port, d.HTTP.Path, positive(d.HTTP.RequestTimeout, cfg.CheckTimeout)),
			HealthyInterval: positive(d.HTTP.Interval, healthy),
		})
	}
	return checks
}

func (n *node) readinessChecks(env *step.Env, info *container.RunInfo) []healthcheck.Check {
	if info.CheckDefinition == nil {
		return nil
	}
	return n.checks(env, info.CheckDefinition.ReadinessChecks, n.client.cfg.HealthyInterval)
}

// awaitsReadiness says whether readiness checks decide about the routable flag.
func awaitsReadiness(info *container.RunInfo) bool {
	return info.CheckDefinition != nil &&
		slices.ContainsFunc(info.CheckDefinition.ReadinessChecks, func(c container.Check) bool { return c.Problem() == nil })
}

func checkSource(info *container.RunInfo) string {
	if info.CheckDefinition != nil && info.CheckDefinition.LogSource != "" {
		return info.CheckDefinition.LogSource
	}
	return defaultHealthSource
}

// reporter logs changes under the container's source and failures under that of the checks.
func (n *node) reporter(source string) healthcheck.Reporter {
	return reporter{sink: n.sink, source: source}
}

type reporter struct {
	sink   *logs.Sink
	source string
}

func (r reporter) Transition(good bool, message string) {
	stream := logs.Out
	if !good {
		stream = logs.Err
	}
	r.sink.Emit("", stream, message)
}

func (r reporter) Failure(message string) { r.sink.Emit(r.source, logs.Err, message) }

// killProbes ends the monitor's processes of an earlier process of ours: nobody waits for their answer any more.
func (n *node) killProbes(ctx context.Context, inside garden.Container) {
	ids := n.progress.leftovers(placeMonitor)
	slices.Sort(ids)
	for _, id := range ids {
		err := killOne(ctx, inside, id, n.client.cfg.GraceTime)
		if err != nil && !errors.Is(err, garden.ErrUnknownProcess) {
			n.log().Warn("killing-old-probe-failed", slog.String("process", id), slog.Any("error", err))
			continue
		}
		n.progress.SetProcess(id, step.ProcessMark{})
	}
}

func killOne(ctx context.Context, inside garden.Container, id string, limit time.Duration) error {
	// A container that is to stop has ended its context already; its probes must go all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	process, err := inside.Attach(ctx, id, garden.ProcessIO{})
	if err != nil {
		return err
	}
	return process.Signal(ctx, garden.SignalKill)
}

func pick(own *time.Duration, byDefault time.Duration) time.Duration {
	if own != nil {
		return *own
	}
	return byDefault
}

func positive(own, byDefault time.Duration) time.Duration {
	if own > 0 {
		return own
	}
	return byDefault
}
