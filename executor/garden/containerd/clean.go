package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Clean removes everything that the cell owns on the machine: containers with all that is in them, root filesystems,
// interfaces, rules, borrowed settings and the content of the state folder. It may be repeated. The Backend must be
// closed afterwards and not used.
func (b *Backend) Clean(ctx context.Context) error {
	ctx = b.within(ctx)
	var errs []error
	for _, c := range b.all() {
		if err := b.destroyOnce(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("destroying container %q: %w", c.handle, err))
		}
	}
	errs = append(errs, b.removeStrangers(ctx), b.removeSnapshots(ctx, func(string) bool { return true }), b.network.Clean())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cleaning cell %q: %w", b.cfg.CellID, engineError(err))
	}
	if err := errors.Join(b.removeAllHelperMounts(), machineCgroups().remove(b.cfg.cgroupParent()), os.RemoveAll(b.cfg.containersFolder()), os.RemoveAll(b.cfg.templatesFolder()), os.RemoveAll(b.cfg.runcFolder())); err != nil {
		return fmt.Errorf("cleaning cell %q: %w", b.cfg.CellID, err)
	}
	return nil
}

// Leftovers names what of the cell is on the machine apart from its state folder. After Clean there is nothing.
func (b *Backend) Leftovers(ctx context.Context) ([]string, error) {
	ctx = b.within(ctx)
	found, err := b.network.Leftovers()
	if err != nil {
		return nil, fmt.Errorf("looking for leftovers: %w", err)
	}
	listed, err := b.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q", cellLabel, b.cfg.tag()))
	if err != nil {
		return nil, fmt.Errorf("looking for leftovers: %w", err)
	}
	for _, container := range listed {
		found = append(found, "container "+container.ID)
	}
	keys, err := b.snapshotKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking for leftovers: %w", err)
	}
	for _, key := range keys {
		found = append(found, "snapshot "+key)
	}
	ours := func(id string) bool { return strings.HasPrefix(id, b.cfg.tag()+"-") }
	mounts, err := containerMounts(ours)
	if err != nil {
		return nil, fmt.Errorf("looking for leftovers: %w", err)
	}
	for _, path := range mounts {
		found = append(found, "mount "+path)
	}
	helpers, err := b.cfg.helperLeftovers()
	if err != nil {
		return nil, fmt.Errorf("looking for leftovers: %w", err)
	}
	found = append(found, helpers...)
	shims, err := shimsOf(ours)
	if err != nil {
		return nil, fmt.Errorf("looking for leftovers: %w", err)
	}
	for _, pid := range shims {
		found = append(found, fmt.Sprintf("shim process %d", pid))
	}
	for _, folder := range machineCgroups().folders(b.cfg.cgroupParent()) {
		found = append(found, "cgroup "+folder)
	}
	return found, nil
}
