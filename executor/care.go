package executor

import (
	"context"
	"log/slog"
	"time"

	"diego.internal/executor/container"
)

// prune ends reservations that nobody made use of.
func (c *Client) prune(ctx context.Context) error {
	for wait(ctx, c.cfg.ReservedExpiration/2) {
		now := time.Now()
		for _, n := range c.all() {
			record := n.snapshot()
			if record.State == container.StateReserved && now.Sub(record.AllocatedAt) >= c.cfg.ReservedExpiration {
				n.expire()
			}
		}
	}
	return nil
}

// reap compares records and engine, and removes logs that have been kept long enough. A failure is logged and tried
// again in the next round.
func (c *Client) reap(ctx context.Context) error {
	for wait(ctx, c.cfg.ReapInterval) {
		if err := c.destroyUnknown(ctx, nil); err != nil && ctx.Err() == nil {
			c.log.Warn("destroying-unknown-containers-failed", slog.Any("error", err))
		}
		if err := c.reapMissing(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("looking-for-missing-containers-failed", slog.Any("error", err))
		}
		if err := c.logs.Sweep(time.Now().Add(-c.cfg.LogRetention)); err != nil {
			c.log.Warn("sweeping-logs-failed", slog.Any("error", err))
		}
	}
	return nil
}

// watchEngine keeps the health of the cell up to date: a cheap question often, and soon again after a bad answer; now and
// then, and when there is a reason for doubt, a container is made for a check.
func (c *Client) watchEngine(ctx context.Context) error {
	var checked time.Time
	pause := c.cfg.EngineCheckInterval
	if c.cfg.SelfCheck.RootFS != "" {
		pause = 0 // nobody gets work before the first check
	}
	for c.awaitCheck(ctx, pause) {
		err := c.checkEngine(ctx)
		if err == nil && c.selfCheckDue(checked) {
			err = c.selfCheck(ctx)
			checked = time.Now()
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the check was cut off by our own end
		}
		c.SetHealthy(err)
		pause = c.cfg.EngineCheckInterval
		if err != nil {
			pause /= 3
		}
	}
	return nil
}

// awaitCheck waits for the pause, or less if somebody doubts the engine meanwhile: then as long as after a check that has
// failed, so that many failures at the same time are one reason for doubt. It returns false when ctx ends first.
func (c *Client) awaitCheck(ctx context.Context, pause time.Duration) bool {
	start := time.Now()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-c.doubt:
			timer.Reset(max(min(pause, c.cfg.EngineCheckInterval/3)-time.Since(start), 0))
		}
	}
}

// doubtEngine asks for a check that makes a container, soon.
func (c *Client) doubtEngine() {
	c.suspicious.Store(true)
	select {
	case c.doubt <- struct{}{}:
	default:
	}
}

func (c *Client) checkEngine(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.EngineCheckTimeout)
	defer cancel()
	err := c.engine.Ping(ctx)
	c.cfg.Stall.note(err)
	return err
}

// Healthy says whether the engine passed its last check; the error tells why not.
func (c *Client) Healthy() (bool, error) {
	c.health.mu.Lock()
	defer c.health.mu.Unlock()
	return c.health.err == nil, c.health.err
}

// SetHealthy sets the health until the next check; nil means healthy.
func (c *Client) SetHealthy(err error) {
	c.health.mu.Lock()
	before := c.health.err
	c.health.err = err
	c.health.mu.Unlock()
	switch {
	case err != nil && before == nil:
		c.counters.EngineChecksFailed.Add(1)
		c.log.Error("cell-unhealthy", slog.Any("error", err))
	case err != nil:
		c.counters.EngineChecksFailed.Add(1)
	case before != nil:
		c.log.Info("cell-healthy")
	}
}

// wait returns false when ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
