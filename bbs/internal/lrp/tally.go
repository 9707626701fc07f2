package lrp

// Tally counts the records of a state. Whoever keeps one adds each record that comes and takes away each that goes.
type Tally struct {
	// LRPs is how many LRPs are desired, Desired the sum of their instances.
	LRPs, Desired int
	// records by presence and state
	records [Suspect + 1][Crashed + 1]int
}

// AddDesired adds a desired LRP n times, which may be -1.
func (t *Tally) AddDesired(d *Desired, n int) {
	t.LRPs += n
	t.Desired += n * int(d.Instances)
}

// Add adds a record n times, which may be -1.
func (t *Tally) Add(a *Actual, n int) { t.records[a.Presence][a.State] += n }

// Count returns how many records are of a presence and a state.
func (t *Tally) Count(presence Presence, state State) int { return t.records[presence][state] }

// CountAll returns how many records are of a presence.
func (t *Tally) CountAll(presence Presence) int {
	sum := 0
	for _, n := range t.records[presence] {
		sum += n
	}
	return sum
}
