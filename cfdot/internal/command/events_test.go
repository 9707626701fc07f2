package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	bbsv1 "diego.internal/proto/bbs/v1"
	locketv1 "diego.internal/proto/locket/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

type watchStream = grpc.ServerStreamingServer[bbsv1.WatchResponse]

// sendOneOfEach sends what is asked for, a snapshot or the past with one event in it, or one event, and ends the stream.
func sendOneOfEach(q *bbsv1.WatchRequest, stream watchStream) error {
	if q.GetSnapshot() {
		return sendAll(stream, snapshotOf(&bbsv1.WatchResponse_SnapshotChunk{
			DesiredLrps: []*workloadv1.SchedulingInfo{{ProcessGuid: "p", Instances: 1}}, ActualLrps: []*workloadv1.ActualLRP{anInstance(0)},
			Tasks: []*workloadv1.Task{{TaskGuid: "t", State: workloadv1.TaskState_TASK_STATE_COMPLETED, Result: "42"}},
		})...)
	}
	event := &bbsv1.Event{Event: &bbsv1.Event_ActualLrpCrashed{ActualLrpCrashed: &bbsv1.ActualLRPCrashed{}}}
	if len(q.GetKinds()) > 0 && q.GetKinds()[0] == bbsv1.WatchKind_WATCH_KIND_TASK {
		event = &bbsv1.Event{Event: &bbsv1.Event_TaskRemoved{TaskRemoved: &bbsv1.TaskRemoved{Task: &workloadv1.Task{TaskGuid: "t"}}}}
	}
	if since := q.GetSince(); since != nil {
		return sendAll(stream, &bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_Bookmark_{Bookmark: &bbsv1.WatchResponse_Bookmark{Revision: 8, CompleteSince: since}}}, changes(9, false, event), bookmark(9))
	}
	return stream.Send(changes(9, false, event))
}

func sendAll(stream watchStream, messages ...*bbsv1.WatchResponse) error {
	for _, message := range messages {
		if err := stream.Send(message); err != nil {
			return err
		}
	}
	return nil
}

// snapshotOf surrounds what a snapshot has with its beginning and its end, at revision 5.
func snapshotOf(chunk *bbsv1.WatchResponse_SnapshotChunk) []*bbsv1.WatchResponse {
	return []*bbsv1.WatchResponse{
		{Message: &bbsv1.WatchResponse_SnapshotStart_{SnapshotStart: &bbsv1.WatchResponse_SnapshotStart{Revision: 5, Reason: bbsv1.WatchResponse_REASON_REQUESTED}}},
		{Message: &bbsv1.WatchResponse_SnapshotChunk_{SnapshotChunk: chunk}},
		{Message: &bbsv1.WatchResponse_SnapshotEnd_{SnapshotEnd: &bbsv1.WatchResponse_SnapshotEnd{Revision: 5}}},
	}
}

func changes(revision uint64, more bool, events ...*bbsv1.Event) *bbsv1.WatchResponse {
	return &bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_Changes_{Changes: &bbsv1.WatchResponse_Changes{
		Revision: revision, More: more, Events: events, CommittedAt: timestamppb.New(time.Unix(int64(revision), 0)),
	}}}
}

func bookmark(revision uint64) *bbsv1.WatchResponse {
	return &bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_Bookmark_{Bookmark: &bbsv1.WatchResponse_Bookmark{Revision: revision}}}
}

func crash(index int32) *bbsv1.Event {
	return &bbsv1.Event{Event: &bbsv1.Event_ActualLrpCrashed{ActualLrpCrashed: &bbsv1.ActualLRPCrashed{Key: &workloadv1.ActualLRPKey{ProcessGuid: "p", Index: index}}}}
}

// printedEvents are the events as "revision/index".
func printedEvents(t *testing.T, o outcome) string {
	t.Helper()
	var out []string
	for _, line := range o.lines() {
		var event struct {
			Revision uint64
			Data     struct{ Index int32 }
		}
		require.NoError(t, json.Unmarshal([]byte(line), &event))
		out = append(out, fmt.Sprintf("%d/%d", event.Revision, event.Data.Index))
	}
	return strings.Join(out, " ")
}

var errGone = fault.New(codes.Unavailable, "NotMaster", "this bbs is not active any more")

// TestEventsGoOnWhereTheyBroke breaks the stream after a bookmark, between revisions and inside one.
func TestEventsGoOnWhereTheyBroke(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	var calls atomic.Int32
	wrong := make(chan error, 10)
	expect := func(q *bbsv1.WatchRequest, after uint64) {
		if q.GetAfterRevision() != after || (q.GetStart() == nil) != (after == 0) {
			wrong <- fmt.Errorf("taken up after revision %d, not %d", q.GetAfterRevision(), after)
		}
	}
	p.bbs.watch = func(q *bbsv1.WatchRequest, stream watchStream) error {
		send := func(messages ...*bbsv1.WatchResponse) error {
			for _, message := range messages {
				if err := stream.Send(message); err != nil {
					return err
				}
			}
			return errGone
		}
		switch calls.Add(1) {
		case 1: // nothing happened yet, but it is known where nothing happened
			expect(q, 0)
			return send(bookmark(4))
		case 2:
			expect(q, 4)
			return send(changes(5, false, crash(1)), changes(6, true, crash(1), crash(2)))
		case 3: // the same revision again, in other parts
			expect(q, 5)
			return send(changes(6, true, crash(1)), changes(6, true, crash(2), crash(3)))
		case 4:
			expect(q, 5)
			return send(changes(6, true, crash(1), crash(2), crash(3)), changes(6, false, crash(4)))
		default:
			expect(q, 6)
			return errors.Join(stream.Send(changes(7, false, crash(1))), stream.Send(bookmark(9)))
		}
	}
	got := p.run("lrp-events", "-x")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Empty(t, got.errors)
	require.Equal(t, "5/1 6/1 6/2 6/3 6/4 7/1", printedEvents(t, got))
	select {
	case err := <-wrong:
		require.NoError(t, err)
	default:
	}
}

