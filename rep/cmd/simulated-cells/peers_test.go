package main

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	bbsv1 "diego.internal/proto/bbs/v1"
	locketv1 "diego.internal/proto/locket/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

const definitionID = "definition-1"

var errNotFound = fault.New(codes.NotFound, "ResourceNotFound", "the requested resource could not be found")

// fakeBBS remembers what cells tell it. Whatever they claim is theirs.
type fakeBBS struct {
	bbsv1.UnimplementedTasksServer
	bbsv1.UnimplementedActualLRPsServer
	bbsv1.UnimplementedActualLRPCellServer
	bbsv1.UnimplementedTaskCellServer
	bbsv1.UnimplementedEvacuationServer

	mu    sync.Mutex
	lrps  map[string]*workloadv1.ActualLRP // by instance guid
	tasks map[string]*workloadv1.Task      // by guid
	// crashes counts CrashActualLRP.
	crashes int
}

// running returns the running instances by guid.
func (b *fakeBBS) running() map[string]*workloadv1.ActualLRP {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := maps.Clone(b.lrps)
	maps.DeleteFunc(out, func(_ string, r *workloadv1.ActualLRP) bool {
		return r.GetState() != workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING
	})
	return out
}

// completed counts tasks that succeeded and that failed.
func (b *fakeBBS) completed() (succeeded, failed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, task := range b.tasks {
		switch {
		case task.GetState() != workloadv1.TaskState_TASK_STATE_COMPLETED:
		case task.GetFailed():
			failed++
		default:
			succeeded++
		}
	}
	return succeeded, failed
}

func (b *fakeBBS) ListTasks(req *bbsv1.ListTasksRequest, stream grpc.ServerStreamingServer[bbsv1.ListTasksResponse]) error {
	b.mu.Lock()
	out := &bbsv1.ListTasksResponse{}
	for _, task := range b.tasks {
		if task.GetCellId() == req.GetCellId() && task.GetState() == workloadv1.TaskState_TASK_STATE_RUNNING {
			out.Tasks = append(out.Tasks, task)
		}
	}
	b.mu.Unlock()
	return stream.Send(out)
}

func (b *fakeBBS) ListActualLRPs(req *bbsv1.ListActualLRPsRequest, stream grpc.ServerStreamingServer[bbsv1.ListActualLRPsResponse]) error {
	b.mu.Lock()
	out := &bbsv1.ListActualLRPsResponse{}
	for _, lrp := range b.lrps {
		if lrp.GetInstanceKey().GetCellId() == req.GetCellId() {
			out.ActualLrps = append(out.ActualLrps, lrp)
		}
	}
	b.mu.Unlock()
	return stream.Send(out)
}

func (b *fakeBBS) ClaimActualLRP(_ context.Context, req *bbsv1.ClaimActualLRPRequest) (*bbsv1.ClaimActualLRPResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lrps[req.GetInstanceKey().GetInstanceGuid()] = &workloadv1.ActualLRP{
		Key:         &workloadv1.ActualLRPKey{ProcessGuid: req.GetProcessGuid(), Index: req.GetIndex(), Domain: "test"},
		InstanceKey: req.GetInstanceKey(), State: workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED,
	}
	return &bbsv1.ClaimActualLRPResponse{DefinitionId: definitionID}, nil
}

// FetchLRPDefinition answers with an application that has a health check, which a cell must be able to make.
func (b *fakeBBS) FetchLRPDefinition(_ context.Context, req *bbsv1.FetchLRPDefinitionRequest) (*bbsv1.FetchLRPDefinitionResponse, error) {
	return &bbsv1.FetchLRPDefinitionResponse{DesiredLrp: &workloadv1.DesiredLRP{
		ProcessGuid: req.GetProcessGuid(), Domain: "test", Instances: 1,
		Definition: &workloadv1.LRPDefinition{
			DefinitionId: definitionID, Container: containerSpec(), Action: runAction("/app"), Ports: []uint32{8080},
			CheckDefinition: &workloadv1.CheckDefinition{Checks: []*workloadv1.Check{
				{Check: &workloadv1.Check_HttpCheck{HttpCheck: &workloadv1.HTTPCheck{Port: 8080, RequestTimeout: durationpb.New(5 * time.Second)}}},
			}},
		},
	}}, nil
}

func containerSpec() *workloadv1.ContainerSpec {
	return &workloadv1.ContainerSpec{RootFs: "preloaded:sample", Log: &workloadv1.LogConfig{Guid: "log", Source: "APP"}}
}

func runAction(path string) *workloadv1.Action {
	return &workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{Path: path, User: "vcap"}}}
}

