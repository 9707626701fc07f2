package cells

import (
	"context"
	"errors"
	"fmt"
	"time"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/work"
	repv1 "diego.internal/proto/rep/v1"
)

// Outcome is what became of work that was handed to one cell. Each piece of work is in
// exactly one list.
type Outcome struct {
	Cell string
	// Accepted work has its room on the cell.
	Accepted []*work.Work
	// Refused work does not; its Reason is what the cell said, and may be empty.
	Refused []*work.Work
	// Unknown work may or may not be on the cell: it answered neither Perform nor
	// the question what it holds.
	Unknown []*work.Work
	// Err is why Perform failed, also when the cell could tell afterwards.
	Err error
}

var errCellGone = errors.New("the cell is gone")

// Perform hands work to a cell and returns at once; done gets the outcome later, from
// another goroutine, exactly once and also after Close. Until then the cell is given
// nothing else.
func (f *Fleet) Perform(cellID string, works []*work.Work, done func(Outcome)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[cellID]
	if m == nil || f.closed {
		// From a goroutine like any other outcome: done may call the fleet, which is
		// locked here.
		go done(Outcome{Cell: cellID, Refused: works, Err: errCellGone})
		return
	}
	m.performing++
	m.handovers++
	m.hand(works)
	f.calls.Go(func() { done(f.perform(m, works)) })
}

func (f *Fleet) perform(m *member, works []*work.Work) Outcome {
	ctx, cancel := context.WithTimeoutCause(f.ctx, f.cfg.PerformTimeout, errPerformTimeout)
	defer cancel()
	req, order := performRequest(m.id, works)
	resp, err := f.call(ctx, m, req)
	if err == nil && len(resp.GetLrps())+len(resp.GetTasks()) != len(works) {
		err = fmt.Errorf("handing work to cell %q: %d answers to %d items", m.id, len(resp.GetLrps())+len(resp.GetTasks()), len(works))
	}
	if err != nil {
		return f.reask(m, works, err)
	}
	out := Outcome{Cell: m.id}
	for i, r := range append(resp.GetLrps(), resp.GetTasks()...) {
		w := order[i]
		if r.GetAccepted() {
			out.Accepted = append(out.Accepted, w)
			continue
		}
		w.Reason = r.GetReason()
		out.Refused = append(out.Refused, w)
	}
	f.settle(m, func() {
		m.takeBack(out.Refused)
		if free := resp.GetAvailableResources(); free != nil && m.known != nil && m.performing == 0 {
			c := *m.known
			c.Available = resources(free)
			m.known = &c
		}
		if len(out.Refused) > 0 {
			m.trueAt = time.Time{} // it is not as we thought: ask again
		}
	})
	return out
}

func (f *Fleet) call(ctx context.Context, m *member, req *repv1.PerformRequest) (*repv1.PerformResponse, error) {
	select {
	case f.workers <- struct{}{}:
		defer func() { <-f.workers }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a worker: %w", context.Cause(ctx))
	}
	resp, err := m.conn.Client.Perform(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("handing work to cell %q: %w", m.id, err)
	}
	return resp, nil
}

// reask finds out what a failed Perform did, by asking the cell what it holds. An
// instance that both this cell and another get is no harm: the second to claim it is
// refused by the BBS and gives up its room.
func (f *Fleet) reask(m *member, works []*work.Work, failure error) Outcome {
	out := Outcome{Cell: m.id, Err: failure}
	ctx, cancel := context.WithTimeoutCause(f.ctx, min(reaskTimeout, f.cfg.StateTimeout), errStateTimeout)
	defer cancel()
	started := time.Now()
	resp, err := m.conn.Client.State(ctx, &repv1.StateRequest{})
	if err != nil || (resp.GetCellId() != "" && resp.GetCellId() != m.id) {
		out.Unknown = works
		f.settle(m, func() {
			m.trueAt = time.Time{}
			f.failed(m, failure)
		})
		return out
	}
	held := keysHeld(resp)
	for _, w := range works {
		if held[w.Key()] {
			out.Accepted = append(out.Accepted, w)
		} else {
			out.Refused = append(out.Refused, w)
		}
	}
	f.settle(m, func() {
		m.recovered(true)
		if m.performing == 0 {
			m.learn(resp, started)
		}
	})
	return out
}

// settle ends a handover under the lock.
func (f *Fleet) settle(m *member, correct func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.performing--
	m.handovers++
	correct()
}

// performRequest writes the call; order is the works in the order of the answers.
func performRequest(cellID string, works []*work.Work) (req *repv1.PerformRequest, order []*work.Work) {
	req = &repv1.PerformRequest{CellId: cellID}
	var tasks []*work.Work
	for _, w := range works {
		if w.Kind == auction.Task {
			tasks = append(tasks, w)
			req.Tasks = append(req.Tasks, &repv1.PerformRequest_TaskWork{
				TaskGuid: w.GUID, Domain: w.Domain, Resources: w.Resources, Placement: w.Placement, TraceId: w.TraceID,
			})
			continue
		}
		order = append(order, w)
		req.Lrps = append(req.Lrps, &repv1.PerformRequest_LRPWork{
			Key: w.ActualLRPKey(), Resources: w.Resources, Placement: w.Placement,
			DefinitionId: w.DefinitionID, TraceId: w.TraceID,
		})
	}
	return req, append(order, tasks...)
}

// keysHeld is the live work of a cell.
func keysHeld(s *repv1.StateResponse) map[work.Key]bool {
	held := map[work.Key]bool{}
	for _, l := range s.GetLrps() {
		if live(l.GetState()) {
			held[work.Key{Kind: auction.LRP, GUID: l.GetKey().GetProcessGuid(), Index: int(l.GetKey().GetIndex())}] = true
		}
	}
	for _, t := range s.GetTasks() {
		if live(t.GetState()) {
			held[work.Key{Kind: auction.Task, GUID: t.GetTaskGuid()}] = true
		}
	}
	return held
}
