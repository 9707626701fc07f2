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
	placeMonitor = "monitor"
)

const defaultHealthSource = "HEALTH"

// run runs the tree of a container that exists and completes the container with its result.
func (n *node) run(ctx context.Context, inside garden.Container, resumed bool) {
	if resumed {
		n.killProbes(ctx, inside)
	}
	record := n.snapshot()
	env := n.stepEnv(inside, record)
	tree := n.tree(env, record, resumed)
	n.outcome(ctx, tree(ctx, func() { n.becameRunning(len(n.readinessChecks(record)) > 0) }))
}

func (n *node) stepEnv(inside garden.Container, record container.Record) *step.Env {
	c := n.client
	return &step.Env{
		Container:    inside,
		Log:          n.sink,
		Source:       record.RunInfo.LogConfig.SourceName,
		Variables:    instanceVariables(record.Net),
		Progress:     n.progress,
		Transfers:    transfers{Cache: c.cache, Client: c.transfers},
		Address:      record.Net.InternalIP,
		Dial:         c.cfg.Dial,
		CheckTimeout: c.cfg.CheckTimeout,
		GraceTime:    c.cfg.GraceTime,
		Detached:     c.detached,
		Counters:     &c.counters.Steps,
		Slog:         n.log,
	}
}

// tree is serial(setup, codependent(action, sidecars, health, readiness)).
func (n *node) tree(env *step.Env, record container.Record, resumed bool) step.Step {
	info := record.RunInfo
	members := []step.Step{env.Build(*info.Action, placeAction)}
	for i, sidecar := range info.Sidecars {
		members = append(members, env.Build(sidecar.Action, placeSidecar+"."+strconv.Itoa(i)))
	}
	health := n.healthStep(env, record, resumed)
	if health != nil {
		members = append(members, health)
	}
	if checks := n.readinessChecks(record); len(checks) > 0 {
		members = append(members, hideInterrupt(healthcheck.Readiness{
			Checks:            checks,
			UnhealthyInterval: n.client.cfg.UnhealthyInterval,
			Texts:             healthcheck.DeclarativeTexts,
			Report:            n.reporter(checkSource(info)),
			SetRoutable:       n.setReady,
			Routable:          record.Routable,
			Resumed:           resumed && record.State == container.StateRunning,
		}.Run))
	}
	longLived := members[0]
	if len(members) > 1 {
		// An action that ends cleanly has become a daemon only if somebody watches the daemon.
		longLived = step.Codependent(step.Group{CancelOnExit: len(info.Sidecars) > 0 || health == nil}, members...)
	}
	if info.Setup == nil || n.progress.Done(keySetupDone) {
		return longLived
	}
	setup := env.Build(*info.Setup, placeSetup)
	noteSetup := func(ctx context.Context, ready func()) error {
		start := time.Now()
		err := setup(ctx, ready)
		if err == nil {
			n.progress.SetDone(keySetupDone)
			n.log.Debug("setup-done", slog.Duration("took", time.Since(start)))
		}
		return err
	}
	return step.Serial(noteSetup, longLived)
}

// healthStep is nil when nothing says how to know health; then the container runs as soon as its action does.
func (n *node) healthStep(env *step.Env, record container.Record, resumed bool) step.Step {
	info, cfg := record.RunInfo, n.client.cfg
	monitor := healthcheck.Monitor{Resumed: resumed && record.State == container.StateRunning}
	monitor.Timing = healthcheck.Timing{
		InitialDelay:      pick(info.HealthTiming.InitialDelay, 0),
		UnhealthyInterval: pick(info.HealthTiming.UnhealthyInterval, cfg.UnhealthyInterval),
	}
	healthy := pick(info.HealthTiming.HealthyInterval, cfg.HealthyInterval)
	switch {
	case info.CheckDefinition != nil:
		monitor.Checks = n.checks(info.CheckDefinition.Checks, record, healthy)
		monitor.Texts = healthcheck.DeclarativeTexts
		monitor.Report = n.reporter(checkSource(info))
	case info.Monitor != nil:
		probe := env.BuildProbe(*info.Monitor, placeMonitor)
		monitor.Checks = []healthcheck.Check{{Probe: n.pooled(probe), HealthyInterval: healthy}}
		monitor.Report = n.reporter(info.LogConfig.SourceName)
	}
	if len(monitor.Checks) == 0 {
		return nil
	}
	return hideInterrupt(func(ctx context.Context, ready func()) error {
		if info.StartTimeout > 0 && !monitor.Resumed {
			// The time to become healthy counts on over a restart of this process.
			now := time.Now()
			spent := now.Sub(n.progress.Since(keyHealthStart, now))
			monitor.Timing.StartTimeout = max(info.StartTimeout-spent, time.Millisecond)
		}
		return monitor.Run(ctx, ready)
	})
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
func (n *node) checks(definitions []container.Check, record container.Record, healthy time.Duration) []healthcheck.Check {
	cfg, host := n.client.cfg, record.Net.InternalIP
	var checks []healthcheck.Check
	for _, d := range definitions {
		if err := d.Problem(); err != nil {
			n.log.Warn("invalid-check-skipped", slog.Any("error", err))
			continue
		}
		if d.TCP != nil {
			checks = append(checks, healthcheck.Check{
				Probe:           healthcheck.TCP(cfg.Dial, host, d.TCP.Port, positive(d.TCP.ConnectTimeout, cfg.CheckTimeout)),
				HealthyInterval: positive(d.TCP.Interval, healthy),
			})
			continue
		}
		checks = append(checks, healthcheck.Check{
			Probe:           healthcheck.HTTP(cfg.Dial, host, d.HTTP.Port, d.HTTP.Path, positive(d.HTTP.RequestTimeout, cfg.CheckTimeout)),
			HealthyInterval: positive(d.HTTP.Interval, healthy),
		})
	}
	return checks
}

func (n *node) readinessChecks(record container.Record) []healthcheck.Check {
	if record.RunInfo.CheckDefinition == nil {
		return nil
	}
	return n.checks(record.RunInfo.CheckDefinition.ReadinessChecks, record, n.client.cfg.HealthyInterval)
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

// hideInterrupt makes the end of a health check by interruption the same as that of any other step.
func hideInterrupt(inner step.Step) step.Step {
	return func(ctx context.Context, ready func()) error {
		err := inner(ctx, ready)
		if err != nil && ctx.Err() != nil {
			if _, unhealthy := errors.AsType[*healthcheck.UnhealthyError](err); !unhealthy {
				return step.ErrCancelled
			}
		}
		return err
	}
}

// killProbes ends the monitor's processes of an earlier process of ours: nobody waits for their answer any more.
func (n *node) killProbes(ctx context.Context, inside garden.Container) {
	ids := n.progress.leftovers(placeMonitor)
	slices.Sort(ids)
	for _, id := range ids {
		err := killOne(ctx, inside, id, n.client.cfg.GraceTime)
		if err != nil && !errors.Is(err, garden.ErrUnknownProcess) {
			n.log.Warn("killing-old-probe-failed", slog.String("process", id), slog.Any("error", err))
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
