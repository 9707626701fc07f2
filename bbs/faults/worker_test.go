package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/fault"
)

// operatorAPI and cellAPI are the services that a worker calls.
type operatorAPI struct {
	domains bbsv1.DomainsClient
	desired bbsv1.DesiredLRPsClient
	actual  bbsv1.ActualLRPsClient
	tasks   bbsv1.TasksClient
}

func newOperatorAPI(conn grpc.ClientConnInterface) operatorAPI {
	return operatorAPI{
		domains: bbsv1.NewDomainsClient(conn), desired: bbsv1.NewDesiredLRPsClient(conn),
		actual: bbsv1.NewActualLRPsClient(conn), tasks: bbsv1.NewTasksClient(conn),
	}
}

type cellAPI struct {
	lrps  bbsv1.ActualLRPCellClient
	tasks bbsv1.TaskCellClient
}

// worker writes to one LRP and one task of its own, one request after the other, as an owner and as a
// cell, and knows at all times in which state they must be.
type worker struct {
	guid, domain, cellID string
	operator             operatorAPI
	cell                 cellAPI
	random               *rand.Rand
	names, tasks         int
	ports                uint32

	want state
	// permissions counts the answers that let a run of a task begin, by task and run.
	permissions map[string]int
	// lastWrites tell what went before a failure.
	lastWrites []string

	acknowledged atomic.Int64
	unknown      int // writes without an answer
	happened     int // of those, writes that turned out to be done
}

// name makes a text that no other write of this worker uses.
func (w *worker) name(what string) string {
	w.names++
	return fmt.Sprintf("%s-%d-%s", what, w.names, w.cellID)
}

// run writes until stop is closed. It returns an error for whatever must not be.
func (w *worker) run(ctx context.Context, stop <-chan struct{}) error {
	for {
		select {
		case <-stop:
			return w.settle(ctx)
		default:
		}
		if err := w.write(ctx); err != nil {
			return fmt.Errorf("%s: %w; before that: %v", w.cellID, err, w.lastWrites)
		}
	}
}

// settle compares what is with what must be.
func (w *worker) settle(ctx context.Context) error {
	seen, err := w.look(ctx)
	if err == nil && seen != w.want.noted(seen) {
		err = fmt.Errorf("in the end there is\n%+v, and there must be\n%+v; before that: %v", seen, w.want, w.lastWrites)
	}
	return err
}

// write makes one write and finds out what came of it.
func (w *worker) write(ctx context.Context) error {
	choices := w.choices()
	op := choices[w.random.IntN(len(choices))](w.want)
	callCtx, cancel := ctx, context.CancelFunc(func() {})
	if w.random.IntN(10) == 0 {
		// Some callers have no patience, so that requests are broken off at every moment of their way.
		callCtx, cancel = context.WithTimeout(ctx, time.Duration(w.random.IntN(int(50*time.Millisecond))))
	}
	run, err := op.call(callCtx)
	cancel()
	w.note(op.name, err)
	if err == nil {
		w.acknowledged.Add(1)
		w.want = op.after
		w.want.task.run = cmpOr(w.want.task.run, run)
		if w.want.task.state == taskRunning && w.want.task.run == "" || w.random.IntN(50) == 0 {
			// The permission to run was said to an answer that got lost, or a look now and then.
			return w.check(ctx, "after an answer", w.want)
		}
		return nil
	}
	w.unknown++
	before := w.want
	if refused(err) {
		// The state allows it, so what is refused is the repetition of a request that was carried out.
		w.happened++
		return w.check(ctx, fmt.Sprintf("after %q was refused with %v", op.name, err), op.after)
	}
	if err := w.check(ctx, fmt.Sprintf("after %q ended with %v", op.name, err), before, op.after); err != nil {
		return err
	}
	if w.want != before {
		w.happened++
	}
	return nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (w *worker) note(name string, err error) {
	if err != nil {
		name += " (" + fault.Code(err).String() + ")"
	}
	w.lastWrites = append(w.lastWrites, name)
	if len(w.lastWrites) > 12 {
		w.lastWrites = w.lastWrites[1:]
	}
}

// refused reports whether an error is the decision of the BBS about the request, and no failure.
func refused(err error) bool {
	switch fault.Code(err) { //nolint:exhaustive // all others leave it open
	case codes.NotFound, codes.AlreadyExists, codes.FailedPrecondition, codes.InvalidArgument:
		return true
	}
	return false
}

// check reads the state, which must be one of those that are possible, wholly, and goes on from there.
func (w *worker) check(ctx context.Context, when string, possible ...state) error {
	seen, err := w.look(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(possible, func(s state) bool { return s.noted(seen) == seen }) {
		return fmt.Errorf("%s there is\n%+v, and there must be one of\n%+v", when, seen, possible)
	}
	w.want = seen
	return nil
}

// look reads the state of the worker's records. A write of its own comes first: when that is
// acknowledged, none that went before it can still be on its way.
func (w *worker) look(ctx context.Context) (state, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		barrier, err := w.operator.domains.UpsertDomain(ctx, &bbsv1.UpsertDomainRequest{Domain: "barrier-" + w.cellID})
		if err == nil {
			var seen state
			if seen, err = w.observe(ctx, barrier.GetRevision()); err == nil {
				return seen, nil
			}
		}
		if refused(err) {
			return state{}, err
		}
		last = err
		passes(ctx, 20*time.Millisecond)
	}
	return state{}, fmt.Errorf("no answer in %v, the last error being: %w", patience, last)
}