func (b *fakeBBS) StartActualLRP(_ context.Context, req *bbsv1.StartActualLRPRequest) (*bbsv1.StartActualLRPResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lrps[req.GetInstanceKey().GetInstanceGuid()] = &workloadv1.ActualLRP{
		Key: req.GetKey(), InstanceKey: req.GetInstanceKey(), NetInfo: req.GetNetInfo(), State: workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING,
		Routable: req.GetRoutable(), AvailabilityZone: req.GetAvailabilityZone(), DefinitionId: req.GetDefinitionId(),
	}
	return &bbsv1.StartActualLRPResponse{}, nil
}

func (b *fakeBBS) remove(guid string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lrps[guid] == nil {
		return errNotFound
	}
	delete(b.lrps, guid)
	return nil
}

func (b *fakeBBS) CrashActualLRP(_ context.Context, req *bbsv1.CrashActualLRPRequest) (*bbsv1.CrashActualLRPResponse, error) {
	b.mu.Lock()
	b.crashes++
	b.mu.Unlock()
	return &bbsv1.CrashActualLRPResponse{}, b.remove(req.GetInstanceKey().GetInstanceGuid())
}

func (b *fakeBBS) RemoveActualLRP(_ context.Context, req *bbsv1.RemoveActualLRPRequest) (*bbsv1.RemoveActualLRPResponse, error) {
	return &bbsv1.RemoveActualLRPResponse{}, b.remove(req.GetInstanceKey().GetInstanceGuid())
}

// EvacuateRunningActualLRP acts as if the replacement ran already.
func (b *fakeBBS) EvacuateRunningActualLRP(_ context.Context, req *bbsv1.EvacuateRunningActualLRPRequest) (*bbsv1.EvacuateRunningActualLRPResponse, error) {
	return &bbsv1.EvacuateRunningActualLRPResponse{}, b.remove(req.GetInstanceKey().GetInstanceGuid())
}

func (b *fakeBBS) StartTask(_ context.Context, req *bbsv1.StartTaskRequest) (*bbsv1.StartTaskResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tasks[req.GetTaskGuid()] != nil {
		return &bbsv1.StartTaskResponse{}, nil
	}
	task := &workloadv1.Task{
		TaskGuid: req.GetTaskGuid(), Domain: "test", State: workloadv1.TaskState_TASK_STATE_RUNNING, CellId: req.GetCellId(), InstanceGuid: "run-of-" + req.GetTaskGuid(),
		Definition: &workloadv1.TaskDefinition{Container: containerSpec(), Action: runAction("/task")},
	}
	b.tasks[task.GetTaskGuid()] = task
	return &bbsv1.StartTaskResponse{ShouldStart: true, Task: task}, nil
}

func (b *fakeBBS) CompleteTask(_ context.Context, req *bbsv1.CompleteTaskRequest) (*bbsv1.CompleteTaskResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tasks[req.GetTaskGuid()] == nil {
		return nil, errNotFound
	}
	b.tasks[req.GetTaskGuid()] = &workloadv1.Task{
		TaskGuid: req.GetTaskGuid(), State: workloadv1.TaskState_TASK_STATE_COMPLETED, Failed: req.GetFailed(), FailureReason: req.GetFailureReason(),
	}
	return &bbsv1.CompleteTaskResponse{}, nil
}

// fakeLocket keeps presences for ever, and lets a higher incarnation take over as the real one does.
type fakeLocket struct {
	locketv1.UnimplementedLocketServer

	mu   sync.Mutex
	held map[string]*locketv1.Held
}

// presences returns the records of the cells that are present, by id, as the address of each.
func (l *fakeLocket) presences(tb testing.TB) map[string]presence {
	tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]presence{}
	for key, held := range l.held {
		var value presence
		require.NoError(tb, json.Unmarshal([]byte(held.GetClaim().GetValue()), &value))
		out[key] = value
	}
	return out
}

func (l *fakeLocket) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}

// presence is what the tests look at of a presence record.
type presence struct {
	RepAddress string `json:"rep_address"`
	Zone       string `json:"zone"`
}

func (l *fakeLocket) Lock(_ context.Context, req *locketv1.LockRequest) (*locketv1.LockResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	claim := req.GetClaim()
	old := l.held[claim.GetKey()]
	if old != nil && old.GetClaim().GetOwner() != claim.GetOwner() && old.GetIncarnation() >= req.GetIncarnation() {
		return nil, fault.New(codes.AlreadyExists, "LockCollision", "lock-collision")
	}
	held := &locketv1.Held{Claim: claim, Ttl: req.GetTtl(), Incarnation: req.GetIncarnation()}
	l.held[claim.GetKey()] = held
	return &locketv1.LockResponse{Held: held, Acquired: old == nil}, nil
}

