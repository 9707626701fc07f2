package cell

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"diego.internal/executor"
	"diego.internal/executor/garden/simulated"
	"diego.internal/locket/lockclient"
	repv1 "diego.internal/proto/rep/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

// callers says once more, by method, who may call what, so that a change of the table is no accident.
func callers() map[string]string {
	return map[string]string{
		"Auction/State":               mtls.RoleAuctioneer + " " + mtls.RoleOperator,
		"Auction/Perform":             mtls.RoleAuctioneer,
		"Instances/StopLRPInstance":   mtls.RoleBBS,
		"Instances/UpdateLRPInstance": mtls.RoleBBS,
		"Instances/CancelTask":        mtls.RoleBBS,
		"Operation/Evacuate":          mtls.RoleOperator,
		"Operation/Reset":             mtls.RoleOperator,
		"Operation/ContainerMetrics":  mtls.RoleOperator,
		"Logs/Follow":                 mtls.RoleOperator,
	}
}

// TestRoles calls every method of the cell under every role. Empty requests do no harm: they are refused later, or find nothing.
func TestRoles(t *testing.T) {
	t.Parallel()
	authority := mtlstest.NewAuthority(t)
	address := serveCell(t, authority)
	roles := []string{
		mtls.RoleBBS, mtls.RoleAuctioneer, mtls.RoleLocket, mtls.RoleCell, mtls.RoleRouteEmitter, mtls.RoleRouter, mtls.RoleCCBridge, mtls.RoleNATS,
		mtls.RoleOperator, // the last one, who may evacuate
	}
	methods := methodsOf(t)
	require.Len(t, methods, len(callers()), "a new method needs a line above")
	for _, role := range roles {
		conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{address}}, grpcclient.Options{
			Source: authority.Source(mtls.Identity{Role: role, Name: "cell-1"}), Server: mtls.Peer{Role: mtls.RoleCell, Name: "cell-1"},
		})
		require.NoError(t, err)
		for _, method := range methods {
			name := string(method.Parent().Name()) + "/" + string(method.Name())
			err := call(t, conn, method)
			allowed := strings.Contains(" "+callers()[name]+" ", " "+role+" ")
			require.Equal(t, !allowed, fault.Code(err) == codes.PermissionDenied, "%s by a %s: %v", name, role, err)
		}
		require.NoError(t, conn.Close())
	}
}

func methodsOf(t *testing.T) []protoreflect.MethodDescriptor {
	t.Helper()
	file, err := protoregistry.GlobalFiles.FindFileByPath(repv1.File_rep_v1_rep_proto.Path())
	require.NoError(t, err)
	var out []protoreflect.MethodDescriptor
	for i := range file.Services().Len() {
		methods := file.Services().Get(i).Methods()
		for j := range methods.Len() {
			out = append(out, methods.Get(j))
		}
	}
	// An order to evacuate an empty cell ends it, so that comes last.
	evacuate := slices.IndexFunc(out, func(m protoreflect.MethodDescriptor) bool { return m.Name() == "Evacuate" })
	return append(slices.Delete(slices.Clone(out), evacuate, evacuate+1), out[evacuate])
}

// call sends an empty request and returns what came first.
func call(t *testing.T, conn *grpc.ClientConn, method protoreflect.MethodDescriptor) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	name := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	request, response := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if !method.IsStreamingServer() {
		return conn.Invoke(ctx, name, request, response)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
	require.NoError(t, err)
	require.NoError(t, stream.SendMsg(request))
	require.NoError(t, stream.CloseSend())
	return stream.RecvMsg(response)
}

// serveCell runs a cell whose BBS and locket are away, which is no concern of its own API.
func serveCell(t *testing.T, authority *mtlstest.Authority) string {
	t.Helper()
	source := authority.Source(mtls.Identity{Role: mtls.RoleCell, Name: "cell-1"})
	away, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{"127.0.0.1:1"}}, grpcclient.Options{Source: source, Server: mtls.Peer{Role: mtls.RoleBBS}})
	require.NoError(t, err)
	cfg := Config{
		Description: Description{ID: "cell-1", Zone: "z1"}, Source: source, Listen: "127.0.0.1:0", BBS: away, Claims: lockclient.NewLocket(away),
		Engine: simulated.New(simulated.Config{}), Preloaded: []string{"cflinuxfs4"}, Executor: executor.Config{StateDir: t.TempDir()}, Telemetry: telemetry.Discard(),
	}
	cfg.Presence.SetDefaults()
	cfg.Reconcile.SetDefaults()
	cfg.Evacuation.SetDefaults()
	c, err := New(t.Context(), cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, ErrEvacuated) {
			t.Errorf("running the cell: %v", err)
		}
		_ = away.Close()
	})
	return c.Addr()
}
