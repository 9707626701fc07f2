package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	bbsv1 "diego.internal/proto/bbs/v1"
	locketv1 "diego.internal/proto/locket/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

// platform is a BBS, a locket and cells that answer over mutual TLS what a test tells them to.
type platform struct {
	t         *testing.T
	authority *mtlstest.Authority
	bbs       *fakeBBS
	locket    *fakeLocket
	auction   *fakeAuctioneer
	env       map[string]string
}

// newPlatform starts a BBS and a locket; the environment leads to them.
func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := &platform{t: t, authority: mtlstest.NewAuthority(t), bbs: &fakeBBS{}, locket: &fakeLocket{}, auction: &fakeAuctioneer{}}
	operator := p.authority.Issue(mtls.Identity{Role: mtls.RoleOperator, Name: "olive"})
	p.env = map[string]string{
		"CA_CERT_FILE": operator.CA, "CLIENT_CERT_FILE": operator.Certificate, "CLIENT_KEY_FILE": operator.Key,
		"LOCKET_API_LOCATION": p.serve(mtls.Identity{Role: mtls.RoleLocket}, "locket.v1", p.locket.register),
		"AUCTIONEER_LOCATION": p.serve(mtls.Identity{Role: mtls.RoleAuctioneer}, "auctioneer.v1", p.auction.register),
	}
	p.env["BBS_URL"] = "https://" + p.serveBBS(p.bbs)
	return p
}

func (p *platform) serveBBS(bbs *fakeBBS) string {
	return p.serve(mtls.Identity{Role: mtls.RoleBBS}, "bbs.v1", bbs.register)
}

// serve runs a server for the operator until the end of the test and returns its address.
func (p *platform) serve(id mtls.Identity, health string, register func(grpc.ServiceRegistrar)) string {
	p.t.Helper()
	allow := grpcserver.Table{}
	for _, service := range map[string][]string{
		mtls.RoleBBS:        {"bbs.v1.Domains", "bbs.v1.Tasks", "bbs.v1.DesiredLRPs", "bbs.v1.ActualLRPs", "bbs.v1.Cells", "bbs.v1.Watch", "bbs.v1.Maintenance"},
		mtls.RoleLocket:     {"locket.v1.Locket"},
		mtls.RoleAuctioneer: {"auctioneer.v1.Explanations"},
		mtls.RoleCell:       {"rep.v1.Auction", "rep.v1.Operation", "rep.v1.Logs"},
	}[id.Role] {
		allow["/"+service+"/"] = []string{mtls.RoleOperator}
	}
	server, err := grpcserver.New(grpcserver.Options{
		Source: p.authority.Source(id), Allow: allow, Telemetry: telemetry.Discard(), Listen: "127.0.0.1:0",
	})
	require.NoError(p.t, err)
	register(server.GRPC())
	server.SetServing(health, true)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	p.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Errorf("serving %v: %v", id, err)
		}
	})
	return server.Addr()
}

// addCell starts a rep and makes it present.
func (p *platform) addCell(id string, rep *fakeRep) {
	p.t.Helper()
	address := p.serve(mtls.Identity{Role: mtls.RoleCell, Name: id}, "rep.v1", rep.register)
	p.bbs.addCell(id, address)
}

// outcome of a command.
type outcome struct {
	exit        int
	out, errors string
}

// lines of standard output.
func (o outcome) lines() []string {
	return strings.FieldsFunc(o.out, func(r rune) bool { return r == '\n' })
}

// withoutRequest is what an error said before the id of the request, which differs each time.
func (o outcome) withoutRequest(t *testing.T) string {
	t.Helper()
	text, id, found := strings.Cut(o.errors, "Request: ")
	require.True(t, found, o.errors)
	require.Regexp(t, "^[0-9a-f]{32}\n$", id)
	return text
}

// run runs one command line as in a pipe.
func (p *platform) run(args ...string) outcome {
	p.t.Helper()
	return p.runIn(p.t.Context(), Environment{}, args...)
}

