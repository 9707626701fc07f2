package store

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/watch"
	"diego.internal/bbs/internal/wire"
)

// entryOfEverything is the encoding of one row of each kind, put and gone, and events that share them.
func entryOfEverything(tb testing.TB) ([]byte, changes, []watch.Event) {
	tb.Helper()
	a := &lrp.Actual{
		Key: lrp.Key{ProcessGUID: "app", Index: 3}, InstanceKey: lrp.InstanceKey{InstanceGUID: "i", CellID: "c"},
		Domain: "d", State: lrp.Running, Presence: lrp.Evacuating, StopRequested: true, Revision: 9, Since: 5, Tag: lrp.ModificationTag{Epoch: "e"},
	}
	row := new(recordEncoder).actual(a)
	d := desired("app", 2)
	d.HealthyDefinitionID, d.Revision = "def-0", 9
	known := secrets{string(lrp.Conceal(secretRoute(d))): secretRoute(d)}
	new(recordEncoder).desired(d)
	c := changes{
		actuals: []*actualRow{row}, actualsGone: []actualID{{Key: lrp.Key{ProcessGUID: "gone", Index: 1}, presence: lrp.Suspect}},
		desireds: []*lrp.Desired{known.revealed(d)}, desiredsGone: []string{"gone"},
		tasks:     []*task.Task{{GUID: "t", Domain: "d", State: task.Pending, DefinitionDigest: "\x00", HasCallback: true, CreatedAt: 1}},
		tasksGone: []string{"gone"}, healthy: []healthyWrite{{guid: "app", id: "def-1"}},
		domains: []*lrp.Domain{{Name: "d", FreshUntil: lrp.FreshForever, Revision: 9}, {Name: "policy", Revision: 8}}, domainsGone: []string{"gone"},
	}
	events := []watch.Event{
		{Kind: watch.ActualChanged, Subject: "app", Domain: "d", Cells: []string{"c", "c2"}, Before: []byte("before"), After: row.encoded, TraceID: "t"},
		{Kind: watch.ActualRemoved, Subject: "app", Before: row.encoded},
		{Kind: watch.DomainChanged, Subject: "d", After: []byte("x")},
	}
	return new(entryEncoder).encode(&c, events), c, events
}

func TestEntryRoundTrip(t *testing.T) {
	t.Parallel()
	encoded, c, events := entryOfEverything(t)
	e, err := decodeEntry(encoded)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(events, e.events))
	onlyEvents, err := decodeEvents(encoded)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(events, onlyEvents))

	var puts []any
	var gone []string
	for _, r := range e.rows {
		if r.put == nil {
			gone = append(gone, r.name)
			continue
		}
		puts = append(puts, r.put)
	}
	require.Equal(t, []string{"gone", "gone", "gone", "gone"}, gone)
	concealed := *c.desireds[0]
	packDesired(&concealed, concealed.Encoded)
	require.Empty(t, cmp.Diff([]any{c.actuals[0], &concealed, c.tasks[0], c.healthy[0], c.domains[0], c.domains[1]}, puts,
		cmp.AllowUnexported(actualRow{}, healthyWrite{}), cmpopts.EquateEmpty()))
	require.Equal(t, c.actualsGone[0], e.rows[1].id)

	plain := encoded
	require.Less(t, len(plain), 3000+len(c.actuals[0].encoded), "a record that is a row and in two events is stored once")
	require.Equal(t, uint64(3), toBatch(3, time.Time{}, e.events).Revision)
}

func FuzzDecodeEntry(f *testing.F) {
	encoded, _, _ := entryOfEverything(f)
	f.Add(encoded)
	f.Add([]byte{0x12, 0x02, 0x08, 0x01})
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEntry(data)
		if err != nil {
			return
		}
		events, err := decodeEvents(data)
		if err != nil || !cmp.Equal(events, e.events) {
			t.Fatalf("decodeEvents says %v and %d events, decodeEntry %d", err, len(events), len(e.events))
		}
		for i := range e.rows {
			// Whatever was accepted has a key to be stored under, or names what is gone.
			if r := &e.rows[i]; r.put == nil && r.gone() == nil {
				t.Fatal("a row that is neither put nor gone")
			}
		}
	})
}

// TestEntryOfAnOlderRelease has the whole header of a desired LRP, and its scheduling info beside it.
func TestEntryOfAnOlderRelease(t *testing.T) {
	t.Parallel()
	d := desired("app", 2)
	d.HealthyDefinitionID, d.PreviousDefinitionID, d.CreatedAt, d.UpdatedAt, d.Revision = "def-0", "def-2", 1, 2, 9
	header, err := proto.Marshal(wire.Desired(d, true))
	known := secrets{string(lrp.Conceal(secretRoute(d))): secretRoute(d)}
	new(recordEncoder).desired(d)
	require.NoError(t, err)
	var e entryEncoder
	e.positions = map[*byte]uint64{}
	e.row(rowDesired, e.record(d.Encoded), func(m message) message { return m.blob(9, header) })
	older, err := decodeEntry(e.out)
	require.NoError(t, err)
	require.Len(t, older.rows, 1)
	require.Empty(t, cmp.Diff(d, older.rows[0].put))

	plain := new(entryEncoder).encode(&changes{desireds: []*lrp.Desired{known.revealed(d)}}, nil)
	now, err := decodeEntry(plain)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(d, now.rows[0].put))
	require.Less(t, len(plain), len(e.out))
}
