package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/route-emitter/internal/routetable"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

const patience = 10 * time.Second

// bbs is a BBS whose streams are written by the test. Its gRPC side is real.
type bbs struct {
	bbsv1.UnimplementedWatchServer
	bbsv1.UnimplementedDesiredLRPsServer
	streams chan *stream // each Watch, as it comes
	mu      sync.Mutex
	infos   map[string]*workloadv1.RoutingInfo
	fail    error // of ListRoutingInfos
	fetches int
}

// stream is one Watch call.
type stream struct {
	request *bbsv1.WatchRequest
	send    chan *bbsv1.WatchResponse
	end     chan error
}

func (b *bbs) Watch(req *bbsv1.WatchRequest, out grpc.ServerStreamingServer[bbsv1.WatchResponse]) error {
	s := &stream{request: req, send: make(chan *bbsv1.WatchResponse), end: make(chan error, 1)}
	select {
	case b.streams <- s:
	case <-out.Context().Done():
		return out.Context().Err() //nolint:wrapcheck // a test
	}
	for {
		select {
		case <-out.Context().Done():
			return out.Context().Err() //nolint:wrapcheck // a test
		case err := <-s.end:
			return err
		case msg := <-s.send:
			if err := out.Send(msg); err != nil {
				return err //nolint:wrapcheck // a test
			}
		}
	}
}

func (b *bbs) ListRoutingInfos(req *bbsv1.ListRoutingInfosRequest, out grpc.ServerStreamingServer[bbsv1.ListRoutingInfosResponse]) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fetches++
	if b.fail != nil {
		return b.fail
	}
	res := &bbsv1.ListRoutingInfosResponse{Revision: req.GetMinRevision()}
	for _, guid := range req.GetFilter().GetProcessGuids() {
		if info := b.infos[guid]; info != nil {
			res.RoutingInfos = append(res.RoutingInfos, info)
		}
	}
	return out.Send(res) //nolint:wrapcheck // a test
}

func (b *bbs) setFetch(err error, infos ...*workloadv1.RoutingInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail, b.infos = err, map[string]*workloadv1.RoutingInfo{}
	for _, i := range infos {
		b.infos[i.GetProcessGuid()] = i
	}
}

// rig is a watcher on a bbs.
type rig struct {
	t       *testing.T
	bbs     *bbs
	watcher *Watcher
	log     *lockedBuffer
	mu      sync.Mutex
	told    []string // what Apply was told, "+uri@address" and "-uri@address"
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p) //nolint:wrapcheck // a test
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	authority := mtlstest.NewAuthority(t)
	r := &rig{t: t, bbs: &bbs{streams: make(chan *stream)}, log: &lockedBuffer{}}
	server, err := grpcserver.New(grpcserver.Options{
		Source: authority.Source(mtls.Identity{Role: mtls.RoleBBS}), Telemetry: telemetry.Discard(), Listen: "127.0.0.1:0",
		Allow: grpcserver.Table{"/bbs.v1.Watch/": {mtls.RoleRouteEmitter}, "/bbs.v1.DesiredLRPs/": {mtls.RoleRouteEmitter}},
	})
	require.NoError(t, err)
	bbsv1.RegisterWatchServer(server.GRPC(), r.bbs)
	bbsv1.RegisterDesiredLRPsServer(server.GRPC(), r.bbs)
	server.SetServing("bbs.v1", true)
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{server.Addr()}}, grpcclient.Options{
		Source: authority.Source(mtls.Identity{Role: mtls.RoleRouteEmitter, Name: "cell-1"}), Server: mtls.Peer{Role: mtls.RoleBBS}, HealthService: "bbs.v1",
	})
	require.NoError(t, err)
	cfg := Config{
		Conn: conn, CellID: "cell-1", SyncInterval: time.Hour, CallTimeout: patience, Silence: time.Minute,
		Log: slog.New(slog.NewTextHandler(r.log, nil)), Metrics: prometheus.NewRegistry(), Apply: r.apply,
	}
	if change != nil {
		change(&cfg)
	}
	r.watcher = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	served, watched := make(chan error, 1), make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	go func() { watched <- r.watcher.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-watched)
		require.NoError(t, <-served)
		require.NoError(t, conn.Close())
	})
	return r
}

