package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"diego.internal/locket/lockclient"
	"diego.internal/locket/lockclient/backendtest"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/router/natstest"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

const patience = 10 * time.Second

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "route-emitter.yml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// bbs has one running instance and says nothing more.
type bbs struct {
	bbsv1.UnimplementedWatchServer
}

func (bbs) Watch(_ *bbsv1.WatchRequest, out grpc.ServerStreamingServer[bbsv1.WatchResponse]) error {
	tag := &workloadv1.ModificationTag{Epoch: "e", Index: 1}
	chunk := &bbsv1.WatchResponse_SnapshotChunk{
		DesiredLrps: []*workloadv1.SchedulingInfo{{
			ProcessGuid: "p", Domain: "d", Instances: 1, ModificationTag: tag, LogGuid: "log",
			Routes: map[string][]byte{"cf-router": []byte(`[{"hostnames":["app.example.com"],"port":8080}]`)},
		}},
		ActualLrps: []*workloadv1.ActualLRP{{
			Key: &workloadv1.ActualLRPKey{ProcessGuid: "p", Domain: "d"}, InstanceKey: &workloadv1.ActualLRPInstanceKey{InstanceGuid: "ig", CellId: "cell-1"},
			NetInfo: &workloadv1.ActualLRPNetInfo{Address: "10.0.0.1", Ports: []*workloadv1.PortMapping{{ContainerPort: 8080, HostPort: 61000}}},
			State:   workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING, Presence: workloadv1.Presence_PRESENCE_ORDINARY, Routable: true, ModificationTag: tag,
		}},
	}
	for _, m := range []*bbsv1.WatchResponse{
		{Message: &bbsv1.WatchResponse_SnapshotStart_{SnapshotStart: &bbsv1.WatchResponse_SnapshotStart{Revision: 1}}},
		{Message: &bbsv1.WatchResponse_SnapshotChunk_{SnapshotChunk: chunk}},
		{Message: &bbsv1.WatchResponse_SnapshotEnd_{SnapshotEnd: &bbsv1.WatchResponse_SnapshotEnd{Revision: 1}}},
	} {
		if err := out.Send(m); err != nil {
			return err //nolint:wrapcheck // a test
		}
	}
	<-out.Context().Done()
	return out.Context().Err() //nolint:wrapcheck // a test
}

// TestRun is the whole process in local mode: what the BBS streams arrives at a router over NATS.
func TestRun(t *testing.T) {
	t.Parallel()
	authority := mtlstest.NewAuthority(t)
	server, err := grpcserver.New(grpcserver.Options{
		Source: authority.Source(mtls.Identity{Role: mtls.RoleBBS}), Telemetry: telemetry.Discard(), Listen: "127.0.0.1:0",
		Allow: grpcserver.Table{"/bbs.v1.Watch/": {mtls.RoleRouteEmitter}},
	})
	require.NoError(t, err)
	bbsv1.RegisterWatchServer(server.GRPC(), bbs{})
	server.SetServing("bbs.v1", true)
	broker := natstest.Start(t, authority)
	router := broker.Connect(mtls.RoleRouter)
	messages, err := router.SubscribeSync("router.register")
	require.NoError(t, err)
	_, err = router.Subscribe("router.greet", func(m *nats.Msg) {
		_ = m.Respond([]byte(`{"id":"0-x","hosts":[],"minimumRegisterIntervalInSeconds":1,"pruneThresholdInSeconds":120}`))
	})
	require.NoError(t, err)
	require.NoError(t, router.FlushTimeout(patience))

	files := authority.Issue(mtls.Identity{Role: mtls.RoleRouteEmitter, Name: "cell-1"})
	path := write(t, fmt.Sprintf("cell_id: cell-1\nbbs: {addresses: [%s]}\nnats: {addresses: [%s]}\ntls: {ca: %s, certificate: %s, key: %s}\n",
		server.Addr(), broker.Address(), files.CA, files.Certificate, files.Key))
	ctx, cancel := context.WithCancel(context.Background())
	served, done := make(chan error, 1), make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	go func() { done <- run(ctx, []string{"-config", path}) }()
	for range 2 { // because of the change, and then at the interval
		msg, err := messages.NextMsg(patience)
		require.NoError(t, err)
		require.Contains(t, string(msg.Data), `{"host":"10.0.0.1","port":61000,"uris":["app.example.com"],"app":"log","private_instance_id":"ig"`)
	}
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, <-served)
}

func TestRunRefusesCertificateOfAnotherCell(t *testing.T) {
	t.Parallel()
	for _, id := range []mtls.Identity{{Role: mtls.RoleRouteEmitter, Name: "cell-2"}, {Role: mtls.RoleCell, Name: "cell-1"}} {
		require.ErrorContains(t, checkIdentity(id, "cell-1"), "not for the route emitter of cell", id.String())
	}
	require.NoError(t, checkIdentity(mtls.Identity{Role: mtls.RoleRouteEmitter, Name: "cell-1"}, "cell-1"))
	require.NoError(t, checkIdentity(mtls.Identity{Role: mtls.RoleRouteEmitter}, ""))
	require.Error(t, checkIdentity(mtls.Identity{Role: mtls.RoleRouter}, ""))
}

