package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	s := samples{4 * time.Millisecond, time.Millisecond, 3 * time.Millisecond, 2 * time.Millisecond}
	require.InDelta(t, 3, s.quantile(0.5), 1e-9)
	require.InDelta(t, 4, s.quantile(0.99), 1e-9)
	require.Zero(t, samples(nil).quantile(0.5))
}

// TestRows runs the whole program in small: every row is there in its form, nothing else is on standard output, and nothing
// of ours is left.
func TestRows(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "bench")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	temp, err := os.MkdirTemp("", "cb") //nolint:usetesting // that of the test shuts out the users of containers, who look their root up below
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(temp)) })
	require.NoError(t, os.Chmod(temp, 0o711))
	bench := exec.CommandContext(t.Context(), program, "-samples", "2", "-parallel", "2", "-rounds", "1", "-hosted", "3", "-settle", "2s")
	bench.Env = append(os.Environ(), "TMPDIR="+temp)
	var stdout, stderr bytes.Buffer
	bench.Stdout, bench.Stderr = &stdout, &stderr
	require.NoError(t, bench.Run(), "root, containerd, runc and busybox-static are needed: %s", &stderr)
	var names []string
	for line := range strings.Lines(stdout.String()) {
		require.Regexp(t, `^[a-z0-9_]+ [0-9]+ -?[0-9.e+-]+ (ms|MiB|percent)\n$`, line)
		names = append(names, strings.Fields(line)[0])
	}
	require.Equal(t, []string{
		"cell_create_p50", "cell_create_p99", "cell_create_2_parallel_p50", "cell_create_2_parallel_p99",
		"floor_containerd_create_p50", "cell_stop_p50", "cell_rep_rss_3", "cell_checks_cpu_3",
	}, names)
	left, err := os.ReadDir(temp)
	require.NoError(t, err)
	require.Empty(t, left)
}