func (r *rig) apply(c routetable.Changes) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range c.Register {
		r.told = append(r.told, "+"+m.Key.URI+"@"+m.Key.Address)
	}
	for _, m := range slices.Concat(c.Unregister, c.Withdraw) {
		r.told = append(r.told, "-"+m.Key.URI+"@"+m.Key.Address)
	}
}

// accept takes the next stream that the watcher opens.
func (r *rig) accept() *stream {
	r.t.Helper()
	select {
	case s := <-r.bbs.streams:
		return s
	case <-time.After(patience):
		r.t.Fatal("the watcher opens no stream")
		return nil
	}
}

func (r *rig) send(s *stream, msgs ...*bbsv1.WatchResponse) {
	r.t.Helper()
	for _, m := range msgs {
		select {
		case s.send <- m:
		case <-time.After(patience):
			r.t.Fatal("the watcher's stream is gone")
		}
	}
}

// expect waits until the watcher has seen a revision, and compares what it told since the last call.
func (r *rig) expect(revision uint64, want ...string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return r.watcher.Status().Revision == revision }, patience, time.Millisecond, "revision %d", revision)
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(append([]string{}, want...), append([]string{}, r.told...)); diff != "" {
		r.t.Fatalf("told (-want +got):\n%s", diff)
	}
	r.told = nil
}

func (r *rig) uris() []string {
	var out []string
	for _, m := range r.watcher.Messages() {
		out = append(out, m.Key.URI+"@"+m.Key.Address)
	}
	return out
}

func tag(index uint32) *workloadv1.ModificationTag {
	return &workloadv1.ModificationTag{Epoch: "e", Index: index}
}

func routes(hostnames ...string) map[string][]byte {
	return map[string][]byte{"cf-router": []byte(`[{"hostnames":["` + strings.Join(hostnames, `","`) + `"],"port":8080}]`)}
}

// info is process "p".
func info(index uint32, hostnames ...string) *workloadv1.SchedulingInfo {
	return &workloadv1.SchedulingInfo{ProcessGuid: "p", Domain: "domain", Instances: 3, Routes: routes(hostnames...), ModificationTag: tag(index)}
}

func lrp(guid string, n int32, tagIndex uint32) *workloadv1.ActualLRP {
	return &workloadv1.ActualLRP{
		Key:         &workloadv1.ActualLRPKey{ProcessGuid: guid, Index: n, Domain: "domain"},
		InstanceKey: &workloadv1.ActualLRPInstanceKey{InstanceGuid: fmt.Sprintf("%s-%d", guid, n), CellId: "cell-1"},
		NetInfo:     &workloadv1.ActualLRPNetInfo{Address: fmt.Sprintf("10.0.%d.%d", len(guid), n), Ports: []*workloadv1.PortMapping{{ContainerPort: 8080, HostPort: 61000}}},
		State:       workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING, Presence: workloadv1.Presence_PRESENCE_ORDINARY, Routable: true, ModificationTag: tag(tagIndex),
	}
}

func with(in *workloadv1.ActualLRP, change func(*workloadv1.ActualLRP)) *workloadv1.ActualLRP {
	change(in)
	return in
}

func snapshot(revision uint64, chunk *bbsv1.WatchResponse_SnapshotChunk) []*bbsv1.WatchResponse {
	return []*bbsv1.WatchResponse{
		{Message: &bbsv1.WatchResponse_SnapshotStart_{SnapshotStart: &bbsv1.WatchResponse_SnapshotStart{Revision: revision}}},
		{Message: &bbsv1.WatchResponse_SnapshotChunk_{SnapshotChunk: chunk}},
		{Message: &bbsv1.WatchResponse_SnapshotEnd_{SnapshotEnd: &bbsv1.WatchResponse_SnapshotEnd{Revision: revision}}},
	}
}

func fresh(names ...string) []*bbsv1.Domain {
	var out []*bbsv1.Domain
	for _, n := range names {
		out = append(out, &bbsv1.Domain{Domain: n})
	}
	return out
}

func changes(revision uint64, events ...*bbsv1.Event) *bbsv1.WatchResponse {
	return &bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_Changes_{Changes: &bbsv1.WatchResponse_Changes{Revision: revision, Events: events}}}
}

func bookmark(revision uint64) *bbsv1.WatchResponse {
	return &bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_Bookmark_{Bookmark: &bbsv1.WatchResponse_Bookmark{Revision: revision}}}
}

