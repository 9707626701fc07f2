package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/store"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
)

// watch opens a watch that ends with the test.
func (h *harness) watch(conn *grpc.ClientConn, req *bbsv1.WatchRequest) grpc.ServerStreamingClient[bbsv1.WatchResponse] {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	h.t.Cleanup(cancel)
	stream, err := bbsv1.NewWatchClient(conn).Watch(ctx, req)
	require.NoError(h.t, err)
	return stream
}

// nextChanges skips bookmarks.
func nextChanges(t *testing.T, stream grpc.ServerStreamingClient[bbsv1.WatchResponse]) *bbsv1.WatchResponse_Changes {
	t.Helper()
	for {
		m, err := stream.Recv()
		require.NoError(t, err)
		if m.GetChanges() != nil {
			return m.GetChanges()
		}
		require.NotNil(t, m.GetBookmark(), "neither changes nor a bookmark: %v", m)
	}
}

func kindsOf(events []*bbsv1.Event) []string {
	var kinds []string
	for _, e := range events {
		kinds = append(kinds, fmt.Sprintf("%T", e.GetEvent()))
	}
	return kinds
}

func TestWatchTellsChangesInOrder(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	stream := h.watch(h.operator(), &bbsv1.WatchRequest{})
	first, err := stream.Recv()
	require.NoError(t, err)
	require.NotNil(t, first.GetBookmark(), "the client learns where it begins")

	h.desire("app", 1)
	created := nextChanges(t, stream)
	require.Equal(t, uint64(1), created.GetRevision())
	require.Equal(t, []string{"*bbsv1.Event_DesiredLrpCreated", "*bbsv1.Event_ActualLrpInstanceCreated"}, kindsOf(created.GetEvents()))
	require.Equal(t, "app", created.GetEvents()[0].GetDesiredLrpCreated().GetDesiredLrp().GetProcessGuid())
	require.NotContains(t, created.GetEvents()[0].GetDesiredLrpCreated().GetDesiredLrp().GetRoutes(), "diego-ssh")
	require.WithinDuration(t, time.Now(), created.GetCommittedAt().AsTime(), time.Minute)

	h.run("app", 0, "cell-1")
	claimed, started := nextChanges(t, stream), nextChanges(t, stream)
	require.Equal(t, workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED, claimed.GetEvents()[0].GetActualLrpInstanceChanged().GetAfter().GetState())
	change := started.GetEvents()[0].GetActualLrpInstanceChanged()
	require.Equal(t, workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED, change.GetBefore().GetState())
	require.Equal(t, workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING, change.GetAfter().GetState())
	require.Equal(t, started.GetRevision(), change.GetAfter().GetRevision())

	_, err = bbsv1.NewActualLRPCellClient(h.cell("cell-1")).CrashActualLRP(t.Context(), &bbsv1.CrashActualLRPRequest{
		Key: actualKey("app", 0), InstanceKey: instanceKey("app-instance", "cell-1"), CrashReason: "exited with 1",
	})
	require.NoError(t, err)
	crashed := nextChanges(t, stream)
	require.Equal(t, []string{"*bbsv1.Event_ActualLrpCrashed", "*bbsv1.Event_ActualLrpInstanceCreated", "*bbsv1.Event_ActualLrpInstanceRemoved"}, kindsOf(crashed.GetEvents()))
	crash := crashed.GetEvents()[0].GetActualLrpCrashed()
	require.Equal(t, int32(1), crash.GetCrashCount())
	require.Equal(t, "cell-1", crash.GetInstanceKey().GetCellId())
	require.Equal(t, "exited with 1", crash.GetCrashReason())
}

func TestWatchResumesWhereItStopped(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for i := range 5 {
		h.desire(fmt.Sprint("app-", i), 1)
	}
	stream := h.watch(h.operator(), &bbsv1.WatchRequest{Start: &bbsv1.WatchRequest_AfterRevision{AfterRevision: 2}})
	for want := uint64(3); want <= 5; want++ {
		require.Equal(t, want, nextChanges(t, stream).GetRevision())
	}
	h.desire("new", 1)
	require.Equal(t, uint64(6), nextChanges(t, stream).GetRevision())

	future := h.watch(h.operator(), &bbsv1.WatchRequest{Start: &bbsv1.WatchRequest_AfterRevision{AfterRevision: 99}})
	_, err := future.Recv()
	require.Equal(t, "RevisionFromFuture", fault.Reason(err))
}

