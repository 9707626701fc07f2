package registry

import (
	"net"
	"strings"
)

// route is a URI taken apart: a host name and the path segments under it, all in lower case.
type route struct {
	host     string
	segments []string
}

// parseRoute reads a registered URI ("host", "host/path", "*.host/path"). Case, query and trailing slashes do not
// distinguish routes. ok is false if there is no host.
func parseRoute(uri string) (r route, ok bool) {
	host, path, _ := strings.Cut(uri, "/")
	host, _, _ = strings.Cut(host, "?")
	return newRoute(host, path)
}

// newRoute canonicalizes a host, which may carry a port, and a path with or without its leading slash.
func newRoute(host, path string) (r route, ok bool) {
	host = strings.ToLower(strings.TrimSuffix(withoutPort(host), "."))
	if host == "" {
		return route{}, false
	}
	path, _, _ = strings.Cut(path, "?")
	path = strings.Trim(strings.ToLower(path), "/")
	if path == "" {
		return route{host: host}, true
	}
	return route{host: host, segments: strings.Split(path, "/")}, true
}

func (r route) String() string {
	if len(r.segments) == 0 {
		return r.host
	}
	return r.host + "/" + strings.Join(r.segments, "/")
}

// nextWildcard gives the next host to try when host has no match: the first label becomes "*", then one label
// after the other is dropped. ok is false when nothing is left to try.
func nextWildcard(host string) (wild string, ok bool) {
	rest := strings.TrimPrefix(host, "*.")
	_, parent, found := strings.Cut(rest, ".")
	if !found {
		return "", false
	}
	return "*." + parent, true
}

func withoutPort(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return hostport // no port in it
	}
	return host
}