func desiredChanged(after *workloadv1.SchedulingInfo) *bbsv1.Event {
	return &bbsv1.Event{Event: &bbsv1.Event_DesiredLrpChanged{DesiredLrpChanged: &bbsv1.DesiredLRPChanged{After: after}}}
}

func created(a *workloadv1.ActualLRP) *bbsv1.Event {
	return &bbsv1.Event{Event: &bbsv1.Event_ActualLrpInstanceCreated{ActualLrpInstanceCreated: &bbsv1.ActualLRPInstanceCreated{ActualLrp: a}}}
}

func changed(before, after *workloadv1.ActualLRP) *bbsv1.Event {
	return &bbsv1.Event{Event: &bbsv1.Event_ActualLrpInstanceChanged{ActualLrpInstanceChanged: &bbsv1.ActualLRPInstanceChanged{Before: before, After: after}}}
}

func removed(a *workloadv1.ActualLRP) *bbsv1.Event {
	return &bbsv1.Event{Event: &bbsv1.Event_ActualLrpInstanceRemoved{ActualLrpInstanceRemoved: &bbsv1.ActualLRPInstanceRemoved{ActualLrp: a}}}
}

// start accepts the first stream and sends a snapshot of process "p" with route "a" and instance 0.
func (r *rig) start() *stream {
	r.t.Helper()
	s := r.accept()
	require.True(r.t, s.request.GetSnapshot(), "a watcher without table asks for a snapshot")
	r.send(s, snapshot(10, &bbsv1.WatchResponse_SnapshotChunk{
		DesiredLrps: []*workloadv1.SchedulingInfo{info(1, "a")}, ActualLrps: []*workloadv1.ActualLRP{lrp("p", 0, 1)}, Domains: fresh("domain"),
	})...)
	r.expect(10, "+a@10.0.1.0:61000")
	return s
}

func TestWatcherAsksForItsCell(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	require.ErrorContains(t, r.watcher.Status().Check(), "not reached yet")
	s := r.start()
	require.Equal(t, "cell-1", s.request.GetCellId())
	require.ElementsMatch(t, []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_DESIRED_LRP, bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP, bbsv1.WatchKind_WATCH_KIND_DOMAIN}, s.request.GetKinds())
	require.Eventually(t, func() bool { return r.watcher.Status().Check() == nil }, patience, time.Millisecond)
}

