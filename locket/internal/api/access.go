package api

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"

	"diego.internal/locket/internal/lease"
	locketv1 "diego.internal/proto/locket/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
)

// errForeign says that a certificate does not allow this key.
var errForeign = fault.New(codes.PermissionDenied, "PermissionDenied", "the certificate does not allow this key")

// Access returns which roles may call what. That a holder only claims what is its own is decided per
// request, see mayClaim.
func Access() grpcserver.Table {
	holders := []string{mtls.RoleBBS, mtls.RoleAuctioneer, mtls.RoleRouteEmitter, mtls.RoleCell, mtls.RoleOperator}
	readers := append(slices.Clone(holders), mtls.RoleLocket, mtls.RoleRouter, mtls.RoleCCBridge)
	return grpcserver.Table{
		locketv1.Locket_Lock_FullMethodName:     holders,
		locketv1.Locket_Release_FullMethodName:  holders,
		locketv1.Locket_Fetch_FullMethodName:    readers,
		locketv1.Locket_FetchAll_FullMethodName: readers,
		locketv1.Locket_Watch_FullMethodName:    readers,
	}
}

// lockOf returns the one lock that a role may hold, or "".
func lockOf(role string) string {
	switch role {
	case mtls.RoleBBS:
		return "bbs"
	case mtls.RoleAuctioneer:
		return "auctioneer"
	case mtls.RoleRouteEmitter:
		return "route_emitter"
	default:
		return ""
	}
}

// reserved are the keys that no cell may have as its id: its presence would keep the lock of that
// name from everybody.
func reserved(key string) bool {
	return slices.ContainsFunc([]string{mtls.RoleBBS, mtls.RoleAuctioneer, mtls.RoleRouteEmitter},
		func(role string) bool { return lockOf(role) == key })
}

// mayRelease returns an error unless the key belongs to the identity: the lock of its role, or its
// own cell id. An operator may touch any key.
func mayRelease(id mtls.Identity, key string) error {
	switch {
	case id.Role == mtls.RoleOperator:
		return nil
	case id.Role == mtls.RoleCell && id.Name != "" && key == id.Name && !reserved(key):
		return nil
	case lockOf(id.Role) != "" && key == lockOf(id.Role):
		return nil
	default:
		return errForeign.With("%q is not for %v", key, id)
	}
}

// mayClaim is mayRelease, and keeps cells to presences and the other roles to locks.
func mayClaim(id mtls.Identity, key string, typ lease.Type) error {
	if err := mayRelease(id, key); err != nil {
		return err
	}
	switch {
	case id.Role == mtls.RoleOperator:
		return nil
	case id.Role == mtls.RoleCell && typ != lease.TypePresence:
		return errForeign.With("a cell has presences only, not a %v", typ)
	case id.Role != mtls.RoleCell && typ != lease.TypeLock:
		return errForeign.With("role %q has locks only, not a %v", id.Role, typ)
	default:
		return nil
	}
}

// caller returns who calls. The server has verified it; a call without it never comes here.
func caller(ctx context.Context) (mtls.Identity, error) {
	id, ok := mtls.PeerFromContext(ctx)
	if !ok {
		return mtls.Identity{}, errForeign.With("the caller shows no identity")
	}
	return id, nil
}
