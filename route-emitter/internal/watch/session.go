package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/route-emitter/internal/routetable"
)

// session is what belongs to one stream.
type session struct {
	w     *Watcher
	began time.Time
	// next is the table that a snapshot fills; nil outside of snapshots.
	next       *routetable.Table
	nextFresh  map[string]bool
	collisions []routetable.Collision
	// wholeRevision is true when all events of the last revision have come.
	wholeRevision bool
}

func (s *session) handle(ctx context.Context, msg *bbsv1.WatchResponse) error {
	switch m := msg.GetMessage().(type) {
	case *bbsv1.WatchResponse_SnapshotStart_:
		s.next, s.nextFresh, s.collisions, s.wholeRevision = routetable.New(s.w.cfg.Table), map[string]bool{}, nil, false
	case *bbsv1.WatchResponse_SnapshotChunk_:
		if s.next == nil {
			return errors.New("the bbs sent a part of a snapshot without its start")
		}
		s.load(ctx, m.SnapshotChunk)
	case *bbsv1.WatchResponse_SnapshotEnd_:
		if s.next == nil {
			return errors.New("the bbs sent the end of a snapshot without its start")
		}
		s.swap(ctx, m.SnapshotEnd.GetRevision())
	case *bbsv1.WatchResponse_Changes_:
		return s.apply(ctx, m.Changes)
	case *bbsv1.WatchResponse_Bookmark_:
		s.w.setRevision(m.Bookmark.GetRevision())
		s.wholeRevision = true
	}
	return nil
}

// load fills the table of a snapshot. Collisions are reported with the swap: one that the old table had is no news, but
// it must not be forgotten either.
func (s *session) load(ctx context.Context, chunk *bbsv1.WatchResponse_SnapshotChunk) {
	for _, in := range chunk.GetDesiredLrps() {
		s.next.SetRoutes(s.w.convert(ctx, in))
	}
	for _, in := range chunk.GetActualLrps() {
		if e, ok := endpoint(in, s.w.cfg.CellID); ok {
			s.collisions = append(s.collisions, s.next.AddEndpoint(e).Collisions...)
		}
	}
	for _, name := range domainNames(chunk.GetDomains()) {
		s.nextFresh[name] = true
	}
}

// swap makes the snapshot the table.
func (s *session) swap(ctx context.Context, revision uint64) {
	w := s.w
	w.fresh = s.nextFresh
	w.change(ctx, func(t *routetable.Table) routetable.Changes {
		c := t.Swap(s.next, func(domain string) bool { return w.fresh[domain] })
		c.Collisions = s.collisions
		return c
	})
	s.next, s.wholeRevision = nil, true
	now := time.Now()
	w.mu.Lock()
	w.status.Revision, w.status.LastSync = revision, now
	w.mu.Unlock()
	w.metrics.sync.Observe(now.Sub(s.began).Seconds())
	w.cfg.Log.DebugContext(ctx, "synced", "revision", revision)
}

// apply makes the changes of one message. The revision moves on with the last message of a revision and only if all went
// well: after an error the stream starts again before it, and changes that were applied already have no effect twice.
func (s *session) apply(ctx context.Context, changes *bbsv1.WatchResponse_Changes) error {
	s.wholeRevision = false
	if err := s.w.learn(ctx, changes); err != nil {
		return err
	}
	for _, e := range changes.GetEvents() {
		s.w.event(ctx, e)
	}
	if !changes.GetMore() {
		s.w.setRevision(changes.GetRevision())
		s.wholeRevision = true
	}
	return nil
}

