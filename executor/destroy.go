package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
	"diego.internal/executor/logs"
)

// deletion is one attempt to delete a container, shared by all who ask for it meanwhile.
type deletion struct {
	done chan struct{}
	err  error // valid once done is closed
}

// delete joins the deletion under way or starts one, and waits for it or for the end of ctx.
func (n *node) delete(ctx context.Context) error {
	n.mu.Lock()
	d := n.deletion
	if d == nil {
		d = &deletion{done: make(chan struct{})}
		if !n.client.spawn(func() { n.deleteOnce(d) }) {
			n.mu.Unlock()
			return ErrClosed
		}
		n.deletion = d
	}
	n.mu.Unlock()
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the deletion of container %q: %w", n.guid, context.Cause(ctx))
	}
}

func (n *node) deleteOnce(d *deletion) {
	err := n.destroy()
	n.mu.Lock()
	n.deletion = nil // after a failure the next call tries again; after a success nobody finds the node any more
	n.mu.Unlock()
	if err != nil {
		d.err = fmt.Errorf("deleting container %q: %w", n.guid, err)
	}
	close(d.done)
}

// destroy ends the life, removes everything, and gives the resources back.
func (n *node) destroy() error {
	n.stop(errStopped)
	n.mu.Lock()
	done, built := n.done, n.record.RunInfo != nil
	n.mu.Unlock()
	if done != nil {
		<-done // short: interrupted steps end within the grace time
	}
	ctx := n.client.ctx
	if ctx.Err() != nil {
		return ErrClosed
	}
	if err := acquire(ctx, n.client.pools.remove); err != nil {
		return ErrClosed
	}
	defer func() { <-n.client.pools.remove }()
	if built {
		if err := n.remove(ctx); err != nil {
			return err
		}
	}
	n.client.forget(n, n.snapshot().Resources)
	return nil
}

// remove destroys the container in the engine and what it had on the host. The journal goes last, so that a process that
// is killed half way is followed by one that finishes the work.
func (n *node) remove(ctx context.Context) error {
	c, start := n.client, time.Now()
	n.platform(logs.Out, "Cell %s destroying container for instance %s", c.cfg.CellID, n.guid)
	err := destroyInEngine(ctx, c.engine, n.handle)
	c.counters.Destructions.add(err, time.Since(start))
	if err != nil {
		n.platform(logs.Err, "Cell %s failed to destroy container for instance %s", c.cfg.CellID, n.guid)
	} else {
		n.platform(logs.Out, "Cell %s successfully destroyed container for instance %s", c.cfg.CellID, n.guid)
	}
	n.rotating.Lock() // one under way would write into what is being removed; the next sees that the container has ended
	err = errors.Join(err, c.removeFolders(n.handle))
	n.rotating.Unlock()
	if err != nil {
		return err
	}
	n.releaseVolumes(ctx)
	// Only now: while the engine may still have the container, what it shows must not change.
	if err := c.cache.Release(n.handle); err != nil {
		return fmt.Errorf("failed to cleanup bindmount artifacts: %w", err)
	}
	if err := n.journal.remove(); err != nil {
		return err
	}
	n.log().Debug("container-destroyed", slog.Duration("took", time.Since(start)))
	if err := c.logs.Retire(n.handle); err != nil {
		n.log().Warn("retiring-log-failed", slog.Any("error", err)) // lines are lost, nothing else
	}
	return nil
}

// destroyInEngine takes a container that is gone or going for destroyed.
func destroyInEngine(ctx context.Context, engine garden.Client, handle string) error {
	err := engine.Destroy(ctx, handle)
	if err == nil || errors.Is(err, garden.ErrUnknownHandle) || errors.Is(err, garden.ErrBeingDestroyed) {
		return nil
	}
	return fmt.Errorf("destroying %q: %w", handle, err)
}

// removeFolders removes what was made on the host for one container alone.
func (c *Client) removeFolders(handle string) error {
	for _, dir := range []string{c.filesDir(), c.credentialsDir(), c.proxiesDir()} {
		if err := os.RemoveAll(filepath.Join(dir, handle)); err != nil {
			return fmt.Errorf("removing folders shown in a container: %w", err)
		}
	}
	return nil
}

func (c *Client) journalPath(handle string) string { return filepath.Join(c.journalDir(), handle) }

// destroyUnknown destroys the containers that carry our name in the engine, also half-created ones, unless keep says that
// somebody answers for them. A nil keep asks the records.
func (c *Client) destroyUnknown(ctx context.Context, keep map[string]bool) error {
	found, err := c.engine.Containers(ctx, garden.Properties{
		propertyOwner:           c.cfg.OwnerName,
		garden.PropertyStateAll: "all",
	})
	if err != nil {
		return fmt.Errorf("listing containers of the engine: %w", err)
	}
	if keep == nil {
		// Asked after the listing: a container that came meanwhile has its record, and one that went is no harm.
		keep = make(map[string]bool)
		for _, n := range c.all() {
			keep[n.handle] = true
		}
	}
	var problems []error
	for _, inside := range found {
		if keep[inside.Handle()] {
			continue
		}
		c.log.Warn("destroying-unknown-container", slog.String("handle", inside.Handle()))
		problems = append(problems, destroyInEngine(ctx, c.engine, inside.Handle()))
	}
	return errors.Join(problems...)
}

// reapMissing ends containers that the engine has lost. The records are read before the engine is asked, so that a
// container created meanwhile is not taken for lost.
func (c *Client) reapMissing(ctx context.Context) error {
	var candidates []*node
	for _, n := range c.all() {
		if n.snapshot().HasContainer() {
			candidates = append(candidates, n)
		}
	}
	found, err := c.engine.Containers(ctx, garden.Properties{propertyOwner: c.cfg.OwnerName})
	if err != nil {
		return fmt.Errorf("listing containers of the engine: %w", err)
	}
	present := make(map[string]bool, len(found))
	for _, inside := range found {
		present[inside.Handle()] = true
	}
	for _, n := range candidates {
		if !present[n.handle] && n.snapshot().State != container.StateCompleted {
			n.log().Warn("container-missing")
			n.stop(errMissing)
		}
	}
	return nil
}