func TestEventsSayWhatIsLost(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.bbs.watch = func(_ *bbsv1.WatchRequest, stream watchStream) error {
		return errors.Join(
			stream.Send(&bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_SnapshotStart_{SnapshotStart: &bbsv1.WatchResponse_SnapshotStart{
				Revision: 90, Reason: bbsv1.WatchResponse_REASON_LOG_TRUNCATED,
			}}}),
			stream.Send(&bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_SnapshotChunk_{SnapshotChunk: &bbsv1.WatchResponse_SnapshotChunk{}}}),
			stream.Send(&bbsv1.WatchResponse{Message: &bbsv1.WatchResponse_SnapshotEnd_{SnapshotEnd: &bbsv1.WatchResponse_SnapshotEnd{Revision: 90}}}),
			stream.Send(changes(91, false, crash(1))),
		)
	}
	got := p.run("lrp-events", "--after", "5")
	require.Equal(t, ExitOK, got.exit)
	require.Equal(t, "91/1", printedEvents(t, got))
	require.Equal(t, "the log no longer holds what came after revision 5; events go on after revision 90\n", got.errors)
}

func TestEventsEnd(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	refusals := 0
	p.bbs.watch = func(*bbsv1.WatchRequest, watchStream) error {
		refusals++
		return fault.New(codes.OutOfRange, "RevisionFromFuture", "the log has not got there")
	}
	got := p.run("lrp-events", "--after", "99")
	require.Equal(t, ExitAPI, got.exit)
	require.Contains(t, got.errors, "Type: RevisionFromFuture")
	require.Equal(t, 1, refusals, "a refusal is not asked for again")

	p.bbs.watch = func(_ *bbsv1.WatchRequest, stream watchStream) error {
		<-stream.Context().Done()
		return nil
	}
	got = p.run("lrp-events", "--for", "50ms")
	require.Equal(t, ExitOK, got.exit, got.errors)

	p.bbs.watch = func(*bbsv1.WatchRequest, watchStream) error { return errGone }
	got = p.run("task-events", "--timeout", "1")
	require.Equal(t, ExitUnreachable, got.exit)
	require.Contains(t, got.errors, "Type: NotMaster")
}

func someHeld() []*locketv1.Held {
	return []*locketv1.Held{
		{
			Claim: &locketv1.Claim{Key: "bbs", Owner: "bbs-1", Type: locketv1.ClaimType_CLAIM_TYPE_LOCK}, Ttl: durationpb.New(15 * time.Second),
			ExpiresAt: timestamppb.New(time.Now().Add(10 * time.Second)), AcquiredAt: timestamppb.New(time.Now().Add(-time.Hour)), FencingToken: 3,
		},
		{Claim: &locketv1.Claim{Key: "cell-1", Owner: "cell-1", Value: "{}", Type: locketv1.ClaimType_CLAIM_TYPE_PRESENCE}, Ttl: durationpb.New(5 * time.Second)},
	}
}

func TestLocket(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.locket.held = someHeld()
	var lock map[string]any
	require.NoError(t, json.Unmarshal([]byte(p.run("locks").out), &lock))
	require.Equal(t, "lock", lock["type"])
	require.InDelta(t, 1, lock["type_code"], 0)
	require.Equal(t, "bbs-1", lock["owner"])
	var presence map[string]any
	require.NoError(t, json.Unmarshal([]byte(p.run("presences").out), &presence))
	require.Equal(t, "presence", presence["type"])
	require.Equal(t, "{}", presence["value"])

	require.Equal(t, []string{"listed bbs", "expired bbs"}, squeezed(p.run("locks", "-w", "-o", "custom=CHANGE:.change,KEY:.record.key", "--no-headers")))

	require.Equal(t, ExitOK, p.run("claim-presence", "--key", "c", "--owner", "me", "--value", "v", "--ttl", "7").exit)
	require.Equal(t, "c", p.locket.locked.GetClaim().GetKey())
	require.Equal(t, "me", p.locket.locked.GetClaim().GetOwner())
	require.Equal(t, "v", p.locket.locked.GetClaim().GetValue())
	require.Equal(t, locketv1.ClaimType_CLAIM_TYPE_PRESENCE, p.locket.locked.GetClaim().GetType())
	require.Equal(t, 7*time.Second, p.locket.locked.GetTtl().AsDuration())
	require.Equal(t, ExitOK, p.run("release-lock", "-k", "c", "-o", "me").exit)
	require.Equal(t, "c", p.locket.released.GetKey())

	p.locket.err = fault.New(codes.AlreadyExists, "LockCollision", "another holds it")
	got := p.run("claim-lock", "-k", "bbs", "-o", "me", "-t", "5")
	require.Equal(t, ExitAPI, got.exit)
	require.Equal(t, "Locket error\nType 30: LockCollision\nMessage: AlreadyExists: another holds it\n", got.withoutRequest(t))
	got = p.run("claim-lock", "-k", "bbs", "-o", "me", "-t", "5", "--output", "json")
	var document struct{ Error map[string]string }
	require.NoError(t, json.Unmarshal([]byte(got.errors), &document))
	require.Regexp(t, "^[0-9a-f]{32}$", document.Error["request_id"])
	delete(document.Error, "request_id")
	require.Equal(t, map[string]string{"code": "AlreadyExists", "name": "LockCollision", "message": "another holds it"}, document.Error)
}
