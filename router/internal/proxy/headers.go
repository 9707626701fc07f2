package proxy

import (
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"

	"diego.internal/router/internal/registry"
)

const (
	headerRequestID       = "X-Vcap-Request-Id"
	headerAppInstance     = "X-Cf-App-Instance"
	headerProcessInstance = "X-Cf-Process-Instance"
)

// rewrite makes the request that goes to a backend, except for what depends on the endpoint.
func rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In.Context())
	in, out := pr.In, pr.Out
	out.Host = in.Host
	out.URL.RawQuery = in.URL.RawQuery // as the client wrote it, also where it does not parse
	// The reverse proxy drops what names the way so far; a router is a link of that chain and hands it on.
	for _, name := range []string{"Forwarded", "X-Forwarded-Host"} {
		if v, ok := in.Header[name]; ok {
			out.Header[name] = v
		}
	}
	out.Header.Set("X-Forwarded-For", forwardedFor(in))
	out.Header.Set("X-Forwarded-Proto", forwardedProto(in))
	out.Header.Set(headerRequestID, x.requestID)
	if in.Header.Get("X-Request-Start") == "" {
		out.Header.Set("X-Request-Start", strconv.FormatInt(x.start.UnixMilli(), 10))
	}
	// Only a route service may send these, and this router has none.
	out.Header.Del("X-Cf-Proxy-Signature")
	out.Header.Del("X-Cf-Proxy-Metadata")
	if in.UserAgent() == "" {
		out.Header["User-Agent"] = []string{""} // keeps the transport from putting in its own
	}
}

// setEndpointHeaders tells the backend who it is. What a client sent under these names never passes.
func setEndpointHeaders(h http.Header, e registry.Endpoint) {
	for name, value := range map[string]string{
		"X-CF-ApplicationID": e.AppID, "X-CF-InstanceID": e.ID(), "X-CF-InstanceIndex": e.InstanceIndex,
	} {
		if value == "" {
			h.Del(name)
			continue
		}
		h.Set(name, value)
	}
}

// forwardedFor is the chain of clients with the direct one at its end.
func forwardedFor(r *http.Request) string {
	chain := r.Header.Values("X-Forwarded-For")
	if ip, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		chain = append(slices.Clip(chain), ip)
	}
	return strings.Join(chain, ", ")
}

// forwardedProto is the scheme the first client used, as far as somebody before the router said so.
func forwardedProto(r *http.Request) string {
	if proto := r.Header.Get("X-Forwarded-Proto"); proto != "" {
		return proto
	}
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// isUpgrade tells whether the request asks to leave HTTP, as websockets do.
func isUpgrade(r *http.Request) bool {
	if r.Header.Get("Upgrade") == "" {
		return false
	}
	for _, line := range r.Header.Values("Connection") {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return true
			}
		}
	}
	return false
}

// headerBytes is the size of request line and headers as they came over the wire.
func headerBytes(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Proto) + len("  \r\n") + len("Host: \r\n") + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(": \r\n") + len(v)
		}
	}
	return n
}

var errMalformedInstance = errors.New("malformed instance header")

// instanceSelector reads the headers by which a client asks for one instance: "X-CF-App-Instance: <app guid>:<index>"
// or "X-CF-Process-Instance: <process guid>[:<index>]". It returns nil if there is neither.
func instanceSelector(h http.Header) (func(registry.Endpoint) bool, error) {
	if v := h.Get(headerAppInstance); v != "" {
		app, index, ok := strings.Cut(v, ":")
		if !ok || app == "" || !isIndex(index) {
			return nil, errMalformedInstance
		}
		return func(e registry.Endpoint) bool { return e.AppID == app && e.InstanceIndex == index }, nil
	}
	if v := h.Get(headerProcessInstance); v != "" {
		process, index, hasIndex := strings.Cut(v, ":")
		if process == "" || (hasIndex && !isIndex(index)) {
			return nil, errMalformedInstance
		}
		return func(e registry.Endpoint) bool {
			return e.Tags["process_id"] == process && (!hasIndex || e.InstanceIndex == index)
		}, nil
	}
	return nil, nil //nolint:nilnil // no selector is the usual case
}

func isIndex(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}
