package main

import (
	"context"
	"sync"
	"time"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// counts of records by what they are. The evacuating and suspect ones are not in the first four.
type counts struct {
	Unclaimed, Claimed, Running, Crashed, Evacuating, Suspect int
}

func (c *counts) of(lrp *workloadv1.ActualLRP) *int {
	switch lrp.GetPresence() {
	case workloadv1.Presence_PRESENCE_EVACUATING:
		return &c.Evacuating
	case workloadv1.Presence_PRESENCE_SUSPECT:
		return &c.Suspect
	case workloadv1.Presence_PRESENCE_ORDINARY, workloadv1.Presence_PRESENCE_UNSPECIFIED:
	}
	switch lrp.GetState() {
	case workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED:
		return &c.Claimed
	case workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING:
		return &c.Running
	case workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CRASHED:
		return &c.Crashed
	case workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNCLAIMED, workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNSPECIFIED:
	}
	return &c.Unclaimed
}

// tail follows the watch and keeps counts by adding up events, which costs the BBS nothing as lists would. It resumes where
// it was cut off.
type tail struct {
	client bbsv1.WatchClient

	mu       sync.Mutex
	revision uint64 // guarded by mu
	counts   counts // guarded by mu; at revision
	next     counts // guarded by mu; with what came of the revision after that
	changes  int64  // guarded by mu; events so far
}

// now returns the counts, and how many changes led to them.
func (t *tail) now() (counts, int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts, t.changes
}

func (t *tail) run(ctx context.Context) {
	for ctx.Err() == nil {
		request := &bbsv1.WatchRequest{Kinds: []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP}}
		t.mu.Lock()
		t.next = t.counts // what came of a revision that was cut off comes again
		if t.revision > 0 {
			request.Start = &bbsv1.WatchRequest_AfterRevision{AfterRevision: t.revision}
		} else {
			request.Start = &bbsv1.WatchRequest_Snapshot{Snapshot: true}
		}
		t.mu.Unlock()
		stream, err := t.client.Watch(ctx, request)
		for err == nil {
			var message *bbsv1.WatchResponse
			if message, err = stream.Recv(); err == nil {
				t.take(message)
			}
		}
		pause(ctx, 50*time.Millisecond)
	}
}

func (t *tail) take(message *bbsv1.WatchResponse) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch m := message.GetMessage().(type) {
	case *bbsv1.WatchResponse_SnapshotStart_:
		t.next, t.revision = counts{}, 0
	case *bbsv1.WatchResponse_SnapshotChunk_:
		for _, lrp := range m.SnapshotChunk.GetActualLrps() {
			*t.next.of(lrp)++
		}
	case *bbsv1.WatchResponse_SnapshotEnd_:
		t.revision, t.counts = m.SnapshotEnd.GetRevision(), t.next
	case *bbsv1.WatchResponse_Bookmark_:
		t.revision = m.Bookmark.GetRevision()
	case *bbsv1.WatchResponse_Changes_:
		for _, event := range m.Changes.GetEvents() {
			t.apply(event)
		}
		if !m.Changes.GetMore() {
			t.revision, t.counts = m.Changes.GetRevision(), t.next
		}
	}
}

func (t *tail) apply(event *bbsv1.Event) {
	t.changes++
	switch e := event.GetEvent().(type) {
	case *bbsv1.Event_ActualLrpInstanceCreated:
		*t.next.of(e.ActualLrpInstanceCreated.GetActualLrp())++
	case *bbsv1.Event_ActualLrpInstanceChanged:
		*t.next.of(e.ActualLrpInstanceChanged.GetBefore())--
		*t.next.of(e.ActualLrpInstanceChanged.GetAfter())++
	case *bbsv1.Event_ActualLrpInstanceRemoved:
		*t.next.of(e.ActualLrpInstanceRemoved.GetActualLrp())--
	}
}
