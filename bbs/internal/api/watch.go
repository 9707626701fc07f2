package api

import (
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/store"
	"diego.internal/bbs/internal/watch"
	"diego.internal/bbs/internal/wire"
	bbsv1 "diego.internal/proto/bbs/v1"
)

// watcher is the service for everybody who follows what changes.
type watcher struct {
	bbsv1.UnimplementedWatchServer
	*API
}

// Watch sends what the cursor finds until the client leaves or this BBS stops being active. A client
// that does not read holds up only this goroutine.
func (w *watcher) Watch(req *bbsv1.WatchRequest, stream grpc.ServerStreamingServer[bbsv1.WatchResponse]) error {
	filter, err := w.filterOf(req, stream)
	if err != nil {
		return err
	}
	view, err := w.Store.View()
	if err != nil {
		return err
	}
	f := &follower{watcher: w, req: req, stream: stream, filter: filter, newest: view.Revision()}
	position := view.Revision()
	switch start := req.GetStart().(type) {
	case *bbsv1.WatchRequest_AfterRevision:
		position = start.AfterRevision
	case *bbsv1.WatchRequest_Snapshot:
		if err := f.snapshot(view, bbsv1.WatchResponse_REASON_REQUESTED); err != nil {
			return err
		}
	case *bbsv1.WatchRequest_Since:
		after, complete, err := w.Store.LogSince(stream.Context(), start.Since.AsTime())
		if err != nil {
			return err
		}
		position = after
		if err := f.send(&bbsv1.WatchResponse_Bookmark{Revision: after, CompleteSince: timestamppb.New(complete)}); err != nil {
			return err
		}
	default:
		// The client learns where its watch begins.
		if err := f.bookmark(position); err != nil {
			return err
		}
	}
	return f.follow(position)
}

// filterOf converts and limits what a watcher asks for.
func (w *watcher) filterOf(req *bbsv1.WatchRequest, stream grpc.ServerStreamingServer[bbsv1.WatchResponse]) (watch.Filter, error) {
	cell, err := limitToOwnCell(stream.Context(), req.GetCellId())
	if err != nil {
		return watch.Filter{}, err
	}
	filter := watch.Filter{CellID: cell, Domain: req.GetDomain(), Groups: watch.GroupAll, WithoutTags: req.GetWithoutInstanceTags()}
	if len(req.GetKinds()) > 0 {
		filter.Groups = 0
	}
	for _, kind := range req.GetKinds() {
		switch kind {
		case bbsv1.WatchKind_WATCH_KIND_DESIRED_LRP:
			filter.Groups |= watch.GroupDesired
		case bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP:
			filter.Groups |= watch.GroupActual
		case bbsv1.WatchKind_WATCH_KIND_TASK:
			filter.Groups |= watch.GroupTask
		case bbsv1.WatchKind_WATCH_KIND_DOMAIN:
			filter.Groups |= watch.GroupDomain
		case bbsv1.WatchKind_WATCH_KIND_UNSPECIFIED:
		}
	}
	if len(req.GetProcessGuids()) > 0 {
		filter.Subjects = make(map[string]bool, len(req.GetProcessGuids()))
		for _, guid := range req.GetProcessGuids() {
			filter.Subjects[guid] = true
		}
	}
	return filter, nil
}

// follower is one watch.
type follower struct {
	*watcher
	req    *bbsv1.WatchRequest
	stream grpc.ServerStreamingServer[bbsv1.WatchResponse]
	filter watch.Filter
	// newest is the revision when the watch began, at which a reader of history ends.
	newest uint64
}

// follow sends what comes after a revision.
func (f *follower) follow(position uint64) error {
	for {
		err := f.followFrom(position)
		if !errors.Is(err, watch.ErrTruncated) || f.req.GetRefuseSnapshot() {
			return err
		}
		view, err := f.Store.View()
		if err != nil {
			return err
		}
		if err := f.snapshot(view, bbsv1.WatchResponse_REASON_LOG_TRUNCATED); err != nil {
			return err
		}
		position = view.Revision()
	}
}

func (f *follower) followFrom(position uint64) error {
	cursor, err := f.Store.Watch().Cursor(position, f.filter)
	if err != nil {
		return err
	}
	defer cursor.Close()
	idle := f.BookmarkInterval
	if f.req.GetUntilNewest() {
		idle = 0 // the first pause is the end
	}
	for {
		batch, err := cursor.Next(f.stream.Context(), idle)
		serving := f.Store.Serving()
		switch {
		case err != nil:
			return err
		case serving != nil:
			return serving
		case batch == nil:
			err = f.bookmark(cursor.Position())
		default:
			err = f.changes(batch)
		}
		if err != nil {
			return err
		}
		if f.req.GetUntilNewest() && cursor.Position() >= f.newest {
			if batch == nil {
				return nil
			}
			return f.bookmark(cursor.Position())
		}
	}
}

