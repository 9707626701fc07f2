package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
)

func TestScale(t *testing.T) {
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "scale")
}

var _ = ginkgo.Describe("an installation of simulated cells", func() {
	ginkgo.It("misses, doubles and leaves over no instance when cells are lost, emptied and all work is removed", func(ctx ginkgo.SpecContext) {
		// Not below the tree: paths of sockets are limited to 107 bytes.
		folder, err := os.MkdirTemp("", "scale-")
		gomega.Expect(err).NotTo(gomega.HaveOccurred())
		gomega.Expect(os.Chmod(folder, 0o755)).To(gomega.Succeed(), "Postgres runs as another user")
		ginkgo.DeferCleanup(os.RemoveAll, folder)
		bin, err := filepath.Abs("../../bin")
		if given := os.Getenv("SCALE_BIN"); given != "" {
			bin = given
		}
		gomega.Expect(err).NotTo(gomega.HaveOccurred())
		gomega.Expect(filepath.Join(bin, "simulated-cells")).To(gomega.BeARegularFile(), "run make build first")

		gomega.Expect(measure(ctx, options{cells: 20, instances: 2000, steady: 5 * time.Second, folder: folder, bin: bin})).To(gomega.Succeed())
		gomega.Expect(filepath.Join(folder, "scale.txt")).To(gomega.BeARegularFile())
		gomega.Expect(filepath.Join(folder, "scale.html")).To(gomega.BeARegularFile())
	}, ginkgo.SpecTimeout(10*time.Minute))
})
