// Package inigo tests the whole system end to end: real processes with mutual TLS, real Postgres, real containers. It drives
// binaries, configuration files and generated clients, and never a service's packages, so that it can mix releases and
// kill what it likes. `make inigo` builds the binaries first.
package inigo_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"

	"diego.internal/deploy/cluster"
)

func TestInigo(t *testing.T) {
	gomega.RegisterFailHandler(ginkgo.Fail)
	gomega.SetDefaultEventuallyTimeout(30 * time.Second)
	gomega.SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	gomega.EnforceDefaultTimeoutsWhenUsingContexts()
	ginkgo.RunSpecs(t, "inigo")
}

// binaries is where `make build` puts them.
func binaries() string {
	folder, err := filepath.Abs("../bin")
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	gomega.Expect(filepath.Join(folder, "bbs")).To(gomega.BeARegularFile(), "run make build first")
	return folder
}

// startCluster starts a cluster for the specs of one container and stops it after them. Whatever is on the machine that was
// not there before fails the suite.
func startCluster(ctx context.Context, tune func(process string, config map[string]any), change ...func(*cluster.Options)) *world {
	// Not below the tree: paths of sockets are limited to 107 bytes.
	folder, err := os.MkdirTemp("", "inigo-")
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	gomega.Expect(os.Chmod(folder, 0o755)).To(gomega.Succeed(), "Postgres runs as another user")
	folder = filepath.Join(folder, "c")
	before, err := cluster.Look(ctx, folder)
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	options := cluster.Options{Folder: folder, Bin: binaries(), Cells: 2, Progress: ginkgo.GinkgoWriter, Tune: tune}
	for _, f := range change {
		f(&options)
	}
	c, err := cluster.Start(ctx, options)
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	ginkgo.DeferCleanup(func(ctx context.Context) {
		gomega.Expect(c.Stop(ctx)).To(gomega.Succeed())
		// What others do on the machine meanwhile, such as tests of another suite, passes.
		gomega.Eventually(func(ctx context.Context) ([]string, error) {
			after, err := cluster.Look(ctx, folder)
			return after.Since(before), err
		}).WithContext(ctx).Should(gomega.BeEmpty(), "left behind")
		gomega.Expect(os.RemoveAll(filepath.Dir(folder))).To(gomega.Succeed())
	}, ginkgo.NodeTimeout(2*time.Minute))
	return newWorld(c) //nolint:contextcheck // its connections outlive the node that starts it
}

// The logs of the processes are attached to a spec that fails.
var _ = ginkgo.ReportAfterEach(func(report ginkgo.SpecReport) {
	if report.Failed() && theWorld != nil {
		ginkgo.AddReportEntry("logs", theWorld.cluster.Blame())
	}
})
