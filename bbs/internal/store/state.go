package store

import (
	"fmt"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
)

// state is all records, each kind in order of its key and, where cells hold them, once more by cell. Once a View shows a state
// nobody changes it any more: a batch changes a copy.
type state struct {
	desireds      tree[textKey, lrp.Desired]
	actuals       tree[actualKey, actualRow]
	actualsOnCell tree[onCell[actualKey], actualRow]
	tasks         tree[textKey, task.Task]
	tasksOnCell   tree[onCell[textKey], task.Task]
	domains       tree[textKey, lrp.Domain]
	// tally counts what desireds and actuals hold.
	tally lrp.Tally
}

func newState() *state {
	return &state{
		desireds:      newTree[textKey, lrp.Desired](),
		actuals:       newTree[actualKey, actualRow](),
		actualsOnCell: newTree[onCell[actualKey], actualRow](),
		tasks:         newTree[textKey, task.Task](),
		tasksOnCell:   newTree[onCell[textKey], task.Task](),
		domains:       newTree[textKey, lrp.Domain](),
	}
}

// copy returns a state that can be changed without changing this one.
func (s *state) copy() *state {
	return &state{
		desireds: s.desireds.copy(), actuals: s.actuals.copy(), actualsOnCell: s.actualsOnCell.copy(),
		tasks: s.tasks.copy(), tasksOnCell: s.tasksOnCell.copy(), domains: s.domains.copy(), tally: s.tally,
	}
}

// put stores a *lrp.Desired, *actualRow, *task.Task or *lrp.Domain in place of what has its key.
func (s *state) put(row any) {
	switch row := row.(type) {
	case *lrp.Desired:
		if before := s.desireds.set(keyOf(row.ProcessGUID), row); before != nil {
			s.tally.AddDesired(before, -1)
		}
		s.tally.AddDesired(row, 1)
	case *actualRow:
		key := row.key()
		before := s.actuals.set(key, row)
		if before != nil {
			s.tally.Add(before.Actual, -1)
		}
		s.tally.Add(row.Actual, 1)
		if before != nil && before.CellID != "" && before.CellID != row.CellID {
			s.actualsOnCell.remove(onCellOf(before.CellID, key))
		}
		if row.CellID != "" {
			s.actualsOnCell.set(onCellOf(row.CellID, key), row)
		}
	case *task.Task:
		key := keyOf(row.GUID)
		before := s.tasks.set(key, row)
		if before != nil && before.CellID != "" && before.CellID != row.CellID {
			s.tasksOnCell.remove(onCellOf(before.CellID, key))
		}
		if row.CellID != "" {
			s.tasksOnCell.set(onCellOf(row.CellID, key), row)
		}
	case *lrp.Domain:
		s.domains.set(keyOf(row.Name), row)
	default:
		panic(fmt.Sprintf("no table for a %T", row))
	}
}

// remove takes out what has the key of a row.
func (s *state) remove(row any) {
	switch row := row.(type) {
	case *lrp.Desired:
		if before := s.desireds.remove(keyOf(row.ProcessGUID)); before != nil {
			s.tally.AddDesired(before, -1)
		}
	case *actualRow:
		key := row.key()
		before := s.actuals.remove(key)
		if before == nil {
			return
		}
		s.tally.Add(before.Actual, -1)
		if before.CellID != "" {
			s.actualsOnCell.remove(onCellOf(before.CellID, key))
		}
	case *task.Task:
		key := keyOf(row.GUID)
		if before := s.tasks.remove(key); before != nil && before.CellID != "" {
			s.tasksOnCell.remove(onCellOf(before.CellID, key))
		}
	case *lrp.Domain:
		s.domains.remove(keyOf(row.Name))
	default:
		panic(fmt.Sprintf("no table for a %T", row))
	}
}
