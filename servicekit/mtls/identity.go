package mtls

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Roles that certificates of the product carry.
const (
	RoleBBS          = "bbs"
	RoleAuctioneer   = "auctioneer"
	RoleLocket       = "locket"
	RoleCell         = "cell"
	RoleRouteEmitter = "route-emitter"
	RoleRouter       = "router"
	RoleOperator     = "operator"
	RoleCCBridge     = "cc-bridge"
	RoleNATS         = "nats"
)

// Identity is who a certificate speaks for: spiffe://<trust domain>/<role>[/<name>].
type Identity struct {
	TrustDomain string
	Role        string
	Name        string // of the cell or the operator; "" for roles that need none
}

// String returns the SPIFFE id.
func (id Identity) String() string { return id.URL().String() }

// URL returns the SPIFFE id as the URI of a certificate.
func (id Identity) URL() *url.URL {
	path := "/" + id.Role
	if id.Name != "" {
		path += "/" + id.Name
	}
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: path}
}

// Peer says which server a client means to talk to.
type Peer struct {
	Role string
	Name string // "" = any name
}

// Matches reports whether id is this peer, whatever its trust domain.
func (p Peer) Matches(id Identity) bool {
	return id.Role == p.Role && (p.Name == "" || p.Name == id.Name)
}

// ParseIdentity reads a SPIFFE id. It does not allocate for a well-formed one, because servers do
// this for each call.
func ParseIdentity(u *url.URL) (Identity, error) {
	role, name, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	switch {
	case u.Scheme != "spiffe" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return Identity{}, fmt.Errorf("%q is no SPIFFE id", u)
	case role == "" || strings.HasSuffix(u.Path, "/") || strings.Contains(name, "/"):
		return Identity{}, fmt.Errorf("the path of %q is not /role or /role/name", u)
	}
	return Identity{TrustDomain: u.Host, Role: role, Name: name}, nil
}

// IdentityOf returns who cert speaks for. A certificate must have exactly one URI.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 {
		return Identity{}, fmt.Errorf("the certificate of %q has %d URIs, want one SPIFFE id", cert.Subject, len(cert.URIs))
	}
	return ParseIdentity(cert.URIs[0])
}

// PeerFromContext returns the identity of the client whose call a gRPC handler serves.
func PeerFromContext(ctx context.Context) (Identity, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Identity{}, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || info.SPIFFEID == nil {
		return Identity{}, false
	}
	id, err := ParseIdentity(info.SPIFFEID)
	return id, err == nil
}

var errNoCertificate = errors.New("the peer showed no certificate")
