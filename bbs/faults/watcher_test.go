package faults

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

// rowKey names an actual LRP.
type rowKey struct {
	guid     string
	index    int32
	presence workloadv1.Presence
}

// watcher follows all changes from a revision on, over every interruption, and holds each event against
// what the events before it left: one that is lost, repeated or out of order does not fit.
type watcher struct {
	client bbsv1.WatchClient
	// interrupts is out of how many messages it breaks one off itself; 0 never.
	interrupts int
	random     *rand.Rand

	desired map[string]*workloadv1.SchedulingInfo
	rows    map[rowKey]*workloadv1.ActualLRP
	tasks   map[string]*workloadv1.Task
	// crashes counts those of a record, by its index and epoch.
	crashes map[string]int32
	// history digests all events, so that watchers can be compared.
	history hash.Hash
	events  map[uint64]int // by revision
	streams int

	mu      sync.Mutex
	reached uint64 // all up to this revision is known
}

func newWatcher(client bbsv1.WatchClient, from uint64, interrupts int) *watcher {
	return &watcher{
		client: client, interrupts: interrupts, random: rand.New(rand.NewPCG(from, uint64(interrupts))),
		desired: map[string]*workloadv1.SchedulingInfo{}, rows: map[rowKey]*workloadv1.ActualLRP{},
		tasks: map[string]*workloadv1.Task{}, crashes: map[string]int32{},
		history: sha256.New(), events: map[uint64]int{}, reached: from,
	}
}

var errInterrupted = errors.New("interrupted by the watcher itself")

// run follows until ctx ends. It returns an error for whatever must not be.
func (w *watcher) run(ctx context.Context) error {
	for ctx.Err() == nil {
		w.streams++
		err := w.follow(ctx)
		switch fault.Code(err) { //nolint:exhaustive // all others end the stream and no more
		case codes.OutOfRange, codes.InvalidArgument, codes.DataLoss, codes.PermissionDenied:
			return fmt.Errorf("watching after revision %d: %w", w.revision(), err)
		}
		if wrong, ok := errors.AsType[*disorderError](err); ok {
			return wrong
		}
		passes(ctx, 20*time.Millisecond)
	}
	return nil
}

// disorderError says that an event does not follow those before it.
type disorderError struct{ problem string }

func (e *disorderError) Error() string { return e.problem }

func (w *watcher) revision() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reached
}

// follow reads one stream until it breaks off.
func (w *watcher) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.client.Watch(ctx, &bbsv1.WatchRequest{
		Start: &bbsv1.WatchRequest_AfterRevision{AfterRevision: w.revision()}, RefuseSnapshot: true,
	})
	var part []*bbsv1.Event // of a revision that takes several messages
	for err == nil {
		var message *bbsv1.WatchResponse
		if message, err = stream.Recv(); err != nil {
			break
		}
		if w.interrupts > 0 && w.random.IntN(w.interrupts) == 0 {
			return errInterrupted
		}
		switch kind := message.GetMessage().(type) {
		case *bbsv1.WatchResponse_Changes_:
			part = append(part, kind.Changes.GetEvents()...)
			if !kind.Changes.GetMore() {
				err = w.apply(kind.Changes.GetRevision(), part)
				part = nil
			}
		case *bbsv1.WatchResponse_Bookmark_:
			err = w.advance(kind.Bookmark.GetRevision(), false)
		default:
			err = &disorderError{fmt.Sprintf("after revision %d came a %T, which nobody asked for", w.revision(), kind)}
		}
	}
	return err
}

// advance notes that all up to a revision is known.
func (w *watcher) advance(revision uint64, changed bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if revision < w.reached || changed && revision == w.reached {
		return &disorderError{fmt.Sprintf("revision %d came after %d", revision, w.reached)}
	}
	w.reached = revision
	return nil
}

func (w *watcher) apply(revision uint64, events []*bbsv1.Event) error {
	if err := w.advance(revision, true); err != nil {
		return err
	}
	w.events[revision] = len(events)
	for _, e := range events {
		encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(e)
		if err != nil {
			return &disorderError{fmt.Sprintf("revision %d: %v", revision, err)}
		}
		// A hash never fails.
		_, _ = fmt.Fprintln(w.history, revision, len(encoded))
		_, _ = w.history.Write(encoded)
		if problem := w.event(e); problem != "" {
			return &disorderError{fmt.Sprintf("revision %d: %s: %v", revision, problem, e)}
		}
	}
	return nil
}

// visible is a record without its revision, which also moves with what no event tells, such as the order
// to stop an instance.
func visible[M proto.Message](record M) M {
	copied := proto.CloneOf(record)
	if m := copied.ProtoReflect(); m.IsValid() {
		m.Clear(m.Descriptor().Fields().ByName("revision"))
	}
	return copied
}

