package inigo_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/protobuf/types/known/durationpb"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

var _ = Describe("a cell", Ordered, func() {
	var w *world

	BeforeAll(func(ctx SpecContext) {
		w = startCluster(ctx, nil)
		_, err := w.domains.UpsertDomain(ctx, &bbsv1.UpsertDomainRequest{Domain: domain})
		Expect(err).NotTo(HaveOccurred())
	}, NodeTimeout(3*time.Minute))

	Describe("tasks", func() {
		It("runs a task exactly once and reports its result", func(ctx SpecContext) {
			guid := w.name("task")
			task := w.runTask(ctx, script(guid, "echo out; echo err >&2; echo -n $$ > /tmp/result; date +%s%N >> /tmp/result"))
			Expect(task.GetFailed()).To(BeFalse(), task.GetFailureReason())
			Expect(task.GetResult()).NotTo(BeEmpty())
			By("asking for the same again, which is answered with what is there")
			again := script(guid, "echo out; echo err >&2; echo -n $$ > /tmp/result; date +%s%N >> /tmp/result")
			_, err := w.tasks.DesireTask(ctx, again)
			Expect(err).NotTo(HaveOccurred())
			Consistently(func(ctx context.Context) (string, error) {
				task, err := w.task(ctx, guid)
				return task.GetResult(), err
			}).WithContext(ctx).WithTimeout(2*time.Second).Should(Equal(task.GetResult()), "a second run would have another time in its result")
			_, err = w.tasks.DeleteTask(ctx, &bbsv1.DeleteTaskRequest{TaskGuid: guid, Resolve: true})
			Expect(err).NotTo(HaveOccurred())
		}, SpecTimeout(time.Minute))

		It("reports why a task failed", func(ctx SpecContext) {
			task := w.runTask(ctx, script(w.name("task"), "exit 7"))
			Expect(task.GetFailed()).To(BeTrue())
			Expect(task.GetFailureReason()).To(Equal("APP/PROC/WEB: Exited with status 7"))
		}, SpecTimeout(time.Minute))

		It("ends a task that takes too long", func(ctx SpecContext) {
			request := script(w.name("task"), "sleep 100")
			request.TaskDefinition.Action = &workloadv1.Action{Action: &workloadv1.Action_Timeout{Timeout: &workloadv1.TimeoutAction{
				Action: request.GetTaskDefinition().GetAction(), Timeout: durationpb.New(time.Second),
			}}}
			task := w.runTask(ctx, request)
			Expect(task.GetFailed()).To(BeTrue())
			Expect(task.GetFailureReason()).To(ContainSubstring("exceeded 1s timeout"))
		}, SpecTimeout(time.Minute))

		It("stops a task that is cancelled", func(ctx SpecContext) {
			guid := w.name("task")
			_, err := w.tasks.DesireTask(ctx, script(guid, "sleep 100"))
			Expect(err).NotTo(HaveOccurred())
			Eventually(func(ctx context.Context) (workloadv1.TaskState, error) {
				task, err := w.task(ctx, guid)
				return task.GetState(), err
			}).WithContext(ctx).Should(Equal(workloadv1.TaskState_TASK_STATE_RUNNING))
			_, err = w.tasks.CancelTask(ctx, &bbsv1.CancelTaskRequest{TaskGuid: guid})
			Expect(err).NotTo(HaveOccurred())
			task := w.awaitTask(ctx, guid)
			Expect(task.GetFailed()).To(BeTrue())
			Expect(task.GetFailureReason()).To(Equal("task was cancelled"))
		}, SpecTimeout(time.Minute))

		It("fails a task for which no cell has room, with the reason", func(ctx SpecContext) {
			request := script(w.name("task"), "true")
			request.TaskDefinition.Container.Resources.MemoryMb = 1 << 30
			task := w.runTask(ctx, request)
			Expect(task.GetFailed()).To(BeTrue())
			Expect(task.GetFailureReason()).To(Equal("insufficient resources: memory"))
		}, SpecTimeout(2*time.Minute))

		It("keeps a container within its memory", func(ctx SpecContext) {
			request := script(w.name("task"), "dd if=/dev/zero of=/dev/null bs=200M count=1")
			task := w.runTask(ctx, request)
			Expect(task.GetFailed()).To(BeTrue())
			Expect(task.GetFailureReason()).To(ContainSubstring("out of memory"))
		}, SpecTimeout(time.Minute))
	})

	Describe("instances", func() {
		It("spreads three over two cells, which answer through the router, and follows the scale", func(ctx SpecContext) {
			guid := w.name("app")
			w.desire(ctx, app(guid, 3))
			lrps := w.awaitRunning(ctx, guid, 3)
			Expect(cellsOf(lrps)).To(HaveLen(2))
			Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1, 2}))

			By("scaling up")
			w.scale(ctx, guid, 4)
			w.awaitRunning(ctx, guid, 4)
			Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1, 2, 3}))

			By("scaling down")
			w.scale(ctx, guid, 1)
			Eventually(w.states).WithContext(ctx).WithArguments(guid).Should(Equal(allRunning(1)))
			Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0}))

			By("scaling to nothing")
			w.scale(ctx, guid, 0)
			Eventually(w.states).WithContext(ctx).WithArguments(guid).Should(BeEmpty())
			Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(BeEmpty())
		}, SpecTimeout(2*time.Minute))

		It("restarts one that exits, by the crash rules", func(ctx SpecContext) {
			guid := w.name("crasher")
			w.desire(ctx, app(guid, 1))
			first := guidsOf(w.awaitRunning(ctx, guid, 1))[0]
			Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0}))
			_, _, err := w.get(ctx, hostOf(guid), "/exit/2")
			Expect(err).NotTo(HaveOccurred())
			Eventually(func(g Gomega, ctx context.Context) {
				lrps, err := w.instances(ctx, guid)
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(lrps).To(HaveLen(1))
				g.Expect(lrps[0].GetCrashCount()).To(Equal(int32(1)))
				g.Expect(lrps[0].GetCrashReason()).To(Equal("APP/PROC/WEB: Exited with status 2"))
				g.Expect(lrps[0].GetState()).To(Equal(running))
				g.Expect(lrps[0].GetInstanceKey().GetInstanceGuid()).NotTo(Equal(first))
			}).WithContext(ctx).Should(Succeed())
		}, SpecTimeout(time.Minute))

		It("lets one that keeps crashing wait from the third crash on", func(ctx SpecContext) {
			guid := w.name("flapper")
			lrp := app(guid, 1)
			lrp.Definition.Action, lrp.Definition.CheckDefinition = run("/bin/sh", "-c", "exit 3"), nil
			w.desire(ctx, lrp)
			Eventually(w.states).WithContext(ctx).WithArguments(guid).Should(Equal(map[int32]string{0: "CRASHED"}))
			lrps, err := w.instances(ctx, guid)
			Expect(err).NotTo(HaveOccurred())
			Expect(lrps[0].GetCrashCount()).To(Equal(int32(3)))
			Consistently(w.states).WithContext(ctx).WithArguments(guid).WithTimeout(3 * time.Second).Should(Equal(map[int32]string{0: "CRASHED"}))
		}, SpecTimeout(time.Minute))

		It("tells why one was never healthy", func(ctx SpecContext) {
			guid := w.name("sick")
			lrp := app(guid, 1, "-start-after", "1h")
			lrp.Definition.StartTimeout = durationpb.New(2 * time.Second)
			w.desire(ctx, lrp)
			Eventually(func(ctx context.Context) (string, error) {
				lrps, err := w.instances(ctx, guid)
				if len(lrps) == 0 {
					return "", err
				}
				return lrps[0].GetCrashReason(), err
			}).WithContext(ctx).Should(ContainSubstring("Instance never healthy after 2"))
		}, SpecTimeout(time.Minute))

		It("tells instances who and where they are", func(ctx SpecContext) {
			guid := w.name("env")
			w.desire(ctx, app(guid, 1))
			lrp := w.awaitRunning(ctx, guid, 1)[0]
			var env map[string]string
			Eventually(func(g Gomega, ctx context.Context) {
				code, body, err := w.get(ctx, hostOf(guid), "/env")
				g.Expect(err).NotTo(HaveOccurred())
				g.Expect(code).To(Equal(http.StatusOK))
				g.Expect(json.Unmarshal([]byte(body), &env)).To(Succeed())
			}).WithContext(ctx).Should(Succeed())
			net := lrp.GetNetInfo()
			Expect(env).To(HaveKeyWithValue("INSTANCE_INDEX", "0"))
			Expect(env).To(HaveKeyWithValue("CF_INSTANCE_INDEX", "0"))
			Expect(env).To(HaveKeyWithValue("INSTANCE_GUID", lrp.GetInstanceKey().GetInstanceGuid()))
			Expect(env).To(HaveKeyWithValue("CF_INSTANCE_GUID", lrp.GetInstanceKey().GetInstanceGuid()))
			Expect(env).To(HaveKeyWithValue("CF_INSTANCE_IP", net.GetAddress()))
			Expect(env).To(HaveKeyWithValue("CF_INSTANCE_INTERNAL_IP", net.GetInstanceAddress()))
			Expect(env["CF_INSTANCE_ADDR"]).To(HavePrefix(net.GetAddress() + ":"))
			Expect(env["CF_INSTANCE_PORTS"]).To(ContainSubstring(`"internal":8080`))
		}, SpecTimeout(time.Minute))

		It("says why an instance cannot be placed", func(ctx SpecContext) {
			guid := w.name("homeless")
			lrp := app(guid, 1)
			lrp.Definition.Container.RootFs = "preloaded:nowhere"
			w.desire(ctx, lrp)
			Eventually(func(ctx context.Context) (string, error) {
				lrps, err := w.instances(ctx, guid)
				if len(lrps) == 0 {
					return "", err
				}
				return lrps[0].GetPlacementError(), err
			}).WithContext(ctx).Should(Equal("found no compatible cell for required rootfs"))

			By("telling an operator how each cell was judged")
			document, err := w.cfdot(ctx, "placement", guid, "0", "--cells", "-o", "json")
			Expect(err).NotTo(HaveOccurred())
			var refusal struct {
				PlacementError string           `json:"placement_error"`
				CellsByReason  map[string]int32 `json:"cells_by_reason"`
				Cells          []struct {
					CellID string `json:"cell_id"`
					Reason string `json:"reason"`
				} `json:"cells"`
			}
			Expect(json.Unmarshal([]byte(document), &refusal)).To(Succeed())
			Expect(refusal.PlacementError).To(Equal("found no compatible cell for required rootfs"))
			Expect(refusal.CellsByReason).To(HaveKeyWithValue("rootfs", BeEquivalentTo(len(w.cluster.CellIDs()))))
			Expect(refusal.Cells).To(HaveLen(len(w.cluster.CellIDs())))
			for _, cell := range refusal.Cells {
				Expect(cell.CellID).To(BeElementOf(w.cluster.CellIDs()))
				Expect(cell.Reason).To(Equal("rootfs"))
			}
		}, SpecTimeout(time.Minute))

		It("says where more of them would go, and starts none", func(ctx SpecContext) {
			guid := w.name("growing")
			w.desire(ctx, app(guid, 1))
			w.awaitRunning(ctx, guid, 1)
			document, err := w.cfdot(ctx, "plan", guid, "3", "-o", "json")
			Expect(err).NotTo(HaveOccurred())
			for _, id := range w.cluster.CellIDs() {
				Expect(document).To(ContainSubstring(id), "instances of one process are spread over the cells")
			}
			Consistently(func(ctx context.Context) (int, error) {
				lrps, err := w.instances(ctx, guid)
				return len(lrps), err
			}).WithContext(ctx).WithTimeout(time.Second).Should(Equal(1))
		}, SpecTimeout(time.Minute))

		It("shows what they print to an operator", func(ctx SpecContext) {
			guid := w.name("talker")
			w.desire(ctx, app(guid, 1))
			w.awaitRunning(ctx, guid, 1)
			Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0}))
			_, _, err := w.get(ctx, hostOf(guid), "/log/a-word-in-the-log")
			Expect(err).NotTo(HaveOccurred())
			Eventually(func(ctx context.Context) (string, error) {
				return w.cfdot(ctx, "logs", guid)
			}).WithContext(ctx).Should(SatisfyAll(ContainSubstring("a-word-in-the-log"), ContainSubstring("to stderr:"), ContainSubstring("APP/PROC/WEB")))
		}, SpecTimeout(time.Minute))
	})

	Describe("requests", func() {
		It("refuses a bad one and names every bad field", func(ctx SpecContext) {
			lrp := app("no spaces allowed", -1)
			lrp.Domain = ""
			lrp.Definition.Container.RootFs = "no scheme"
			lrp.Definition.Action = nil
			lrp.Definition.Ports = []uint32{70000}
			_, err := w.desired.DesireLRP(ctx, &bbsv1.DesireLRPRequest{DesiredLrp: lrp})
			Expect(violations(err)).To(ContainElements(
				HaveSuffix("process_guid"), HaveSuffix("domain"), HaveSuffix("instances"), HaveSuffix("root_fs"), HaveSuffix("action"), ContainSubstring("ports"),
			))
			stream, err := w.desired.ListSchedulingInfos(ctx, &bbsv1.ListSchedulingInfosRequest{})
			err = collect(stream, err, func(chunk *bbsv1.ListSchedulingInfosResponse) {
				for _, info := range chunk.GetSchedulingInfos() {
					Expect(info.GetProcessGuid()).NotTo(Equal(lrp.GetProcessGuid()), "it was refused")
				}
			})
			Expect(err).NotTo(HaveOccurred())
		}, SpecTimeout(time.Minute))

		It("shows operators the same truth by table and by line", func(ctx SpecContext) {
			guid := w.name("shown")
			w.desire(ctx, app(guid, 2))
			w.awaitRunning(ctx, guid, 2)
			lines, err := w.cfdot(ctx, "actual-lrps", "-p", guid)
			Expect(err).NotTo(HaveOccurred())
			var record struct {
				ProcessGUID string `json:"process_guid"`
				State       string `json:"state"`
			}
			for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
				Expect(json.Unmarshal([]byte(line), &record)).To(Succeed())
				Expect(record.ProcessGUID).To(Equal(guid))
				Expect(record.State).To(Equal("RUNNING"))
			}
			table, err := w.cfdot(ctx, "actual-lrps", "-p", guid, "-o", "table")
			Expect(err).NotTo(HaveOccurred())
			Expect(table).To(SatisfyAll(ContainSubstring("PROCESS"), ContainSubstring("RUNNING"), ContainSubstring(guid)))
		}, SpecTimeout(time.Minute))
	})
})
