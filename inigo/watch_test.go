package inigo_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"diego.internal/deploy/cluster"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// follower is a client that watches everything, resumes after each interruption from the last revision that it saw, and keeps
// what the events add up to. Every event must fit what it knows: a gap or a repetition does not.
type follower struct {
	w *world

	mu       sync.Mutex
	revision uint64                           // guarded by mu
	actual   map[string]*workloadv1.ActualLRP // guarded by mu; by instance
	desired  map[string]bool                  // guarded by mu
	wrong    []string                         // guarded by mu
}

// follow watches until the spec ends.
func (w *world) follow(ctx context.Context) *follower {
	f := &follower{w: w, actual: map[string]*workloadv1.ActualLRP{}, desired: map[string]bool{}}
	watching, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.run(watching)
	}()
	DeferCleanup(func() {
		cancel()
		<-ended
	})
	Eventually(f.seen).WithContext(ctx).Should(BeNumerically(">", 0))
	return f
}

func (f *follower) seen() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.revision
}

func (f *follower) problems() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wrong
}

func (f *follower) run(ctx context.Context) {
	for ctx.Err() == nil {
		request := &bbsv1.WatchRequest{Start: &bbsv1.WatchRequest_Snapshot{Snapshot: true}}
		if last := f.seen(); last > 0 {
			request = &bbsv1.WatchRequest{Start: &bbsv1.WatchRequest_AfterRevision{AfterRevision: last}, RefuseSnapshot: true}
		}
		stream, err := f.w.watch.Watch(ctx, request)
		for err == nil {
			var message *bbsv1.WatchResponse
			if message, err = stream.Recv(); err == nil {
				f.take(message)
			}
		}
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (f *follower) take(message *bbsv1.WatchResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch m := message.GetMessage().(type) {
	case *bbsv1.WatchResponse_SnapshotChunk_:
		for _, lrp := range m.SnapshotChunk.GetActualLrps() {
			f.actual[identity(lrp)] = lrp
		}
		for _, lrp := range m.SnapshotChunk.GetDesiredLrps() {
			f.desired[lrp.GetProcessGuid()] = true
		}
	case *bbsv1.WatchResponse_SnapshotEnd_:
		f.revision = m.SnapshotEnd.GetRevision()
	case *bbsv1.WatchResponse_Bookmark_:
		f.advance(m.Bookmark.GetRevision(), true)
	case *bbsv1.WatchResponse_Changes_:
		for _, event := range m.Changes.GetEvents() {
			f.apply(event)
		}
		if !m.Changes.GetMore() {
			f.advance(m.Changes.GetRevision(), false)
		}
	}
}

func (f *follower) advance(revision uint64, sameAllowed bool) {
	if revision < f.revision || revision == f.revision && !sameAllowed {
		f.wrong = append(f.wrong, fmt.Sprintf("revision %d came after %d", revision, f.revision))
	}
	f.revision = revision
}

func (f *follower) apply(event *bbsv1.Event) {
	switch e := event.GetEvent().(type) {
	case *bbsv1.Event_DesiredLrpCreated:
		f.expect(!f.desired[e.DesiredLrpCreated.GetDesiredLrp().GetProcessGuid()], "created twice", event)
		f.desired[e.DesiredLrpCreated.GetDesiredLrp().GetProcessGuid()] = true
	case *bbsv1.Event_DesiredLrpRemoved:
		f.expect(f.desired[e.DesiredLrpRemoved.GetDesiredLrp().GetProcessGuid()], "removed but unknown", event)
		delete(f.desired, e.DesiredLrpRemoved.GetDesiredLrp().GetProcessGuid())
	case *bbsv1.Event_ActualLrpInstanceCreated:
		f.actual[identity(e.ActualLrpInstanceCreated.GetActualLrp())] = e.ActualLrpInstanceCreated.GetActualLrp()
	case *bbsv1.Event_ActualLrpInstanceChanged:
		before, after := e.ActualLrpInstanceChanged.GetBefore(), e.ActualLrpInstanceChanged.GetAfter()
		_, known := f.actual[identity(before)]
		f.expect(known, "changed but unknown", event)
		delete(f.actual, identity(before))
		f.actual[identity(after)] = after
	case *bbsv1.Event_ActualLrpInstanceRemoved:
		_, known := f.actual[identity(e.ActualLrpInstanceRemoved.GetActualLrp())]
		f.expect(known, "removed but unknown", event)
		delete(f.actual, identity(e.ActualLrpInstanceRemoved.GetActualLrp()))
	}
}

func (f *follower) expect(ok bool, what string, event *bbsv1.Event) {
	if !ok {
		f.wrong = append(f.wrong, what+": "+event.String())
	}
}

// identity names one container life, or the record that waits for one.
func identity(lrp *workloadv1.ActualLRP) string {
	return fmt.Sprintf("%s/%d/%s/%s", lrp.GetKey().GetProcessGuid(), lrp.GetKey().GetIndex(), lrp.GetInstanceKey().GetInstanceGuid(), lrp.GetPresence())
}

// difference compares what the events add up to with what the BBS says is there.
func (f *follower) difference(ctx context.Context) (map[string]string, error) {
	out := map[string]string{}
	there := map[string]*workloadv1.ActualLRP{}
	stream, err := f.w.actual.ListActualLRPs(ctx, &bbsv1.ListActualLRPsRequest{})
	err = collect(stream, err, func(chunk *bbsv1.ListActualLRPsResponse) {
		for _, lrp := range chunk.GetActualLrps() {
			there[identity(lrp)] = lrp
		}
	})
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, lrp := range there {
		known, ok := f.actual[id]
		if !ok {
			out[id] = "is there, but no event told"
		} else if known.GetState() != lrp.GetState() {
			out[id] = fmt.Sprintf("is %v, the events say %v", lrp.GetState(), known.GetState())
		}
	}
	for id := range f.actual {
		if _, ok := there[id]; !ok {
			out[id] = "is gone, but no event told"
		}
	}
	return out, nil
}

// activeBBS finds the BBS that serves.
func (w *world) activeBBS(ctx context.Context) *cluster.Process {
	GinkgoHelper()
	var active *cluster.Process
	Eventually(func(ctx context.Context) error {
		name, err := w.cluster.ActiveBBS(ctx)
		if err == nil {
			active = w.cluster.Process(name)
		}
		return err
	}).WithContext(ctx).Should(Succeed())
	return active
}

// violations are the fields that a refusal names.
func violations(err error) []string {
	var fields []string
	for _, detail := range status.Convert(err).Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, violation := range bad.GetFieldViolations() {
				fields = append(fields, violation.GetField())
			}
		}
	}
	return fields
}
