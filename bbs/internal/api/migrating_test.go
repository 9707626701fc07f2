package api

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
)

// TestEveryMethodWaitsForAMigration calls each method in the role that may: while tables change, all that
// gets past the check of the message is told to wait.
func TestEveryMethodWaitsForAMigration(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.held.Store(false)
	h.store.SetMigrating(true)
	conns := map[string]*grpc.ClientConn{}
	refused := 0
	for method, roles := range Roles() {
		role := roles[0]
		if conns[role] == nil {
			conns[role] = h.once(role, map[string]string{mtls.RoleCell: "cell-1"}[role])
		}
		err := callEmpty(t, conns[role], method)
		switch {
		case fault.Code(err) == codes.InvalidArgument: // the message lacks what is required, which needs no table
		case strings.HasSuffix(method, "Maintenance/GetStatus"):
			require.NoError(t, err, "the status tells of the migration")
		case strings.HasSuffix(method, "CancelUpdateDesiredLRP"), strings.HasSuffix(method, "RollbackDesiredLRP"):
		default:
			require.Equal(t, codes.Unavailable, fault.Code(err), "%s: %v", method, err)
			require.Equal(t, "Migrating", fault.Reason(err), method)
			refused++
		}
	}
	require.Greater(t, refused, 10, "of all methods, the lists at least")

	_, err := bbsv1.NewDesiredLRPsClient(conns[mtls.RoleCCBridge]).DesireLRP(t.Context(), &bbsv1.DesireLRPRequest{DesiredLrp: desiredLRP("app", 1)})
	require.Equal(t, "Migrating", fault.Reason(err))
	_, err = bbsv1.NewActualLRPCellClient(conns[mtls.RoleCell]).StartActualLRP(t.Context(), startRequest("app", 0, instanceKey("i", "cell-1")))
	require.Equal(t, "Migrating", fault.Reason(err))

	h.store.SetMigrating(false)
	_, err = bbsv1.NewDomainsClient(conns[mtls.RoleCCBridge]).ListDomains(t.Context(), &bbsv1.ListDomainsRequest{})
	require.Equal(t, "NotMaster", fault.Reason(err))
}

// once returns a connection that tries everything once: the product's own would wait for the end.
func (h *harness) once(role, name string) *grpc.ClientConn {
	h.t.Helper()
	tls := h.authority.Source(mtls.Identity{Role: role, Name: name}).ClientConfig(mtls.Peer{Role: mtls.RoleBBS})
	conn, err := grpc.NewClient(h.server.Addr(), grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// callEmpty calls a method with an empty message and returns its error.
func callEmpty(t *testing.T, conn *grpc.ClientConn, method string) error {
	t.Helper()
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	require.NoError(t, err)
	descriptor, ok := found.(protoreflect.ServiceDescriptor)
	require.True(t, ok)
	m := descriptor.Methods().ByName(protoreflect.Name(name))
	require.NotNil(t, m, method)
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: m.IsStreamingServer(), ClientStreams: m.IsStreamingClient()}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(dynamicpb.NewMessage(m.Input())); err != nil && err != io.EOF { //nolint:errorlint // as grpc says
		return err
	}
	_ = stream.CloseSend() // an error comes from RecvMsg as well
	return stream.RecvMsg(dynamicpb.NewMessage(m.Output()))
}
