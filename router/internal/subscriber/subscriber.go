// Package subscriber owns the router's link to NATS: it feeds registrations into the registry, tells emitters when
// and how often to send them, and prunes what they no longer send. It decides nothing about routes itself.
package subscriber

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/router/internal/registry"
)

// Subjects of the plane between emitters and routers.
const (
	subjectAll        = "router.*"
	subjectRegister   = "router.register"
	subjectUnregister = "router.unregister"
	subjectStart      = "router.start"
	subjectGreet      = "router.greet"
)

// pendingMessages limits what may wait between NATS and the registry; what exceeds it is dropped and counted.
const pendingMessages = 131072

// Start is what a router says of itself on router.start and in answer to router.greet.
type Start struct {
	ID              string   `json:"id"` // "<index>-<uuid>"
	Hosts           []string `json:"hosts"`
	MinimumInterval int      `json:"minimumRegisterIntervalInSeconds"`
	PruneThreshold  int      `json:"pruneThresholdInSeconds"`
}

// Config holds what a Subscriber needs; all fields are required.
type Config struct {
	Addresses []string // "host:port" of NATS servers
	TLS       *tls.Config
	Registry  *registry.Registry
	Start     Start
	// PruneInterval is how often stale endpoints are looked for.
	PruneInterval time.Duration
	// SuspendPruning stops pruning while NATS cannot be reached.
	SuspendPruning bool
	Log            *slog.Logger
	Metrics        prometheus.Registerer
}

// Subscriber is the link to NATS. Its methods are safe for concurrent use.
type Subscriber struct {
	cfg      Config
	greeting []byte
	metrics  *metrics

	connected  atomic.Bool
	subscribed chan struct{} // closed when the subscription is made, or will not be
	closed     chan struct{} // closed when NATS gave up for good

	mu         sync.Mutex
	firstHeard time.Time // of the first connection; zero before it
	server     string    // the server of the current or last connection
}

// New returns a Subscriber that does nothing until Run.
func New(cfg Config) (*Subscriber, error) {
	greeting, err := json.Marshal(cfg.Start)
	if err != nil {
		return nil, fmt.Errorf("encoding the start message: %w", err)
	}
	return &Subscriber{
		cfg: cfg, greeting: greeting, metrics: newMetrics(cfg.Metrics, cfg.Registry), subscribed: make(chan struct{}), closed: make(chan struct{}),
	}, nil
}

// Run keeps the link up and prunes until ctx ends. It does not give up when NATS is away: the table stays, and the
// client tries again every half second. It returns an error only if the link can never come back.
func (s *Subscriber) Run(ctx context.Context) error {
	if s.cfg.SuspendPruning {
		s.cfg.Registry.Suspend() // until the first connection
	}
	nc, err := nats.Connect(s.url(), s.options()...)
	if err != nil {
		return fmt.Errorf("connecting to nats: %w", err)
	}
	defer nc.Close()
	// One subscription for all subjects keeps registrations and unregistrations of one sender in their order.
	sub, err := nc.Subscribe(subjectAll, s.receive)
	close(s.subscribed)
	if err != nil {
		return fmt.Errorf("subscribing to %s: %w", subjectAll, err)
	}
	if err := sub.SetPendingLimits(pendingMessages, -1); err != nil {
		return fmt.Errorf("limiting pending messages: %w", err)
	}
	tick := time.NewTicker(s.cfg.PruneInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.closed:
			return errors.New("the nats client has given up")
		case now := <-tick.C:
			s.prune(now)
		}
	}
}

func (s *Subscriber) prune(now time.Time) {
	if n := s.cfg.Registry.Prune(now); n > 0 {
		s.metrics.pruned.Add(float64(n))
		s.cfg.Log.Info("endpoints-pruned", "count", n)
	}
}

func (s *Subscriber) url() string {
	urls := make([]string, len(s.cfg.Addresses))
	for i, a := range s.cfg.Addresses {
		urls[i] = "tls://" + a
	}
	return strings.Join(urls, ",")
}

func (s *Subscriber) options() []nats.Option {
	return []nats.Option{
		nats.Name("router " + s.cfg.Start.ID),
		nats.Secure(s.cfg.TLS),
		nats.PingInterval(20 * time.Second),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(), // a certificate may be on its way to renewal
		nats.ConnectHandler(s.onConnect),
		nats.ReconnectHandler(s.onConnect),
		nats.DisconnectErrHandler(s.onDisconnect),
		nats.ClosedHandler(func(*nats.Conn) { close(s.closed) }),
		nats.ErrorHandler(s.onError),
	}
}