// event applies one event.
func (w *Watcher) event(ctx context.Context, in *bbsv1.Event) {
	switch e := in.GetEvent().(type) {
	case *bbsv1.Event_DesiredLrpCreated:
		w.setRoutes(ctx, e.DesiredLrpCreated.GetDesiredLrp())
	case *bbsv1.Event_DesiredLrpChanged:
		w.setRoutes(ctx, e.DesiredLrpChanged.GetAfter())
	case *bbsv1.Event_DesiredLrpRemoved:
		d := e.DesiredLrpRemoved.GetDesiredLrp()
		w.change(ctx, func(t *routetable.Table) routetable.Changes {
			return t.RemoveRoutes(d.GetProcessGuid(), modificationTag(d.GetModificationTag()))
		})
	case *bbsv1.Event_ActualLrpInstanceCreated:
		w.instance(ctx, nil, e.ActualLrpInstanceCreated.GetActualLrp())
	case *bbsv1.Event_ActualLrpInstanceChanged:
		w.instance(ctx, e.ActualLrpInstanceChanged.GetBefore(), e.ActualLrpInstanceChanged.GetAfter())
	case *bbsv1.Event_ActualLrpInstanceRemoved:
		w.instance(ctx, e.ActualLrpInstanceRemoved.GetActualLrp(), nil)
	case *bbsv1.Event_DomainChanged:
		w.fresh[e.DomainChanged.GetDomain().GetDomain()] = e.DomainChanged.GetFresh()
	}
	// Crashes come with a change of the instance, and tasks have no routes.
}

func (w *Watcher) setRoutes(ctx context.Context, in routed) {
	d := w.convert(ctx, in)
	w.change(ctx, func(t *routetable.Table) routetable.Changes { return t.SetRoutes(d) })
}

func (w *Watcher) convert(ctx context.Context, in routed) routetable.Desired {
	d, err := desired(in)
	if err != nil {
		w.cfg.Log.WarnContext(ctx, "routes-not-understood", "process_guid", d.ProcessGUID, "error", err)
	}
	return d
}

// instance applies the change of one record; before or after may be nil. Only records that run and are routable count:
// a record that ceases to is removed, one that begins to is added, and one that changes in between (presence, cell,
// instance) is replaced in one step, so that an instance which only moves to evacuating or suspect keeps its traffic.
func (w *Watcher) instance(ctx context.Context, before, after *workloadv1.ActualLRP) {
	old, was := endpoint(before, w.cfg.CellID)
	now, is := endpoint(after, w.cfg.CellID)
	if was && after != nil {
		old.Tag = modificationTag(after.GetModificationTag()) // the removal is as new as what made it
	}
	same := was && is && old.InstanceGUID == now.InstanceGUID && old.Evacuating == now.Evacuating
	w.change(ctx, func(t *routetable.Table) routetable.Changes {
		switch {
		case is && was && !same:
			return t.ReplaceEndpoint(now, old)
		case is:
			return t.AddEndpoint(now)
		case was:
			return t.RemoveEndpoint(old)
		default:
			return routetable.Changes{}
		}
	})
}

// learn reads the routes of processes that get an instance by these changes and are not in the table, or not for sure. The
// stream of a cell has the changes of a desired LRP only while an instance of it is there, so what the table knows of
// one without instances may be out of date.
func (w *Watcher) learn(ctx context.Context, changes *bbsv1.WatchResponse_Changes) error {
	if w.cfg.CellID == "" {
		return nil // everything is in the stream
	}
	unknown := map[string]bool{}
	w.mu.Lock()
	for _, e := range changes.GetEvents() {
		after := e.GetActualLrpInstanceCreated().GetActualLrp()
		if after == nil {
			after = e.GetActualLrpInstanceChanged().GetAfter()
		}
		guid := after.GetKey().GetProcessGuid()
		if _, ok := endpoint(after, w.cfg.CellID); ok && (!w.table.Knows(guid) || !w.table.HasInstances(guid)) {
			unknown[guid] = true
		}
	}
	w.mu.Unlock()
	if len(unknown) == 0 {
		return nil
	}
	return w.fetch(ctx, unknown, changes.GetRevision())
}

// fetch reads the routes of processes as of at least a revision. A process that is not desired any more has none.
func (w *Watcher) fetch(ctx context.Context, guids map[string]bool, revision uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, w.cfg.CallTimeout, fmt.Errorf("reading routing infos took longer than %v", w.cfg.CallTimeout))
	defer cancel()
	filter := &bbsv1.DesiredLRPFilter{}
	for guid := range guids {
		filter.ProcessGuids = append(filter.ProcessGuids, guid)
	}
	stream, err := w.desired.ListRoutingInfos(ctx, &bbsv1.ListRoutingInfosRequest{Filter: filter, MinRevision: revision})
	if err != nil {
		return fmt.Errorf("listing routing infos: %w", err)
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listing routing infos: %w", err)
		}
		for _, in := range chunk.GetRoutingInfos() {
			w.setRoutes(ctx, in)
		}
	}
}
