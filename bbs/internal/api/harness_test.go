package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"diego.internal/bbs/internal/cells"
	"diego.internal/bbs/internal/effect"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/store"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/postgrestest"
	"diego.internal/servicekit/telemetry"
)

// harness is an active BBS on a database of its own, behind a real server.
type harness struct {
	t         *testing.T
	pool      *pgxpool.Pool
	store     *store.Store
	effects   *fakeEffects
	cells     fakeCells
	authority *mtlstest.Authority
	server    *grpcserver.Server
	held      atomic.Bool
	now       atomic.Int64 // offset of the clock
}

type fakeCells []cells.Cell

func (f fakeCells) List() []cells.Cell { return f }

// fakeEffects remembers what it was asked for.
type fakeEffects struct {
	released atomic.Bool
	lastRun  atomic.Pointer[time.Time]
}

func (f *fakeEffects) ran(at time.Time) { f.lastRun.Store(&at) }

func (f *fakeEffects) OverrideBrake(release bool, _ time.Duration) {
	f.released.Store(release)
}

func (f *fakeEffects) Status() effect.Status {
	status := effect.Status{Brake: true, Duration: time.Second}
	if at := f.lastRun.Load(); at != nil {
		status.LastRun = *at
	}
	return status
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	keys, err := seal.New([]seal.Key{{Label: "a"}, {Label: "old", Secret: [32]byte{1}}}, "a")
	require.NoError(t, err)
	pool := postgrestest.New(t, store.Migrate)
	st, err := store.New(store.Config{Pool: pool, Keys: keys, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	h := &harness{
		t: t, pool: pool, store: st, effects: &fakeEffects{}, authority: mtlstest.NewAuthority(t),
		cells: fakeCells{{Presence: &workloadv1.CellPresence{CellId: "cell-1", PlacementTags: []string{"a"}, OptionalPlacementTags: []string{"b"}}}},
	}
	h.held.Store(true)
	require.NoError(t, st.TakeOver(t.Context(), h.held.Load))

	tel := telemetry.Discard()
	h.server, err = grpcserver.New(grpcserver.Options{
		Source: h.authority.Source(mtls.Identity{Role: mtls.RoleBBS}), Allow: Roles(), Telemetry: tel, Listen: "127.0.0.1:0",
	})
	require.NoError(t, err)
	Register(h.server.GRPC(), Config{
		Store: st, Cells: h.cells, Effects: h.effects, Log: slog.New(slog.DiscardHandler), NewGUID: uuid.NewString, Instance: "bbs-1",
		BookmarkInterval: 50 * time.Millisecond, Metrics: tel.Registry,
		Schema: func() SchemaStatus { return SchemaStatus{BuiltFor: 3, Version: 2, MigratingTo: 3} },
		Clock:  func() time.Time { return time.Now().Add(time.Duration(h.now.Load())) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- st.Run(ctx) }()
	go func() { ended <- h.server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, errors.Join(<-ended, <-ended))
	})
	return h
}

// as returns a connection of a caller.
func (h *harness) as(role, name string) *grpc.ClientConn {
	h.t.Helper()
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{h.server.Addr()}}, grpcclient.Options{
		Source: h.authority.Source(mtls.Identity{Role: role, Name: name}), Server: mtls.Peer{Role: mtls.RoleBBS}, Timeout: 20 * time.Second,
	})
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (h *harness) operator() *grpc.ClientConn { return h.as(mtls.RoleOperator, "alice") }

func (h *harness) cell(id string) *grpc.ClientConn { return h.as(mtls.RoleCell, id) }

// desiredLRP is a valid LRP with a bit of everything.
func desiredLRP(guid string, instances int32) *workloadv1.DesiredLRP {
	return &workloadv1.DesiredLRP{
		ProcessGuid: guid, Domain: "cf-apps", Instances: instances, Annotation: "note",
		Routes: map[string][]byte{
			"cf-router": []byte(`[{"hostnames":["a"],"port":8080}]`), "internal-router": []byte(`[{"hostname":"a.internal"}]`),
			"diego-ssh": []byte(`{"private_key":"very secret"}`),
		},
		MetricTags: map[string]*workloadv1.MetricTagValue{"source_id": {Value: &workloadv1.MetricTagValue_Static{Static: "app"}}},
		Definition: &workloadv1.LRPDefinition{
			Container: &workloadv1.ContainerSpec{
				RootFs: "preloaded:busybox", Resources: &workloadv1.Resources{MemoryMb: 64},
				Env:              []*workloadv1.EnvironmentVariable{{Name: "PASSWORD", Value: "secret"}},
				ImageCredentials: &workloadv1.ImageCredentials{Username: "u", Password: "p"},
				Log:              &workloadv1.LogConfig{Guid: "log"},
			},
			Action: runAction(), Ports: []uint32{8080, 2222, 8080}, StartTimeout: durationpb.New(time.Minute),
		},
	}
}

func runAction() *workloadv1.Action {
	return &workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{
		Path: "/bin/true", User: "vcap", Env: []*workloadv1.EnvironmentVariable{{Name: "TOKEN", Value: "secret"}},
	}}}
}