// onConnect runs after the first and every later connection. It asks for all routes, so the subscription must be
// there before: the client restores it on a later connection, and Run makes it on the first.
func (s *Subscriber) onConnect(nc *nats.Conn) {
	<-s.subscribed
	now := time.Now()
	s.cfg.Registry.Resume(now)
	s.mu.Lock()
	if s.firstHeard.IsZero() {
		s.firstHeard = now
	}
	s.server = nc.ConnectedAddr()
	s.mu.Unlock()
	s.connected.Store(true)
	s.cfg.Log.Info("nats-connected", "server", nc.ConnectedAddr())
	if err := nc.Publish(subjectStart, s.greeting); err != nil {
		s.cfg.Log.Warn("publishing-start-failed", "error", err)
	}
}

func (s *Subscriber) onDisconnect(_ *nats.Conn, err error) {
	s.connected.Store(false)
	if s.cfg.SuspendPruning {
		s.cfg.Registry.Suspend()
	}
	s.cfg.Log.Warn("nats-disconnected", "error", err)
}

func (s *Subscriber) onError(nc *nats.Conn, sub *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrSlowConsumer) && sub != nil {
		if dropped, derr := sub.Dropped(); derr == nil {
			s.metrics.dropped.Set(float64(dropped))
		}
		// Emitters answer a start with their full table, which replaces what was lost.
		if perr := nc.Publish(subjectStart, s.greeting); perr != nil {
			s.cfg.Log.Warn("publishing-start-failed", "error", perr)
		}
	}
	s.cfg.Log.Error("nats-error", "error", err)
}

// receive handles one message. NATS calls it from one goroutine, in order.
func (s *Subscriber) receive(msg *nats.Msg) {
	switch msg.Subject {
	case subjectRegister:
		s.register(msg.Data, time.Now())
	case subjectUnregister:
		s.unregister(msg.Data, time.Now())
	case subjectGreet:
		if msg.Reply == "" {
			return
		}
		if err := msg.Respond(s.greeting); err != nil {
			s.cfg.Log.Warn("answering-greet-failed", "error", err)
		}
	}
}

func (s *Subscriber) register(data []byte, now time.Time) {
	r, err := decode(data)
	if err != nil {
		s.reject(subjectRegister, err)
		return
	}
	for _, uri := range r.uris {
		outcome, err := s.cfg.Registry.Register(uri, r.endpoint, now)
		if err != nil {
			s.reject(subjectRegister, fmt.Errorf("registering %q: %w", uri, err))
			continue
		}
		s.metrics.registered(outcome)
		if outcome == registry.Refreshed {
			continue
		}
		if !r.updatedAt.IsZero() {
			s.metrics.latency.Observe(max(0, now.Sub(r.updatedAt).Seconds()))
		}
		s.cfg.Log.Debug("endpoint-registered", "uri", uri, "endpoint", r.endpoint.Address(), "instance_guid", r.endpoint.InstanceID)
	}
}

func (s *Subscriber) unregister(data []byte, now time.Time) {
	r, err := decode(data)
	if err != nil {
		s.reject(subjectUnregister, err)
		return
	}
	for _, uri := range r.uris {
		s.metrics.unregistrations.Inc()
		if s.cfg.Registry.Unregister(uri, r.endpoint, now) {
			s.cfg.Log.Debug("endpoint-unregistered", "uri", uri, "endpoint", r.endpoint.Address(), "instance_guid", r.endpoint.InstanceID)
		}
	}
}

// reject counts a bad message. It is logged at debug level only: a broken sender repeats itself every interval, and
// the content of its messages is not ours to print.
func (s *Subscriber) reject(subject string, err error) {
	s.metrics.rejected.Inc()
	s.cfg.Log.Debug("message-rejected", "subject", subject, "error", err)
}

// Status is what is known of the link.
type Status struct {
	Connected      bool      `json:"connected"`
	Server         string    `json:"server"`
	FirstConnected time.Time `json:"first_connected"` // zero before the first connection
}

// Status returns the remembered state of the link.
func (s *Subscriber) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{Connected: s.connected.Load(), Server: s.server, FirstConnected: s.firstHeard}
}
