package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
)

// interruptedCreation is why a container failed that an earlier process left half built.
const interruptedCreation = "failed to create container: the cell was restarted meanwhile"

// awaitEngine asks every second until the engine answers.
func awaitEngine(ctx context.Context, cfg Config) error {
	for first := true; ; first = false {
		err := cfg.Engine.Ping(ctx)
		cfg.Stall.note(err)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if first {
			cfg.Log.Warn("container-engine-does-not-answer", slog.Any("error", err))
		}
		if !wait(ctx, time.Second) {
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// adopt makes the records of an earlier process ours. Containers that nobody can account for are destroyed first, then
// those that were half built; the others go on under this process.
func (c *Client) adopt(ctx context.Context) error {
	found, err := c.loadJournals()
	if err != nil {
		return err
	}
	keep := make(map[string]bool, len(found))
	for _, n := range found {
		if !n.halfBuilt() {
			keep[n.handle] = true
		}
	}
	if err := c.destroyUnknown(ctx, keep); err != nil {
		return fmt.Errorf("destroying containers without a record: %w", err)
	}
	if c.cache, err = c.openCache(keep); err != nil {
		return err
	}
	if c.volumes, err = c.openVolumes(ctx, keep); err != nil {
		return err
	}
	if err := c.removeStaleFolders(keep); err != nil {
		return err
	}
	for _, n := range found {
		if err := n.resume(ctx); err != nil {
			return fmt.Errorf("adopting container %q: %w", n.guid, err)
		}
	}
	return nil
}

// loadJournals registers every record that can be read and removes those that cannot: their containers are unaccounted
// for then.
func (c *Client) loadJournals() ([]*node, error) {
	if c.cfg.Ephemeral {
		return nil, nil
	}
	entries, err := os.ReadDir(c.journalDir())
	if err != nil {
		return nil, fmt.Errorf("listing journals: %w", err)
	}
	var nodes []*node
	for _, e := range entries {
		j := journal{dir: c.journalPath(e.Name())}
		record, marks, err := j.load()
		if err != nil || handleOf(record.GUID) != e.Name() || record.RunInfo == nil {
			if !errors.Is(err, fs.ErrNotExist) { // an empty folder is one that was being removed
				c.log.Error("journal-unusable", slog.String("handle", e.Name()), slog.Any("error", err))
			}
			if err := j.remove(); err != nil {
				return nil, err
			}
			continue
		}
		n := c.newNode(record)
		n.progress = newProgress(j, marks, c.log)
		if n.sink, err = c.logs.Resume(n.handle, n.sinkConfig(record)); err != nil {
			return nil, err
		}
		c.nodes[n.guid] = n
		c.changes.changed(n.guid)
		c.ledger.force(record.Resources)
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// halfBuilt says whether the earlier process ended before the container was ready for its action. What such a setup has
// done cannot be known.
func (n *node) halfBuilt() bool {
	r := n.record
	return r.State == container.StateInitializing ||
		r.State == container.StateCreated && r.RunInfo.Setup != nil && !n.progress.Done(keySetupDone)
}

// resume goes on where the earlier process was.
func (n *node) resume(ctx context.Context) error {
	switch {
	case n.record.State == container.StateCompleted:
		return nil // it waits to be deleted
	case n.halfBuilt():
		if n.record.Result.Stopped {
			n.complete(true, "stopped-before-running", false)
		} else {
			n.undo(interruptedCreation)
		}
		return nil
	}
	inside, err := n.client.engine.Lookup(ctx, n.handle)
	switch {
	case errors.Is(err, garden.ErrUnknownHandle):
		n.complete(true, "missing garden container", false)
		return nil
	case err != nil:
		return err
	}
	n.log().Info("container-adopted", slog.String("state", string(n.record.State)))
	n.mu.Lock()
	defer n.mu.Unlock() // the life begins at once
	n.ready = n.record.Routable
	if !n.startLife(func(ctx context.Context) { n.outcome(ctx, n.run(ctx, inside, true)) }) { //nolint:contextcheck // containers outlive the call
		return ErrClosed
	}
	if n.record.Result.Stopped {
		n.cancel(errStopped) // the earlier process had been asked, and was not through
	}
	return nil
}

// removeStaleFolders removes what was made for containers that are gone.
func (c *Client) removeStaleFolders(keep map[string]bool) error {
	for _, dir := range []string{c.filesDir(), c.credentialsDir(), c.proxiesDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("listing folders shown in containers: %w", err)
		}
		for _, e := range entries {
			if keep[e.Name()] {
				continue
			}
			if err := c.removeFolders(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Clean removes everything that a cell with this configuration owns: its containers in the engine, and journals, logs
// and files below the state folder. No client of the cell may be open.
func Clean(ctx context.Context, cfg Config) error {
	cfg.SetDefaults()
	if cfg.Engine == nil || !filepath.IsAbs(cfg.StateDir) {
		return errors.New("cleaning executor: engine and an absolute state folder are needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{cfg: cfg, log: cfg.Log, engine: cfg.Engine}
	problems := []error{c.destroyUnknown(ctx, map[string]bool{}), c.removeCheckContainers(ctx)}
	folders := []string{"containers", "files", "credentials", "proxies", "dependencies", "logs", "tmp"}
	if err := c.cleanVolumes(ctx); err != nil {
		problems = append(problems, err) // what tells of them must stay until they are unmounted
	} else {
		folders = append(folders, volumesFolder)
	}
	for _, dir := range folders {
		if err := os.RemoveAll(filepath.Join(cfg.StateDir, dir)); err != nil {
			problems = append(problems, fmt.Errorf("removing state: %w", err))
		}
	}
	return errors.Join(problems...)
}
