// Package emit owns the sending of registrations over NATS: changes at once, everything at the interval that the
// routers ask for, and unregistrations several times. What is to be registered is the business of package routetable.
package emit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"diego.internal/route-emitter/internal/routetable"
)

// Config holds what an Emitter needs; all fields but Internal are required.
type Config struct {
	Addresses []string // "host:port" of NATS servers
	TLS       *tls.Config
	// Messages returns all that is registered now. It is called while changes wait, and must not call the Emitter.
	Messages func() []routetable.Message
	// Seed gives the steady emissions their phase: the cell id, or another name that differs between emitters.
	Seed string
	// DefaultInterval is used until a router says at which interval it wants everything.
	DefaultInterval time.Duration
	// JitterFactor, in (0,1], is the part of the interval over which emissions spread after the start of a router.
	JitterFactor float64
	// RepeatInterval and RepeatTimes say how unregistrations are sent again.
	RepeatInterval time.Duration
	RepeatTimes    int
	// HandOver is how long the routes of an evacuated instance stay registered after its replacement has become routable, so
	// that routers have heard of that first.
	HandOver time.Duration
	// Internal also serves the plane of service discovery.
	Internal bool
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// Emitter sends registrations. Its methods are safe for concurrent use, but only one goroutine may call Apply: the order
// of its calls is the order of the messages.
type Emitter struct {
	cfg       Config
	metrics   *metrics
	schedules []*schedule
	connected atomic.Bool
	ready     chan struct{} // closed when the subscriptions are made, or will not be
	closed    chan struct{} // closed when NATS gave up for good

	// mu makes emissions and changes exclude each other: a registration read from the table before an unregistration
	// must not be sent after it.
	mu      sync.Mutex
	nc      *nats.Conn // nil before Run
	repeats *repeats
	// withdrawn waits for the end of its hand-over.
	withdrawn map[routetable.Key]routetable.Message

	statusMu sync.Mutex
	status   Status
}

// Status is what is known of the emissions.
type Status struct {
	Connected bool   `json:"connected"`
	Server    string `json:"server"`
	// Greeted tells that a router has said how often it wants everything.
	Greeted      bool          `json:"greeted"`
	Interval     time.Duration `json:"interval"`
	LastEmission time.Time     `json:"last_emission"` // of everything; zero if there was none
}

// Check returns why the routers may lack something, or nil.
func (s Status) Check(now time.Time) error {
	switch {
	case !s.Connected:
		return errors.New("not connected to nats")
	case !s.Greeted:
		return errors.New("no router has answered yet")
	case now.Sub(s.LastEmission) > 3*s.Interval:
		return fmt.Errorf("the last emission was %v ago", now.Sub(s.LastEmission).Round(time.Second))
	}
	return nil
}

// New returns an Emitter that sends nothing until Run.
func New(cfg Config) *Emitter {
	e := &Emitter{
		cfg: cfg, repeats: newRepeats(cfg.RepeatTimes), withdrawn: map[routetable.Key]routetable.Message{}, ready: make(chan struct{}), closed: make(chan struct{}), status: Status{Interval: cfg.DefaultInterval},
	}
	e.metrics = newMetrics(cfg.Metrics, e)
	e.schedules = append(e.schedules, newSchedule(e, routetable.PlaneHTTP))
	if cfg.Internal {
		e.schedules = append(e.schedules, newSchedule(e, routetable.PlaneInternal))
	}
	return e
}

// Run sends until ctx ends. It does not give up when NATS is away: what changes meanwhile is sent with everything else
// when it is back. It returns an error only if the link can never come back. It unregisters nothing at the end: an
// emitter that stops must not take traffic from instances that run; only what was being withdrawn goes with it.
func (e *Emitter) Run(ctx context.Context) error {
	var once sync.Once
	release := func() { once.Do(func() { close(e.ready) }) }
	defer release()
	nc, err := nats.Connect(e.url(), e.options()...)
	if err != nil {
		return fmt.Errorf("connecting to nats: %w", err)
	}
	defer nc.Close()
	inboxes := make([]string, len(e.schedules))
	for i, s := range e.schedules {
		if inboxes[i], err = s.subscribe(nc); err != nil {
			return fmt.Errorf("subscribing for %s: %w", s.plane, err)
		}
	}
	e.mu.Lock()
	e.nc = nc
	e.mu.Unlock()
	release()

	g, gctx := errgroup.WithContext(ctx)
	for i, s := range e.schedules {
		g.Go(func() error {
			s.run(gctx, nc, inboxes[i])
			return nil
		})
	}
	g.Go(func() error { return e.repeat(gctx) })
	err = g.Wait()
	e.withdrawRest()
	return err //nolint:wrapcheck // wrapped by repeat
}

// repeat sends unregistrations again, and notices the end of the link.
func (e *Emitter) repeat(ctx context.Context) error {
	tick := time.NewTicker(e.cfg.RepeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.closed:
			return errors.New("the nats client has given up")
		case <-tick.C:
			e.sendRepeats()
		}
	}
}

