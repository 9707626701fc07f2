package converge

import "time"

// FleetConfig says when a cell counts as lost, and when too many do.
type FleetConfig struct {
	// PresenceTTL is how long a presence lives. A cell that is missing without that its expiry was
	// told must have been missing for this long.
	PresenceTTL time.Duration
	// BrakeShare is the share of the known cells below which those present must not fall, 0..1.
	BrakeShare float64
	// BrakeMemory is for how long a cell that is missing counts as known.
	BrakeMemory time.Duration
	// BrakeFor is how long the brake holds before the loss is believed.
	BrakeFor time.Duration
}

// DefaultFleetConfig has the values that an operator need not change.
func DefaultFleetConfig() FleetConfig {
	return FleetConfig{
		PresenceTTL: 5 * time.Second,
		BrakeShare:  0.5,
		BrakeMemory: 10 * time.Minute,
		BrakeFor:    time.Minute,
	}
}

// Fleet remembers which cells are present, and since when the others are not. It holds the brake: if
// most cells vanish at once the fault is more likely with those who say so, and acting on it would
// fail every task and start every instance anew.
//
// It is not safe for concurrent use.
type Fleet struct {
	config FleetConfig
	cells  map[string]*cell
	// braked is when the brake engaged, zero if it is not.
	braked time.Time
	// forced is the state that an operator wants the brake in until forcedUntil.
	forced      bool
	forcedUntil time.Time
}

type cell struct {
	present bool
	// missing is since when the cell is missing; lost is from when on it counts as lost.
	missing time.Time
	lost    time.Time
	// believed marks a loss that has been acted on, so that it does not count against later ones.
	believed bool
}

// NewFleet returns a fleet that knows of no cell.
func NewFleet(config FleetConfig) *Fleet {
	return &Fleet{config: config, cells: map[string]*cell{}}
}

// Sync says which cells are present. Those that were present and are not among them went without being
// told of.
func (f *Fleet) Sync(present []string, now time.Time) {
	here := make(map[string]struct{}, len(present))
	for _, id := range present {
		here[id] = struct{}{}
		f.Arrived(id)
	}
	for id, c := range f.cells {
		if _, ok := here[id]; !ok && c.present {
			f.cells[id] = &cell{missing: now, lost: now.Add(f.config.PresenceTTL)}
		}
	}
}

// Arrived says that a cell is present.
func (f *Fleet) Arrived(id string) { f.cells[id] = &cell{present: true} }

// Expired says that a cell's presence has expired, which by itself proves that it was silent for as
// long as a presence lives.
func (f *Fleet) Expired(id string, now time.Time) { f.cells[id] = &cell{missing: now, lost: now} }

// Released says that a cell gave up its presence. What it still holds is lost, but its going is no
// sign of trouble.
func (f *Fleet) Released(id string, now time.Time) {
	f.cells[id] = &cell{missing: now, lost: now, believed: true}
}

// Noted says that a record names a cell that nothing is known of.
func (f *Fleet) Noted(id string, now time.Time) {
	if f.cells[id] == nil {
		f.cells[id] = &cell{missing: now, lost: now.Add(f.config.PresenceTTL)}
	}
}

// forgetAfter is long enough for everything that a missing cell held to have been dealt with.
const forgetAfter = 24 * time.Hour

// Forget drops the cells that have been missing for a day. A record that names such a cell has it
// Noted again.
func (f *Fleet) Forget(now time.Time) {
	for id, c := range f.cells {
		if !c.present && now.Sub(c.missing) > forgetAfter {
			delete(f.cells, id)
		}
	}
}

// Override forces the brake on or off until a time; then it decides by itself again.
func (f *Fleet) Override(engaged bool, until time.Time) { f.forced, f.forcedUntil = engaged, until }

// Braked decides whether the brake is on now, and remembers since when.
func (f *Fleet) Braked(now time.Time) bool {
	if now.Before(f.forcedUntil) {
		f.braked = time.Time{}
		if !f.forced {
			f.believe(now)
		}
		return f.forced
	}
	if !f.massLoss(now) {
		f.braked = time.Time{}
		return false
	}
	if f.braked.IsZero() {
		f.braked = now
	}
	if now.Sub(f.braked) < f.config.BrakeFor {
		return true
	}
	f.believe(now)
	f.braked = time.Time{}
	return false
}

// massLoss compares the cells present with those known lately.
func (f *Fleet) massLoss(now time.Time) bool {
	present, missing := 0, 0
	for _, c := range f.cells {
		switch {
		case c.present:
			present++
		case !c.believed && now.Sub(c.missing) <= f.config.BrakeMemory:
			missing++
		}
	}
	if missing == 0 {
		return false
	}
	return present == 0 || float64(present) < f.config.BrakeShare*float64(present+missing)
}

// believe accepts every loss there is.
func (f *Fleet) believe(now time.Time) {
	for _, c := range f.cells {
		if !c.present && !c.lost.After(now) {
			c.believed = true
		}
	}
}

// View gives the status of every known cell. With the brake on none is Lost.
func (f *Fleet) View(now time.Time) Cells {
	braked := f.Braked(now)
	cells := make(Cells, len(f.cells))
	for id, c := range f.cells {
		switch {
		case c.present:
			cells[id] = Present
		case braked || c.lost.After(now):
			cells[id] = Unsure
		default:
			cells[id] = Lost
		}
	}
	return cells
}

// NextChange is when the status of a cell will change by time alone, zero if it will not.
func (f *Fleet) NextChange(now time.Time) time.Time {
	var next time.Time
	consider := func(t time.Time) {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if !f.braked.IsZero() {
		consider(f.braked.Add(f.config.BrakeFor))
	}
	consider(f.forcedUntil)
	for _, c := range f.cells {
		if !c.present {
			consider(c.lost)
		}
	}
	return next
}

// Count returns how many cells are present and how many are missing.
func (f *Fleet) Count() (present, missing int) {
	for _, c := range f.cells {
		if c.present {
			present++
		} else {
			missing++
		}
	}
	return present, missing
}

// Missed says that a cell that was present is so no more, without anybody having seen it go.
func (f *Fleet) Missed(id string, now time.Time) {
	f.cells[id] = &cell{missing: now, lost: now.Add(f.config.PresenceTTL)}
}