func TestWatchAfterTruncationSendsASnapshot(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for i := range 3 {
		h.desire(fmt.Sprint("app-", i), 1)
	}
	// Neither memory nor the archive reach back to the beginning.
	h.store.Watch().Reset(3)
	h.truncateArchive(2)
	stream := h.watch(h.operator(), &bbsv1.WatchRequest{Start: &bbsv1.WatchRequest_AfterRevision{AfterRevision: 0}})
	start, err := stream.Recv()
	require.NoError(t, err)
	require.Equal(t, bbsv1.WatchResponse_REASON_LOG_TRUNCATED, start.GetSnapshotStart().GetReason())
	desired, actual := h.readSnapshot(stream)
	require.Len(t, desired, 3)
	require.Len(t, actual, 3)
	h.desire("new", 1)
	require.Equal(t, uint64(4), nextChanges(t, stream).GetRevision())

	refusing := h.watch(h.operator(), &bbsv1.WatchRequest{Start: &bbsv1.WatchRequest_AfterRevision{AfterRevision: 0}, RefuseSnapshot: true})
	_, err = refusing.Recv()
	require.Equal(t, codes.OutOfRange, fault.Code(err))
	require.Equal(t, "RevisionTooOld", fault.Reason(err))
}

// TestWatchSinceATime reads history: where it begins, what happened since, and the end.
func TestWatchSinceATime(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for i := range 3 {
		h.desire(fmt.Sprint("app-", i), 1)
	}
	day := 24 * time.Hour
	_, err := h.pool.Exec(t.Context(), `update batch_log set at = at - interval '1 day' where revision < 3`)
	require.NoError(t, err)
	history := func(age time.Duration, guids ...string) (start *bbsv1.WatchResponse_Bookmark, revisions []uint64) {
		t.Helper()
		stream := h.watch(h.operator(), &bbsv1.WatchRequest{
			Start: &bbsv1.WatchRequest_Since{Since: timestamppb.New(time.Now().Add(-age))}, ProcessGuids: guids, UntilNewest: true,
		})
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return start, revisions
			}
			require.NoError(t, err)
			if changes := m.GetChanges(); changes != nil {
				revisions = append(revisions, changes.GetRevision())
			} else if start == nil {
				start = m.GetBookmark()
			}
		}
	}
	start, revisions := history(time.Hour)
	require.Equal(t, uint64(2), start.GetRevision())
	require.WithinDuration(t, time.Now().Add(-time.Hour), start.GetCompleteSince().AsTime(), time.Minute)
	require.Equal(t, []uint64{3}, revisions)
	start, revisions = history(2 * day)
	require.Zero(t, start.GetRevision())
	require.WithinDuration(t, time.Now().Add(-2*day), start.GetCompleteSince().AsTime(), time.Minute, "before the first revision nothing happened")
	require.Equal(t, []uint64{1, 2, 3}, revisions)
	_, revisions = history(2*day, "app-1")
	require.Equal(t, []uint64{2}, revisions)
	start, revisions = history(0)
	require.Equal(t, uint64(3), start.GetRevision())
	require.Empty(t, revisions)

	h.store.Watch().Reset(3)
	h.truncateArchive(1)
	start, revisions = history(2 * day)
	require.WithinDuration(t, time.Now().Add(-day), start.GetCompleteSince().AsTime(), time.Minute, "the log says how far back it reaches")
	require.Equal(t, []uint64{2, 3}, revisions)
}

// readSnapshot reads what follows the start of a snapshot up to its end.
func (h *harness) readSnapshot(stream grpc.ServerStreamingClient[bbsv1.WatchResponse]) (desired []*workloadv1.SchedulingInfo, actual []*workloadv1.ActualLRP) {
	h.t.Helper()
	for {
		m, err := stream.Recv()
		require.NoError(h.t, err)
		if m.GetSnapshotEnd() != nil {
			return desired, actual
		}
		require.NotNil(h.t, m.GetSnapshotChunk())
		desired = append(desired, m.GetSnapshotChunk().GetDesiredLrps()...)
		actual = append(actual, m.GetSnapshotChunk().GetActualLrps()...)
	}
}

func TestWatchOfACellSeesItsOwn(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.desire("mine", 1)
	h.desire("other", 1)
	h.run("mine", 0, "cell-1")
	h.run("other", 0, "cell-2")
	// A cell that asks for everything gets what concerns it; so does its route emitter that says so.
	for name, stream := range map[string]grpc.ServerStreamingClient[bbsv1.WatchResponse]{
		"cell":    h.watch(h.cell("cell-1"), &bbsv1.WatchRequest{Start: &bbsv1.WatchRequest_Snapshot{Snapshot: true}}),
		"emitter": h.watch(h.as(mtls.RoleRouteEmitter, "cell-1"), &bbsv1.WatchRequest{CellId: "cell-1", Start: &bbsv1.WatchRequest_Snapshot{Snapshot: true}}),
	} {
		start, err := stream.Recv()
		require.NoError(t, err, name)
		require.Equal(t, bbsv1.WatchResponse_REASON_REQUESTED, start.GetSnapshotStart().GetReason())
		desired, actual := h.readSnapshot(stream)
		require.Len(t, desired, 1)
		require.Equal(t, "mine", desired[0].GetProcessGuid())
		require.Len(t, actual, 1)

		bookmark, err := stream.Recv()
		require.NoError(t, err)
		require.Equal(t, h.store.Committed().Revision(), bookmark.GetBookmark().GetRevision(), "quiet times carry the revision forward")
	}
	stream := h.watch(h.cell("cell-1"), &bbsv1.WatchRequest{})
	_, err := stream.Recv()
	require.NoError(t, err)
	desired := bbsv1.NewDesiredLRPsClient(h.operator())
	for _, guid := range []string{"other", "mine"} {
		_, err := desired.RemoveDesiredLRP(t.Context(), &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: guid})
		require.NoError(t, err)
	}
	removed := nextChanges(t, stream)
	require.Equal(t, "mine", removed.GetEvents()[0].GetDesiredLrpRemoved().GetDesiredLrp().GetProcessGuid())
}