// runIn runs one command line in an environment of which the test has set what matters to it.
func (p *platform) runIn(ctx context.Context, env Environment, args ...string) outcome {
	p.t.Helper()
	var out, errors bytes.Buffer
	if env.Stdout == nil {
		env.Stdout = &out
	}
	if env.Stdin == nil {
		env.Stdin = strings.NewReader("")
	}
	env.Stderr = &errors
	env.Getenv = func(name string) string { return p.env[name] }
	exit := Run(ctx, args, env)
	return outcome{exit: exit, out: out.String(), errors: errors.String()}
}

// fakeBBS answers what its fields say. Lists are sent one record a message.
type fakeBBS struct {
	bbsv1.UnimplementedDomainsServer
	bbsv1.UnimplementedTasksServer
	bbsv1.UnimplementedDesiredLRPsServer
	bbsv1.UnimplementedActualLRPsServer
	bbsv1.UnimplementedCellsServer
	bbsv1.UnimplementedWatchServer
	bbsv1.UnimplementedMaintenanceServer

	status  *bbsv1.GetStatusResponse
	infos   []*workloadv1.SchedulingInfo // besides that of LRP a
	err     error                        // of every call but Watch
	domains []*bbsv1.Domain
	tasks   []*workloadv1.Task
	desired []*workloadv1.DesiredLRP
	actual  []*workloadv1.ActualLRP
	// stream answers lists of actual LRPs in place of actual, if it is set.
	stream func(grpc.ServerStreamingServer[bbsv1.ListActualLRPsResponse]) error
	// listed is called after each list of scheduling infos.
	listed func()
	// between is called between two actual LRPs of a list.
	between func(context.Context)
	watch   func(*bbsv1.WatchRequest, grpc.ServerStreamingServer[bbsv1.WatchResponse]) error

	mu       sync.Mutex
	cells    []*bbsv1.Cell // guarded by mu
	requests []any         // guarded by mu
}

func (f *fakeBBS) register(server grpc.ServiceRegistrar) {
	bbsv1.RegisterDomainsServer(server, f)
	bbsv1.RegisterTasksServer(server, f)
	bbsv1.RegisterDesiredLRPsServer(server, f)
	bbsv1.RegisterActualLRPsServer(server, f)
	bbsv1.RegisterCellsServer(server, f)
	bbsv1.RegisterWatchServer(server, f)
	bbsv1.RegisterMaintenanceServer(server, f)
}

func (f *fakeBBS) addCell(id, address string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cells = append(f.cells, &bbsv1.Cell{Presence: &workloadv1.CellPresence{
		CellId: id, RepAddress: address, Zone: "z1", Capacity: &workloadv1.CellCapacity{MemoryMb: 1024, DiskMb: 2048, Containers: 100},
		RootfsProviders: []*workloadv1.RootFSProvider{{Scheme: "preloaded", FixedSet: true, Names: []string{"cflinuxfs4"}}},
	}})
}

func (f *fakeBBS) note(request any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, request)
}

// asked returns the newest request of a kind.
func asked[Q any](t *testing.T, f *fakeBBS) Q {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, noted := range slices.Backward(f.requests) {
		if request, ok := noted.(Q); ok {
			return request
		}
	}
	require.Fail(t, "nobody asked for that")
	panic("not reached")
}

func sendEach[T, R any](stream grpc.ServerStreamingServer[R], records []T, chunk func([]T) *R) error {
	for i := range records {
		if err := stream.Send(chunk(records[i : i+1])); err != nil {
			return err
		}
	}
	return nil
}

func answer[R any](f *fakeBBS, request any, response *R) (*R, error) {
	f.note(request)
	if f.err != nil {
		return nil, f.err
	}
	return response, nil
}

func (f *fakeBBS) ListDomains(_ context.Context, q *bbsv1.ListDomainsRequest) (*bbsv1.ListDomainsResponse, error) {
	return answer(f, q, &bbsv1.ListDomainsResponse{Domains: f.domains})
}

