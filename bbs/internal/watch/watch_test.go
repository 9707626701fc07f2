package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// archive holds batches from a revision on.
type archive struct {
	batches []*Batch // all of them, from revision 1
	from    uint64   // the first that is still held
	reads   int
}

func (a *archive) ReadLog(_ context.Context, after uint64, _ int) ([]*Batch, error) {
	a.reads++
	if after+1 < a.from {
		return nil, ErrTruncated
	}
	return a.batches[after:min(after+3, uint64(len(a.batches)))], nil
}

// batch has one event about a guid on a cell.
func batch(revision uint64, cell string) *Batch {
	return &Batch{Revision: revision, At: time.Unix(int64(revision), 0), Events: []Event{{
		Kind: ActualCreated, Subject: fmt.Sprint("app-", revision), Domain: "d", Cells: []string{cell}, After: []byte{},
	}}}
}

func TestCursorReadsMemoryAndArchiveAsOne(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.IntRange(1, 200).Draw(t, "batches")
		held := rapid.IntRange(1, 60).Draw(t, "in memory")
		start := rapid.IntRange(0, total).Draw(t, "start")
		step := rapid.IntRange(1, 50).Draw(t, "read between appends")
		cells := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), total, total).Draw(t, "cells")
		filter := All()
		filter.CellID = rapid.SampledFrom([]string{"", "a"}).Draw(t, "filter")

		a := &archive{from: 1}
		l := NewLog(Config{MaxBytes: held * batch(1, "a").footprint(), Archive: a})
		var cursor *Cursor
		var got, want []uint64
		for i := range total {
			b := batch(uint64(i+1), cells[i])
			a.batches = append(a.batches, b)
			l.Append(b)
			if i+1 > start && (filter.CellID == "" || cells[i] == filter.CellID) {
				want = append(want, b.Revision)
			}
			if i+1 < start {
				continue
			}
			if cursor == nil {
				var err error
				if cursor, err = l.Cursor(uint64(start), filter); err != nil {
					t.Fatal(err)
				}
			}
			if i%step != 0 && i != total-1 {
				continue // a reader that takes its time
			}
			for {
				next, err := cursor.Next(context.Background(), 0)
				if err != nil {
					t.Fatal(err)
				}
				if next == nil {
					break
				}
				got = append(got, next.Revision)
			}
			if cursor.Position() != uint64(i+1) {
				t.Fatalf("after an idle time the position is %d, want %d", cursor.Position(), i+1)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("revisions (-want +got):\n%s", diff)
		}
	})
}

// A reader counts once for each time that it falls behind, however much it has to read then.
func TestFallingBehindIsCounted(t *testing.T) {
	t.Parallel()
	a := &archive{from: 1}
	l := NewLog(Config{MaxBytes: 2 * batch(1, "a").footprint(), Archive: a})
	cursor, err := l.Cursor(0, All())
	require.NoError(t, err)
	revision := uint64(0)
	appendAndRead := func(n int) {
		for range n {
			revision++
			b := batch(revision, "a")
			a.batches = append(a.batches, b)
			l.Append(b)
		}
		for range n {
			_, err := cursor.Next(t.Context(), 0)
			require.NoError(t, err)
		}
	}
	appendAndRead(2)
	require.Zero(t, l.Behind(), "memory had it all")
	appendAndRead(50)
	require.EqualValues(t, 1, l.Behind())
	appendAndRead(1)
	appendAndRead(50)
	require.EqualValues(t, 2, l.Behind())
}

func TestCursorSaysWhatTheLogNoLongerHolds(t *testing.T) {
	t.Parallel()
	a := &archive{from: 5}
	l := NewLog(Config{MaxBytes: 1, Archive: a})
	for i := range uint64(10) {
		b := batch(i+1, "a")
		a.batches = append(a.batches, b)
		l.Append(b)
	}
	old, err := l.Cursor(3, All())
	require.NoError(t, err)
	defer old.Close()
	_, err = old.Next(t.Context(), time.Minute)
	require.ErrorIs(t, err, ErrTruncated)

	kept, err := l.Cursor(4, All())
	require.NoError(t, err)
	defer kept.Close()
	next, err := kept.Next(t.Context(), time.Minute)
	require.NoError(t, err)
	require.Equal(t, uint64(5), next.Revision)

	_, err = l.Cursor(11, All())
	require.ErrorIs(t, err, ErrFuture)
}

func TestCursorOfACellIsWokenByItOnly(t *testing.T) {
	t.Parallel()
	l := NewLog(Config{MaxBytes: 1 << 20, Archive: &archive{}})
	filter := All()
	filter.CellID = "mine"
	c, err := l.Cursor(0, filter)
	require.NoError(t, err)
	defer c.Close()
	l.Append(batch(1, "other"))
	require.Empty(t, c.wake)
	l.Append(batch(2, "mine"))
	require.Len(t, c.wake, 1)
	next, err := c.Next(t.Context(), time.Minute)
	require.NoError(t, err)
	require.Equal(t, uint64(2), next.Revision)
	c.Close()
	require.Empty(t, l.byCell)
}

