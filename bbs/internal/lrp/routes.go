package lrp

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxRoutesBytes bounds the sum of the lengths of the values of one LRP's routes.
const MaxRoutesBytes = 128 << 10

// InternalRouter is the one router whose route the BBS reads: the host names under which instances
// reach each other.
const InternalRouter = "internal-router"

// ParseRoutes turns routes into their stored form, in order of router, together with the host names
// of the internal router, sorted and without duplicates.
//
// It returns an error that says which route is no JSON, or not of the shape that the internal router
// has, or that they are too long together.
func ParseRoutes(routes map[string][]byte) ([]Route, []string, error) {
	parsed := make([]Route, 0, len(routes))
	total := 0
	for router, value := range routes {
		total += len(value)
		if !json.Valid(value) {
			return nil, nil, fmt.Errorf("route %q is not valid JSON", router)
		}
		parsed = append(parsed, Route{Router: router, Value: value})
	}
	if total > MaxRoutesBytes {
		return nil, nil, fmt.Errorf("routes have %d bytes, more than %d", total, MaxRoutesBytes)
	}
	slices.SortFunc(parsed, func(a, b Route) int { return strings.Compare(a.Router, b.Router) })
	var names []string
	if value, ok := routes[InternalRouter]; ok {
		var err error
		if names, err = decodeInternal(value); err != nil {
			return nil, nil, fmt.Errorf("route %q is not a list of host names: %w", InternalRouter, err)
		}
	}
	if len(parsed) == 0 {
		return nil, nil, nil
	}
	return parsed, names, nil
}

func decodeInternal(value []byte) ([]string, error) {
	var entries []struct {
		Hostname string `json:"hostname"`
	}
	if err := json.Unmarshal(value, &entries); err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if entry.Hostname == "" {
			return nil, fmt.Errorf("an entry has no hostname")
		}
		names = append(names, entry.Hostname)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// internalHostnames reads the internal router's host names out of stored routes. What was stored
// before it was checked and cannot be read counts as none.
func internalHostnames(routes []Route) []string {
	for _, route := range routes {
		if route.Router == InternalRouter {
			names, err := decodeInternal(route.Value)
			if err != nil {
				return nil
			}
			return names
		}
	}
	return nil
}

// RoutesDrifted reports whether a running instance has other internal host names than desired.
func RoutesDrifted(d *Desired, a *Actual) bool {
	if len(d.InternalHostnames) != len(a.InternalRoutes) {
		return true
	}
	for _, name := range a.InternalRoutes {
		if _, ok := slices.BinarySearch(d.InternalHostnames, name); !ok {
			return true
		}
	}
	return false
}

// TagsDrifted reports whether an instance has other metric tags than desired. An instance that
// reported none is left alone: its cell does not know of tags.
func TagsDrifted(d *Desired, a *Actual) bool {
	if len(a.MetricTags) == 0 {
		return false
	}
	if len(d.MetricTags) != len(a.MetricTags) {
		return true
	}
	for n, tag := range d.MetricTags {
		if tag.Name != a.MetricTags[n].Name || !tag.resolvesTo(a.MetricTags[n].Value, a) {
			return true
		}
	}
	return false
}

// resolvesTo compares without allocating; convergence asks it of every running instance.
func (t MetricTag) resolvesTo(value string, a *Actual) bool {
	switch t.Dynamic {
	case DynamicIndex:
		var digits [12]byte
		return string(strconv.AppendInt(digits[:0], int64(a.Index), 10)) == value
	case DynamicInstanceGUID:
		return a.InstanceGUID == value
	case NotDynamic:
	}
	return t.Static == value
}

// ResolveTags gives the metric tags that an instance is to have.
func ResolveTags(d *Desired, a *Actual) map[string]string {
	resolved := make(map[string]string, len(d.MetricTags))
	for _, tag := range d.MetricTags {
		switch tag.Dynamic {
		case DynamicIndex:
			resolved[tag.Name] = strconv.Itoa(int(a.Index))
		case DynamicInstanceGUID:
			resolved[tag.Name] = a.InstanceGUID
		case NotDynamic:
			resolved[tag.Name] = tag.Static
		}
	}
	return resolved
}
