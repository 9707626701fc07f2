package cells

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/work"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
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

var (
	errCellGone = errors.New("the cell is gone")
	errAnswers  = errors.New("there are not as many answers as questions")
)

// performChunk is how much work one Perform call carries. With the longest constraints that
// the contract allows a call stays below the limit on messages.
const performChunk = 1000

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

// perform hands over all of the work, in calls that a cell takes: their number and size are
// bounded by the contract.
func (f *Fleet) perform(m *member, works []*work.Work) Outcome {
	out := Outcome{Cell: m.id}
	var free *workloadv1.CellCapacity
	for chunk := range slices.Chunk(works, performChunk) {
		resp, err := f.performSome(m, chunk, &out)
		if err != nil {
			// Of what was not sent yet nothing can be there.
			return f.reask(m, works[len(out.Accepted)+len(out.Refused):], out, err)
		}
		free = resp.GetAvailableResources()
	}
	f.settle(m, func() {
		m.takeBack(out.Refused)
		if f.members[m.id] == m {
			f.reserved.add(m, out.Accepted)
		}
		if free != nil && m.known != nil && m.performing == 0 {
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

// performSome makes one call and sorts its answers into the outcome.
func (f *Fleet) performSome(m *member, works []*work.Work, out *Outcome) (*repv1.PerformResponse, error) {
	ctx, cancel := context.WithTimeoutCause(f.ctx, f.cfg.PerformTimeout, errPerformTimeout)
	defer cancel()
	req, order := performRequest(m.id, works)
	resp, err := f.call(ctx, m, req)
	if err != nil {
		return nil, err
	}
	if len(resp.GetLrps()) != len(req.GetLrps()) || len(resp.GetTasks()) != len(req.GetTasks()) {
		return nil, fmt.Errorf("handing work to cell %q: %w: %d and %d to %d instances and %d tasks", m.id, errAnswers,
			len(resp.GetLrps()), len(resp.GetTasks()), len(req.GetLrps()), len(req.GetTasks()))
	}
	for i, r := range slices.Concat(resp.GetLrps(), resp.GetTasks()) {
		w := order[i]
		if r.GetAccepted() {
			out.Accepted = append(out.Accepted, w)
			continue
		}
		w.Reason = r.GetReason()
		out.Refused = append(out.Refused, w)
	}
	return resp, nil
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
// refused by the BBS and gives up its room. The outcome has what the calls before were
// answered.
func (f *Fleet) reask(m *member, works []*work.Work, out Outcome, failure error) Outcome {
	out.Err = failure
	ctx, cancel := context.WithTimeoutCause(f.ctx, min(reaskTimeout, f.cfg.StateTimeout), errStateTimeout)
	defer cancel()
	started, question := time.Now(), &repv1.StateRequest{}
	resp, err := m.conn.Client.State(ctx, question)
	if err != nil || (resp.GetCellId() != "" && resp.GetCellId() != m.id) {
		out.Unknown = works
		f.settle(m, func() {
			m.trueAt = time.Time{}
			f.failed(m, failure)
		})
		return out
	}
	var told inventory
	told.take(resp, question.GetKnownContainers())
	there := told.live()
	for _, w := range works {
		if there[w.Key()] {
			out.Accepted = append(out.Accepted, w)
		} else {
			out.Refused = append(out.Refused, w)
		}
	}
	f.settle(m, func() {
		m.recovered(true)
		if m.performing == 0 {
			f.learn(m, resp, question, started)
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
