package inigo_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"diego.internal/deploy/cluster"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

const (
	domain  = "inigo"
	appPort = 8080

	running   = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING
	crashed   = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CRASHED
	unclaimed = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNCLAIMED

	completed = workloadv1.TaskState_TASK_STATE_COMPLETED
)

// theWorld is the cluster of the specs that run, for the report of failures.
var theWorld *world

// world is a cluster with the clients of an operator.
type world struct {
	cluster *cluster.Cluster

	domains bbsv1.DomainsClient
	tasks   bbsv1.TasksClient
	desired bbsv1.DesiredLRPsClient
	actual  bbsv1.ActualLRPsClient
	cells   bbsv1.CellsClient
	watch   bbsv1.WatchClient
	conn    *grpc.ClientConn

	names int
}

func newWorld(c *cluster.Cluster) *world {
	ctx, cancel := context.WithCancel(context.Background())
	ginkgo.DeferCleanup(cancel)
	conn, err := c.DialBBS(ctx, c.Operator())
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	ginkgo.DeferCleanup(conn.Close)
	theWorld = &world{
		cluster: c, conn: conn,
		domains: bbsv1.NewDomainsClient(conn), tasks: bbsv1.NewTasksClient(conn), desired: bbsv1.NewDesiredLRPsClient(conn),
		actual: bbsv1.NewActualLRPsClient(conn), cells: bbsv1.NewCellsClient(conn), watch: bbsv1.NewWatchClient(conn),
	}
	return theWorld
}

// name makes a guid that no other spec uses.
func (w *world) name(what string) string {
	w.names++
	return fmt.Sprintf("%s-%d-%d", what, ginkgo.GinkgoParallelProcess(), w.names)
}

// app is the sample application: an HTTP server that tells its index.
func app(guid string, instances int32, args ...string) *workloadv1.DesiredLRP {
	return &workloadv1.DesiredLRP{
		ProcessGuid: guid, Domain: domain, Instances: instances,
		Routes:     map[string][]byte{"cf-router": routeTo(hostOf(guid))},
		MetricTags: map[string]*workloadv1.MetricTagValue{"source_id": {Value: &workloadv1.MetricTagValue_Static{Static: guid}}},
		Definition: &workloadv1.LRPDefinition{
			Container: container(guid),
			Action:    run("/bin/sample", args...),
			CheckDefinition: &workloadv1.CheckDefinition{Checks: []*workloadv1.Check{{
				Check: &workloadv1.Check_TcpCheck{TcpCheck: &workloadv1.TCPCheck{Port: appPort}},
			}}},
			StartTimeout: durationpb.New(30 * time.Second),
			Ports:        []uint32{appPort},
		},
	}
}

func hostOf(guid string) string { return guid + ".inigo.test" }

func routeTo(hosts ...string) []byte {
	return fmt.Appendf(nil, `[{"hostnames":["%s"],"port":%d}]`, strings.Join(hosts, `","`), appPort)
}

func container(logGUID string) *workloadv1.ContainerSpec {
	return &workloadv1.ContainerSpec{
		RootFs:    "preloaded:busybox",
		Resources: &workloadv1.Resources{MemoryMb: 64, DiskMb: 64, MaxPids: 50},
		Log:       &workloadv1.LogConfig{Guid: logGUID, Source: "APP"},
	}
}

func run(path string, args ...string) *workloadv1.Action {
	return &workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{Path: path, Args: args, User: "vcap", LogSource: "APP/PROC/WEB"}}}
}

// script is a task that runs shell commands; its result is what they write to /tmp/result.
func script(guid, text string) *bbsv1.DesireTaskRequest {
	return &bbsv1.DesireTaskRequest{
		TaskGuid: guid, Domain: domain,
		TaskDefinition: &workloadv1.TaskDefinition{Container: container(guid), Action: run("/bin/sh", "-c", text), ResultFile: "/tmp/result"},
	}
}

// desire desires an LRP and removes it after the spec.
func (w *world) desire(ctx context.Context, lrp *workloadv1.DesiredLRP) {
	ginkgo.GinkgoHelper()
	_, err := w.desired.DesireLRP(ctx, &bbsv1.DesireLRPRequest{DesiredLrp: lrp})
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	ginkgo.DeferCleanup(func(ctx context.Context) {
		w.remove(ctx, lrp.GetProcessGuid())
	}, ginkgo.NodeTimeout(time.Minute))
}

func (w *world) remove(ctx context.Context, guid string) {
	ginkgo.GinkgoHelper()
	_, _ = w.desired.RemoveDesiredLRP(ctx, &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: guid}) // the spec may have removed it
	gomega.Eventually(w.instances).WithContext(ctx).WithArguments(guid).Should(gomega.BeEmpty())
}

func (w *world) scale(ctx context.Context, guid string, instances int32) {
	ginkgo.GinkgoHelper()
	w.update(ctx, guid, &workloadv1.DesiredLRPUpdate{Instances: &instances})
}

func (w *world) update(ctx context.Context, guid string, update *workloadv1.DesiredLRPUpdate) {
	ginkgo.GinkgoHelper()
	_, err := w.desired.UpdateDesiredLRP(ctx, &bbsv1.UpdateDesiredLRPRequest{ProcessGuid: guid, Update: update})
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
}