// event applies one event. It returns what is wrong with it.
func (w *watcher) event(e *bbsv1.Event) string {
	switch kind := e.GetEvent().(type) {
	case *bbsv1.Event_DesiredLrpCreated:
		d := visible(kind.DesiredLrpCreated.GetDesiredLrp())
		return put(w.desired, d.GetProcessGuid(), nil, d)
	case *bbsv1.Event_DesiredLrpChanged:
		before, after := visible(kind.DesiredLrpChanged.GetBefore()), visible(kind.DesiredLrpChanged.GetAfter())
		if after.GetModificationTag().GetIndex() != before.GetModificationTag().GetIndex()+1 {
			return "the tag did not advance by one"
		}
		return put(w.desired, after.GetProcessGuid(), before, after)
	case *bbsv1.Event_DesiredLrpRemoved:
		d := visible(kind.DesiredLrpRemoved.GetDesiredLrp())
		return put(w.desired, d.GetProcessGuid(), d, nil)
	case *bbsv1.Event_TaskCreated:
		t := visible(kind.TaskCreated.GetTask())
		return put(w.tasks, t.GetTaskGuid(), nil, t)
	case *bbsv1.Event_TaskChanged:
		before, after := visible(kind.TaskChanged.GetBefore()), visible(kind.TaskChanged.GetAfter())
		return put(w.tasks, after.GetTaskGuid(), before, after)
	case *bbsv1.Event_TaskRemoved:
		t := visible(kind.TaskRemoved.GetTask())
		return put(w.tasks, t.GetTaskGuid(), t, nil)
	case *bbsv1.Event_ActualLrpCrashed:
		return w.crashed(kind.ActualLrpCrashed)
	case *bbsv1.Event_ActualLrpInstanceCreated:
		return w.created(visible(kind.ActualLrpInstanceCreated.GetActualLrp()))
	case *bbsv1.Event_ActualLrpInstanceChanged:
		before, after := visible(kind.ActualLrpInstanceChanged.GetBefore()), visible(kind.ActualLrpInstanceChanged.GetAfter())
		if !follows(before, after) {
			return "the tag did not advance by one"
		}
		return put(w.rows, keyOf(after), before, after)
	case *bbsv1.Event_ActualLrpInstanceRemoved:
		return w.removed(visible(kind.ActualLrpInstanceRemoved.GetActualLrp()))
	case *bbsv1.Event_DomainChanged:
		return ""
	default:
		return fmt.Sprintf("nobody knows a %T", kind)
	}
}

// put replaces a record, which must be what the event says that it was.
func put[K comparable, M interface {
	proto.Message
	comparable
}](records map[K]M, key K, before, after M) string {
	var none M
	held, ok := records[key]
	if ok != (before != none) || ok && !proto.Equal(held, before) {
		return fmt.Sprintf("before it there was %v", held)
	}
	if after == none {
		delete(records, key)
	} else {
		records[key] = after
	}
	return ""
}

func keyOf(a *workloadv1.ActualLRP) rowKey {
	return rowKey{guid: a.GetKey().GetProcessGuid(), index: a.GetKey().GetIndex(), presence: a.GetPresence()}
}

// follows reports whether one version of a record is the next of another.
func follows(before, after *workloadv1.ActualLRP) bool {
	b, a := before.GetModificationTag(), after.GetModificationTag()
	return b.GetEpoch() == a.GetEpoch() && b.GetIndex()+1 == a.GetIndex()
}

// created handles a new record, or an instance's return to waiting, of which the removal is told next.
func (w *watcher) created(a *workloadv1.ActualLRP) string {
	held := w.rows[keyOf(a)]
	switch {
	case held == nil && a.GetModificationTag().GetIndex() != 0:
		return "a record begins with version 0"
	case held != nil && !follows(held, a):
		return fmt.Sprintf("before it there was %v", held)
	}
	w.rows[keyOf(a)] = a
	return ""
}

func (w *watcher) removed(a *workloadv1.ActualLRP) string {
	held := w.rows[keyOf(a)]
	switch {
	case proto.Equal(held, a):
		delete(w.rows, keyOf(a))
		return ""
	case held != nil && follows(a, held):
		return "" // it waits again, as was told before
	}
	return fmt.Sprintf("before it there was %v", held)
}

func (w *watcher) crashed(c *bbsv1.ActualLRPCrashed) string {
	held := w.rows[rowKey{guid: c.GetKey().GetProcessGuid(), index: c.GetKey().GetIndex(), presence: workloadv1.Presence_PRESENCE_ORDINARY}]
	if held == nil || !proto.Equal(held.GetInstanceKey(), c.GetInstanceKey()) {
		return fmt.Sprintf("it was not the one that ran, which was %v", held)
	}
	record := fmt.Sprint(held.GetKey().GetIndex(), " ", held.GetModificationTag().GetEpoch())
	w.crashes[record]++
	if w.crashes[record] != c.GetCrashCount() {
		return fmt.Sprintf("crashes of it that were told: %d", w.crashes[record])
	}
	return ""
}