// Under load a watcher gets several batches at once, a moment later; what comes now and then it gets at once.
func TestCursorRestsAfterManyEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := NewLog(Config{MaxBytes: 1 << 20, Archive: &archive{}})
		c, err := l.Cursor(0, All())
		require.NoError(t, err)
		defer c.Close()
		revision := uint64(0)
		write := func(events int) {
			revision++
			b := batch(revision, "a")
			for len(b.Events) < events {
				b.Events = append(b.Events, b.Events[0])
			}
			l.Append(b)
		}
		next := func() time.Duration {
			began := time.Now()
			b, err := c.Next(t.Context(), time.Minute)
			require.NoError(t, err)
			require.NotNil(t, b)
			return time.Since(began)
		}
		for range 3 {
			write(1)
			require.LessOrEqual(t, next(), restPerEvent, "one event rests hardly")
		}
		time.AfterFunc(time.Second, func() { write(1) })
		require.Equal(t, time.Second, next(), "a cursor that waits is woken at once")

		write(1000)
		_ = next()
		time.AfterFunc(time.Millisecond, func() { write(1000); write(1000) })
		require.Equal(t, maxRest, next(), "there was a batch before, but no hurry")
		require.Zero(t, next(), "the next one had come meanwhile")
	})
}

func TestCursorEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l := NewLog(Config{MaxBytes: 1 << 20, Archive: &archive{}})
	c, err := l.Cursor(0, All())
	require.NoError(t, err)
	defer c.Close()
	why := errors.New("the client left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err = c.Next(ctx, time.Minute)
	require.ErrorIs(t, err, why)
}

func TestWakeReturnsFromNext(t *testing.T) {
	t.Parallel()
	l := NewLog(Config{MaxBytes: 1 << 20, Archive: &archive{}})
	c, err := l.Cursor(0, All())
	require.NoError(t, err)
	defer c.Close()
	l.Wake()
	next, err := c.Next(t.Context(), time.Hour)
	require.NoError(t, err)
	require.Nil(t, next)
}

func encoded(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return b
}

func TestMessagesDecodeAsTheContractSays(t *testing.T) {
	t.Parallel()
	before := &workloadv1.ActualLRP{Key: &workloadv1.ActualLRPKey{ProcessGuid: "app"}, State: workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED}
	after := &workloadv1.ActualLRP{Key: &workloadv1.ActualLRPKey{ProcessGuid: "app"}, State: workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING}
	crash := &bbsv1.ActualLRPCrashed{CrashCount: 2, CrashReason: "why"}
	domain := &bbsv1.DomainChanged{Domain: &bbsv1.Domain{Domain: "d"}, Fresh: true}
	b := &Batch{Revision: 7, At: time.Unix(100, 5), Events: []Event{
		{Kind: ActualChanged, Subject: "app", Before: encoded(t, before), After: encoded(t, after), TraceID: "trace"},
		{Kind: ActualCreated, Subject: "app", After: encoded(t, after)},
		{Kind: ActualRemoved, Subject: "app", Before: encoded(t, before)},
		{Kind: ActualCrashed, Subject: "app", After: encoded(t, crash)},
		{Kind: DomainChanged, Subject: "d", After: encoded(t, domain)},
	}}
	want := []*bbsv1.Event{
		{TraceId: "trace", Event: &bbsv1.Event_ActualLrpInstanceChanged{ActualLrpInstanceChanged: &bbsv1.ActualLRPInstanceChanged{Before: before, After: after}}},
		{Event: &bbsv1.Event_ActualLrpInstanceCreated{ActualLrpInstanceCreated: &bbsv1.ActualLRPInstanceCreated{ActualLrp: after}}},
		{Event: &bbsv1.Event_ActualLrpInstanceRemoved{ActualLrpInstanceRemoved: &bbsv1.ActualLRPInstanceRemoved{ActualLrp: before}}},
		{Event: &bbsv1.Event_ActualLrpCrashed{ActualLrpCrashed: crash}},
		{Event: &bbsv1.Event_DomainChanged{DomainChanged: domain}},
	}
	all, lrpsOnly := All(), Filter{Groups: GroupActual}
	for name, tc := range map[string]struct {
		filter *Filter
		want   []*bbsv1.Event
	}{
		"everything":      {&all, want},
		"actual LRPs":     {&lrpsOnly, want[:4]},
		"nothing passes":  {&Filter{Groups: GroupTask}, nil},
		"another subject": {&Filter{Groups: GroupAll, Subjects: map[string]bool{"d": true}}, want[4:]},
	} {
		var got []*bbsv1.Event
		for _, raw := range b.Messages(tc.filter) {
			var m bbsv1.WatchResponse
			require.NoError(t, proto.Unmarshal(raw, &m), name)
			require.Equal(t, uint64(7), m.GetChanges().GetRevision())
			require.Equal(t, b.At.UTC(), m.GetChanges().GetCommittedAt().AsTime())
			require.False(t, m.GetChanges().GetMore())
			got = append(got, m.GetChanges().GetEvents()...)
		}
		require.Empty(t, cmp.Diff(tc.want, got, protocmp.Transform()), name)
	}
}

