package converge

import (
	"time"

	"diego.internal/bbs/internal/lrp"
)

// Config holds the periods of convergence.
type Config struct {
	// StaleUnclaimed is for how long an instance waits before it is offered to the auctioneer again.
	StaleUnclaimed time.Duration
	// KickTask is how long a task may be Resolving, and after which a Pending one is offered to the
	// auctioneer and a Completed one is called back again.
	KickTask time.Duration
	// ExpireCompletedTask is how long after its completion a task is kept.
	ExpireCompletedTask time.Duration
	// ExpirePendingTask is how long a task may wait for a cell.
	ExpirePendingTask time.Duration
}

// DefaultConfig has the periods of the reference.
func DefaultConfig() Config {
	return Config{
		StaleUnclaimed:      30 * time.Second,
		KickTask:            30 * time.Second,
		ExpireCompletedTask: 120 * time.Second,
		ExpirePendingTask:   1800 * time.Second,
	}
}

// CellStatus says what convergence may assume about a cell.
type CellStatus uint8

// The statuses of a cell.
const (
	// Unsure is a cell that is not known, not missing for long enough, or missing together with so
	// many others that the brake is on: nothing is done about it.
	Unsure CellStatus = iota
	// Present holds its presence.
	Present
	// Lost does not.
	Lost
)

// Cells has the status of every cell that is known.
type Cells map[string]CellStatus

// View is what convergence looks at the state with.
type View struct {
	Now    time.Time
	Cells  Cells
	Config Config
	// Compared is a revision at which drift was looked for: of an index whose records have not changed since, it is not looked
	// for again. To compare the tags of everything that runs is most of the work of a look at everything. 0 compares all.
	Compared uint64
	// Remember bounds Plan.Unsettled.
	Remember int
}

// Action says what is to become of an index. The zero value is nothing.
type Action uint8

// The actions on LRPs, each of which is one transition.
const (
	Nothing Action = iota
	// DropEvacuating deletes an evacuating record whose cell is lost.
	DropEvacuating
	// DropSuspect deletes a suspect record that has been replaced, or that nobody desires.
	DropSuspect
	// Return makes the suspect instance of a cell that is back the ordinary one again.
	Return
	// Create makes the record of an index that is desired.
	Create
	// RetireExtra stops an instance beyond what is desired of its LRP.
	RetireExtra
	// RetireOrphan stops an instance of an LRP that is not desired.
	RetireOrphan
	// Lose replaces an instance whose cell is lost, or deletes it if it was to stop.
	Lose
	// Restart ends the wait after a crash.
	Restart
)

func (a Action) String() string {
	names := [...]string{
		"nothing", "drop-evacuating", "drop-suspect", "return", "create", "retire-extra",
		"retire-orphan", "lose", "restart",
	}
	if int(a) < len(names) {
		return names[a]
	}
	return "unknown"
}

// Subject is one index with all that decides about it. Desired is nil if nothing desires the LRP.
// Domain is that of the desired LRP or else of the records; nil if it is not known.
type Subject struct {
	Key      lrp.Key
	Instance lrp.Instance
	Desired  *lrp.Desired
	Domain   *lrp.Domain
}

// wanted reports whether the index is desired.
func (s *Subject) wanted() bool { return s.Desired != nil && s.Key.Index < s.Desired.Instances }

// maxActions bounds the transitions of one index in one run; no index needs more than four.
const maxActions = 8

// Converge does to an index whatever is to be done now, and returns the outcome of all of it together
// and the actions taken. When it has been applied, nothing more is to be done at the same View.
func (v *View) Converge(s Subject, epoch string) (lrp.Outcome, []Action) {
	at := lrp.Stamp{Now: v.Now, Epoch: epoch}
	out := lrp.Outcome{After: s.Instance}
	var taken []Action
	for range maxActions {
		action := v.decide(&s)
		if action == Nothing {
			break
		}
		step := act(action, &s, at)
		out.After = step.After
		out.Events = append(out.Events, step.Events...)
		s.Instance = step.After
		taken = append(taken, action)
	}
	return out, taken
}

// act performs the transition of an action that decide has just chosen for the same subject.
func act(action Action, s *Subject, at lrp.Stamp) lrp.Outcome {
	i := s.Instance
	switch action {
	case DropEvacuating:
		return lrp.DropEvacuating(i)
	case DropSuspect:
		return lrp.DropSuspect(i)
	case Return:
		return lrp.Return(i, i.Suspect.InstanceKey)
	case Create:
		return lrp.CreateUnclaimed(i, s.Key, s.Desired, at)
	case RetireExtra, RetireOrphan:
		return must(lrp.Retire(i))
	case Lose:
		return lrp.Lose(i, i.Ordinary.InstanceKey, at)
	case Restart:
		return must(lrp.Unclaim(i, at.Now))
	case Nothing:
	}
	return lrp.Outcome{After: i}
}

// must takes the outcome of a transition that decide has found allowed. A refused one changes nothing
// anyway, as every transition returns the instance that it refused to change.
func must(out lrp.Outcome, _ error) lrp.Outcome { return out }
