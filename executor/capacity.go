package executor

import (
	"errors"
	"fmt"
	"strings"

	"diego.internal/executor/container"
	"diego.internal/executor/garden"
)

const mebibyte = 1 << 20

// ledger counts what containers take. It is pure; the client locks.
type ledger struct {
	total Resources
	used  Resources
}

// take reserves or refuses, naming every dimension that is short. Zero memory or disk takes nothing.
func (l *ledger) take(r container.Resources) error {
	var short []string
	if r.MemoryMB > l.total.MemoryMB-l.used.MemoryMB && r.MemoryMB > 0 {
		short = append(short, "memory")
	}
	if r.DiskMB > l.total.DiskMB-l.used.DiskMB && r.DiskMB > 0 {
		short = append(short, "disk")
	}
	if l.used.Containers >= l.total.Containers {
		short = append(short, "containers")
	}
	if len(short) > 0 {
		return fmt.Errorf("%w: %s", ErrInsufficientResources, strings.Join(short, ", "))
	}
	l.force(r)
	return nil
}

// force counts a container that exists whether or not there is room for it, as after a restart with a smaller limit.
func (l *ledger) force(r container.Resources) {
	l.used.MemoryMB += r.MemoryMB
	l.used.DiskMB += r.DiskMB
	l.used.Containers++
}

func (l *ledger) giveBack(r container.Resources) {
	l.used.MemoryMB -= r.MemoryMB
	l.used.DiskMB -= r.DiskMB
	l.used.Containers--
}

func (l *ledger) remaining() Resources {
	return Resources{
		MemoryMB:   l.total.MemoryMB - l.used.MemoryMB,
		DiskMB:     l.total.DiskMB - l.used.DiskMB,
		Containers: l.total.Containers - l.used.Containers,
	}
}

// measure says what a cell offers: what is configured, or what the engine has.
func measure(cfg Config, engine garden.Capacity) (Resources, error) {
	total := Resources{
		MemoryMB: cfg.MemoryMB,
		DiskMB:   cfg.DiskMB,
		// One is kept for checks of the engine.
		Containers: engine.MaxContainers - 1,
	}
	if total.MemoryMB == 0 {
		total.MemoryMB = int(engine.MemoryInBytes / mebibyte) //nolint:gosec // far below the bound of int
	}
	if total.DiskMB == 0 {
		bytes := int64(engine.DiskInBytes) - cfg.CacheSizeBytes //nolint:gosec // far below the bound of int64
		total.DiskMB = int(bytes/mebibyte) - cfg.DiskOverheadMB
		if total.DiskMB <= 0 {
			return Resources{}, errors.New("auto disk limit must result in a positive number")
		}
	}
	if total.MemoryMB <= 0 {
		return Resources{}, errors.New("memory limit must be a positive number or 'auto'")
	}
	if total.Containers <= 0 {
		return Resources{}, fmt.Errorf("engine takes %d containers, want at least 2", engine.MaxContainers)
	}
	return total, nil
}