func TestWatcherEvents(t *testing.T) {
	t.Parallel()
	evacuating := func(a *workloadv1.ActualLRP) { a.Presence = workloadv1.Presence_PRESENCE_EVACUATING }
	suspect := func(a *workloadv1.ActualLRP) { a.Presence = workloadv1.Presence_PRESENCE_SUSPECT }
	unroutable := func(a *workloadv1.ActualLRP) { a.Routable = false }
	state := func(s workloadv1.ActualLRPState) func(*workloadv1.ActualLRP) {
		return func(a *workloadv1.ActualLRP) { a.State, a.NetInfo, a.Routable = s, nil, false }
	}
	elsewhere := func(a *workloadv1.ActualLRP) { a.InstanceKey.CellId = "cell-2" }
	claimed, crashed := state(workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED), state(workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CRASHED)
	tests := map[string]struct {
		event *bbsv1.Event
		want  []string
	}{
		"routes changed":                      {desiredChanged(info(2, "b")), []string{"+b@10.0.1.0:61000", "-a@10.0.1.0:61000"}},
		"routes of an older version":          {desiredChanged(info(0, "b")), nil},
		"scaled to zero":                      {desiredChanged(func() *workloadv1.SchedulingInfo { i := info(2, "a"); i.Instances = 0; return i }()), []string{"-a@10.0.1.0:61000"}},
		"desired removed":                     {&bbsv1.Event{Event: &bbsv1.Event_DesiredLrpRemoved{DesiredLrpRemoved: &bbsv1.DesiredLRPRemoved{DesiredLrp: info(1, "a")}}}, []string{"-a@10.0.1.0:61000"}},
		"another instance created":            {created(lrp("p", 1, 1)), []string{"+a@10.0.1.1:61000"}},
		"another instance created, claimed":   {created(with(lrp("p", 1, 1), claimed)), nil},
		"an instance begins to run":           {changed(with(lrp("p", 1, 1), claimed), lrp("p", 1, 2)), []string{"+a@10.0.1.1:61000"}},
		"a running instance becomes routable": {changed(with(lrp("p", 1, 1), unroutable), lrp("p", 1, 2)), []string{"+a@10.0.1.1:61000"}},
		"a running instance on another cell":  {created(with(lrp("p", 1, 1), elsewhere)), nil},
		"no longer routable":                  {changed(lrp("p", 0, 1), with(lrp("p", 0, 2), unroutable)), []string{"-a@10.0.1.0:61000"}},
		"crashed":                             {changed(lrp("p", 0, 1), with(lrp("p", 0, 2), crashed)), []string{"-a@10.0.1.0:61000"}},
		"removed":                             {removed(lrp("p", 0, 1)), []string{"-a@10.0.1.0:61000"}},
		"moved to another cell":               {changed(lrp("p", 0, 1), with(lrp("p", 0, 2), elsewhere)), []string{"-a@10.0.1.0:61000"}},
		"becomes evacuating":                  {changed(lrp("p", 0, 1), with(lrp("p", 0, 2), evacuating)), nil},
		"becomes suspect":                     {changed(lrp("p", 0, 1), with(lrp("p", 0, 2), suspect)), nil},
		"a repeated start":                    {changed(lrp("p", 0, 1), lrp("p", 0, 1)), nil},
		"a crash notice":                      {&bbsv1.Event{Event: &bbsv1.Event_ActualLrpCrashed{ActualLrpCrashed: &bbsv1.ActualLRPCrashed{}}}, nil},
		"a replaced instance": {changed(lrp("p", 0, 1), with(lrp("p", 0, 2), func(a *workloadv1.ActualLRP) {
			a.InstanceKey.InstanceGuid, a.NetInfo.Address = "new", "10.0.9.9"
		})), []string{"+a@10.0.9.9:61000", "-a@10.0.1.0:61000"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			s := r.start()
			r.send(s, changes(11, tc.event))
			r.expect(11, tc.want...)
		})
	}
}

func TestWatcherFetchesUnknownProcesses(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := r.start()
	r.bbs.setFetch(nil, &workloadv1.RoutingInfo{ProcessGuid: "qq", Domain: "domain", Instances: 1, Routes: routes("q"), ModificationTag: tag(1)})
	r.send(s, changes(11, created(lrp("qq", 0, 1))))
	r.expect(11, "+q@10.0.2.0:61000")
	r.send(s, changes(12, created(lrp("gone", 0, 1))))
	r.expect(12)
	r.send(s, changes(13, changed(lrp("qq", 0, 1), lrp("qq", 0, 2))))
	r.expect(13)
	r.bbs.mu.Lock()
	defer r.bbs.mu.Unlock()
	require.Equal(t, 2, r.bbs.fetches, "a known process with instances is not read again")
}

// TestWatcherReadsRoutesAgainAfterAbsence: while a process has no instance on the cell the stream does not tell of its
// routes.
func TestWatcherReadsRoutesAgainAfterAbsence(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := r.start()
	r.send(s, changes(11, removed(lrp("p", 0, 1))))
	r.expect(11, "-a@10.0.1.0:61000")
	r.bbs.setFetch(nil, &workloadv1.RoutingInfo{ProcessGuid: "p", Domain: "domain", Instances: 1, Routes: routes("new"), ModificationTag: tag(5)})
	r.send(s, changes(12, created(lrp("p", 0, 2))))
	r.expect(12, "+new@10.0.1.0:61000")
}

func TestWatcherTriesAgainWhenRoutesCannotBeRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := r.start()
	r.bbs.setFetch(fault.New(codes.Internal, "UnknownError", "broken").With("on purpose"))
	r.send(s, changes(11, created(lrp("qq", 0, 1))))
	s = r.accept()
	require.EqualValues(t, 10, s.request.GetAfterRevision(), "the revision that was not applied comes again")
	r.bbs.setFetch(nil, &workloadv1.RoutingInfo{ProcessGuid: "qq", Instances: 1, Routes: routes("q"), ModificationTag: tag(1)})
	r.send(s, changes(11, created(lrp("qq", 0, 1))))
	r.expect(11, "+q@10.0.2.0:61000")
}

