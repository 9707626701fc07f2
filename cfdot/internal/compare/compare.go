// Package compare says where what runs differs from what is wanted. It is pure, and takes records in any order.
package compare

import (
	"cmp"
	"slices"
	"time"

	"diego.internal/cfdot/internal/spec"
)

// Kind of a difference.
type Kind string

// The kinds.
const (
	// Missing: an index that is wanted has no record at all.
	Missing Kind = "missing"
	// NotPlaced: it waits for a cell.
	NotPlaced Kind = "no place"
	// Starting: it is claimed, and has been for longer than is usual.
	Starting Kind = "not started"
	// Crashed: it is down.
	Crashed Kind = "crashed"
	// NotRoutable: it runs and fails its readiness checks.
	NotRoutable Kind = "not routable"
	// Suspect: only a record of a cell that is lost is left.
	Suspect Kind = "suspect"
	// WrongIndex: the index is not below the number of instances.
	WrongIndex Kind = "wrong index"
	// Extra: nobody wants the process.
	Extra Kind = "extra"
	// OldDefinition: it runs what was wanted before.
	OldDefinition Kind = "old definition"
)

// Difference of one instance.
type Difference struct {
	Kind        Kind   `json:"kind"`
	ProcessGUID string `json:"process_guid"`
	Index       int32  `json:"index"`
	Domain      string `json:"domain"`
	State       string `json:"state,omitempty"`
	CellID      string `json:"cell_id,omitempty"`
	Since       int64  `json:"since,omitempty"`
	Reason      string `json:"reason,omitempty"`
}

// Config of a comparison.
type Config struct {
	// Patience is how long an instance may be on its way, or down, before that is a difference.
	Patience time.Duration
	Now      time.Time
}

// Comparison collects both sides.
type Comparison struct {
	cfg     Config
	desired map[string]wanted
	// best is the record that counts, by instance.
	best  map[instance]spec.ActualLRP
	extra []Difference
}

type wanted struct {
	instances  int32
	domain     string
	definition string
}

type instance struct {
	guid  string
	index int32
}

// New begins a comparison.
func New(cfg Config) *Comparison {
	return &Comparison{cfg: cfg, desired: map[string]wanted{}, best: map[instance]spec.ActualLRP{}}
}

// Desire adds what is wanted. All of it must come before what runs.
func (c *Comparison) Desire(i spec.SchedulingInfo) {
	c.desired[i.ProcessGUID] = wanted{instances: i.Instances, domain: i.Domain, definition: i.DefinitionID}
}

// Run adds a record of what runs. Records that are as they should be are only counted.
func (c *Comparison) Run(l spec.ActualLRP) {
	want, isWanted := c.desired[l.ProcessGUID]
	switch {
	case l.Presence == "EVACUATING":
		return // it is on its way out, whatever is wanted
	case !isWanted:
		c.extra = append(c.extra, differenceOf(Extra, l))
		return
	case l.Index >= want.instances:
		c.extra = append(c.extra, differenceOf(WrongIndex, l))
		return
	}
	key := instance{l.ProcessGUID, l.Index}
	if other, two := c.best[key]; !two || rank(l) > rank(other) {
		// Of what runs as it should only the key is of interest.
		c.best[key] = spec.ActualLRP{
			ProcessGUID: l.ProcessGUID, Index: l.Index, Domain: l.Domain, State: l.State, Presence: l.Presence, CellID: l.CellID, Since: l.Since,
			Routable: l.Routable, PlacementError: l.PlacementError, CrashReason: l.CrashReason, DefinitionID: l.DefinitionID,
		}
	}
}

// rank orders the two records that an index may have: what serves counts, and of two that do not the ordinary one.
func rank(l spec.ActualLRP) int {
	switch {
	case l.Presence == "ORDINARY" && l.State == "RUNNING":
		return 3
	case l.Presence == "SUSPECT":
		return 2
	default:
		return 1
	}
}

// Counts of both sides.
type Counts struct {
	Processes int `json:"processes"`
	Desired   int `json:"desired"`
	Running   int `json:"running"`
}

// Differences returns them in order of process and index, and how many instances there are.
func (c *Comparison) Differences() ([]Difference, Counts) {
	counts := Counts{Processes: len(c.desired)}
	out := slices.Clone(c.extra)
	for guid, want := range c.desired {
		for index := range want.instances {
			counts.Desired++
			l, found := c.best[instance{guid, index}]
			if !found {
				out = append(out, Difference{Kind: Missing, ProcessGUID: guid, Index: index, Domain: want.domain})
				continue
			}
			if l.State == "RUNNING" {
				counts.Running++
			}
			if kind := c.judge(l, want); kind != "" {
				out = append(out, differenceOf(kind, l))
			}
		}
	}
	slices.SortFunc(out, func(x, y Difference) int {
		return cmp.Or(cmp.Compare(x.ProcessGUID, y.ProcessGUID), cmp.Compare(x.Index, y.Index), cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.CellID, y.CellID))
	})
	return out, counts
}

// Empty says whether neither side had anything.
func (c *Comparison) Empty() bool {
	return len(c.desired) == 0 && len(c.best) == 0 && len(c.extra) == 0
}

// Processes are the guids in differences, each once.
func Processes(differences []Difference) []string {
	var guids []string
	for _, d := range differences {
		if len(guids) == 0 || guids[len(guids)-1] != d.ProcessGUID { // they are in order
			guids = append(guids, d.ProcessGUID)
		}
	}
	return guids
}

// Both are the differences of a later comparison that were there in the earlier one too.
func Both(earlier, later []Difference) []Difference {
	type same struct {
		kind  Kind
		guid  string
		index int32
	}
	seen := map[same]bool{}
	for _, d := range earlier {
		seen[same{d.Kind, d.ProcessGUID, d.Index}] = true
	}
	return slices.DeleteFunc(later, func(d Difference) bool { return !seen[same{d.Kind, d.ProcessGUID, d.Index}] })
}

// judge names what is wrong with a record that is wanted, or nothing.
func (c *Comparison) judge(l spec.ActualLRP, want wanted) Kind {
	patient := c.cfg.Now.Sub(time.Unix(0, l.Since)) <= c.cfg.Patience
	switch {
	case l.Presence == "SUSPECT":
		return Suspect
	case l.State == "UNCLAIMED" && (!patient || l.PlacementError != ""):
		return NotPlaced
	case l.State == "CLAIMED" && !patient:
		return Starting
	case l.State == "CRASHED" && !patient:
		return Crashed
	case l.State == "RUNNING" && !l.Routable && !patient:
		return NotRoutable
	case l.State == "RUNNING" && l.DefinitionID != "" && want.definition != "" && l.DefinitionID != want.definition:
		return OldDefinition
	default:
		return ""
	}
}

func differenceOf(kind Kind, l spec.ActualLRP) Difference {
	return Difference{
		Kind: kind, ProcessGUID: l.ProcessGUID, Index: l.Index, Domain: l.Domain, State: l.State, CellID: l.CellID, Since: l.Since,
		Reason: cmp.Or(l.PlacementError, l.CrashReason),
	}
}
