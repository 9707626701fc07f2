// Package proxy owns the way of one HTTP request through the router: finding its route, choosing an endpoint,
// retrying another one when the first certainly did not see the request, the headers in both directions, and
// what the client reads when all fails. Which endpoints exist is the business of package registry.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/router/internal/access"
	"diego.internal/router/internal/registry"
)

// Config holds what a Proxy needs. Fields without a default are required.
type Config struct {
	Registry *registry.Registry
	Access   *access.Log
	Log      *slog.Logger
	Metrics  prometheus.Registerer

	// MaxAttempts is how many endpoints one request may try; 3, at least 1.
	MaxAttempts int
	// RequestTimeout limits a request from its choice of endpoint to the last byte; upgraded connections have
	// no limit. 0 is none.
	RequestTimeout time.Duration
	// MaxHeaderBytes limits request line and headers together; 1 MiB.
	MaxHeaderBytes int
	// StickyCookies are the cookies by which an application asks for sticky sessions; JSESSIONID.
	StickyCookies []string
	// LocalZone makes the first attempt prefer endpoints of this zone; empty is no preference.
	LocalZone string
	Backends  BackendConfig
}

// Proxy is the handler of the public listener. It is safe for concurrent use.
type Proxy struct {
	cfg     Config
	sticky  map[string]bool
	reverse *httputil.ReverseProxy
	dialer  *dialer
	metrics *metrics
}

// errTimeout is the cause of a request context that ran out of Config.RequestTimeout.
var errTimeout = errors.New("the backend took longer than the request timeout")

// New returns a Proxy. Close must be called when it is no longer used.
func New(cfg Config) *Proxy {
	if cfg.MaxAttempts < 1 {
		cfg.MaxAttempts = 3
	}
	if cfg.MaxHeaderBytes <= 0 {
		cfg.MaxHeaderBytes = 1 << 20
	}
	if cfg.StickyCookies == nil {
		cfg.StickyCookies = []string{"JSESSIONID"}
	}
	p := &Proxy{cfg: cfg, sticky: map[string]bool{}, dialer: newDialer(cfg.Backends), metrics: newMetrics(cfg.Metrics)}
	for _, name := range cfg.StickyCookies {
		p.sticky[name] = true
	}
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      &attempts{proxy: p},
		FlushInterval:  50 * time.Millisecond,
		ModifyResponse: p.modifyResponse,
		ErrorHandler:   p.fail,
		ErrorLog:       slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return p
}

// Close drops the idle connections to backends.
func (p *Proxy) Close() { p.dialer.close() }

// exchange is what the router knows of one request on its way. Only the goroutine of the request writes to it.
type exchange struct {
	start       time.Time
	requestID   string
	pool        *registry.Pool
	criteria    registry.Criteria
	original    *http.Request
	lease       *registry.Lease // the endpoint in use, to be released; nil before the first attempt
	backendTime time.Duration
	routerError string
	upgraded    bool
	stopTimeout func()
}

type exchangeKey struct{}

// exchangeOf returns the exchange that ServeHTTP put into every request context.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{start: time.Now(), requestID: uuid.NewString(), original: r, stopTimeout: func() {}}
	out := &recorder{ResponseWriter: w}
	body := &countingBody{ReadCloser: r.Body}
	r.Body = body
	defer func() {
		// Also when the reverse proxy aborts the handler by panic because the backend broke off its answer.
		x.stopTimeout()
		if x.lease != nil {
			x.lease.Release()
		}
		p.finish(x, r, out, body.n.Load())
	}()
	p.metrics.requests.Inc()
	out.Header().Set(headerRequestID, x.requestID)
	if a := p.route(x, r); a != nil {
		p.metrics.rejected.Inc()
		p.answer(x, out, *a)
		return
	}
	ctx, timeout := withTimeout(context.WithValue(r.Context(), exchangeKey{}, x), p.cfg.RequestTimeout)
	defer timeout.stop()
	x.stopTimeout = timeout.disarm
	p.reverse.ServeHTTP(out, r.WithContext(ctx))
}

// route finds the pool of the request and how to choose from it, or the answer for a request that has none.
func (p *Proxy) route(x *exchange, r *http.Request) *answer {
	if headerBytes(r) > p.cfg.MaxHeaderBytes {
		return &answerTooLarge
	}
	if r.Host == "" {
		return &answerEmptyHost
	}
	x.pool = p.cfg.Registry.Lookup(r.Host, r.URL.EscapedPath())
	p.metrics.lookup.Observe(time.Since(x.start).Seconds())
	if x.pool == nil {
		a := answerUnknownRoute(r.Host)
		return &a
	}
	if x.pool.RouteServiceURL() != "" {
		// The route asks that a service sees each request first. Serving it directly would bypass what may be an
		// authorization check, so it is refused.
		a := answerRouteService(r)
		return &a
	}
	match, err := instanceSelector(r.Header)
	if err != nil {
		return &answerBadInstance
	}
	x.criteria = registry.Criteria{Match: match, Prefer: p.stickyInstance(r), Zone: p.cfg.LocalZone, Tried: map[string]bool{}}
	return nil
}

// modifyResponse runs on the answer of a backend before it is passed on.
func (p *Proxy) modifyResponse(res *http.Response) error {
	x := exchangeOf(res.Request.Context())
	res.Header.Del(headerRequestID) // the router's own is set already
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.upgraded = true
		x.stopTimeout() // an upgraded connection lives as long as its two ends want
		p.metrics.upgrades.Inc()
	} else if isUpgrade(x.original) {
		p.metrics.upgradeFailures.Inc()
	}
	p.stick(x, res)
	return nil
}

// finish writes the access log line and counts the answer.
func (p *Proxy) finish(x *exchange, r *http.Request, out *recorder, received int64) {
	total := time.Since(x.start)
	if x.upgraded && out.status == 0 {
		out.status = http.StatusSwitchingProtocols // written to the hijacked connection, past the recorder
	}
	rec := access.Record{
		Start: x.start, Host: r.Host, Method: r.Method, URI: r.RequestURI, Protocol: r.Proto,
		Status: out.status, BytesReceived: received, BytesSent: out.n,
		Referer: r.Referer(), UserAgent: r.UserAgent(), RemoteAddress: r.RemoteAddr,
		ForwardedFor: forwardedFor(r), ForwardedProto: forwardedProto(r), RequestID: x.requestID,
		ResponseTime: total, RouterTime: total - x.backendTime, RouterError: x.routerError,
	}
	if x.lease != nil {
		rec.Backend, rec.AppID, rec.AppIndex, rec.InstanceID = x.lease.Address(), x.lease.AppID, x.lease.InstanceIndex, x.lease.InstanceID
	}
	p.metrics.observe(out.status, total)
	if err := p.cfg.Access.Write(rec); err != nil {
		p.metrics.accessLogFailures.Inc()
	}
}
