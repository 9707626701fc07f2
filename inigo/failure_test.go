package inigo_test

import (
	"context"
	"net/http"
	"strconv"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

var _ = Describe("failures", Ordered, func() {
	var w *world

	BeforeAll(func(ctx SpecContext) {
		w = startCluster(ctx, nil)
		_, err := w.domains.UpsertDomain(ctx, &bbsv1.UpsertDomainRequest{Domain: domain})
		Expect(err).NotTo(HaveOccurred())
	}, NodeTimeout(3*time.Minute))

	// cellOf finds which of the cells, from 0, an instance is on.
	cellOf := func(lrp *workloadv1.ActualLRP) int {
		GinkgoHelper()
		for i, id := range w.cluster.CellIDs() {
			if id == lrp.GetInstanceKey().GetCellId() {
				return i
			}
		}
		Fail("the instance is on no cell")
		return 0
	}

	allPresent := func(ctx context.Context) (int, error) {
		answer, err := w.cells.ListCells(ctx, &bbsv1.ListCellsRequest{})
		return len(answer.GetCells()), err
	}

	It("runs the instances of a killed cell elsewhere within 15 s, with the routes of the lost ones gone", func(ctx SpecContext) {
		guid := w.name("app")
		w.desire(ctx, app(guid, 3))
		lrps := w.awaitRunning(ctx, guid, 3)
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1, 2}))
		dead := cellOf(lrps[0])
		survivor := w.cluster.CellIDs()[1-dead]
		rep := w.cluster.Process([]string{"rep-1", "rep-2"}[dead])

		rep.Kill()
		Eventually(func(g Gomega, ctx context.Context) {
			lrps, err := w.instances(ctx, guid)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(lrps).To(HaveLen(3), "no suspect is left")
			g.Expect(cellsOf(lrps)).To(Equal(map[string]int{survivor: 3}))
			for _, lrp := range lrps {
				g.Expect(lrp.GetState()).To(Equal(running))
			}
		}).WithContext(ctx).WithTimeout(15 * time.Second).Should(Succeed())
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1, 2}))

		By("the cell coming back, which stops what runs elsewhere now")
		Expect(rep.Start()).To(Succeed())
		Eventually(allPresent).WithContext(ctx).Should(Equal(2))
		Consistently(w.answering).WithContext(ctx).WithArguments(guid).WithTimeout(3 * time.Second).Should(Equal([]int{0, 1, 2}))
		Eventually(func(ctx context.Context) (string, error) {
			return w.cfdot(ctx, "cell-state", w.cluster.CellIDs()[dead])
		}).
			WithContext(ctx).ShouldNot(ContainSubstring(guid))
	}, SpecTimeout(2*time.Minute))

	It("replaces what a lost machine had, and takes the machine back when it returns", func(ctx SpecContext) {
		guid := w.name("app")
		w.desire(ctx, app(guid, 2))
		w.awaitRunning(ctx, guid, 2)
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1}))
		Expect(w.cluster.LoseMachine(0)).To(Succeed())
		survivor := w.cluster.CellIDs()[1]
		Eventually(func(g Gomega, ctx context.Context) {
			lrps, err := w.instances(ctx, guid)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(cellsOf(lrps)).To(Equal(map[string]int{survivor: 2}))
		}).WithContext(ctx).WithTimeout(15 * time.Second).Should(Succeed())
		// The emitter died with its cell, so the router itself has to notice that one endpoint does not connect.
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1}))
		Expect(w.cluster.BootMachine(ctx, 0)).To(Succeed())
		Eventually(allPresent).WithContext(ctx).Should(Equal(2))
		Eventually(w.cluster.CellsReady).WithContext(ctx).Should(Succeed())
		other := w.name("app")
		w.desire(ctx, app(other, 2))
		Expect(cellsOf(w.awaitRunning(ctx, other, 2))).To(HaveLen(2), "the cell that came back takes work")
	}, SpecTimeout(3*time.Minute))

	It("fails the task of a lost cell once, and never runs it again", func(ctx SpecContext) {
		guid := w.name("task")
		_, err := w.tasks.DesireTask(ctx, script(guid, "sleep 300"))
		Expect(err).NotTo(HaveOccurred())
		var task *workloadv1.Task
		Eventually(func(ctx context.Context) (workloadv1.TaskState, error) {
			task, err = w.task(ctx, guid)
			return task.GetState(), err
		}).WithContext(ctx).Should(Equal(workloadv1.TaskState_TASK_STATE_RUNNING))
		lost := map[string]int{w.cluster.CellIDs()[0]: 0, w.cluster.CellIDs()[1]: 1}[task.GetCellId()]
		Expect(w.cluster.LoseMachine(lost)).To(Succeed())
		ended := w.awaitTask(ctx, guid)
		Expect(ended.GetFailureReason()).To(Equal("cell disappeared before completion"))
		Expect(w.cluster.BootMachine(ctx, lost)).To(Succeed())
		Eventually(allPresent).WithContext(ctx).Should(Equal(2))
	}, SpecTimeout(2*time.Minute))

	It("goes on with the same containers when a rep is restarted", func(ctx SpecContext) {
		guid := w.name("app")
		w.desire(ctx, app(guid, 2))
		before := guidsOf(w.awaitRunning(ctx, guid, 2))
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1}))
		for _, end := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			By("ending the reps with " + end.String())
			for _, name := range []string{"rep-1", "rep-2"} {
				rep := w.cluster.Process(name)
				runs, _ := rep.Runs()
				rep.Signal(end)
				Eventually(func() int { now, _ := rep.Runs(); return now }).WithContext(ctx).Should(BeNumerically(">", runs))
			}
			Consistently(w.answering).WithContext(ctx).WithArguments(guid).WithTimeout(8 * time.Second).Should(Equal([]int{0, 1}))
			Eventually(allPresent).WithContext(ctx).Should(Equal(2))
			lrps := w.awaitRunning(ctx, guid, 2)
			Expect(guidsOf(lrps)).To(Equal(before))
		}
		By("the adopted instances still being watched: one that exits is restarted")
		_, _, err := w.get(ctx, hostOf(guid), "/exit/4")
		Expect(err).NotTo(HaveOccurred())
		Eventually(func(ctx context.Context) (reasons []string, err error) {
			lrps, err := w.instances(ctx, guid)
			for _, lrp := range lrps {
				if lrp.GetState() == running {
					reasons = append(reasons, lrp.GetCrashReason())
				}
			}
			return reasons, err
		}).WithContext(ctx).Should(ConsistOf("", "APP/PROC/WEB: Exited with status 4"))
	}, SpecTimeout(3*time.Minute))

	It("loses nothing and hides nothing when the active BBS is killed", func(ctx SpecContext) {
		watcher := w.follow(ctx)
		guid := w.name("app")
		w.desire(ctx, app(guid, 3))
		w.awaitRunning(ctx, guid, 3)
		for range 2 {
			active := w.activeBBS(ctx)
			By("killing " + active.Name)
			active.Crash()
			other := w.name("app")
			Eventually(func(ctx context.Context) error {
				_, err := w.desired.DesireLRP(ctx, &bbsv1.DesireLRPRequest{DesiredLrp: app(other, 1)})
				if status.Code(err) == codes.AlreadyExists {
					return nil // the answer to an earlier attempt was lost
				}
				return err
			}).WithContext(ctx).Should(Succeed())
			DeferCleanup(w.remove, other, NodeTimeout(time.Minute))
			w.awaitRunning(ctx, other, 1)
		}
		Expect(w.states(ctx, guid)).To(Equal(allRunning(3)), "the desired state is intact")
		Eventually(watcher.difference).WithContext(ctx).Should(BeEmpty(), "what the events add up to is what is there")
		Expect(watcher.problems()).To(BeEmpty())
	}, SpecTimeout(3*time.Minute))

	It("places work again when the active auctioneer was killed", func(ctx SpecContext) {
		for _, name := range []string{"auctioneer-1", "auctioneer-2"} {
			By("killing " + name)
			w.cluster.Process(name).Crash()
			guid := w.name("app")
			w.desire(ctx, app(guid, 1))
			w.awaitRunning(ctx, guid, 1)
		}
	}, SpecTimeout(2*time.Minute))

	It("moves nothing when a locket, then all lockets, are killed and come back", func(ctx SpecContext) {
		guid := w.name("app")
		w.desire(ctx, app(guid, 2))
		before := guidsOf(w.awaitRunning(ctx, guid, 2))
		w.cluster.Process("locket-1").Crash()
		Consistently(w.answering).WithContext(ctx).WithArguments(guid).WithTimeout(3 * time.Second).ShouldNot(BeEmpty())
		w.cluster.Process("locket-1").Crash()
		w.cluster.Process("locket-2").Crash()
		Eventually(allPresent).WithContext(ctx).Should(Equal(2))
		Expect(guidsOf(w.awaitRunning(ctx, guid, 2))).To(Equal(before))
		other := w.name("app")
		w.desire(ctx, app(other, 1))
		w.awaitRunning(ctx, other, 1)
	}, SpecTimeout(2*time.Minute))

	It("keeps applications and every accepted request over a restart of Postgres", func(ctx SpecContext) {
		guid := w.name("app")
		w.desire(ctx, app(guid, 2))
		before := guidsOf(w.awaitRunning(ctx, guid, 2))
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1}))
		Expect(w.cluster.RestartPostgres(ctx)).To(Succeed())
		Consistently(w.answering).WithContext(ctx).WithArguments(guid).WithTimeout(3 * time.Second).Should(Equal([]int{0, 1}))
		other := w.name("app")
		Eventually(func(ctx context.Context) error {
			_, err := w.desired.DesireLRP(ctx, &bbsv1.DesireLRPRequest{DesiredLrp: app(other, 1)})
			if status.Code(err) == codes.AlreadyExists {
				return nil
			}
			return err
		}).WithContext(ctx).Should(Succeed())
		DeferCleanup(w.remove, other, NodeTimeout(time.Minute))
		w.awaitRunning(ctx, other, 1)
		Expect(guidsOf(w.awaitRunning(ctx, guid, 2))).To(Equal(before))
	}, SpecTimeout(2*time.Minute))

	It("keeps containers running while the container engine is restarted", func(ctx SpecContext) {
		guid := w.name("app")
		w.desire(ctx, app(guid, 2))
		before := guidsOf(w.awaitRunning(ctx, guid, 2))
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1}))
		Expect(w.cluster.RestartContainerd(ctx, 0)).To(Succeed())
		Consistently(w.answering).WithContext(ctx).WithArguments(guid).WithTimeout(5 * time.Second).Should(Equal([]int{0, 1}))
		Expect(guidsOf(w.awaitRunning(ctx, guid, 2))).To(Equal(before))
	}, SpecTimeout(2*time.Minute))

	DescribeTable("empties a cell without a failed request", func(ctx SpecContext, lrp func(guid string) *workloadv1.DesiredLRP) {
		guid := w.name("app")
		desired := lrp(guid)
		all := desired.GetInstances()
		w.desire(ctx, desired)
		lrps := w.awaitRunning(ctx, guid, all)
		indices := make([]int, all)
		for i := range indices {
			indices[i] = i
		}
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal(indices))
		failed := canary(ctx, w, hostOf(guid))
		emptied := cellOf(lrps[0])
		w.cluster.Process("rep-" + strconv.Itoa(emptied+1)).Signal(syscall.SIGUSR1)
		survivor := w.cluster.CellIDs()[1-emptied]
		Eventually(func(g Gomega, ctx context.Context) {
			lrps, err := w.instances(ctx, guid)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(cellsOf(lrps)).To(Equal(map[string]int{survivor: int(all)}))
		}).WithContext(ctx).WithTimeout(time.Minute).Should(Succeed())
		Eventually(allPresent).WithContext(ctx).Should(Equal(2), "the supervisor starts the emptied cell again")
		Expect(failed()).To(BeEmpty())
	},
		Entry("of an application with two instances", SpecTimeout(3*time.Minute), func(guid string) *workloadv1.DesiredLRP { return app(guid, 2) }),
		Entry("of an application with one", SpecTimeout(3*time.Minute), func(guid string) *workloadv1.DesiredLRP { return app(guid, 1) }),
		Entry("of an application with one, long in becoming ready", SpecTimeout(3*time.Minute), func(guid string) *workloadv1.DesiredLRP {
			// It is running, for want of a liveness check, long before it listens.
			lrp := app(guid, 1, "-start-after", "4s")
			checks := lrp.GetDefinition().GetCheckDefinition()
			checks.ReadinessChecks, checks.Checks = checks.GetChecks(), nil
			return lrp
		}),
	)
})

// canary asks an application without a pause until the function that it returns is called, which tells what went wrong.
func canary(ctx context.Context, w *world, host string) func() []string {
	ctx, cancel := context.WithCancel(ctx)
	result := make(chan []string, 1)
	go func() {
		var failures []string
		for ctx.Err() == nil {
			code, body, err := w.get(ctx, host, "/index")
			if ctx.Err() != nil {
				break
			}
			if err != nil {
				failures = append(failures, err.Error())
			} else if code != http.StatusOK {
				failures = append(failures, http.StatusText(code)+": "+body)
			}
		}
		result <- failures
	}()
	return func() []string {
		cancel()
		return <-result
	}
}
