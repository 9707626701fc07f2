package converge

import (
	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// Plan names what is to be looked at again, in a transaction, and what is to be told to others.
type Plan struct {
	// LRPs are the indices that need a transition, in order of key for a whole plan.
	LRPs []LRPWork
	// Tasks are the tasks that need a transition.
	Tasks []TaskWork
	// LapsedDomains are those whose freshness has ended since it was last looked at.
	LapsedDomains []string

	// Unclaimed are indices that have waited for a cell for long: to be auctioned again.
	Unclaimed []lrp.Key
	// PendingTasks have waited for a cell for long: to be auctioned again.
	PendingTasks []string
	// Callbacks are Completed tasks whose callback is to be tried again.
	Callbacks []string
	// Drifted are running instances whose cell is to be told of other internal routes or metric tags; see View.Compared.
	Drifted []lrp.Key
	// Restarts are the crashed instances that are not due yet, with their due times.
	Restarts []DueRestart
	// UnsureCells hold instances or tasks, but nothing is known of them. Without duplicates.
	UnsureCells []string

	// Unsettled are the LRPs that are to be looked at again even if nothing changes; see View.settled. There may be duplicates.
	// Their texts are parts of the snapshot.
	Unsettled []string
	// TooMany tells that there are more of them than View.Remember, and that Unsettled has none.
	TooMany bool

	// Looked is how many desired LRPs were looked at.
	Looked int
	Stats  Stats
}

// LRPWork is an index and the first action it needs.
type LRPWork struct {
	Key    lrp.Key
	Action Action
}

// TaskWork is a task and the first action it needs.
type TaskWork struct {
	GUID   string
	Action TaskAction
}

// DueRestart is a crashed instance that starts again at Due, nanoseconds since the Unix epoch.
type DueRestart struct {
	Key lrp.Key
	Due int64
}

// Stats counts what a whole plan saw.
type Stats struct {
	LRPsDesired         int // the sum of instances
	LRPsUnclaimed       int // ordinary records by state
	LRPsClaimed         int
	LRPsRunning         int
	LRPsCrashed         int
	CrashingDesiredLRPs int // desired LRPs with a crashed instance
	LRPsMissing         int
	LRPsExtra           int // orphans included
	SuspectClaimed      int
	SuspectRunning      int
	Evacuating          int
	OldestUnclaimed     int64 // nanoseconds since the Unix epoch; 0 if none waits

	TasksPending   int
	TasksRunning   int
	TasksCompleted int
	TasksResolving int
}

// count takes from a tally what it knows of LRPs.
func (s *Stats) count(t *lrp.Tally) {
	s.LRPsDesired = t.Desired
	s.LRPsUnclaimed, s.LRPsClaimed = t.Count(lrp.Ordinary, lrp.Unclaimed), t.Count(lrp.Ordinary, lrp.Claimed)
	s.LRPsRunning, s.LRPsCrashed = t.Count(lrp.Ordinary, lrp.Running), t.Count(lrp.Ordinary, lrp.Crashed)
	s.SuspectRunning = t.Count(lrp.Suspect, lrp.Running)
	s.SuspectClaimed = t.CountAll(lrp.Suspect) - s.SuspectRunning
	s.Evacuating = t.CountAll(lrp.Evacuating)
}

// Counted reports whether the counts that a tally has are those of the tally.
func (s Stats) Counted(t *lrp.Tally) bool {
	counted := s
	counted.count(t)
	return counted == s
}

// planner gathers one plan.
type planner struct {
	view    *View
	plan    Plan
	domains map[string]*lrp.Domain
	unsure  map[string]struct{}
	// wanted holds the desired LRPs of one section.
	wanted []*lrp.Desired
}

func newPlanner(s LRPs, v *View) *planner {
	p := &planner{view: v, domains: map[string]*lrp.Domain{}}
	for d := range s.Domains() {
		p.domains[d.Name] = d
		if d.FreshUntil != 0 && !d.Fresh(v.Now) {
			p.plan.LapsedDomains = append(p.plan.LapsedDomains, d.Name)
		}
	}
	return p
}

// Make compares all that is desired with all that is. It walks both in order of key side by side,
// once, and allocates only for what it finds.
func (v *View) Make(s Snapshot) Plan {
	p := newPlanner(s, v)
	p.walk(s)
	p.tasks(s)
	return p.plan
}

// MakeOf compares only some LRPs, which must be in order and without duplicates, and all tasks. If all others are settled its plan
// is that of Make, Stats included, for which the snapshot must know its tally.
func (v *View) MakeOf(s Snapshot, guids []string) Plan {
	p := newPlanner(s, v)
	for _, guid := range guids {
		p.only(s, guid)
	}
	p.tasks(s)
	tally, _ := s.Tally()
	p.plan.Stats.count(&tally)
	return p.plan
}

// MakeSection compares up to n desired LRPs from a process guid on and whatever else is there up to the next one, and returns where
// the next section begins, "" at the end. Stats are those of the section.
func (v *View) MakeSection(s Snapshot, from string, n int) (plan Plan, next string) {
	p := newPlanner(s, v)
	next = p.section(s, from, n)
	return p.plan, next
}

// MakeForCell does the same for what one cell holds, for when it is lost or has returned. Stats and
// Restarts are of no meaning in it.
func (v *View) MakeForCell(s Snapshot, cellID string) Plan {
	p := newPlanner(s, v)
	seen := map[lrp.Key]struct{}{}
	for row := range s.RecordsOnCell(cellID) {
		if _, again := seen[row.Key]; again {
			continue
		}
		seen[row.Key] = struct{}{}
		p.index(row.Key, s.Instance(row.Key), s.Desired(row.ProcessGUID))
	}
	for t := range s.TasksOnCell(cellID) {
		p.task(t)
	}
	return p.plan
}

// settled reports whether nothing is to be done about an index, and will not be at any time as long as neither its records nor the
// desired LRP change and its cell stays present: a wanted instance runs there, no other holds the index, and nobody has asked it to
// stop. View.decide says Nothing of it without looking at the time or at the domain. That its routes or tags have drifted is
// another matter, which View.Compared settles.
func (v *View) settled(s *Subject) bool {
	o := s.Instance.Ordinary
	return o != nil && o.State == lrp.Running && !o.StopRequested && s.wanted() &&
		s.Instance.Suspect == nil && s.Instance.Evacuating == nil && v.Cells[o.CellID] == Present
}

// unsettle notes an LRP with an index that is not settled.
func (p *planner) unsettle(guid string) {
	switch {
	case p.plan.TooMany:
	case len(p.plan.Unsettled) < p.view.Remember:
		p.plan.Unsettled = append(p.plan.Unsettled, guid)
	default:
		p.plan.Unsettled, p.plan.TooMany = nil, true
	}
}

// index looks at one index that has records, and reports whether it is settled.
func (p *planner) index(key lrp.Key, i lrp.Instance, d *lrp.Desired) (settled bool) {
	s := Subject{Key: key, Instance: i, Desired: d}
	if p.view.settled(&s) {
		p.plan.Stats.LRPsRunning++
		p.compare(&s)
		return true
	}
	if d != nil {
		s.Domain = p.domains[d.Domain]
	} else {
		s.Domain = p.domains[i.Any().Domain]
	}
	p.count(&s)
	action := p.view.decide(&s)
	if action != Nothing {
		p.plan.LRPs = append(p.plan.LRPs, LRPWork{Key: key, Action: action})
		switch action { //nolint:exhaustive // only these are counted
		case Create:
			p.plan.Stats.LRPsMissing++
		case RetireExtra, RetireOrphan:
			p.plan.Stats.LRPsExtra++
		}
		return false
	}
	if i.Ordinary != nil && s.wanted() {
		p.tell(&s)
	}
	return false
}

// tell plans what others are told of an index whose records are as they should be.
func (p *planner) tell(s *Subject) {
	o := s.Instance.Ordinary
	switch o.State {
	case lrp.Unclaimed:
		if p.view.Now.UnixNano()-o.Since > p.view.Config.StaleUnclaimed.Nanoseconds() {
			p.plan.Unclaimed = append(p.plan.Unclaimed, s.Key)
		}
	case lrp.Crashed:
		if due, restarts := lrp.ResolvePolicy(s.Desired, s.Domain).RestartDue(o); restarts {
			p.plan.Restarts = append(p.plan.Restarts, DueRestart{Key: s.Key, Due: due})
		}
	case lrp.Running:
		p.compare(s)
	case lrp.Claimed:
	}
}

// compare plans to tell the cell of a running index of other routes or tags.
func (p *planner) compare(s *Subject) {
	if p.view.changed(s) && Drifted(s) {
		p.plan.Drifted = append(p.plan.Drifted, s.Key)
	}
}

// changed reports whether the records of a running index are newer than the last comparison.
func (v *View) changed(s *Subject) bool {
	return v.Compared == 0 || s.Desired.Revision > v.Compared || s.Instance.Ordinary.Revision > v.Compared
}

// Drifted reports whether the instance that runs at an index has other internal routes or metric tags than desired.
func Drifted(s *Subject) bool {
	o := s.Instance.Ordinary
	return o != nil && o.State == lrp.Running && s.wanted() && (lrp.RoutesDrifted(s.Desired, o) || lrp.TagsDrifted(s.Desired, o))
}

// count adds an index to the figures, and its cells to those that nothing is known of.
func (p *planner) count(s *Subject) {
	stats := &p.plan.Stats
	if o := s.Instance.Ordinary; o != nil {
		switch o.State {
		case lrp.Unclaimed:
			stats.LRPsUnclaimed++
			if stats.OldestUnclaimed == 0 || o.Since < stats.OldestUnclaimed {
				stats.OldestUnclaimed = o.Since
			}
		case lrp.Claimed:
			stats.LRPsClaimed++
		case lrp.Running:
			stats.LRPsRunning++
		case lrp.Crashed:
			stats.LRPsCrashed++
		}
		p.cell(o.CellID)
	}
	if suspect := s.Instance.Suspect; suspect != nil {
		if suspect.State == lrp.Running {
			stats.SuspectRunning++
		} else {
			stats.SuspectClaimed++
		}
		p.cell(suspect.CellID)
	}
	if s.Instance.Evacuating != nil {
		stats.Evacuating++
		p.cell(s.Instance.Evacuating.CellID)
	}
}

func (p *planner) cell(id string) {
	if id == "" {
		return
	}
	if _, known := p.view.Cells[id]; known {
		return
	}
	if _, again := p.unsure[id]; again {
		return
	}
	if p.unsure == nil {
		p.unsure = map[string]struct{}{}
	}
	p.unsure[id] = struct{}{}
	p.plan.UnsureCells = append(p.plan.UnsureCells, id)
}

func (p *planner) tasks(s Snapshot) {
	for t := range s.Tasks() {
		p.task(t)
	}
}

func (p *planner) task(t *task.Task) {
	stats := &p.plan.Stats
	switch t.State {
	case task.Pending:
		stats.TasksPending++
	case task.Running:
		stats.TasksRunning++
		p.cell(t.CellID)
	case task.Completed:
		stats.TasksCompleted++
	case task.Resolving:
		stats.TasksResolving++
	}
	if t.CancelStands() {
		p.cell(t.CellID)
	}
	if action := p.view.decideTask(t); action != TaskNothing {
		p.plan.Tasks = append(p.plan.Tasks, TaskWork{GUID: t.GUID, Action: action})
		return
	}
	waited := p.view.Now.UnixNano()-t.UpdatedAt > p.view.Config.KickTask.Nanoseconds()
	switch {
	case t.State == task.Pending && waited:
		p.plan.PendingTasks = append(p.plan.PendingTasks, t.GUID)
	case t.State == task.Completed && t.HasCallback && waited:
		p.plan.Callbacks = append(p.plan.Callbacks, t.GUID)
	}
}
