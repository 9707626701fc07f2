package api

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
)

// services are all services of the contract, so that a method without an entry is noticed.
var services = []grpc.ServiceDesc{ //nolint:gochecknoglobals // a constant list
	bbsv1.Domains_ServiceDesc, bbsv1.Tasks_ServiceDesc, bbsv1.TaskCell_ServiceDesc, bbsv1.DesiredLRPs_ServiceDesc,
	bbsv1.ActualLRPs_ServiceDesc, bbsv1.ActualLRPCell_ServiceDesc, bbsv1.Evacuation_ServiceDesc, bbsv1.Cells_ServiceDesc,
	bbsv1.Placement_ServiceDesc, bbsv1.Watch_ServiceDesc, bbsv1.Maintenance_ServiceDesc,
}

func TestRolesNamesEveryMethodOnce(t *testing.T) {
	t.Parallel()
	table := Roles()
	count := 0
	for _, service := range services {
		var methods []string
		for _, m := range service.Methods {
			methods = append(methods, m.MethodName)
		}
		for _, s := range service.Streams {
			methods = append(methods, s.StreamName)
		}
		for _, method := range methods {
			count++
			require.NotEmpty(t, table["/"+service.ServiceName+"/"+method], "%s/%s", service.ServiceName, method)
		}
	}
	require.Len(t, table, count, "the table names nothing else")
}

func TestOtherRolesAreRefused(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	roles := []string{
		mtls.RoleAuctioneer, mtls.RoleLocket, mtls.RoleCell, mtls.RoleRouteEmitter, mtls.RoleRouter, mtls.RoleOperator,
		mtls.RoleCCBridge, mtls.RoleNATS, mtls.RoleBBS,
	}
	conns := map[string]*grpc.ClientConn{}
	for _, role := range roles {
		conns[role] = h.as(role, "cell-1")
	}
	for method, allowed := range Roles() {
		for _, role := range roles {
			if slices.Contains(allowed, role) {
				continue
			}
			// As a stream of one empty message, which every method understands.
			ctx, cancel := contextWithTimeout(t, 10*time.Second)
			stream, err := conns[role].NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
			require.NoError(t, err)
			require.NoError(t, stream.SendMsg(&emptypb.Empty{}))
			require.NoError(t, stream.CloseSend())
			err = stream.RecvMsg(&emptypb.Empty{})
			cancel()
			require.Equal(t, codes.PermissionDenied, fault.Code(err), "%s calling %s", role, method)
		}
	}
}

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}
