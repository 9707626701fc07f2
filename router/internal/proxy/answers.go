package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"diego.internal/router/internal/registry"
)

// Statuses without a name in net/http. The 52x and 496 ones are those that CDNs made customary.
const (
	statusClientGone           = 499
	statusCertificateRequired  = 496
	statusHandshakeFailed      = 525
	statusUntrustedCertificate = 526
)

// answer is what the router itself says to a client.
type answer struct {
	status      int
	routerError string // X-Cf-RouterError; empty leaves the header out
	body        string
}

var (
	answerTooLarge    = answer{http.StatusRequestHeaderFieldsTooLarge, "max-request-size-exceeded", "Request line and headers are too large."}
	answerEmptyHost   = answer{http.StatusBadRequest, "empty_host", "Request had empty Host header."}
	answerBadInstance = answer{http.StatusBadRequest, "invalid_cf_app_instance_header", "The requested instance is malformed or does not exist."}
	answerNoEndpoints = answer{http.StatusServiceUnavailable, "no_endpoints", "Requested route has no available endpoints."}
	answerLimit       = answer{http.StatusServiceUnavailable, "Connection Limit Reached", "Requested route is at its connection limit."}
)

func answerUnknownRoute(host string) answer {
	return answer{http.StatusNotFound, "unknown_route", fmt.Sprintf("Requested route ('%s') does not exist.", printable(host))}
}

func answerRouteService(r *http.Request) answer {
	status := http.StatusBadGateway
	if isUpgrade(r) {
		status = http.StatusServiceUnavailable
	}
	return answer{status, "route_service_unsupported", "The route is bound to a route service, which this router does not support."}
}

// failureAnswer maps an error of the transport.
func failureAnswer(ctx context.Context, err error) answer {
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		return endpointFailure(http.StatusBadGateway, errTimeout)
	case ctx.Err() != nil:
		return answer{status: statusClientGone}
	case errors.Is(err, registry.ErrNoMatch):
		return answerBadInstance
	case errors.Is(err, registry.ErrLimit):
		return answerLimit
	case errors.Is(err, registry.ErrNoEndpoints), errors.Is(err, registry.ErrExhausted):
		return answerNoEndpoints
	default:
		return endpointFailure(failureStatus(err), err)
	}
}

// failureStatus is the status for an error that an endpoint caused.
func failureStatus(err error) int {
	var failure *connectError
	var wrongName x509.HostnameError
	switch {
	case clientCertificateDemanded(err):
		return statusCertificateRequired
	case !errors.As(err, &failure) || !failure.handshake:
		return http.StatusBadGateway
	case errors.As(err, &wrongName):
		return http.StatusServiceUnavailable
	case untrusted(err):
		return statusUntrustedCertificate
	default:
		return statusHandshakeFailed
	}
}

func untrusted(err error) bool {
	var verification *tls.CertificateVerificationError
	return errors.As(err, &verification)
}

// clientCertificateDemanded tells whether a backend refused the router's client certificate or the lack of it. The
// type of a remote alert is private to crypto/tls, which leaves its text.
func clientCertificateDemanded(err error) bool {
	var alert *net.OpError
	if !errors.As(err, &alert) || alert.Op != "remote error" || alert.Err == nil {
		return false
	}
	text := alert.Err.Error()
	return text == "tls: certificate required" || text == "tls: bad certificate"
}

func endpointFailure(status int, err error) answer {
	return answer{
		status: status, routerError: "endpoint_failure (" + printable(err.Error()) + ")",
		body: "Registered endpoint failed to handle the request.",
	}
}

// fail is the error handler of the reverse proxy.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	a := failureAnswer(r.Context(), err)
	p.metrics.countFailure(a, err)
	if isUpgrade(x.original) {
		p.metrics.upgradeFailures.Inc()
	}
	p.answer(x, w, a)
}

// answer writes a to the client. The reason goes into a header and into the access log, the body stays general.
func (p *Proxy) answer(x *exchange, w http.ResponseWriter, a answer) {
	x.routerError = a.routerError
	h := w.Header()
	if a.routerError != "" {
		h.Set("X-Cf-RouterError", a.routerError)
	}
	if a.status == http.StatusRequestHeaderFieldsTooLarge {
		h.Set("Connection", "close")
	}
	h.Set("Cache-Control", "no-cache, no-store")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(a.body)+len("\n")))
	w.WriteHeader(a.status)
	_, _ = w.Write([]byte(a.body + "\n")) // a client that is gone is found by the access log
}

// printable keeps what an outsider chose from breaking a header or a line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