func TestWatcherResumes(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := r.start()
	r.send(s, bookmark(15))
	r.expect(15)
	s.end <- errors.New("failing over")
	s = r.accept()
	require.EqualValues(t, 15, s.request.GetAfterRevision())
	require.Equal(t, []string{"a@10.0.1.0:61000"}, r.uris(), "meanwhile the table is as it was")
	require.ErrorContains(t, r.watcher.Status().Check(), "broken")
	r.send(s, changes(16, removed(lrp("p", 0, 1))))
	r.expect(16, "-a@10.0.1.0:61000")
	require.NoError(t, r.watcher.Status().Check())
}

func TestWatcherDoesNotResumeWithinARevision(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := r.start()
	part := changes(11, created(lrp("p", 1, 1)))
	part.GetChanges().More = true
	r.send(s, part)
	require.Eventually(t, func() bool { return len(r.uris()) == 2 }, patience, time.Millisecond)
	s.end <- errors.New("cut")
	s = r.accept()
	require.EqualValues(t, 10, s.request.GetAfterRevision())
	r.send(s, part, changes(11, created(lrp("p", 2, 1))))
	r.expect(11, "+a@10.0.1.1:61000", "+a@10.0.1.2:61000")
}

func TestWatcherTakesSnapshotOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := r.start()
	s.end <- errors.New("cut")
	s = r.accept()
	s.end <- fault.New(codes.OutOfRange, reasonRevisionFromFuture, "no such revision").With("10")
	s = r.accept()
	require.True(t, s.request.GetSnapshot())
	require.Equal(t, []string{"a@10.0.1.0:61000"}, r.uris(), "until the snapshot is there the table stays")
	r.send(s, snapshot(3, &bbsv1.WatchResponse_SnapshotChunk{
		DesiredLrps: []*workloadv1.SchedulingInfo{info(1, "a")}, ActualLrps: []*workloadv1.ActualLRP{lrp("p", 1, 1)}, Domains: fresh("domain"),
	})...)
	r.expect(3, "+a@10.0.1.1:61000", "-a@10.0.1.0:61000")
}

func TestWatcherUnaskedSnapshot(t *testing.T) {
	t.Parallel()
	instance := []*workloadv1.ActualLRP{lrp("p", 0, 1)}
	tests := map[string]struct {
		chunk *bbsv1.WatchResponse_SnapshotChunk
		want  []string
	}{
		"a process that is gone from a fresh domain loses its routes": {&bbsv1.WatchResponse_SnapshotChunk{ActualLrps: instance, Domains: fresh("domain")}, []string{"-a@10.0.1.0:61000"}},
		"one of a domain that is not fresh keeps them":                {&bbsv1.WatchResponse_SnapshotChunk{ActualLrps: instance, Domains: fresh("other")}, nil},
		"but an instance that is gone loses them in any case":         {&bbsv1.WatchResponse_SnapshotChunk{}, []string{"-a@10.0.1.0:61000"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			s := r.start()
			s.end <- errors.New("cut")
			s = r.accept()
			r.send(s, snapshot(20, tc.chunk)...)
			r.expect(20, tc.want...)
		})
	}
}

func TestWatcherSyncsFromTimeToTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.SyncInterval = 50 * time.Millisecond })
	s := r.start()
	again := make(chan *stream)
	go func() { again <- r.accept() }()
	for revision := uint64(11); ; revision++ {
		select {
		case s.send <- bookmark(revision):
			continue
		case s = <-again:
		}
		break
	}
	require.True(t, s.request.GetSnapshot())
	require.NoError(t, r.watcher.Status().Check(), "that is no loss of the stream")
}

func TestWatcherGivesUpSilentStream(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Silence = 100 * time.Millisecond })
	r.start()
	s := r.accept()
	require.EqualValues(t, 10, s.request.GetAfterRevision())
	require.Contains(t, r.log.String(), "fell silent")
}

func TestWatcherGlobal(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.CellID = "" })
	s := r.start()
	require.Empty(t, s.request.GetCellId())
	r.send(s, changes(11, created(with(lrp("p", 1, 1), func(a *workloadv1.ActualLRP) { a.InstanceKey.CellId = "cell-2" })), created(lrp("unknown", 0, 1))))
	r.expect(11, "+a@10.0.1.1:61000")
	require.Zero(t, r.bbs.fetches, "all routes are in the stream")
}

