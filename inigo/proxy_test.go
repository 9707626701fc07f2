package inigo_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"diego.internal/deploy/cluster"
	bbsv1 "diego.internal/proto/bbs/v1"
)

var _ = Describe("container proxies", Ordered, func() {
	var w *world

	BeforeAll(func(ctx SpecContext) {
		// With no other way to an instance than through its proxy.
		w = startCluster(ctx, func(_ string, config map[string]any) {
			if executor, ok := config["executor"].(map[string]any); ok {
				executor["container_proxy"].(map[string]any)["unproxied_port_mappings"] = false
			}
		}, func(o *cluster.Options) { o.ContainerProxies = true })
		_, err := w.domains.UpsertDomain(ctx, &bbsv1.UpsertDomainRequest{Domain: domain})
		Expect(err).NotTo(HaveOccurred())
	}, NodeTimeout(3*time.Minute))

	It("stand between the router and the instances, and let in nobody else", func(ctx SpecContext) {
		guid := w.name("app")
		w.desire(ctx, app(guid, 2))
		lrps := w.awaitRunning(ctx, guid, 2)
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1}))
		for _, lrp := range lrps {
			ports := lrp.GetNetInfo().GetPorts()
			Expect(ports).To(HaveLen(2), "one for routers and one for other containers")
			Expect(ports[0].GetHostPort()).To(BeZero())
			Expect(ports[0].GetHostTlsProxyPort()).NotTo(BeZero())
			Expect(ports[1].GetContainerTlsProxyPort()).To(BeEquivalentTo(61443))
			Expect(ports[1].GetHostTlsProxyPort()).To(BeZero())
			address := net.JoinHostPort(lrp.GetNetInfo().GetAddress(), fmt.Sprint(ports[0].GetHostTlsProxyPort()))
			Expect(strangerAsks(ctx, address)).To(MatchError(ContainSubstring("remote error: tls")))
		}
	}, SpecTimeout(time.Minute))

	It("go on while the rep is restarted, and lose no request when instances are stopped", func(ctx SpecContext) {
		guid := w.name("app")
		w.desire(ctx, app(guid, 3))
		before := guidsOf(w.awaitRunning(ctx, guid, 3))
		Eventually(w.answering).WithContext(ctx).WithArguments(guid).Should(Equal([]int{0, 1, 2}))
		By("killing both reps")
		for _, name := range []string{"rep-1", "rep-2"} {
			w.cluster.Process(name).Crash()
		}
		Consistently(w.answering).WithContext(ctx).WithArguments(guid).WithTimeout(3 * time.Second).Should(Equal([]int{0, 1, 2}))
		Expect(guidsOf(w.awaitRunning(ctx, guid, 3))).To(Equal(before))

		By("stopping two of three")
		w.scale(ctx, guid, 1)
		Consistently(func(ctx context.Context) (int, error) {
			code, _, err := w.get(ctx, hostOf(guid), "/index")
			return code, err
		}).WithContext(ctx).WithTimeout(5 * time.Second).WithPolling(10 * time.Millisecond).Should(Equal(http.StatusOK))
		Eventually(w.states).WithContext(ctx).WithArguments(guid).Should(Equal(allRunning(1)))
		Expect(w.answering(ctx, guid)).To(Equal([]int{0}))
	}, SpecTimeout(2*time.Minute))
})

// strangerAsks connects without a certificate and reads, because a client hears of a refusal no sooner.
func strangerAsks(ctx context.Context, address string) error {
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}} // the other side is to refuse
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Read(make([]byte, 1))
	return err
}
