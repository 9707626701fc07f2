package converge

import (
	"diego.internal/bbs/internal/lrp"
)

// Next is the action that an index needs first.
func (v *View) Next(s Subject) Action { return v.decide(&s) }

// decide chooses the next action for an index. Freshness gates only what destroys because nobody
// desires it; the loss of a cell and an order to stop need no such word.
func (v *View) decide(s *Subject) Action {
	if e := s.Instance.Evacuating; e != nil && v.Cells[e.CellID] == Lost {
		return DropEvacuating
	}
	if s.Instance.Suspect != nil {
		if action := v.decideSuspect(s); action != Nothing {
			return action
		}
	}
	if s.Instance.Ordinary == nil {
		if s.wanted() {
			return Create
		}
		return Nothing
	}
	return v.decideOrdinary(s)
}

func (v *View) decideSuspect(s *Subject) Action {
	suspect, o := s.Instance.Suspect, s.Instance.Ordinary
	cell := v.Cells[suspect.CellID]
	switch {
	case o != nil && o.State == lrp.Running,
		suspect.StopRequested && cell == Lost,
		!s.wanted() && s.Domain.Fresh(v.Now):
		return DropSuspect
	case cell == Present && !suspect.StopRequested:
		return Return
	default:
		return Nothing
	}
}

func (v *View) decideOrdinary(s *Subject) Action {
	o := s.Instance.Ordinary
	if o.StopRequested {
		// Its cell is told until it has stopped, or is lost.
		if v.Cells[o.CellID] == Lost {
			return Lose
		}
		return Nothing
	}
	if !s.wanted() {
		switch {
		case !s.Domain.Fresh(v.Now):
			return Nothing
		case s.Desired == nil:
			return RetireOrphan
		default:
			return RetireExtra
		}
	}
	switch o.State {
	case lrp.Claimed, lrp.Running:
		if v.Cells[o.CellID] == Lost {
			return Lose
		}
	case lrp.Crashed:
		if due, restarts := lrp.ResolvePolicy(s.Desired, s.Domain).RestartDue(o); restarts && due <= v.Now.UnixNano() {
			return Restart
		}
	case lrp.Unclaimed:
	}
	return Nothing
}
