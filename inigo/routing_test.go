package inigo_test

import (
	"context"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

var _ = Describe("routing", Ordered, func() {
	var w *world

	BeforeAll(func(ctx SpecContext) {
		// Full synchronisations are out of reach, so events alone have to do it.
		w = startCluster(ctx, func(_ string, config map[string]any) {
			if _, ok := config["cell_id"]; ok {
				config["sync_interval"] = "1h"
			}
		})
		_, err := w.domains.UpsertDomain(ctx, &bbsv1.UpsertDomainRequest{Domain: domain})
		Expect(err).NotTo(HaveOccurred())
	}, NodeTimeout(3*time.Minute))

	code := func(ctx context.Context, host string) (int, error) {
		code, _, err := w.get(ctx, host, "/")
		return code, err
	}

	It("reaches an instance within moments of its start, and no longer when it is gone", func(ctx SpecContext) {
		guid := w.name("app")
		w.desire(ctx, app(guid, 1))
		w.awaitRunning(ctx, guid, 1)
		Eventually(code).WithContext(ctx).WithArguments(hostOf(guid)).WithTimeout(5 * time.Second).Should(Equal(http.StatusOK))
		_, err := w.desired.RemoveDesiredLRP(ctx, &bbsv1.RemoveDesiredLRPRequest{ProcessGuid: guid})
		Expect(err).NotTo(HaveOccurred())
		Eventually(code).WithContext(ctx).WithArguments(hostOf(guid)).Should(Equal(http.StatusNotFound))
	}, SpecTimeout(time.Minute))

	It("follows routes that are added, replaced and removed", func(ctx SpecContext) {
		guid, other := w.name("app"), w.name("other")
		w.desire(ctx, app(guid, 1))
		w.awaitRunning(ctx, guid, 1)
		Eventually(code).WithContext(ctx).WithArguments(hostOf(guid)).Should(Equal(http.StatusOK))

		By("adding one")
		w.update(ctx, guid, routes(hostOf(guid), hostOf(other)))
		Eventually(code).WithContext(ctx).WithArguments(hostOf(other)).Should(Equal(http.StatusOK))

		By("replacing all")
		w.update(ctx, guid, routes(hostOf(other)))
		Eventually(code).WithContext(ctx).WithArguments(hostOf(guid)).Should(Equal(http.StatusNotFound))
		Expect(code(ctx, hostOf(other))).To(Equal(http.StatusOK))

		By("removing all")
		w.update(ctx, guid, &workloadv1.DesiredLRPUpdate{Routes: &workloadv1.DesiredLRPUpdate_Routes{}})
		Eventually(code).WithContext(ctx).WithArguments(hostOf(other)).Should(Equal(http.StatusNotFound))
	}, SpecTimeout(time.Minute))

	It("keeps traffic flowing while the router and NATS are restarted", func(ctx SpecContext) {
		guid := w.name("app")
		w.desire(ctx, app(guid, 2))
		w.awaitRunning(ctx, guid, 2)
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1}))
		for _, name := range []string{"router", "nats"} {
			By("killing " + name)
			w.cluster.Process(name).Crash()
			Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1}))
		}
	}, SpecTimeout(2*time.Minute))
})

func routes(hosts ...string) *workloadv1.DesiredLRPUpdate {
	return &workloadv1.DesiredLRPUpdate{Routes: &workloadv1.DesiredLRPUpdate_Routes{Routes: map[string][]byte{"cf-router": routeTo(hosts...)}}}
}
