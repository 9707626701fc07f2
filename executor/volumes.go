package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
	"diego.internal/executor/volume"
)

// VolumeConfig says where volume drivers are found.
type VolumeConfig struct {
	// DriverFolders hold a file for each driver: NAME.json, NAME.spec with an address, or the socket NAME.sock. Absolute
	// paths; of two drivers of one name the first counts. Empty: the cell has no volumes.
	DriverFolders []string `yaml:"driver_folders"`
	// Interval between two looks at the drivers. Default 30 s.
	Interval time.Duration `yaml:"interval"`
	// Timeout of one operation of a driver, as of a mount. Default 1 min.
	Timeout time.Duration `yaml:"timeout"`
}

// SetDefaults fills what is zero.
func (v *VolumeConfig) SetDefaults() {
	def(&v.Interval, 30*time.Second)
	def(&v.Timeout, time.Minute)
}

// Validate checks the values.
func (v *VolumeConfig) Validate() error {
	var problems []error
	for _, folder := range v.DriverFolders {
		if !filepath.IsAbs(folder) {
			problems = append(problems, fmt.Errorf("driver_folders: %q is not an absolute path", folder))
		}
	}
	if v.Interval <= 0 || v.Timeout <= 0 {
		problems = append(problems, errors.New("interval and timeout must be positive"))
	}
	return errors.Join(problems...)
}

// openVolumes takes up the volumes of an earlier process; the containers of keep still use what they used.
func (c *Client) openVolumes(ctx context.Context, keep map[string]bool) (*volume.Volumes, error) {
	opened, err := volume.Open(ctx, volume.Config{
		Dir:      filepath.Join(c.cfg.StateDir, volumesFolder),
		Folders:  c.cfg.Volumes.DriverFolders,
		Interval: c.cfg.Volumes.Interval,
		Timeout:  c.cfg.Volumes.Timeout,
		ID:       c.cfg.CellID,
		Log:      c.log,
	}, keep)
	if err != nil {
		return nil, fmt.Errorf("opening the volumes: %w", err)
	}
	return opened, nil
}

// volumesFolder is where uses of volumes are kept, below the state folder.
const volumesFolder = "volumes"

// VolumeDrivers are the names of the volume drivers that answer, in order.
func (c *Client) VolumeDrivers() []string { return c.volumes.Drivers() }

// VolumeStats are counters by name of driver.
func (c *Client) VolumeStats() map[string]*volume.Stats { return c.volumes.Stats() }

// mountVolumes mounts the volumes of a container on the cell and returns the bind mounts that show them. The container has
// them until releaseVolumes, also after an error.
func (n *node) mountVolumes(ctx context.Context, mounts []container.VolumeMount) ([]garden.BindMount, error) {
	var binds []garden.BindMount
	for _, m := range mounts {
		path, err := n.client.volumes.Mount(ctx, n.handle, volume.Request{Driver: m.Driver, Volume: m.VolumeID, Options: m.Config})
		if err != nil {
			text := "failed to mount volume"
			if safe, ok := volume.SafeText(err); ok {
				text += ", errors: " + safe
			}
			return nil, &creationError{text: text, err: err}
		}
		binds = append(binds, garden.BindMount{SrcPath: path, DstPath: m.Path, ReadOnly: m.ReadOnly})
	}
	return binds, nil
}

// releaseVolumes gives back the volumes of a container that is gone. What cannot be unmounted now is tried again later and
// does not hold up the container.
func (n *node) releaseVolumes(ctx context.Context) {
	if err := n.client.volumes.Release(ctx, n.handle); err != nil && ctx.Err() == nil {
		n.log().Warn("unmounting-volumes-failed", slog.Any("error", err))
	}
}

// cleanVolumes unmounts every volume of the cell. No container uses one any more.
func (c *Client) cleanVolumes(ctx context.Context) error {
	volumes, err := c.openVolumes(ctx, nil)
	if err != nil {
		return err
	}
	return volumes.ReleaseAll(ctx)
}

// Restrictions are what the cell should be able to do and cannot on this machine, such as confining the users of containers
// or mounting volumes of a driver that does not answer: one sentence each, none on a sound machine. They do not make the
// cell unhealthy.
func (c *Client) Restrictions() []string {
	return append(slices.Clone(c.restrictions), c.volumes.Problems()...)
}