// sendRepeats waits for better times while NATS is away, so that the repetitions are not used up in vain.
func (e *Emitter) sendRepeats() {
	if !e.connected.Load() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.repeats.due() {
		e.publish(m, "unregister")
	}
}

// Apply sends a change of the table. It blocks while an emission is under way, and never fails: what cannot be sent
// now is sent with the next emission or repetition.
func (e *Emitter) Apply(c routetable.Changes) {
	if c.Empty() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range c.Register {
		delete(e.withdrawn, m.Key)
		e.publish(m, "register")
	}
	e.metrics.registered.Add(float64(len(c.Register)))
	e.unregister(c)
	if len(c.Withdraw) == 0 {
		return
	}
	for _, m := range c.Withdraw {
		e.withdrawn[m.Key] = m
	}
	time.AfterFunc(e.cfg.HandOver, func() { e.withdraw(c.Withdraw) })
}

// unregister sends the unregistrations of a change and sees to their repetition. The caller holds mu.
func (e *Emitter) unregister(c routetable.Changes) {
	e.repeats.note(c)
	for _, m := range c.Unregister {
		e.publish(m, "unregister")
	}
	e.metrics.unregistered.Add(float64(len(c.Unregister)))
}

// withdraw unregisters what has been handed over, unless it was registered again meanwhile.
func (e *Emitter) withdraw(messages []routetable.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var due routetable.Changes
	for _, m := range messages {
		if waiting, ok := e.withdrawn[m.Key]; ok && waiting == m {
			delete(e.withdrawn, m.Key)
			due.Unregister = append(due.Unregister, m)
		}
	}
	e.unregister(due)
}

// withdrawRest unregisters at the end what still waits: nobody else would.
func (e *Emitter) withdrawRest() {
	e.mu.Lock()
	rest := slices.Collect(maps.Values(e.withdrawn))
	e.mu.Unlock()
	e.withdraw(rest)
}

// emit sends everything that is registered on a plane.
func (e *Emitter) emit(plane routetable.Plane) {
	if !e.connected.Load() {
		return // it happens when the connection is back
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	sent, failed := 0, false
	for _, m := range e.cfg.Messages() {
		if m.Key.Plane != plane {
			continue
		}
		failed = !e.publish(m, "register") || failed
		sent++
	}
	e.metrics.synced.Add(float64(sent))
	if failed || plane != routetable.PlaneHTTP {
		return
	}
	e.statusMu.Lock()
	defer e.statusMu.Unlock()
	e.status.LastEmission = time.Now()
}

// publish sends one message and reports whether the client took it. The caller holds mu.
func (e *Emitter) publish(m routetable.Message, verb string) bool {
	if e.nc == nil {
		return false
	}
	if err := e.nc.Publish(string(m.Key.Plane)+"."+verb, m.Payload()); err != nil {
		e.metrics.dropped.Inc()
		return false
	}
	e.metrics.emitted(m.Key.Plane)
	return true
}

func (e *Emitter) setInterval(plane routetable.Plane, d time.Duration) {
	e.cfg.Log.Info("listener-heard", "plane", string(plane), "interval", d)
	if plane != routetable.PlaneHTTP {
		return
	}
	e.statusMu.Lock()
	defer e.statusMu.Unlock()
	e.status.Interval, e.status.Greeted = d, true
}

// Status returns the remembered state.
func (e *Emitter) Status() Status {
	e.statusMu.Lock()
	defer e.statusMu.Unlock()
	s := e.status
	s.Connected = e.connected.Load()
	return s
}

func (e *Emitter) url() string {
	urls := make([]string, len(e.cfg.Addresses))
	for i, a := range e.cfg.Addresses {
		urls[i] = "tls://" + a
	}
	return strings.Join(urls, ",")
}

func (e *Emitter) options() []nats.Option {
	return []nats.Option{
		nats.Name("route-emitter " + e.cfg.Seed),
		nats.Secure(e.cfg.TLS),
		nats.PingInterval(20 * time.Second),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(), // a certificate may be on its way to renewal
		nats.FlusherTimeout(10 * time.Second),
		// Nothing is kept for a lost connection: the state of then would be sent into that of now.
		nats.ReconnectBufSize(-1),
		nats.ConnectHandler(e.onConnect),
		nats.ReconnectHandler(e.onConnect),
		nats.DisconnectErrHandler(e.onDisconnect),
		nats.ClosedHandler(func(*nats.Conn) { close(e.closed) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { e.cfg.Log.Error("nats-error", "error", err) }),
	}
}

// onConnect runs after the first and every later connection.
func (e *Emitter) onConnect(nc *nats.Conn) {
	<-e.ready
	e.statusMu.Lock()
	e.status.Server = nc.ConnectedAddr()
	e.statusMu.Unlock()
	e.connected.Store(true)
	e.cfg.Log.Info("nats-connected", "server", nc.ConnectedAddr())
	e.sendRepeats()
	for _, s := range e.schedules {
		s.kick()
	}
}

func (e *Emitter) onDisconnect(_ *nats.Conn, err error) {
	e.connected.Store(false)
	e.cfg.Log.Warn("nats-disconnected", "error", err)
}