func (f *fakeBBS) UpsertDomain(_ context.Context, q *bbsv1.UpsertDomainRequest) (*bbsv1.UpsertDomainResponse, error) {
	return answer(f, q, &bbsv1.UpsertDomainResponse{})
}

func (f *fakeBBS) ListTasks(q *bbsv1.ListTasksRequest, stream grpc.ServerStreamingServer[bbsv1.ListTasksResponse]) error {
	if _, err := answer(f, q, q); err != nil {
		return err
	}
	return sendEach(stream, f.tasks, func(chunk []*workloadv1.Task) *bbsv1.ListTasksResponse { return &bbsv1.ListTasksResponse{Tasks: chunk} })
}

func (f *fakeBBS) GetTask(_ context.Context, q *bbsv1.GetTaskRequest) (*bbsv1.GetTaskResponse, error) {
	return answer(f, q, &bbsv1.GetTaskResponse{Task: &workloadv1.Task{TaskGuid: q.GetTaskGuid()}})
}

func (f *fakeBBS) DesireTask(_ context.Context, q *bbsv1.DesireTaskRequest) (*bbsv1.DesireTaskResponse, error) {
	return answer(f, q, &bbsv1.DesireTaskResponse{})
}

func (f *fakeBBS) CancelTask(_ context.Context, q *bbsv1.CancelTaskRequest) (*bbsv1.CancelTaskResponse, error) {
	return answer(f, q, &bbsv1.CancelTaskResponse{})
}

func (f *fakeBBS) DeleteTask(_ context.Context, q *bbsv1.DeleteTaskRequest) (*bbsv1.DeleteTaskResponse, error) {
	return answer(f, q, &bbsv1.DeleteTaskResponse{})
}

func (f *fakeBBS) ListDesiredLRPs(q *bbsv1.ListDesiredLRPsRequest, stream grpc.ServerStreamingServer[bbsv1.ListDesiredLRPsResponse]) error {
	if _, err := answer(f, q, q); err != nil {
		return err
	}
	return sendEach(stream, f.desired, func(chunk []*workloadv1.DesiredLRP) *bbsv1.ListDesiredLRPsResponse {
		return &bbsv1.ListDesiredLRPsResponse{DesiredLrps: chunk}
	})
}

func (f *fakeBBS) ListSchedulingInfos(q *bbsv1.ListSchedulingInfosRequest, stream grpc.ServerStreamingServer[bbsv1.ListSchedulingInfosResponse]) error {
	if _, err := answer(f, q, q); err != nil {
		return err
	}
	info := &workloadv1.SchedulingInfo{
		ProcessGuid: "a", Domain: "apps", Instances: 2, Resources: &workloadv1.Resources{MemoryMb: 64}, Placement: &workloadv1.PlacementConstraint{RootFs: "preloaded:r"},
	}
	for _, info := range append([]*workloadv1.SchedulingInfo{info}, f.infos...) {
		if guids := q.GetFilter().GetProcessGuids(); len(guids) > 0 && !slices.Contains(guids, info.GetProcessGuid()) {
			continue
		}
		if err := stream.Send(&bbsv1.ListSchedulingInfosResponse{SchedulingInfos: []*workloadv1.SchedulingInfo{info}}); err != nil {
			return err
		}
	}
	if f.listed != nil {
		f.listed()
	}
	return nil
}

func (f *fakeBBS) GetStatus(_ context.Context, q *bbsv1.GetStatusRequest) (*bbsv1.GetStatusResponse, error) {
	return answer(f, q, f.status)
}

func (f *fakeBBS) GetDesiredLRP(_ context.Context, q *bbsv1.GetDesiredLRPRequest) (*bbsv1.GetDesiredLRPResponse, error) {
	return answer(f, q, &bbsv1.GetDesiredLRPResponse{DesiredLrp: &workloadv1.DesiredLRP{ProcessGuid: q.GetProcessGuid()}})
}