func (f *follower) bookmark(revision uint64) error {
	return f.send(&bbsv1.WatchResponse_Bookmark{Revision: revision})
}

func (f *follower) send(bookmark *bbsv1.WatchResponse_Bookmark) error {
	return f.stream.Send(&bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_Bookmark_{Bookmark: bookmark}})
}

func (f *follower) changes(batch *watch.Batch) error {
	for _, message := range batch.Messages(&f.filter) {
		if err := f.stream.SendMsg(encoded{mem.SliceBuffer(message)}); err != nil {
			return err
		}
	}
	return nil
}

// Fields of WatchResponse and of its SnapshotChunk.
const (
	responseSnapshotChunk = 2

	chunkDesired, chunkActual, chunkTasks, chunkDomains = 1, 2, 3, 4
)

// snapshot sends all that the filter lets through, between a start and an end.
func (f *follower) snapshot(view *store.View, reason bbsv1.WatchResponse_Reason) error {
	f.metrics.snapshots.WithLabelValues(reason.String()).Inc()
	err := f.stream.Send(&bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_SnapshotStart_{
		SnapshotStart: &bbsv1.WatchResponse_SnapshotStart{Revision: view.Revision(), Reason: reason},
	}})
	if err != nil {
		return err
	}
	for _, part := range [...]struct {
		group watch.Group
		field protowire.Number
		send  func(*store.View, *chunks) error
	}{
		{watch.GroupDomain, chunkDomains, f.snapshotDomains},
		{watch.GroupDesired, chunkDesired, f.snapshotDesireds},
		{watch.GroupActual, chunkActual, f.snapshotActuals},
		{watch.GroupTask, chunkTasks, f.snapshotTasks},
	} {
		if f.filter.Groups&part.group == 0 {
			continue
		}
		// sent: an empty part needs no chunk.
		out := &chunks{stream: f.stream, field: part.field, wrap: responseSnapshotChunk, sent: true}
		if err := part.send(view, out); err != nil {
			return err
		}
		if err := out.end(); err != nil {
			return err
		}
	}
	return f.stream.Send(&bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_SnapshotEnd_{
		SnapshotEnd: &bbsv1.WatchResponse_SnapshotEnd{Revision: view.Revision()},
	}})
}

// wanted applies what the filter says about names; the cell is for the callers.
func (f *follower) wanted(subject, domain string) bool {
	return (f.filter.Domain == "" || f.filter.Domain == domain) && (f.filter.Subjects == nil || f.filter.Subjects[subject])
}

func (f *follower) snapshotDomains(view *store.View, out *chunks) error {
	if f.filter.CellID != "" {
		return nil // no domain is on a cell
	}
	now := f.Clock()
	for d := range view.Domains() {
		if d.Fresh(now) && f.wanted(d.Name, d.Name) {
			if err := out.addMessage(wire.Domain(d)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *follower) snapshotDesireds(view *store.View, out *chunks) error {
	add := func(d *lrp.Desired) error {
		if d == nil || !f.wanted(d.ProcessGUID, d.Domain) {
			return nil
		}
		return out.add(d.Encoded)
	}
	if f.filter.CellID == "" {
		for d := range view.Desireds() {
			if err := add(d); err != nil {
				return err
			}
		}
		return nil
	}
	last := ""
	for a := range view.RecordsOnCell(f.filter.CellID) {
		if a.ProcessGUID != last {
			last = a.ProcessGUID
			if err := add(view.Desired(last)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *follower) snapshotActuals(view *store.View, out *chunks) error {
	rows := view.Actuals()
	if f.filter.CellID != "" {
		rows = view.ActualsOnCell(f.filter.CellID)
	}
	for a := range rows {
		if !f.wanted(a.ProcessGUID, a.Domain) {
			continue
		}
		encoded := a.Encoded
		if f.filter.WithoutTags {
			encoded = watch.WithoutTags(encoded)
		}
		if err := out.add(encoded); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) snapshotTasks(view *store.View, out *chunks) error {
	rows := view.Tasks()
	if f.filter.CellID != "" {
		rows = view.TasksOnCell(f.filter.CellID)
	}
	for t := range rows {
		if f.wanted(t.GUID, t.Domain) {
			if err := out.addMessage(wire.Task(t)); err != nil {
				return err
			}
		}
	}
	return nil
}
