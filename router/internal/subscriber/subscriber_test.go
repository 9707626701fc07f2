package subscriber

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"diego.internal/router/internal/registry"
	"diego.internal/router/natstest"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

const patience = 10 * time.Second

type rig struct {
	t     *testing.T
	nats  *natstest.Server
	peer  *nats.Conn // of an emitter
	table *registry.Registry
	sub   *Subscriber
}

// newRig runs a subscriber until the test ends.
func newRig(t *testing.T, rules registry.Config, prune time.Duration) *rig {
	t.Helper()
	authority := mtlstest.NewAuthority(t)
	r := &rig{t: t, nats: natstest.Start(t, authority), table: registry.New(rules)}
	r.peer = r.nats.Connect(mtls.RoleRouteEmitter)
	starts := r.listen(subjectStart)
	var err error
	r.sub, err = New(Config{
		Addresses: []string{r.nats.Address()}, TLS: authority.Source(mtls.Identity{Role: mtls.RoleRouter}).ClientConfig(mtls.Peer{Role: mtls.RoleNATS}),
		Registry: r.table, Start: Start{ID: "0-uuid", Hosts: []string{"10.0.0.2"}, MinimumInterval: 20, PruneThreshold: 120},
		PruneInterval: prune, SuspendPruning: true, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.sub.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	requireStart(t, starts)
	return r
}

// listen subscribes the emitter to a subject.
func (r *rig) listen(subject string) *nats.Subscription {
	r.t.Helper()
	s, err := r.peer.SubscribeSync(subject)
	require.NoError(r.t, err)
	require.NoError(r.t, r.peer.FlushTimeout(patience))
	return s
}

func requireStart(t *testing.T, s *nats.Subscription) {
	t.Helper()
	msg, err := s.NextMsg(patience)
	require.NoError(t, err, "no router.start")
	requireGreeting(t, msg.Data)
}

func requireGreeting(t *testing.T, data []byte) {
	t.Helper()
	want := map[string]any{"id": "0-uuid", "hosts": []any{"10.0.0.2"}, "minimumRegisterIntervalInSeconds": 20.0, "pruneThresholdInSeconds": 120.0}
	var got map[string]any
	require.NoError(t, json.Unmarshal(data, &got))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("greeting (-want +got):\n%s", diff)
	}
}

func (r *rig) send(subject, uri string, port int, instance string) {
	r.t.Helper()
	data := fmt.Sprintf(`{"host":"10.0.0.9","port":%d,"uris":[%q],"private_instance_id":%q,"endpoint_updated_at_ns":1}`, port, uri, instance)
	require.NoError(r.t, r.peer.Publish(subject, []byte(data)))
}

func (r *rig) eventually(what string, condition func() bool) {
	r.t.Helper()
	require.Eventually(r.t, condition, patience, 2*time.Millisecond, what)
}

func TestSubscriberFillsRegistry(t *testing.T) {
	t.Parallel()
	r := newRig(t, registry.Config{}, time.Hour)
	r.send(subjectRegister, "a.example.com", 1, "i1")
	r.send(subjectRegister, "a.example.com", 2, "i2")
	r.send(subjectRegister, "a.example.com", 2, "i3")
	r.send(subjectUnregister, "a.example.com", 2, "i2") // of the former owner
	r.send(subjectUnregister, "a.example.com", 1, "i1")
	require.NoError(t, r.peer.Publish(subjectRegister, []byte("{")))
	r.send(subjectRegister, "last.example.com", 3, "i4")
	r.eventually("the last message arrives", func() bool { return r.table.Lookup("last.example.com", "") != nil })
	es := r.table.Snapshot()["a.example.com"]
	require.Len(t, es, 1)
	require.Equal(t, "i3", es[0].InstanceID)
	m := r.sub.metrics
	require.InDelta(t, 3, testutil.ToFloat64(m.registrations.WithLabelValues("add")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(m.registrations.WithLabelValues("replace")), 0)
	require.InDelta(t, 2, testutil.ToFloat64(m.unregistrations), 0)
	require.InDelta(t, 1, testutil.ToFloat64(m.rejected), 0)
}

func TestSubscriberAnswersGreet(t *testing.T) {
	t.Parallel()
	r := newRig(t, registry.Config{}, time.Hour)
	msg, err := r.peer.Request(subjectGreet, nil, patience)
	require.NoError(t, err)
	requireGreeting(t, msg.Data)
}

func TestSubscriberKeepsTableWithoutNATS(t *testing.T) {
	t.Parallel()
	// Everything is stale at once, so each prune that is not suspended drops it.
	r := newRig(t, registry.Config{StaleThreshold: time.Nanosecond}, time.Millisecond)
	r.nats.Stop()
	r.eventually("the loss is noticed", func() bool { return !r.sub.Status().Connected })
	_, err := r.table.Register("a.example.com", registry.Endpoint{Host: "h", Port: 1}, time.Now())
	require.NoError(t, err)
	require.Zero(t, r.table.Prune(time.Now().Add(time.Hour)), "pruning is suspended")

	r.nats.Restart()
	r.eventually("the link comes back", func() bool { return r.sub.Status().Connected })
	r.eventually("pruning goes on", func() bool { return r.table.Lookup("a.example.com", "") == nil })
	require.GreaterOrEqual(t, testutil.ToFloat64(r.sub.metrics.pruned), 1.0)
}

func TestSubscriberAsksAgainAfterReconnect(t *testing.T) {
	t.Parallel()
	r := newRig(t, registry.Config{}, time.Hour)
	starts := r.listen(subjectStart)
	r.nats.Disconnect("router ")
	requireStart(t, starts)
}

func TestSubscriberSurvivesLateNATS(t *testing.T) {
	t.Parallel()
	authority := mtlstest.NewAuthority(t)
	server := natstest.Start(t, authority)
	address := server.Address()
	server.Stop()
	sub, err := New(Config{
		Addresses: []string{address}, TLS: authority.Source(mtls.Identity{Role: mtls.RoleRouter}).ClientConfig(mtls.Peer{Role: mtls.RoleNATS}),
		Registry: registry.New(registry.Config{}), PruneInterval: time.Hour, SuspendPruning: true,
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sub.Run(ctx) }()
	require.True(t, sub.Status().FirstConnected.IsZero())
	server.Restart()
	require.Eventually(t, func() bool { return sub.Status().Connected }, patience, 5*time.Millisecond)
	peer := server.Connect(mtls.RoleRouteEmitter)
	_, err = peer.Request(subjectGreet, nil, patience)
	require.NoError(t, err, "the subscription made before the first connection works")
	cancel()
	require.NoError(t, <-done)
}

func TestSubscriberRefusesStrangers(t *testing.T) {
	t.Parallel()
	// A server of another CA and one that is not nats by its certificate: the router must talk to neither.
	own := mtlstest.NewAuthority(t)
	server := natstest.Start(t, mtlstest.NewAuthority(t))
	sub, err := New(Config{
		Addresses: []string{server.Address()}, TLS: own.Source(mtls.Identity{Role: mtls.RoleRouter}).ClientConfig(mtls.Peer{Role: mtls.RoleNATS}),
		Registry: registry.New(registry.Config{}), PruneInterval: time.Hour, SuspendPruning: true,
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	require.NoError(t, sub.Run(ctx), "it keeps trying until it is stopped")
	require.True(t, sub.Status().FirstConnected.IsZero())
}
