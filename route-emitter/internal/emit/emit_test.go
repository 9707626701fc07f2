package emit

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"diego.internal/route-emitter/internal/routetable"
	"diego.internal/router/natstest"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

const patience = 10 * time.Second

// rig is an emitter with a table and a NATS server; the test plays the router.
type rig struct {
	t       *testing.T
	nats    *natstest.Server
	emitter *Emitter
	mu      sync.Mutex
	table   *routetable.Table
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	authority := mtlstest.NewAuthority(t)
	r := &rig{t: t, nats: natstest.Start(t, authority), table: routetable.New(routetable.Config{InternalRoutes: true})}
	cfg := Config{
		Addresses: []string{r.nats.Address()}, TLS: authority.Source(mtls.Identity{Role: mtls.RoleRouteEmitter, Name: "cell"}).ClientConfig(mtls.Peer{Role: mtls.RoleNATS}),
		Messages: func() []routetable.Message {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.table.Messages()
		},
		Seed: "cell", DefaultInterval: time.Hour, JitterFactor: 0.01, RepeatInterval: time.Hour, RepeatTimes: 3, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	}
	if change != nil {
		change(&cfg)
	}
	r.emitter = New(cfg)
	return r
}

// run starts the emitter until the test ends.
func (r *rig) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.emitter.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		require.NoError(r.t, <-done)
	})
}

// router subscribes to a subject as a router would.
func (r *rig) router(subject string) *nats.Subscription {
	r.t.Helper()
	nc := r.nats.Connect(mtls.RoleRouter)
	s, err := nc.SubscribeSync(subject)
	require.NoError(r.t, err)
	require.NoError(r.t, nc.FlushTimeout(patience))
	return s
}

// answerGreets replies to greets of a plane from now on.
func (r *rig) answerGreets(plane string, interval int) *nats.Conn {
	r.t.Helper()
	nc := r.nats.Connect(mtls.RoleRouter)
	_, err := nc.Subscribe(plane+".greet", func(m *nats.Msg) { _ = m.Respond(start(interval)) })
	require.NoError(r.t, err)
	require.NoError(r.t, nc.FlushTimeout(patience))
	return nc
}

func start(interval int) []byte {
	return fmt.Appendf(nil, `{"id":"0-x","hosts":["10.0.0.2"],"minimumRegisterIntervalInSeconds":%d,"pruneThresholdInSeconds":120}`, interval)
}

// fill puts a process with one instance and the given host names into the table.
func (r *rig) fill(index uint32, hostnames ...string) routetable.Changes {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := routetable.Desired{ProcessGUID: "p", Instances: 1, Tag: routetable.ModificationTag{Epoch: "e", Index: index}}
	for _, h := range hostnames {
		d.Routes.HTTP = append(d.Routes.HTTP, routetable.HTTPRoute{Hostname: h, ContainerPort: 8080})
	}
	d.Routes.Internal = []string{"p.apps.internal"}
	first := r.table.AddEndpoint(routetable.Endpoint{
		ProcessGUID: "p", InstanceGUID: "i", HostAddress: "10.0.0.1", ContainerAddress: "172.16.0.1", Ports: []routetable.Port{{Container: 8080, Host: 61000}}, Tag: routetable.ModificationTag{Epoch: "e"},
	})
	second := r.table.SetRoutes(d)
	return routetable.Changes{Register: append(first.Register, second.Register...), Unregister: append(first.Unregister, second.Unregister...)}
}

func next(t *testing.T, s *nats.Subscription, want string) {
	t.Helper()
	msg, err := s.NextMsg(patience)
	require.NoError(t, err, "waiting for %s", want)
	var body struct {
		URIs []string `json:"uris"`
		ID   string   `json:"private_instance_id"`
	}
	require.NoError(t, json.Unmarshal(msg.Data, &body))
	if got := msg.Subject + " " + body.URIs[0]; got != want {
		t.Fatalf("message %q, want %q", got, want)
	}
}

func TestEmitterGreetsAndEmits(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.fill(1, "a.com", "b.com")
	all := r.router("router.register")
	r.run()
	require.Eventually(t, func() bool { return r.emitter.Status().Connected }, patience, time.Millisecond)
	require.ErrorContains(t, r.emitter.Status().Check(time.Now()), "no router has answered")
	r.answerGreets("router", 20)
	require.Eventually(t, func() bool { return r.emitter.Status().Check(time.Now()) == nil }, patience, time.Millisecond)
	require.Equal(t, 20*time.Second, r.emitter.Status().Interval)
	next(t, all, "router.register a.com")
	next(t, all, "router.register b.com")
	require.ErrorContains(t, r.emitter.Status().Check(time.Now().Add(61*time.Second)), "the last emission was")
}