func (l *fakeLocket) Release(_ context.Context, req *locketv1.ReleaseRequest) (*locketv1.ReleaseResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held := l.held[req.GetKey()]; held != nil && held.GetClaim().GetOwner() == req.GetOwner() {
		delete(l.held, req.GetKey())
	}
	return &locketv1.ReleaseResponse{}, nil
}

// peers are everything around the process under test.
type peers struct {
	tb     testing.TB
	ca     *mtlstest.Authority
	bbs    *fakeBBS
	locket *fakeLocket
	cfg    map[string]any // the configuration of the process
}

// newPeers starts a BBS and a locket, and makes certificates for count cells.
func newPeers(tb testing.TB, count int) *peers {
	tb.Helper()
	p := &peers{
		tb: tb, ca: mtlstest.NewAuthority(tb),
		bbs:    &fakeBBS{lrps: map[string]*workloadv1.ActualLRP{}, tasks: map[string]*workloadv1.Task{}},
		locket: &fakeLocket{held: map[string]*locketv1.Held{}},
	}
	folder := tb.TempDir()
	cells := CellsConfig{IDPrefix: "cell-", Zones: []string{"z1"}}
	for i := range count {
		id := cells.describe(i).ID
		p.ca.Issue(mtls.Identity{Role: mtls.RoleCell, Name: id}, mtlstest.InPlace(mtls.Config{
			CA: filepath.Join(folder, "ca.crt"), Certificate: filepath.Join(folder, id+".crt"), Key: filepath.Join(folder, id+".key"),
		}))
	}
	cellOnly := []string{mtls.RoleCell}
	bbs := p.serve(mtls.RoleBBS, "bbs.v1", grpcserver.Table{
		"/bbs.v1.Tasks/": cellOnly, "/bbs.v1.ActualLRPs/": cellOnly, "/bbs.v1.ActualLRPCell/": cellOnly, "/bbs.v1.TaskCell/": cellOnly, "/bbs.v1.Evacuation/": cellOnly,
	}, func(r grpc.ServiceRegistrar) {
		bbsv1.RegisterTasksServer(r, p.bbs)
		bbsv1.RegisterActualLRPsServer(r, p.bbs)
		bbsv1.RegisterActualLRPCellServer(r, p.bbs)
		bbsv1.RegisterTaskCellServer(r, p.bbs)
		bbsv1.RegisterEvacuationServer(r, p.bbs)
	})
	locket := p.serve(mtls.RoleLocket, "locket.v1", grpcserver.Table{"/locket.v1.Locket/": cellOnly},
		func(r grpc.ServiceRegistrar) { locketv1.RegisterLocketServer(r, p.locket) })
	p.cfg = map[string]any{
		"cells":        map[string]any{"count": count, "zones": []string{"z1", "z2"}, "restart_after": "10ms"},
		"certificates": map[string]any{"ca": filepath.Join(folder, "ca.crt"), "folder": folder},
		"bbs":          map[string]any{"addresses": []string{bbs}},
		"locket":       map[string]any{"addresses": []string{locket}},
		"executor":     map[string]any{"state_dir": tb.TempDir()},
	}
	return p
}

func (p *peers) serve(role, health string, allow grpcserver.Table, register func(grpc.ServiceRegistrar)) string {
	p.tb.Helper()
	server, err := grpcserver.New(grpcserver.Options{
		Source: p.ca.Source(mtls.Identity{Role: role}), Allow: allow, Telemetry: telemetry.Discard(), Listen: "127.0.0.1:0",
	})
	require.NoError(p.tb, err)
	register(server.GRPC())
	server.SetServing(health, true)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	p.tb.Cleanup(func() {
		cancel()
		require.NoError(p.tb, <-done)
	})
	return server.Addr()
}

// configuration writes the file. JSON is YAML.
func (p *peers) configuration() string {
	p.tb.Helper()
	text, err := json.Marshal(p.cfg)
	require.NoError(p.tb, err)
	file := filepath.Join(p.tb.TempDir(), "simulated-cells.yml")
	require.NoError(p.tb, os.WriteFile(file, text, 0o600))
	return file
}

// dial connects to a cell as a peer of that role.
func (p *peers) dial(role, cellID, address string) *grpc.ClientConn {
	p.tb.Helper()
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{address}}, grpcclient.Options{
		Source: p.ca.Source(mtls.Identity{Role: role, Name: "test"}), Server: mtls.Peer{Role: mtls.RoleCell, Name: cellID}, HealthService: "rep.v1",
	})
	require.NoError(p.tb, err)
	p.tb.Cleanup(func() { require.NoError(p.tb, conn.Close()) })
	return conn
}
