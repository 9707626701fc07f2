// Package registry owns the routing rules of the router: which backend endpoints are known under which URI,
// which of them answers the next request, and when an endpoint that nobody refreshes is dropped.
//
// It knows neither NATS nor HTTP, starts no goroutine and reads no clock: times are arguments. All exported
// methods are safe for concurrent use and never block on I/O.
package registry

import (
	"net"
	"strconv"
	"time"
)

// Algorithm names the way a pool chooses among its endpoints.
type Algorithm string

const (
	// RoundRobin takes the endpoints in turn, starting at a random one.
	RoundRobin Algorithm = "round-robin"
	// LeastConnection takes a random endpoint among those with the fewest open requests.
	LeastConnection Algorithm = "least-connection"
)

// Valid tells whether a is one of the known algorithms.
func (a Algorithm) Valid() bool {
	return a == RoundRobin || a == LeastConnection
}

// Protocols of a backend, as they are written in registrations.
const (
	ProtocolHTTP1 = "http1"
	ProtocolHTTP2 = "http2"
)

// Endpoint is one backend address of one instance as its registration described it. It is a value: whoever
// receives one may keep it, but must not write to Tags.
type Endpoint struct {
	// Host and Port are dialled: Port is the TLS port if TLS is true, the plain port otherwise.
	Host string
	Port uint16
	// TLS demands a verified TLS connection whose certificate carries CertificateSAN.
	TLS            bool
	CertificateSAN string

	// AppID is the log guid of the process; InstanceID the instance guid, empty if the sender gave none.
	AppID         string
	InstanceID    string
	InstanceIndex string

	Protocol         string // ProtocolHTTP1 or ProtocolHTTP2
	RouteServiceURL  string // a route with one is not served directly, see package proxy
	IsolationSegment string
	Zone             string
	Balancing        Algorithm // empty: the router's default
	Tags             map[string]string

	// StaleAfter is how long the endpoint lives without being registered again; zero or more than the
	// registry's threshold means that threshold. It is not applied to TLS endpoints, which leave only when
	// they are unregistered or fail their identity check.
	StaleAfter time.Duration
}

// Address is the dialled "host:port", by which pools tell endpoints apart.
func (e Endpoint) Address() string {
	return net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
}

// ID names the instance towards applications and in cookies: the instance guid, or the address if none was given.
func (e Endpoint) ID() string {
	if e.InstanceID == "" {
		return e.Address()
	}
	return e.InstanceID
}