func TestEmitterEmitsWithoutAnyRouter(t *testing.T) {
	t.Parallel()
	var said lines
	r := newRig(t, func(c *Config) {
		c.DefaultInterval, c.Log = 100*time.Millisecond, slog.New(slog.NewTextHandler(&said, nil))
	})
	r.fill(1, "a.com")
	messages := r.router("router.register")
	r.run()
	for range 3 {
		next(t, messages, "router.register a.com")
	}
	require.NotContains(t, said.String(), "level=WARN", "that nobody answers the greeting is nothing to warn of")
}

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestEmitterEmitsAtTheIntervalOfTheRouter(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.fill(1, "a.com")
	messages := r.router("router.register")
	r.answerGreets("router", 1)
	r.run()
	for range 3 { // at once when connected or greeted, then at steady ticks
		next(t, messages, "router.register a.com")
	}
}

func TestEmitterEmitsAfterStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.fill(1, "a.com")
	nc := r.answerGreets("router", 60)
	r.run()
	require.Eventually(t, func() bool { return r.emitter.Status().Greeted }, patience, time.Millisecond)
	messages := r.router("router.register")
	require.NoError(t, nc.Publish("router.start", start(30)))
	next(t, messages, "router.register a.com")
	require.Equal(t, 30*time.Second, r.emitter.Status().Interval)
}

func TestEmitterSendsChangesAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	messages := r.router("router.*")
	r.answerGreets("router", 60)
	r.run()
	require.Eventually(t, func() bool { return r.emitter.Status().Greeted && !r.emitter.Status().LastEmission.IsZero() }, patience, time.Millisecond)
	r.emitter.Apply(r.fill(1, "a.com"))
	r.emitter.Apply(r.fill(2, "b.com"))
	want := []string{"router.register a.com", "router.register b.com", "router.unregister a.com"}
	for _, w := range want {
		for {
			msg, err := messages.NextMsg(patience)
			require.NoError(t, err, w)
			if msg.Subject == "router.greet" {
				continue
			}
			var body struct {
				URIs []string `json:"uris"`
			}
			require.NoError(t, json.Unmarshal(msg.Data, &body))
			require.Equal(t, w, msg.Subject+" "+body.URIs[0])
			break
		}
	}
	require.InDelta(t, 1, testutil.ToFloat64(r.emitter.metrics.unregistered), 0)
	require.InDelta(t, 3, testutil.ToFloat64(r.emitter.metrics.registered), 0, "two of them for routers, one for service discovery")
}

func TestEmitterServesInternalPlane(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Internal = true })
	r.fill(1, "a.com")
	messages := r.router("service-discovery.register")
	r.answerGreets("service-discovery", 20)
	r.run()
	next(t, messages, "service-discovery.register p.apps.internal")
}

func TestEmitterRepeatsUnregistrations(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.RepeatInterval = 20 * time.Millisecond })
	messages := r.router("router.unregister")
	r.run()
	require.Eventually(t, func() bool { return r.emitter.Status().Connected }, patience, time.Millisecond)
	r.fill(1, "a.com")
	r.emitter.Apply(r.fill(2))
	for range 4 { // once for the change, and three times again
		next(t, messages, "router.unregister a.com")
	}
	_, err := messages.NextMsg(200 * time.Millisecond)
	require.ErrorIs(t, err, nats.ErrTimeout)
}

func TestEmitterSurvivesLossOfNATS(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.fill(1, "a.com", "old.com")
	r.run()
	require.Eventually(t, func() bool { return r.emitter.Status().Connected }, patience, time.Millisecond)
	r.nats.Stop()
	require.Eventually(t, func() bool { return !r.emitter.Status().Connected }, patience, time.Millisecond)
	require.ErrorContains(t, r.emitter.Status().Check(time.Now()), "not connected")
	r.emitter.Apply(r.fill(2, "a.com", "new.com"))
	require.Positive(t, testutil.ToFloat64(r.emitter.metrics.dropped))
	r.nats.Restart()
	registered := r.router("router.register")
	unregistered := r.router("router.unregister")
	require.Eventually(t, func() bool { return r.emitter.Status().Connected }, patience, time.Millisecond)
	// The router may have come after the emitter; then only a cut shows the emission again.
	r.nats.Disconnect("route-emitter ")
	next(t, registered, "router.register a.com")
	next(t, registered, "router.register new.com")
	next(t, unregistered, "router.unregister old.com")
}

