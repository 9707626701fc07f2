package converge

import (
	"iter"

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

	Stats Stats
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

// planner gathers one plan.
type planner struct {
	view    *View
	plan    Plan
	domains map[string]*lrp.Domain
	unsure  map[string]struct{}
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
	for t := range s.Tasks() {
		p.task(t)
	}
	return p.plan
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

// walk merges the desired and the actual LRPs: the records come by themselves, the desired LRPs are
// pulled as far as the records have got.
func (p *planner) walk(s LRPs) {
	pull, stop := iter.Pull(s.Desireds())
	defer stop()
	m := merge{planner: p, pull: pull}
	m.advance()
	for row := range s.Records() {
		if row.Key != m.key || m.instance.IsZero() {
			m.finishIndex()
			m.key = row.Key
		}
		m.instance.Set(row)
	}
	m.finishIndex()
	for m.desired != nil {
		m.finishLRP()
	}
}

// merge is the state of walk between two records.
type merge struct {
	*planner
	pull func() (*lrp.Desired, bool)
	// desired is the LRP that is being looked at or that comes next; nil after the last.
	desired *lrp.Desired
	// next is its first index that has not been looked at.
	next int32
	// crashed tells whether an index of it is.
	crashed bool
	// key and instance are the index whose records are being gathered.
	key      lrp.Key
	instance lrp.Instance
}

func (m *merge) advance() {
	m.desired, _ = m.pull()
	m.next, m.crashed = 0, false
	if m.desired != nil {
		m.plan.Stats.LRPsDesired += int(m.desired.Instances)
	}
}

// finishIndex looks at the index that has been gathered, after all that comes before it in order of
// key and has no record.
func (m *merge) finishIndex() {
	if m.instance.IsZero() {
		return
	}
	for m.desired != nil && m.desired.ProcessGUID < m.key.ProcessGUID {
		m.finishLRP()
	}
	d := m.desired
	if d != nil && d.ProcessGUID != m.key.ProcessGUID {
		d = nil
	}
	if d != nil {
		m.gap(d, m.next, m.key.Index)
		m.next = m.key.Index + 1
		m.crashed = m.crashed || m.instance.Ordinary != nil && m.instance.Ordinary.State == lrp.Crashed
	}
	m.index(m.key, m.instance, d)
	m.instance = lrp.Instance{}
}

// finishLRP plans what the present LRP has no record of, and goes on to the next.
func (m *merge) finishLRP() {
	m.gap(m.desired, m.next, m.desired.Instances)
	if m.crashed {
		m.plan.Stats.CrashingDesiredLRPs++
	}
	m.advance()
}

// gap plans the indices from first up to end, exclusive, that have no record at all.
func (p *planner) gap(d *lrp.Desired, first, end int32) {
	for index := first; index < min(end, d.Instances); index++ {
		p.plan.Stats.LRPsMissing++
		p.plan.LRPs = append(p.plan.LRPs, LRPWork{Key: lrp.Key{ProcessGUID: d.ProcessGUID, Index: index}, Action: Create})
	}
}

// index looks at one index that has records.
func (p *planner) index(key lrp.Key, i lrp.Instance, d *lrp.Desired) {
	s := Subject{Key: key, Instance: i, Desired: d}
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
		return
	}
	if i.Ordinary != nil && s.wanted() {
		p.tell(&s)
	}
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
		if p.view.changed(s) && Drifted(s) {
			p.plan.Drifted = append(p.plan.Drifted, s.Key)
		}
	case lrp.Claimed:
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
