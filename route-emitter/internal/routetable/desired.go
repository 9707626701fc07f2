// Package routetable owns the rules by which desired routes and running instances become registrations: a table of
// both, and for each change of it the messages that must be sent.
//
// It is pure: no clock, no I/O, no goroutine. A Table is not safe for concurrent use; package watch guards it.
package routetable

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Names of the route providers that are understood. Others pass through the BBS unseen by this program.
const (
	ProviderHTTP     = "cf-router"
	ProviderInternal = "internal-router"
)

// ModificationTag orders the versions of one record.
type ModificationTag struct {
	Epoch string
	Index uint32
}

// Newer tells whether t replaces old: a record with another epoch was made anew, so it always does.
func (t ModificationTag) Newer(old ModificationTag) bool {
	return old.Epoch == "" || t.Epoch != old.Epoch || t.Index > old.Index
}

// stale tells whether t is older than what is stored. Removals apply unless they are.
func (t ModificationTag) stale(stored ModificationTag) bool {
	return t != stored && !t.Newer(stored)
}

// DynamicTag is a metric tag whose value depends on the instance.
type DynamicTag int

// The values that a metric tag may take from its instance.
const (
	Static DynamicTag = iota // the value is TagValue.Static
	TagIndex
	TagInstanceGUID
)

// TagValue is the value of a metric tag.
type TagValue struct {
	Static  string
	Dynamic DynamicTag
}

// Desired is the routing part of a desired LRP.
type Desired struct {
	ProcessGUID string
	Domain      string
	LogGUID     string
	Instances   int
	Routes      Routes
	MetricTags  map[string]TagValue
	Tag         ModificationTag
}

// Routes are the parsed routes of one process.
type Routes struct {
	HTTP     []HTTPRoute
	Internal []string // host names such as app.apps.internal
}

// HTTPRoute is one host name of an element of cf-router.
type HTTPRoute struct {
	Hostname         string // host, optionally with a path, optionally beginning with "*."
	ContainerPort    uint32
	RouteServiceURL  string
	IsolationSegment string
	Protocol         string
	Options          string // raw JSON, passed through unread; empty if there are none
	// PerInstance also gives each instance the name "<index>.<hostname>" of its own.
	PerInstance bool
}

type httpElement struct {
	Hostnames        []string        `json:"hostnames"`
	Port             uint32          `json:"port"`
	RouteServiceURL  string          `json:"route_service_url"`
	IsolationSegment string          `json:"isolation_segment"`
	Protocol         string          `json:"protocol"`
	Options          json.RawMessage `json:"options"`
	RouteToInstances bool            `json:"route_to_instances"`
}

type internalElement struct {
	Hostname string `json:"hostname"`
}

// ParseRoutes reads the routes of a desired LRP. What cannot be used is left out and named in the error; the rest is
// returned in any case, because one bad element must not take the others from their users.
func ParseRoutes(raw map[string][]byte) (Routes, error) {
	var out Routes
	var problems []error
	for i, data := range elements(raw, ProviderHTTP, &problems) {
		routes, err := parseHTTP(data)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s[%d]: %w", ProviderHTTP, i, err))
		}
		out.HTTP = append(out.HTTP, routes...)
	}
	for i, data := range elements(raw, ProviderInternal, &problems) {
		var e internalElement
		if err := json.Unmarshal(data, &e); err != nil {
			problems = append(problems, fmt.Errorf("%s[%d]: %w", ProviderInternal, i, err))
			continue
		}
		if e.Hostname == "" {
			problems = append(problems, fmt.Errorf("%s[%d]: no hostname", ProviderInternal, i))
			continue
		}
		out.Internal = append(out.Internal, e.Hostname)
	}
	return out, errors.Join(problems...)
}

func elements(raw map[string][]byte, provider string, problems *[]error) []json.RawMessage {
	data := raw[provider]
	if len(data) == 0 {
		return nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		*problems = append(*problems, fmt.Errorf("%s: %w", provider, err))
	}
	return list
}

func parseHTTP(data []byte) ([]HTTPRoute, error) {
	var e httpElement
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, err //nolint:wrapcheck // the caller names the element
	}
	if e.Port == 0 || e.Port > 65535 {
		return nil, fmt.Errorf("port %d is not between 1 and 65535", e.Port)
	}
	options := string(e.Options)
	if options == "null" {
		options = ""
	}
	var routes []HTTPRoute
	var problems []error
	for _, h := range e.Hostnames {
		if h == "" {
			problems = append(problems, errors.New("an empty hostname"))
			continue
		}
		r := HTTPRoute{
			Hostname: h, ContainerPort: e.Port, RouteServiceURL: e.RouteServiceURL, IsolationSegment: e.IsolationSegment,
			Protocol: e.Protocol, Options: options, PerInstance: e.RouteToInstances,
		}
		if r.PerInstance && strings.HasPrefix(h, "*") {
			problems = append(problems, fmt.Errorf("route_to_instances does not go with the wildcard %q", h))
			r.PerInstance = false
		}
		routes = append(routes, r)
	}
	return routes, errors.Join(problems...)
}
