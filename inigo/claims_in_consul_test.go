package inigo_test

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"diego.internal/locket/consultest"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/mtls"
)

// A system whose locks and presences are kept in Consul does what one with locket does. The lockets are stopped, so that
// nothing here can depend on them.
var _ = Describe("locks and presences in Consul", Ordered, func() {
	var (
		w      *world
		consul *consultest.Server
		// natsSection is where emitters find NATS.
		natsSection any
	)

	BeforeAll(func(ctx SpecContext) {
		consul = consultest.Start(GinkgoTB(), consultest.Config{SessionTTLMin: time.Second})
		client := consul.Client()
		section := map[string]any{
			"address": client.Address, "session_ttl_min": client.SessionTTLMin.String(),
			"tls": map[string]any{"ca": client.TLS.CA, "certificate": client.TLS.Certificate, "key": client.TLS.Key},
		}
		inConsul := map[string]any{"backend": "consul"}
		w = startCluster(ctx, func(process string, config map[string]any) {
			kind := strings.TrimRight(process, "-0123456789")
			switch kind {
			case "bbs", "auctioneer":
				config["lock"].(map[string]any)["backend"] = "consul"
				if kind == "bbs" {
					config["presences"] = inConsul
				}
			case "rep":
				config["presence"] = inConsul
			case "route-emitter":
				natsSection = config["nats"]
				return
			default:
				return
			}
			delete(config, "locket")
			config["consul"] = section
		})
		w.cluster.Process("locket-1").Stop()
		w.cluster.Process("locket-2").Stop()
		_, err := w.domains.UpsertDomain(ctx, &bbsv1.UpsertDomainRequest{Domain: domain})
		Expect(err).NotTo(HaveOccurred())
	}, NodeTimeout(3*time.Minute))

	// holder is the owner of a claim, or "".
	holder := func(key string) (string, error) {
		pair, _, err := consul.API().KV().Get("diego/v1/claims/"+key, nil)
		if err != nil || pair == nil || pair.Session == "" {
			return "", err
		}
		return string(pair.Value), nil
	}

	cells := func(ctx context.Context) ([]string, error) {
		answer, err := w.cells.ListCells(ctx, &bbsv1.ListCellsRequest{})
		var ids []string
		for _, c := range answer.GetCells() {
			ids = append(ids, c.GetPresence().GetCellId())
		}
		return ids, err
	}

	It("sees cells come and go, and moves what ran on them", func(ctx SpecContext) {
		Expect(cells(ctx)).To(ConsistOf(w.cluster.CellIDs()))
		guid := w.name("app")
		w.desire(ctx, app(guid, 2))
		w.awaitRunning(ctx, guid, 2)

		By("killing a cell")
		w.cluster.Process("rep-2").Kill()
		Eventually(cells).WithContext(ctx).Should(ConsistOf(w.cluster.CellIDs()[0]))
		Eventually(func(ctx context.Context) (map[string]int, error) {
			lrps, err := w.instances(ctx, guid)
			return cellsOf(lrps), err
		}).WithContext(ctx).Should(Equal(map[string]int{w.cluster.CellIDs()[0]: 2}))
		w.awaitRunning(ctx, guid, 2)

		By("its return")
		Expect(w.cluster.Process("rep-2").Start()).To(Succeed())
		Eventually(cells).WithContext(ctx).Should(ConsistOf(w.cluster.CellIDs()))
	}, SpecTimeout(2*time.Minute))

	// other of a pair of processes, for the one that holds a lock.
	pairOf := func(key string) (holds, other string) {
		GinkgoHelper()
		value, err := holder(key)
		Expect(err).NotTo(HaveOccurred())
		for i, name := range []string{key + "-1", key + "-2"} {
			if strings.Contains(value, name) {
				return name, key + "-" + []string{"2", "1"}[i]
			}
		}
		Fail("nobody holds the lock " + key)
		return "", ""
	}

	DescribeTable("the lock moves", func(ctx SpecContext, key string, end func(name string)) {
		active, standby := pairOf(key)
		end(active)
		Eventually(holder).WithArguments(key).Should(ContainSubstring(standby))
		Expect(w.cluster.Process(active).Start()).To(Succeed())
		guid := w.name("app")
		w.desire(ctx, app(guid, 2))
		w.awaitRunning(ctx, guid, 2)
	},
		Entry("when the auctioneer stops", "auctioneer", func(name string) { w.cluster.Process(name).Stop() }, SpecTimeout(time.Minute)),
		Entry("when the auctioneer is killed", "auctioneer", func(name string) { w.cluster.Process(name).Kill() }, SpecTimeout(time.Minute)),
		Entry("when the bbs stops", "bbs", func(name string) { w.cluster.Process(name).Stop() }, SpecTimeout(time.Minute)),
		Entry("when the bbs is killed", "bbs", func(name string) { w.cluster.Process(name).Kill() }, SpecTimeout(time.Minute)),
	)

	It("elects one global route emitter", func(ctx SpecContext) {
		client := consul.Client()
		for _, name := range []string{"global-1", "global-2"} {
			tls, err := w.cluster.Issue(name, mtls.RoleRouteEmitter, "")
			Expect(err).NotTo(HaveOccurred())
			_, err = w.cluster.Add(name, "route-emitter", map[string]any{
				"tls":  map[string]any{"ca": tls.CA, "certificate": tls.Certificate, "key": tls.Key},
				"bbs":  map[string]any{"addresses": w.cluster.BBSAddresses()},
				"nats": natsSection,
				"lock": map[string]any{"owner": name, "ttl": "3s", "backend": "consul"},
				"consul": map[string]any{
					"address": client.Address, "session_ttl_min": client.SessionTTLMin.String(),
					"tls": map[string]any{"ca": client.TLS.CA, "certificate": client.TLS.Certificate, "key": client.TLS.Key},
				},
			})
			Expect(err).NotTo(HaveOccurred())
			if name == "global-1" {
				Eventually(holder).WithArguments("route_emitter").Should(ContainSubstring(name))
			}
		}
		By("doing without those of the cells")
		w.cluster.Process("route-emitter-1").Stop()
		w.cluster.Process("route-emitter-2").Stop()
		guid := w.name("app")
		w.desire(ctx, app(guid, 2))
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1}))

		w.cluster.Process("global-1").Kill()
		Eventually(holder).WithArguments("route_emitter").Should(ContainSubstring("global-2"))
		w.scale(ctx, guid, 3)
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1, 2}))
	}, SpecTimeout(2*time.Minute))
})