func TestWatcherReportsCollisions(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := r.start()
	thief := lrp("p", 0, 1)
	thief.InstanceKey.InstanceGuid, thief.Key.Index, thief.Since = "thief", 1, timestamppb.Now()
	r.send(s, changes(11, created(thief)))
	r.expect(11, "+a@10.0.1.0:61000")
	require.InDelta(t, 1, testutil.ToFloat64(r.watcher.metrics.collisions), 0)
	require.Contains(t, r.log.String(), "address-collision")
}

func TestWatcherWarnsOfBadRoutes(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := r.start()
	bad := info(2, "a")
	bad.Routes["internal-router"] = []byte("nonsense")
	r.send(s, changes(11, desiredChanged(bad)))
	r.expect(11)
	require.Contains(t, r.log.String(), "routes-not-understood")
	require.NotContains(t, r.log.String(), "nonsense", "routes are not ours to print")
}

func TestConvert(t *testing.T) {
	t.Parallel()
	in := &workloadv1.ActualLRP{
		Key:         &workloadv1.ActualLRPKey{ProcessGuid: "p", Index: 2, Domain: "d"},
		InstanceKey: &workloadv1.ActualLRPInstanceKey{InstanceGuid: "i", CellId: "c"},
		NetInfo: &workloadv1.ActualLRPNetInfo{
			Address: "h", InstanceAddress: "ca", PreferredAddress: workloadv1.PreferredAddress_PREFERRED_ADDRESS_INSTANCE,
			Ports: []*workloadv1.PortMapping{
				{ContainerPort: 1, HostPort: 2, ContainerTlsProxyPort: 3, HostTlsProxyPort: 4},
				{ContainerPort: 1, HostPort: 2, ContainerTlsProxyPort: 61443}, // for other containers, not for routers
			},
		},
		State: workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING, Presence: workloadv1.Presence_PRESENCE_EVACUATING, Routable: true,
		Since: timestamppb.New(time.Unix(5, 6)), AvailabilityZone: "z", ModificationTag: &workloadv1.ModificationTag{Epoch: "e", Index: 7},
	}
	want := routetable.Endpoint{
		ProcessGUID: "p", InstanceGUID: "i", Index: 2, Evacuating: true, CellID: "c", HostAddress: "h", ContainerAddress: "ca",
		Ports: []routetable.Port{{Container: 1, Host: 2, ContainerTLS: 3, HostTLS: 4}}, Preferred: routetable.PreferInstance, Zone: "z",
		Since: time.Unix(5, 6).UTC(), Tag: routetable.ModificationTag{Epoch: "e", Index: 7},
	}
	got, ok := endpoint(in, "c")
	require.True(t, ok)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("endpoint (-want +got):\n%s", diff)
	}
	gotDesired, err := desired(&workloadv1.RoutingInfo{
		ProcessGuid: "p", Domain: "d", LogGuid: "l", Instances: 3, Routes: routes("a"), ModificationTag: &workloadv1.ModificationTag{Epoch: "e", Index: 7},
		MetricTags: map[string]*workloadv1.MetricTagValue{
			"s": {Value: &workloadv1.MetricTagValue_Static{Static: "v"}},
			"i": {Value: &workloadv1.MetricTagValue_Dynamic{Dynamic: workloadv1.DynamicTag_DYNAMIC_TAG_INDEX}},
			"g": {Value: &workloadv1.MetricTagValue_Dynamic{Dynamic: workloadv1.DynamicTag_DYNAMIC_TAG_INSTANCE_GUID}},
		},
	})
	require.NoError(t, err)
	wantDesired := routetable.Desired{
		ProcessGUID: "p", Domain: "d", LogGUID: "l", Instances: 3, Tag: routetable.ModificationTag{Epoch: "e", Index: 7},
		Routes:     routetable.Routes{HTTP: []routetable.HTTPRoute{{Hostname: "a", ContainerPort: 8080}}},
		MetricTags: map[string]routetable.TagValue{"s": {Static: "v"}, "i": {Dynamic: routetable.TagIndex}, "g": {Dynamic: routetable.TagInstanceGUID}},
	}
	if diff := cmp.Diff(wantDesired, gotDesired); diff != "" {
		t.Errorf("desired (-want +got):\n%s", diff)
	}
	require.Equal(t, []string{"x", "y"}, slices.Collect(slices.Values(domainNames(fresh("x", "y")))))
}
