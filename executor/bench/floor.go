package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
)

// floor is containerd's own client with nothing of ours.
type floor struct {
	client *client.Client
	rootfs string
	runc   string // its root; the usual one is one for the whole machine
}

func (m *machine) openFloor() (*floor, error) {
	c, err := client.New(m.daemon.Address())
	if err != nil {
		return nil, fmt.Errorf("connecting to containerd: %w", err)
	}
	return &floor{client: c, rootfs: m.rootfs, runc: filepath.Join(m.folder, "runc")}, nil
}

func (f *floor) close() error { return f.client.Close() }

// create takes the time of a bare container, from the first call to its process running, and removes it.
func (f *floor) create(ctx context.Context, id string) (took time.Duration, err error) {
	ctx = namespaces.WithNamespace(ctx, "floor")
	began := time.Now()
	c, err := f.client.NewContainer(ctx, id,
		client.WithNewSpec(oci.WithRootFSPath(f.rootfs), oci.WithProcessArgs("/bin/sleep", "1000000"), oci.WithMemoryLimit(64<<20)),
		client.WithRuntime("io.containerd.runc.v2", &options.Options{Root: f.runc}))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Delete(context.WithoutCancel(ctx))) }()
	task, err := c.NewTask(ctx, cio.NullIO)
	if err != nil {
		return 0, err
	}
	defer func() {
		_, deleted := task.Delete(context.WithoutCancel(ctx), client.WithProcessKill)
		err = errors.Join(err, deleted)
	}()
	if err := task.Start(ctx); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}
