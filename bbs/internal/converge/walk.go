package converge

import (
	"diego.internal/bbs/internal/lrp"
)

// sectionSize is how many desired LRPs walk holds at once.
const sectionSize = 512

// walk looks at everything, section by section.
func (p *planner) walk(s LRPs) {
	from := p.section(s, "", sectionSize)
	for from != "" {
		from = p.section(s, from, sectionSize)
	}
}

// section looks at up to n desired LRPs from a process guid on and at all records up to the next one, side by side in order of key.
// It returns where the next section begins, "" at the end.
func (p *planner) section(s LRPs, from string, n int) (next string) {
	p.wanted = p.wanted[:0]
	for d := range s.DesiredsFrom(from) {
		if len(p.wanted) == n {
			next = d.ProcessGUID
			break
		}
		p.wanted = append(p.wanted, d)
	}
	m := merge{planner: p, coming: p.wanted}
	m.advance()
	for row := range s.RecordsFrom(from) {
		if next != "" && row.ProcessGUID >= next {
			break
		}
		m.record(row)
	}
	m.finish()
	return next
}

// only looks at one LRP.
func (p *planner) only(s LRPs, guid string) {
	p.wanted = p.wanted[:0]
	if d := s.Desired(guid); d != nil {
		p.wanted = append(p.wanted, d)
	}
	m := merge{planner: p, coming: p.wanted}
	m.advance()
	for row := range s.RecordsFrom(guid) {
		if row.ProcessGUID != guid {
			break
		}
		m.record(row)
	}
	m.finish()
}

// merge is the state of a walk between two records.
type merge struct {
	*planner
	// coming are the desired LRPs that have not been looked at.
	coming []*lrp.Desired
	// desired is the LRP that is being looked at or that comes next; nil after the last.
	desired *lrp.Desired
	// next is its first index that has not been looked at.
	next int32
	// crashed tells whether an index of it is, unsettled whether one of them is not settled.
	crashed, unsettled bool
	// key and instance are the index whose records are being gathered.
	key      lrp.Key
	instance lrp.Instance
}

func (m *merge) advance() {
	m.desired, m.next, m.crashed, m.unsettled = nil, 0, false, false
	if len(m.coming) > 0 {
		m.desired, m.coming = m.coming[0], m.coming[1:]
		m.plan.Looked++
		m.plan.Stats.LRPsDesired += int(m.desired.Instances)
	}
}

// record takes the next record.
func (m *merge) record(row *lrp.Actual) {
	if row.Index != m.key.Index || row.ProcessGUID != m.key.ProcessGUID || m.instance.IsZero() {
		m.finishIndex()
		m.key = row.Key
	}
	m.instance.Set(row)
}

// finish looks at what is left after the last record.
func (m *merge) finish() {
	m.finishIndex()
	for m.desired != nil {
		m.finishLRP()
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
	settled := m.index(m.key, m.instance, d)
	switch {
	case settled:
	case d != nil:
		m.unsettled = true
	default:
		m.unsettle(m.key.ProcessGUID) // several of its indices name it several times, which does no harm
	}
	m.instance = lrp.Instance{}
}

// finishLRP plans what the present LRP has no record of, and goes on to the next.
func (m *merge) finishLRP() {
	m.gap(m.desired, m.next, m.desired.Instances)
	if m.crashed {
		m.plan.Stats.CrashingDesiredLRPs++
	}
	if m.unsettled {
		m.unsettle(m.desired.ProcessGUID)
	}
	m.advance()
}

// gap plans the indices from first up to end, exclusive, that have no record at all.
func (m *merge) gap(d *lrp.Desired, first, end int32) {
	for index := first; index < min(end, d.Instances); index++ {
		m.unsettled = true
		m.plan.Stats.LRPsMissing++
		m.plan.LRPs = append(m.plan.LRPs, LRPWork{Key: lrp.Key{ProcessGUID: d.ProcessGUID, Index: index}, Action: Create})
	}
}