// What the watcher leaves out is left out of instances only, and of no one else's events.
func TestInstancesWithoutTags(t *testing.T) {
	t.Parallel()
	whole := &workloadv1.ActualLRP{
		Key: &workloadv1.ActualLRPKey{ProcessGuid: "app"}, InternalRoutes: []string{"a.internal", ""}, MetricTags: map[string]string{"a": "1", "b": ""},
		AvailabilityZone: "z1", Revision: 3,
	}
	short := proto.CloneOf(whole)
	short.InternalRoutes, short.MetricTags = nil, nil
	other := proto.CloneOf(short)
	other.State = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING
	desired := &workloadv1.SchedulingInfo{ProcessGuid: "app", UpdateStrategy: 1, CrashRestartPolicy: &workloadv1.CrashRestartPolicy{}} // fields 10 and 11
	b := &Batch{Revision: 7, At: time.Unix(100, 5), Events: []Event{
		{Kind: ActualChanged, Before: encoded(t, other), After: encoded(t, whole)},
		{Kind: ActualCreated, After: encoded(t, whole)},
		{Kind: ActualRemoved, Before: encoded(t, whole)},
		{Kind: DesiredCreated, After: encoded(t, desired)},
	}}
	for name, tc := range map[string]struct {
		filter Filter
		want   *workloadv1.ActualLRP
	}{
		"whole":                 {Filter{Groups: GroupAll}, whole},
		"without tags":          {Filter{Groups: GroupAll, WithoutTags: true}, short},
		"without tags, by cell": {Filter{Groups: GroupAll, WithoutTags: true, Subjects: map[string]bool{"": true}}, short},
	} {
		messages := b.Messages(&tc.filter)
		require.Len(t, messages, 1, name)
		var m bbsv1.WatchResponse
		require.NoError(t, proto.Unmarshal(messages[0], &m), name)
		want := []*bbsv1.Event{
			{Event: &bbsv1.Event_ActualLrpInstanceChanged{ActualLrpInstanceChanged: &bbsv1.ActualLRPInstanceChanged{Before: other, After: tc.want}}},
			{Event: &bbsv1.Event_ActualLrpInstanceCreated{ActualLrpInstanceCreated: &bbsv1.ActualLRPInstanceCreated{ActualLrp: tc.want}}},
			{Event: &bbsv1.Event_ActualLrpInstanceRemoved{ActualLrpInstanceRemoved: &bbsv1.ActualLRPInstanceRemoved{ActualLrp: tc.want}}},
			{Event: &bbsv1.Event_DesiredLrpCreated{DesiredLrpCreated: &bbsv1.DesiredLRPCreated{DesiredLrp: desired}}},
		}
		require.Empty(t, cmp.Diff(want, m.GetChanges().GetEvents(), protocmp.Transform()), name)
	}
}

func TestLargeBatchesComeInSeveralMessages(t *testing.T) {
	t.Parallel()
	b := &Batch{Revision: 1}
	for range 5 {
		big := &workloadv1.ActualLRP{CrashReason: strings.Repeat("x", maxMessage*2/5)}
		b.Events = append(b.Events, Event{Kind: ActualCreated, After: encoded(t, big)})
	}
	all := All()
	messages := b.Messages(&all)
	require.Len(t, messages, 3)
	events := 0
	for i, raw := range messages {
		var m bbsv1.WatchResponse
		require.NoError(t, proto.Unmarshal(raw, &m))
		require.Equal(t, i < 2, m.GetChanges().GetMore())
		events += len(m.GetChanges().GetEvents())
		require.LessOrEqual(t, len(raw), maxMessage+(1<<10))
	}
	require.Equal(t, 5, events)
}

func TestWatchersOfTheSameKindsShareEncodings(t *testing.T) {
	t.Parallel()
	l := NewLog(Config{MaxBytes: 1 << 20, Archive: &archive{}})
	first := batch(1, "a")
	l.Append(first)
	filters := []Filter{All(), {Groups: GroupActual | GroupDesired}}
	share := func(f Filter) bool {
		one, other := first.Messages(&f), first.Messages(&f)
		require.Len(t, one, 1)
		require.Equal(t, one, other)
		return &one[0][0] == &other[0][0]
	}
	for _, f := range filters {
		require.True(t, share(f), "one encoding, not one per watcher")
	}
	for revision := range uint64(sharing) {
		require.True(t, share(filters[0]), "after %d more", revision)
		l.Append(batch(revision+2, "a"))
	}
	require.False(t, share(filters[0]), "an old batch keeps none")
}