func TestWatchFilters(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	stream := h.watch(h.operator(), &bbsv1.WatchRequest{
		Kinds: []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_DESIRED_LRP}, ProcessGuids: []string{"app"}, Domain: "cf-apps",
	})
	_, err := stream.Recv()
	require.NoError(t, err)
	h.desire("other", 1)
	h.desire("app", 1)
	changes := nextChanges(t, stream)
	require.Equal(t, []string{"*bbsv1.Event_DesiredLrpCreated"}, kindsOf(changes.GetEvents()))
	require.Equal(t, uint64(2), changes.GetRevision())
}

func TestWatchEndsWithMastership(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	stream := h.watch(h.operator(), &bbsv1.WatchRequest{})
	_, err := stream.Recv()
	require.NoError(t, err)
	h.held.Store(false)
	for err == nil {
		_, err = stream.Recv()
	}
	require.Equal(t, "NotMaster", fault.Reason(err))
}

// TestWatchThatStallsLosesNothing lets a watcher stop reading while 20,000 instances start, many times more than what gRPC and
// the log in memory hold for it. Nobody waits for it, and afterwards it reads every event once and in order.
func TestWatchThatStallsLosesNothing(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	const instances, rounds = 100, 200
	h.desire("app", instances)
	stream := h.watch(h.operator(), &bbsv1.WatchRequest{Kinds: []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP}})
	first, err := stream.Recv()
	require.NoError(t, err)
	require.Equal(t, h.store.Committed().Revision(), first.GetBookmark().GetRevision())

	for round := range rounds {
		_, err := h.store.Apply(t.Context(), func(tx *store.Tx) error {
			for index := range int32(instances) {
				key := lrp.Key{ProcessGUID: "app", Index: index}
				report := reportOf(startRequest("app", index, instanceKey(fmt.Sprint("instance-", index), "cell-1")))
				report.NetInfo.Ports[0].HostPort = uint16(61000 + round)
				before := tx.Instance(key)
				after, err := lrp.Start(before, report, lrp.Stamp{Now: time.Unix(int64(round), 0), Epoch: "epoch"})
				if err != nil {
					return err
				}
				tx.PutInstance(before, after)
			}
			return nil
		})
		require.NoError(t, err)
		if round == rounds/2 {
			h.store.Watch().Reset(h.store.Committed().Revision()) // memory has moved on without the watcher
		}
	}

	last := make([]uint32, instances)
	for events := 0; events < instances*rounds; {
		for _, event := range nextChanges(t, stream).GetEvents() {
			after := event.GetActualLrpInstanceChanged().GetAfter()
			port, index := after.GetNetInfo().GetPorts()[0].GetHostPort(), after.GetKey().GetIndex()
			if last[index] != 0 {
				require.Equal(t, last[index]+1, port, "instance %d", index)
			}
			last[index] = port
			events++
		}
	}
	require.Equal(t, slices.Repeat([]uint32{61000 + rounds - 1}, instances), last)
}

// A router that has no use for the tags of instances gets none, neither in a snapshot nor in what follows.
func TestWatchWithoutInstanceTags(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.desire("app", 2)
	h.run("app", 0, "cell-1")
	for _, without := range []bool{false, true} {
		stream := h.watch(h.operator(), &bbsv1.WatchRequest{
			Start: &bbsv1.WatchRequest_Snapshot{Snapshot: true}, WithoutInstanceTags: without,
			Kinds: []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP},
		})
		_, err := stream.Recv()
		require.NoError(t, err)
		_, actual := h.readSnapshot(stream)
		require.Len(t, actual, 2)
		require.Equal(t, without, len(actual[0].GetMetricTags()) == 0 && len(actual[0].GetInternalRoutes()) == 0)
		require.Equal(t, "10.0.0.1", actual[0].GetNetInfo().GetAddress())

		report := startRequest("app", 0, instanceKey("app-instance", "cell-1"))
		report.MetricTags["generation"] = fmt.Sprint(without)
		_, err = bbsv1.NewActualLRPCellClient(h.cell("cell-1")).StartActualLRP(t.Context(), report)
		require.NoError(t, err)
		change := nextChanges(t, stream).GetEvents()[0].GetActualLrpInstanceChanged()
		require.Equal(t, without, len(change.GetBefore().GetMetricTags()) == 0 && len(change.GetAfter().GetInternalRoutes()) == 0)
		require.Equal(t, change.GetBefore().GetModificationTag().GetIndex()+1, change.GetAfter().GetModificationTag().GetIndex())
	}
}
