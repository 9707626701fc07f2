package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"syscall"
	"time"

	"diego.internal/router/internal/registry"
)

// attempts is the transport of the reverse proxy: it tries endpoints until one answers, but never sends a request
// a second time that a backend may have begun to process.
type attempts struct {
	proxy *Proxy
}

// RoundTrip implements http.RoundTripper.
func (a *attempts) RoundTrip(req *http.Request) (*http.Response, error) {
	p, x := a.proxy, exchangeOf(req.Context())
	var last error
	for range p.cfg.MaxAttempts {
		lease, err := x.pool.Pick(x.criteria, time.Now())
		if err != nil {
			if last != nil {
				return nil, last // no further endpoint: what the previous one did is the better explanation
			}
			return nil, err
		}
		if x.lease != nil {
			x.lease.Release()
		}
		x.lease = lease
		res, again, err := a.try(req, lease)
		if err == nil {
			return res, nil
		}
		last = err
		if !again || req.Context().Err() != nil {
			return nil, err
		}
		p.cfg.Log.DebugContext(req.Context(), "attempt-failed", "route", x.pool.Name(), "endpoint", lease.Address(), "instance_guid", lease.InstanceID, "error", err)
		x.criteria.Tried[lease.Address()] = true
		x.criteria.Zone = "" // retries may leave the zone
	}
	return nil, last
}

// try sends the request to one endpoint and tells the registry if the endpoint is bad. again is true if the
// backend certainly did not process it, or if processing it twice is harmless.
func (a *attempts) try(req *http.Request, lease *registry.Lease) (res *http.Response, again bool, err error) {
	p, x := a.proxy, exchangeOf(req.Context())
	var written atomic.Bool
	ctx := httptrace.WithClientTrace(withEndpoint(req.Context(), lease.Endpoint), &httptrace.ClientTrace{
		WroteHeaders: func() { written.Store(true) },
	})
	out := req.Clone(ctx)
	body := &attemptBody{body: req.Body}
	if req.Body != nil {
		out.Body = body
	}
	setEndpointHeaders(out.Header, lease.Endpoint)
	began := time.Now()
	res, err = p.dialer.roundTrip(out, lease.Endpoint)
	x.backendTime += time.Since(began)
	if err == nil {
		// The response must name the request with the exchange in its context, not our copy of it.
		res.Request = req
		return res, false, nil
	}
	if req.Context().Err() != nil {
		return nil, false, err // the client left or time ran out: that is not the endpoint's fault
	}
	untouched := body.seal()
	unprocessed := a.blame(lease, err) || !written.Load()
	return nil, untouched && (unprocessed || (idempotent(req) && brokenOff(err))), err
}

// blame marks or removes an endpoint that could not be connected to, and reports whether that was the case. A TLS
// endpoint is removed: its address now belongs to somebody else, and only a new registration can say to whom.
func (a *attempts) blame(lease *registry.Lease, err error) bool {
	now := time.Now()
	if clientCertificateDemanded(err) {
		return true // refused before any request was read; the endpoint is as it should be
	}
	if _, ok := errors.AsType[*connectError](err); !ok {
		return false
	}
	if !lease.TLS {
		lease.MarkFailed(now)
		return true
	}
	routes := a.proxy.cfg.Registry.Evict(lease.Endpoint, now)
	a.proxy.metrics.evicted.Inc()
	a.proxy.cfg.Log.Info("endpoint-evicted", "endpoint", lease.Address(), "instance_guid", lease.InstanceID, "routes", routes, "error", err)
	return true
}

// idempotent tells whether doing the request twice has the effect of doing it once.
func idempotent(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return r.Header.Get("Idempotency-Key") != "" || r.Header.Get("X-Idempotency-Key") != ""
}

// brokenOff tells whether a backend closed the connection without an answer.
func brokenOff(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// attemptBody hands out a request body to one attempt and knows whether it was used. Transports close the body of
// a failed request and may read it even later, so neither must reach the real one before it is known that this
// attempt is the last.
type attemptBody struct {
	body  io.Reader
	state atomic.Int32 // one of the states below
}

const (
	bodyFresh int32 = iota
	bodyRead
	bodySealed
)

var errSealed = errors.New("reading the body for an attempt that is over")

func (b *attemptBody) Read(buf []byte) (int, error) {
	if !b.state.CompareAndSwap(bodyFresh, bodyRead) && b.state.Load() == bodySealed {
		return 0, errSealed
	}
	return b.body.Read(buf) //nolint:wrapcheck // io.EOF must arrive as it is
}

// Close does nothing: the server closes the body of its request.
func (b *attemptBody) Close() error { return nil }

// seal ends the attempt and reports whether the body is as good as new.
func (b *attemptBody) seal() bool {
	return b.state.CompareAndSwap(bodyFresh, bodySealed)
}

type endpointKey struct{}

func withEndpoint(ctx context.Context, e registry.Endpoint) context.Context {
	return context.WithValue(ctx, endpointKey{}, e)
}

func endpointOf(ctx context.Context) (registry.Endpoint, bool) {
	e, ok := ctx.Value(endpointKey{}).(registry.Endpoint)
	return e, ok
}
