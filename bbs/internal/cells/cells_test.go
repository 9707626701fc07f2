package cells

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	"diego.internal/bbs/internal/effect"
	"diego.internal/locket/lockclient"
	workloadv1 "diego.internal/proto/workload/v1"
)

// heard writes down what a listener is told.
type heard struct{ lines []string }

func (h *heard) CellsSynced(present []string) {
	slices.Sort(present)
	h.lines = append(h.lines, "synced "+slices.Concat([]string{""}, present)[len(present)])
}
func (h *heard) CellArrived(id string) { h.lines = append(h.lines, "arrived "+id) }

func (h *heard) CellExpired(id string, inferred bool) {
	if inferred {
		id += " inferred"
	}
	h.lines = append(h.lines, "expired "+id)
}
func (h *heard) CellReleased(id string) { h.lines = append(h.lines, "released "+id) }

func presence(t *testing.T, key string, m *workloadv1.CellPresence) lockclient.Held {
	t.Helper()
	value, err := protojson.Marshal(m)
	require.NoError(t, err)
	return lockclient.Held{Claim: lockclient.Claim{Key: key, Value: value}}
}

func cell(id, address string) *workloadv1.CellPresence {
	return &workloadv1.CellPresence{
		CellId: id, RepAddress: address, Zone: "z1", Capacity: &workloadv1.CellCapacity{MemoryMb: 1, DiskMb: 1, Containers: 1},
	}
}

func TestRegistryFollowsPresences(t *testing.T) {
	t.Parallel()
	told := &heard{}
	var dialed []string
	r := NewRegistry(Config{Listener: told, Log: slog.New(slog.DiscardHandler), Dial: func(id, address string) (*grpc.ClientConn, error) {
		dialed = append(dialed, id+" at "+address)
		return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}})
	_, err := r.Instances("a")
	require.ErrorIs(t, err, effect.ErrNoCell)
	require.False(t, r.Synced())

	r.handle(lockclient.PresenceEvent{Kind: lockclient.Acquired, Held: presence(t, "b", cell("b", "b:1"))})
	r.handle(lockclient.PresenceEvent{Kind: lockclient.Acquired, Held: presence(t, "a", cell("a", "a:1"))})
	r.handle(lockclient.PresenceEvent{Kind: lockclient.Synced})
	require.True(t, r.Synced())
	list := r.List()
	require.Len(t, list, 2)
	require.Equal(t, "a", list[0].Presence.GetCellId())

	for range 2 {
		_, err = r.Instances("a")
		require.NoError(t, err)
	}
	r.handle(lockclient.PresenceEvent{Kind: lockclient.Updated, Held: presence(t, "a", cell("a", "a:2"))})
	_, err = r.Instances("a")
	require.NoError(t, err)
	require.Equal(t, []string{"a at a:1", "a at a:2"}, dialed, "a connection is kept until the address changes")

	r.handle(lockclient.PresenceEvent{Kind: lockclient.Expired, Held: presence(t, "a", cell("a", "a:2")), Inferred: true})
	r.handle(lockclient.PresenceEvent{Kind: lockclient.Released, Held: presence(t, "b", cell("b", "b:1"))})
	require.Empty(t, r.List())
	require.Equal(t, []string{"arrived b", "arrived a", "synced b", "expired a inferred", "released b"}, told.lines)
}

func TestRegistryLeavesOutWhatIsNoCell(t *testing.T) {
	t.Parallel()
	noCapacity := cell("a", "a:1")
	noCapacity.Capacity = nil
	for name, held := range map[string]lockclient.Held{
		"no JSON":               {Claim: lockclient.Claim{Key: "a", Value: []byte("{")}},
		"another cell's id":     presence(t, "a", cell("b", "b:1")),
		"no address":            presence(t, "a", cell("a", "")),
		"no capacity":           presence(t, "a", noCapacity),
		"an empty presence":     {Claim: lockclient.Claim{Key: "a"}},
		"a negative disk space": presence(t, "a", func() *workloadv1.CellPresence { c := cell("a", "a:1"); c.Capacity.DiskMb = -1; return c }()),
	} {
		told := &heard{}
		r := NewRegistry(Config{Listener: told, Log: slog.New(slog.DiscardHandler)})
		r.handle(lockclient.PresenceEvent{Kind: lockclient.Acquired, Held: held})
		require.Empty(t, r.List(), name)
		require.Empty(t, told.lines, name)
	}
}