func (f *fakeBBS) DesireLRP(_ context.Context, q *bbsv1.DesireLRPRequest) (*bbsv1.DesireLRPResponse, error) {
	return answer(f, q, &bbsv1.DesireLRPResponse{})
}

func (f *fakeBBS) UpdateDesiredLRP(_ context.Context, q *bbsv1.UpdateDesiredLRPRequest) (*bbsv1.UpdateDesiredLRPResponse, error) {
	return answer(f, q, &bbsv1.UpdateDesiredLRPResponse{})
}

func (f *fakeBBS) RemoveDesiredLRP(_ context.Context, q *bbsv1.RemoveDesiredLRPRequest) (*bbsv1.RemoveDesiredLRPResponse, error) {
	return answer(f, q, &bbsv1.RemoveDesiredLRPResponse{})
}

func (f *fakeBBS) ListActualLRPs(q *bbsv1.ListActualLRPsRequest, stream grpc.ServerStreamingServer[bbsv1.ListActualLRPsResponse]) error {
	if _, err := answer(f, q, q); err != nil {
		return err
	}
	if f.stream != nil {
		return f.stream(stream)
	}
	for i, lrp := range f.actual {
		if len(q.GetStates()) > 0 && !slices.Contains(q.GetStates(), lrp.GetState()) ||
			q.Index != nil && q.GetIndex() != lrp.GetKey().GetIndex() ||
			len(q.GetProcessGuids()) > 0 && !slices.Contains(q.GetProcessGuids(), lrp.GetKey().GetProcessGuid()) {
			continue
		}
		if i > 0 && f.between != nil {
			f.between(stream.Context())
		}
		if err := stream.Send(&bbsv1.ListActualLRPsResponse{ActualLrps: []*workloadv1.ActualLRP{lrp}}); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeBBS) RetireActualLRP(_ context.Context, q *bbsv1.RetireActualLRPRequest) (*bbsv1.RetireActualLRPResponse, error) {
	return answer(f, q, &bbsv1.RetireActualLRPResponse{})
}

func (f *fakeBBS) ListCells(_ context.Context, q *bbsv1.ListCellsRequest) (*bbsv1.ListCellsResponse, error) {
	f.mu.Lock()
	cells := f.cells
	f.mu.Unlock()
	return answer(f, q, &bbsv1.ListCellsResponse{Cells: cells})
}

func (f *fakeBBS) Watch(q *bbsv1.WatchRequest, stream grpc.ServerStreamingServer[bbsv1.WatchResponse]) error {
	f.note(q)
	return f.watch(q, stream)
}

// fakeLocket holds what its field says.
type fakeLocket struct {
	locketv1.UnimplementedLocketServer

	held []*locketv1.Held
	err  error

	mu       sync.Mutex
	locked   *locketv1.LockRequest    // guarded by mu
	released *locketv1.ReleaseRequest // guarded by mu
}

func (f *fakeLocket) register(server grpc.ServiceRegistrar) { locketv1.RegisterLocketServer(server, f) }

func (f *fakeLocket) Lock(_ context.Context, q *locketv1.LockRequest) (*locketv1.LockResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locked = q
	return &locketv1.LockResponse{}, f.err
}

func (f *fakeLocket) Release(_ context.Context, q *locketv1.ReleaseRequest) (*locketv1.ReleaseResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released = q
	return &locketv1.ReleaseResponse{}, f.err
}

func (f *fakeLocket) Watch(q *locketv1.WatchRequest, stream grpc.ServerStreamingServer[locketv1.WatchResponse]) error {
	send := func(kind locketv1.ChangeKind, held *locketv1.Held) error {
		return stream.Send(&locketv1.WatchResponse{Event: &locketv1.WatchResponse_Change_{Change: &locketv1.WatchResponse_Change{Kind: kind, Held: held}}})
	}
	for _, held := range f.held {
		if held.GetClaim().GetType() != q.GetType() {
			continue
		}
		err := errors.Join(send(locketv1.ChangeKind_CHANGE_KIND_ACQUIRED, held), stream.Send(&locketv1.WatchResponse{Event: &locketv1.WatchResponse_Synced_{Synced: &locketv1.WatchResponse_Synced{}}}),
			stream.Send(&locketv1.WatchResponse{Event: &locketv1.WatchResponse_Heartbeat_{Heartbeat: &locketv1.WatchResponse_Heartbeat{}}}), send(locketv1.ChangeKind_CHANGE_KIND_EXPIRED, held))
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeLocket) Fetch(_ context.Context, q *locketv1.FetchRequest) (*locketv1.FetchResponse, error) {
	for _, held := range f.held {
		if held.GetClaim().GetKey() == q.GetKey() {
			return &locketv1.FetchResponse{Held: held}, nil
		}
	}
	return nil, fault.New(codes.NotFound, "ResourceNotFound", "nobody holds that")
}

func (f *fakeLocket) FetchAll(q *locketv1.FetchAllRequest, stream grpc.ServerStreamingServer[locketv1.FetchAllResponse]) error {
	for _, held := range f.held {
		if held.GetClaim().GetType() != q.GetType() {
			continue
		}
		if err := stream.Send(&locketv1.FetchAllResponse{Held: []*locketv1.Held{held}}); err != nil {
			return err
		}
	}
	return f.err
}

// fakeAuctioneer answers what its function fields say.
type fakeAuctioneer struct {
	auctioneerv1.UnimplementedExplanationsServer

	explain func(*auctioneerv1.ExplainPlacementRequest) (*auctioneerv1.ExplainPlacementResponse, error)
	plan    func(*auctioneerv1.PlanPlacementRequest) (*auctioneerv1.PlanPlacementResponse, error)
}

func (f *fakeAuctioneer) register(server grpc.ServiceRegistrar) {
	auctioneerv1.RegisterExplanationsServer(server, f)
}

func (f *fakeAuctioneer) ExplainPlacement(_ context.Context, q *auctioneerv1.ExplainPlacementRequest) (*auctioneerv1.ExplainPlacementResponse, error) {
	return f.explain(q)
}

func (f *fakeAuctioneer) PlanPlacement(_ context.Context, q *auctioneerv1.PlanPlacementRequest) (*auctioneerv1.PlanPlacementResponse, error) {
	return f.plan(q)
}

// fakeRep answers what its function fields say.
type fakeRep struct {
	repv1.UnimplementedAuctionServer
	repv1.UnimplementedOperationServer
	repv1.UnimplementedLogsServer

	state    func(context.Context) (*repv1.StateResponse, error)
	evacuate func(grpc.ServerStreamingServer[repv1.EvacuateResponse]) error
	follow   func(*repv1.FollowRequest, grpc.ServerStreamingServer[repv1.FollowResponse]) error
	metrics  func(context.Context) (*repv1.ContainerMetricsResponse, error)
}

func (f *fakeRep) ContainerMetrics(ctx context.Context, _ *repv1.ContainerMetricsRequest) (*repv1.ContainerMetricsResponse, error) {
	return f.metrics(ctx)
}

func (f *fakeRep) register(server grpc.ServiceRegistrar) {
	repv1.RegisterAuctionServer(server, f)
	repv1.RegisterOperationServer(server, f)
	repv1.RegisterLogsServer(server, f)
}

func (f *fakeRep) State(ctx context.Context, _ *repv1.StateRequest) (*repv1.StateResponse, error) {
	return f.state(ctx)
}

func (f *fakeRep) Evacuate(_ *repv1.EvacuateRequest, stream grpc.ServerStreamingServer[repv1.EvacuateResponse]) error {
	return f.evacuate(stream)
}

func (f *fakeRep) Follow(q *repv1.FollowRequest, stream grpc.ServerStreamingServer[repv1.FollowResponse]) error {
	return f.follow(q, stream)
}

// notifier is a standard output that tells of each line.
type notifier struct{ lines chan string }

func (n notifier) Write(text []byte) (int, error) {
	n.lines <- string(text)
	return len(text), nil
}

var _ io.Writer = notifier{}