func TestWhileLocked(t *testing.T) {
	t.Parallel()
	lock := func(owner string, backend lockclient.Backend) lockclient.LockConfig {
		return lockConfig(Config{Lock: LockConfig{Owner: owner, TTL: 3 * time.Second}}, backend, telemetry.Discard())
	}
	backend := backendtest.NewMemory()
	started := make(chan string, 2)
	work := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			started <- name
			<-ctx.Done()
			return nil
		}
	}
	first, stopFirst := context.WithCancel(t.Context())
	second, stopSecond := context.WithCancel(t.Context())
	defer stopSecond()
	firstDone, secondDone := make(chan error, 1), make(chan error, 1)
	go func() { firstDone <- whileLocked(first, lock("one", backend), work("one")) }()
	require.Equal(t, "one", <-started)
	go func() { secondDone <- whileLocked(second, lock("two", backend), work("two")) }()
	held, err := backend.Fetch(t.Context(), lockKey)
	require.NoError(t, err)
	require.Contains(t, held.Owner, "one")
	select {
	case name := <-started:
		t.Fatalf("%s works without the lock", name)
	case <-time.After(100 * time.Millisecond):
	}
	stopFirst()
	require.NoError(t, <-firstDone)
	require.Equal(t, "two", <-started, "a clean stop hands the lock over")

	backend.Drop(lockKey)
	thief, err := lockclient.Acquire(t.Context(), lock("three", backend))
	require.NoError(t, err)
	require.True(t, thief.Valid())
	require.ErrorIs(t, <-secondDone, lockclient.ErrLost, "an emitter that lost its lock stops")
}

func TestWhileLockedReturnsErrorOfWork(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	cfg := lockConfig(Config{Lock: LockConfig{Owner: "one", TTL: 3 * time.Second}}, backendtest.NewMemory(), telemetry.Discard())
	require.ErrorIs(t, whileLocked(t.Context(), cfg, func(context.Context) error { return broken }), broken)
}

func TestConfigIsRefused(t *testing.T) {
	t.Parallel()
	files := mtlstest.NewAuthority(t).Issue(mtls.Identity{Role: mtls.RoleRouteEmitter, Name: "c"})
	base := fmt.Sprintf("tls: {ca: %s, certificate: %s, key: %s}\nbbs: {addresses: [127.0.0.1:1]}\n", files.CA, files.Certificate, files.Key)
	local := base + "nats: {addresses: [127.0.0.1:4222]}\ncell_id: c\n"
	global := base + "nats: {addresses: [127.0.0.1:4222]}\nlocket: {addresses: [127.0.0.1:2]}\nlock:\n  owner: one\n"
	consul := fmt.Sprintf("consul: {address: \"https://127.0.0.1:3\", tls: {ca: %s, certificate: %s, key: %s}}\n", files.CA, files.Certificate, files.Key)
	tests := map[string]struct{ text, want string }{
		"no nats":                          {base + "cell_id: c\n", "addresses"},
		"an unknown key":                   {local + "sync_intervall: 1s\n", "sync_intervall"},
		"a jitter of nothing":              {local + "jitter_factor: 0\n", "jitter_factor"},
		"a jitter over one":                {local + "jitter_factor: 1.1\n", "jitter_factor"},
		"no sync interval":                 {local + "sync_interval: 0s\n", "sync_interval"},
		"a silence shorter than bookmarks": {local + "stream_silence: 10s\n", "stream_silence"},
		"a negative count":                 {local + "unregistration_send_count: -1\n", "unregistration_send_count"},
		"a lock in local mode":             {local + "lock: {owner: x}\n", "excludes locket, consul and lock"},
		"consul in local mode":             {local + consul, "excludes locket, consul and lock"},
		"consul chosen and not there":      {global + "  backend: consul\n", "consul: is missing"},
		"a store that does not exist":      {global + "  backend: etcd\n", "backend"},
		"no locket in global mode":         {base + "nats: {addresses: [127.0.0.1:4222]}\nlock: {owner: one}\n", "locket"},
		"no owner in global mode":          {base + "nats: {addresses: [127.0.0.1:4222]}\nlocket: {addresses: [127.0.0.1:2]}\n", "owner"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load[Config]([]string{"-config", write(t, tc.text)})
			require.ErrorContains(t, err, tc.want)
		})
	}
	inConsul := base + consul + "nats: {addresses: [127.0.0.1:4222]}\nlock: {owner: one, backend: consul}\n"
	for name, text := range map[string]string{"local": local, "global": global, "global, with the lock in consul": inConsul} {
		cfg, err := config.Load[Config]([]string{"-config", write(t, text)})
		require.NoError(t, err, name)
		require.Equal(t, 15*time.Second, cfg.Lock.TTL, name)
	}
}