func TestRepeats(t *testing.T) {
	t.Parallel()
	m := func(uri string) routetable.Message { return routetable.Message{Key: routetable.Key{URI: uri}} }
	uris := func(ms []routetable.Message) map[string]bool {
		out := map[string]bool{}
		for _, m := range ms {
			out[m.Key.URI] = true
		}
		return out
	}
	r := newRepeats(2)
	r.note(routetable.Changes{Unregister: []routetable.Message{m("a"), m("b")}})
	require.Equal(t, map[string]bool{"a": true, "b": true}, uris(r.due()))
	r.note(routetable.Changes{Register: []routetable.Message{m("b")}, Unregister: []routetable.Message{m("c")}})
	require.Equal(t, map[string]bool{"a": true, "c": true}, uris(r.due()), "a registration ends the repetitions")
	require.Equal(t, map[string]bool{"c": true}, uris(r.due()), "a was sent twice")
	require.Empty(t, r.due())
	none := newRepeats(0)
	none.note(routetable.Changes{Unregister: []routetable.Message{m("a")}})
	require.Empty(t, none.due())
}

func TestUntilTick(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	const interval = 20 * time.Second
	phases := map[time.Duration]bool{}
	for n := range 100 {
		seed := fmt.Sprintf("cell-%d", n)
		wait := untilTick(now, interval, seed)
		if wait <= 0 || wait > interval {
			t.Fatalf("untilTick = %v", wait)
		}
		if diff := cmp.Diff(interval, untilTick(now.Add(wait), interval, seed)); diff != "" {
			t.Fatalf("from tick to tick (-want +got):\n%s", diff)
		}
		phases[wait/time.Second] = true
	}
	require.Greater(t, len(phases), 15, "a hundred emitters spread over the interval")
}

func TestClamp(t *testing.T) {
	t.Parallel()
	for asked, want := range map[time.Duration]time.Duration{0: 20 * time.Second, -1: 20 * time.Second, time.Millisecond: time.Second, time.Minute: time.Minute, time.Hour: 10 * time.Minute} {
		require.Equal(t, want, clamp(asked, 20*time.Second), asked.String())
	}
}

// An evacuated instance is unregistered when its hand-over is over, at the latest when the emitter stops, and not at all if
// the address is registered again meanwhile.
func TestEmitterHandsOver(t *testing.T) {
	t.Parallel()
	message := func(uri string) routetable.Message {
		table := routetable.New(routetable.Config{})
		table.SetRoutes(routetable.Desired{ProcessGUID: "p", Instances: 1, Routes: routetable.Routes{HTTP: []routetable.HTTPRoute{{Hostname: uri, ContainerPort: 8080}}}, Tag: routetable.ModificationTag{Epoch: "e"}})
		c := table.AddEndpoint(routetable.Endpoint{ProcessGUID: "p", InstanceGUID: "i", HostAddress: "10.0.0.1", Ports: []routetable.Port{{Container: 8080, Host: 61000}}, Tag: routetable.ModificationTag{Epoch: "e"}})
		return c.Register[0]
	}
	next := func(t *testing.T, all <-chan *nats.Msg) string {
		t.Helper()
		select {
		case m := <-all:
			return m.Subject
		case <-time.After(patience):
			return "nothing"
		}
	}
	serve := func(t *testing.T, handOver time.Duration) (*rig, <-chan *nats.Msg, func()) {
		t.Helper()
		r := newRig(t, func(c *Config) { c.HandOver = handOver })
		nc := r.nats.Connect(mtls.RoleRouter)
		all := make(chan *nats.Msg, 64)
		for _, verb := range []string{"register", "unregister"} {
			_, err := nc.ChanSubscribe("router."+verb, all)
			require.NoError(t, err)
		}
		require.NoError(t, nc.FlushTimeout(patience))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.emitter.Run(ctx) }()
		stop := sync.OnceFunc(func() {
			cancel()
			require.NoError(t, <-done)
		})
		t.Cleanup(stop)
		<-r.emitter.ready
		require.Eventually(t, r.emitter.connected.Load, patience, time.Millisecond)
		return r, all, stop
	}
	t.Run("after the time", func(t *testing.T) {
		t.Parallel()
		r, heard, _ := serve(t, 10*time.Millisecond)
		r.emitter.Apply(routetable.Changes{Withdraw: []routetable.Message{message("a.com")}})
		require.Equal(t, "router.unregister", next(t, heard))
	})
	t.Run("at the end, but not what came back", func(t *testing.T) {
		t.Parallel()
		r, heard, stop := serve(t, time.Hour)
		r.emitter.Apply(routetable.Changes{Withdraw: []routetable.Message{message("a.com"), message("b.com")}})
		r.emitter.Apply(routetable.Changes{Register: []routetable.Message{message("a.com")}})
		require.Equal(t, "router.register", next(t, heard))
		stop()
		m := <-heard
		require.Equal(t, "router.unregister", m.Subject)
		require.Contains(t, string(m.Data), "b.com")
		require.Empty(t, heard)
	})
}