func taskDefinition() *workloadv1.TaskDefinition {
	return &workloadv1.TaskDefinition{
		Container: &workloadv1.ContainerSpec{RootFs: "preloaded:busybox", Env: []*workloadv1.EnvironmentVariable{{Name: "A", Value: "secret"}}},
		Action:    runAction(), ResultFile: "/result",
	}
}

// desire creates an LRP and returns the revision.
func (h *harness) desire(guid string, instances int32) uint64 {
	h.t.Helper()
	resp, err := bbsv1.NewDesiredLRPsClient(h.operator()).DesireLRP(h.t.Context(), &bbsv1.DesireLRPRequest{DesiredLrp: desiredLRP(guid, instances)})
	require.NoError(h.t, err)
	return resp.GetRevision()
}

func instanceKey(guid, cell string) *workloadv1.ActualLRPInstanceKey {
	return &workloadv1.ActualLRPInstanceKey{InstanceGuid: guid, CellId: cell}
}

func actualKey(guid string, index int32) *workloadv1.ActualLRPKey {
	return &workloadv1.ActualLRPKey{ProcessGuid: guid, Index: index, Domain: "cf-apps"}
}

func startRequest(guid string, index int32, by *workloadv1.ActualLRPInstanceKey) *bbsv1.StartActualLRPRequest {
	return &bbsv1.StartActualLRPRequest{
		Key: actualKey(guid, index), InstanceKey: by, InternalRoutes: []string{"a.internal"},
		NetInfo:    &workloadv1.ActualLRPNetInfo{Address: "10.0.0.1", Ports: []*workloadv1.PortMapping{{ContainerPort: 8080, HostPort: 61000}}},
		MetricTags: map[string]string{"source_id": "app"}, AvailabilityZone: "z1",
	}
}

// run claims and starts an instance on a cell.
func (h *harness) run(guid string, index int32, cell string) {
	h.t.Helper()
	client := bbsv1.NewActualLRPCellClient(h.cell(cell))
	by := instanceKey(guid+"-instance", cell)
	_, err := client.ClaimActualLRP(h.t.Context(), &bbsv1.ClaimActualLRPRequest{ProcessGuid: guid, Index: index, InstanceKey: by})
	require.NoError(h.t, err)
	_, err = client.StartActualLRP(h.t.Context(), startRequest(guid, index, by))
	require.NoError(h.t, err)
}

// collect reads a list to its end.
func collect[C, R any](t *testing.T, stream grpc.ServerStreamingClient[C], err error, rows func(*C) []R) []R {
	t.Helper()
	require.NoError(t, err)
	var all []R
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, rows(chunk)...)
	}
}

// truncateArchive removes the log up to a revision.
func (h *harness) truncateArchive(revision int) {
	h.t.Helper()
	_, err := h.pool.Exec(h.t.Context(), `delete from batch_log where revision <= $1`, revision)
	require.NoError(h.t, err)
}
