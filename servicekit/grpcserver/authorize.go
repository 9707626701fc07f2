package grpcserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
)

// Table says which roles may call what: by full method ("/bbs.v1.Tasks/DesireTask") or by service
// ("/bbs.v1.Tasks/"). The entry of a method replaces that of its service. What is in no entry is
// refused.
type Table map[string][]string

// open are services that every caller with a certificate may use: they tell nothing that a peer
// could not find out otherwise, and clients need them to find the active server.
var open = []string{ //nolint:gochecknoglobals // a constant list
	"/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/",
}

var (
	errNoIdentity = fault.New(codes.Unauthenticated, "Unauthenticated", "the caller has no identity")
	errNotAllowed = fault.New(codes.PermissionDenied, "PermissionDenied", "the caller's role may not call this method")
)

// roles returns who may call a method, and whether anybody may.
func (t Table) roles(fullMethod string) (roles []string, everybody bool) {
	if roles, ok := t[fullMethod]; ok {
		return roles, false
	}
	service := fullMethod[:strings.LastIndexByte(fullMethod, '/')+1]
	if roles, ok := t[service]; ok {
		return roles, false
	}
	return nil, slices.Contains(open, service)
}

// check finds entries that name nothing: a typo there would refuse, or worse allow, in silence.
func (t Table) check(services map[string]grpc.ServiceInfo) error {
	var problems []error
	for entry := range t {
		service, method, _ := strings.Cut(strings.TrimPrefix(entry, "/"), "/")
		info, known := services[service]
		if known && method != "" {
			known = slices.ContainsFunc(info.Methods, func(m grpc.MethodInfo) bool { return m.Name == method })
		}
		if !known || !strings.HasPrefix(entry, "/") || !strings.Contains(entry[1:], "/") {
			problems = append(problems, fmt.Errorf("the role table names %q, which is not registered", entry))
		}
	}
	return errors.Join(problems...)
}

// authorize returns the caller's identity, or why the call is refused.
func (s *Server) authorize(ctx context.Context, m *method) (mtls.Identity, error) {
	id, ok := mtls.PeerFromContext(ctx)
	if !ok {
		s.metrics.refused.WithLabelValues(m.name, "none").Inc()
		return id, errNoIdentity
	}
	if m.everybody || slices.Contains(m.roles, id.Role) {
		return id, nil
	}
	s.metrics.refused.WithLabelValues(m.name, id.Role).Inc()
	return id, errNotAllowed.With("role %q calling %s", id.Role, m.name)
}