// collect reads a list to its end.
func collect[T any](stream grpc.ServerStreamingClient[T], err error, add func(*T)) error {
	for err == nil {
		var chunk *T
		if chunk, err = stream.Recv(); err == nil {
			add(chunk)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// instances returns the records of an LRP. Errors are retried by whoever polls.
func (w *world) instances(ctx context.Context, guid string) ([]*workloadv1.ActualLRP, error) {
	var out []*workloadv1.ActualLRP
	stream, err := w.actual.ListActualLRPs(ctx, &bbsv1.ListActualLRPsRequest{ProcessGuids: []string{guid}})
	err = collect(stream, err, func(chunk *bbsv1.ListActualLRPsResponse) { out = append(out, chunk.GetActualLrps()...) })
	return out, err
}

// states are the states of the ordinary records by index.
func (w *world) states(ctx context.Context, guid string) (map[int32]string, error) {
	lrps, err := w.instances(ctx, guid)
	out := map[int32]string{}
	for _, lrp := range lrps {
		if lrp.GetPresence() == workloadv1.Presence_PRESENCE_ORDINARY {
			out[lrp.GetKey().GetIndex()] = strings.TrimPrefix(lrp.GetState().String(), "ACTUAL_LRP_STATE_")
		}
	}
	return out, err
}

// allRunning is what states returns when n instances run.
func allRunning(n int32) map[int32]string {
	out := map[int32]string{}
	for i := range n {
		out[i] = "RUNNING"
	}
	return out
}

// awaitRunning waits until n instances run and returns their records.
func (w *world) awaitRunning(ctx context.Context, guid string, n int32) []*workloadv1.ActualLRP {
	ginkgo.GinkgoHelper()
	gomega.Eventually(w.states).WithContext(ctx).WithArguments(guid).Should(gomega.Equal(allRunning(n)))
	lrps, err := w.instances(ctx, guid)
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	return lrps
}

// cellsOf counts instances by cell.
func cellsOf(lrps []*workloadv1.ActualLRP) map[string]int {
	out := map[string]int{}
	for _, lrp := range lrps {
		out[lrp.GetInstanceKey().GetCellId()]++
	}
	return out
}

// guidsOf are the instance guids by index.
func guidsOf(lrps []*workloadv1.ActualLRP) map[int32]string {
	out := map[int32]string{}
	for _, lrp := range lrps {
		out[lrp.GetKey().GetIndex()] = lrp.GetInstanceKey().GetInstanceGuid()
	}
	return out
}

// get asks the router; a code other than 200 is no error.
func (w *world) get(ctx context.Context, host, path string) (code int, body string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.cluster.RouterAddress()+path, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	request.Host = host
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// answering asks the router several times and returns the indices that answered.
func (w *world) answering(ctx context.Context, guid string) ([]int, error) {
	const questions = 12
	var out []int
	for range questions {
		code, body, err := w.get(ctx, hostOf(guid), "/index")
		if err != nil {
			return nil, err
		}
		if code == http.StatusNotFound {
			return nil, nil
		}
		if code != http.StatusOK {
			return nil, fmt.Errorf("the router answered %d: %s", code, body)
		}
		index, err := strconv.Atoi(body)
		if err != nil {
			return nil, fmt.Errorf("the application answered %q", body)
		}
		if !slices.Contains(out, index) {
			out = append(out, index)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (w *world) task(ctx context.Context, guid string) (*workloadv1.Task, error) {
	answer, err := w.tasks.GetTask(ctx, &bbsv1.GetTaskRequest{TaskGuid: guid})
	return answer.GetTask(), err
}

// runTask desires a task and waits for its end.
func (w *world) runTask(ctx context.Context, request *bbsv1.DesireTaskRequest) *workloadv1.Task {
	ginkgo.GinkgoHelper()
	_, err := w.tasks.DesireTask(ctx, request)
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	return w.awaitTask(ctx, request.GetTaskGuid())
}

func (w *world) awaitTask(ctx context.Context, guid string) *workloadv1.Task {
	ginkgo.GinkgoHelper()
	var task *workloadv1.Task
	gomega.Eventually(func(ctx context.Context) (workloadv1.TaskState, error) {
		var err error
		task, err = w.task(ctx, guid)
		return task.GetState(), err
	}).WithContext(ctx).Should(gomega.Equal(completed))
	return task
}

// cfdot runs the CLI as an operator would and returns what it printed.
func (w *world) cfdot(ctx context.Context, args ...string) (string, error) {
	command := exec.CommandContext(ctx, filepath.Join(w.cluster.BinFolder(), "cfdot"), args...)
	operator := w.cluster.Operator()
	command.Env = []string{
		"BBS_URL=https://" + strings.Join(w.cluster.BBSAddresses(), ","),
		"LOCKET_API_LOCATION=" + strings.Join(w.cluster.LocketAddresses(), ","),
		"AUCTIONEER_LOCATION=" + strings.Join(w.cluster.AuctioneerAddresses(), ","),
		"CA_CERT_FILE=" + operator.CA, "CLIENT_CERT_FILE=" + operator.Certificate, "CLIENT_KEY_FILE=" + operator.Key,
	}
	out, err := command.Output()
	if exit, exited := errors.AsType[*exec.ExitError](err); exited {
		err = fmt.Errorf("cfdot %s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
	}
	return string(out), err
}
