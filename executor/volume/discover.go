package volume

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
)

// discover asks every driver that is described whether it is there. Only those that are are offered.
func (v *Volumes) discover(ctx context.Context) {
	specs, bad := readSpecs(v.cfg.Folders)
	problems := make(map[string]string, len(bad))
	for file, err := range bad {
		problems[file] = fmt.Sprintf("volume driver of %s cannot be used: %v", file, err)
	}
	drivers := map[string]*driver{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, spec := range specs {
		group.Go(func() {
			d := newDriver(spec, v.cfg.Timeout, v.statsOf(spec.Name))
			asking, cancel := context.WithTimeoutCause(ctx, activateTime, fmt.Errorf("no answer within %v", activateTime))
			defer cancel()
			err := d.activate(asking)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				problems[spec.Name] = fmt.Sprintf("volume driver %q does not work: %v", spec.Name, err)
				return
			}
			drivers[spec.Name] = d
		})
	}
	group.Wait()
	if ctx.Err() != nil {
		return // what was cut off says nothing
	}
	v.take(drivers, problems)
}

// take replaces what is known of the drivers and tells of changes.
func (v *Volumes) take(drivers map[string]*driver, problems map[string]string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(drivers)) {
		if v.drivers[name] == nil {
			v.cfg.Log.Info("volume-driver-found", slog.String("driver", name), slog.String("file", drivers[name].spec.file))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.drivers)) {
		if drivers[name] == nil {
			v.cfg.Log.Warn("volume-driver-gone", slog.String("driver", name))
		}
	}
	for _, what := range slices.Sorted(maps.Keys(problems)) {
		if v.problems[what] == "" {
			v.cfg.Log.Warn("volume-driver-unusable", slog.String("problem", problems[what]))
		}
	}
	v.drivers, v.problems = drivers, problems
}

func (v *Volumes) statsOf(name string) *Stats {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.stats[name]
	if s == nil {
		s = &Stats{}
		v.stats[name] = s
	}
	return s
}
