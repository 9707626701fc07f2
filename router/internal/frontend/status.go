package frontend

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"diego.internal/router/internal/registry"
)

// Health decides what load balancers are told.
type Health struct {
	draining atomic.Bool
	// filled tells since when the table is being filled, zero if it is not yet.
	filled func() time.Time
	delay  time.Duration
}

// NewHealth returns a Health that is good once delay has passed since the time that filled returns: before that the
// table may lack routes, and requests would read 404 for applications that run.
func NewHealth(filled func() time.Time, delay time.Duration) *Health {
	return &Health{filled: filled, delay: delay}
}

// Drain turns health bad for good.
func (h *Health) Drain() { h.draining.Store(true) }

// Check returns nil if requests shall come here at time now, and otherwise why not.
func (h *Health) Check(now time.Time) error {
	if h.draining.Load() {
		return errors.New("draining")
	}
	since := h.filled()
	if since.IsZero() {
		return errors.New("nats was not reached yet")
	}
	if left := h.delay - now.Sub(since); left > 0 {
		return fmt.Errorf("gathering routes for another %v", left.Round(time.Millisecond))
	}
	return nil
}

// StatusConfig holds what a Status needs. Without User, /routes answers to everybody who reaches the listener.
type StatusConfig struct {
	Listener net.Listener
	Health   *Health
	Registry *registry.Registry
	// Balancing is what routes without an algorithm of their own use.
	Balancing      registry.Algorithm
	User, Password string
}

// Status serves GET /health and GET /routes.
type Status struct {
	cfg StatusConfig
}

// NewStatus returns a Status that begins to accept in Run.
func NewStatus(cfg StatusConfig) *Status {
	return &Status{cfg: cfg}
}

// Run serves until ctx ends. The caller ends it after the drain: until then load balancers must read "draining".
func (s *Status) Run(ctx context.Context) error {
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	if err := server.Serve(s.cfg.Listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving status: %w", err)
	}
	return nil
}

func (s *Status) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc("GET /routes", s.routes)
	return mux
}

func (s *Status) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "private, max-age=0")
	if err := s.cfg.Health.Check(time.Now()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n")) // a probe that is gone needs no answer
}

// endpoint is one element of the answer of /routes.
type endpoint struct {
	Address          string             `json:"address"`
	TLS              bool               `json:"tls"`
	TTL              int64              `json:"ttl"` // seconds
	Protocol         string             `json:"protocol,omitempty"`
	Tags             map[string]string  `json:"tags"`
	Zone             string             `json:"availability_zone,omitempty"`
	IsolationSegment string             `json:"isolation_segment,omitempty"`
	InstanceID       string             `json:"private_instance_id,omitempty"`
	CertificateSAN   string             `json:"server_cert_domain_san,omitempty"`
	RouteServiceURL  string             `json:"route_service_url,omitempty"`
	Balancing        registry.Algorithm `json:"load_balancing_algorithm"`
}

func (s *Status) routes(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="router"`)
		http.Error(w, "user and password of the status listener are required", http.StatusUnauthorized)
		return
	}
	out := map[string][]endpoint{}
	for uri, es := range s.cfg.Registry.Snapshot() {
		out[uri] = make([]endpoint, len(es))
		for i, e := range es {
			out[uri][i] = s.convert(e)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // a reader that is gone needs no answer
}

func (s *Status) convert(e registry.Endpoint) endpoint {
	balancing := e.Balancing
	if balancing == "" {
		balancing = s.cfg.Balancing
	}
	return endpoint{
		Address: e.Address(), TLS: e.TLS, TTL: int64(e.StaleAfter / time.Second), Protocol: e.Protocol, Tags: e.Tags,
		Zone: e.Zone, IsolationSegment: e.IsolationSegment, InstanceID: e.InstanceID, CertificateSAN: e.CertificateSAN,
		RouteServiceURL: e.RouteServiceURL, Balancing: balancing,
	}
}

// authorized compares in constant time, digests because lengths may differ.
func (s *Status) authorized(r *http.Request) bool {
	if s.cfg.User == "" {
		return true
	}
	user, password, _ := r.BasicAuth()
	same := func(a, b string) int {
		x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
		return subtle.ConstantTimeCompare(x[:], y[:])
	}
	return same(user, s.cfg.User)&same(password, s.cfg.Password) == 1
}
