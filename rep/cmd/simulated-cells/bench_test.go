package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/lifecycle"
	"diego.internal/servicekit/mtls"
)

// asProgram makes the test binary the program itself, so that its memory can be measured apart from that of its peers.
const asProgram = "SIMULATED_CELLS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(lifecycle.Main("simulated-cells", run))
	}
	os.Exit(m.Run())
}

// settle is how long a measurement takes.
const settle = 20 * time.Second

// BenchmarkIdle measures what idle cells cost once all are present: memory, goroutines, descriptors, and the share of one
// core that their heartbeats take.
func BenchmarkIdle(b *testing.B) {
	for _, cells := range []int{200, 1000} {
		b.Run(fmt.Sprintf("%d_cells", cells), func(b *testing.B) {
			p := newPeers(b, cells)
			debug := launch(b, p)
			require.Eventually(b, func() bool { return p.locket.count() == cells }, 5*time.Minute, 100*time.Millisecond)
			var after map[string]float64
			for b.Loop() {
				after = measure(b, debug)
			}
			report(b, after, "cell", cells)
			b.ReportMetric(after["process_open_fds"]/float64(cells), "fds/cell")
		})
	}
}

// BenchmarkInstances measures what running instances cost beyond their cells, each with a health check, on cells that
// take 250.
func BenchmarkInstances(b *testing.B) {
	const cells, each = 20, 250
	p := newPeers(b, cells)
	debug := launch(b, p)
	require.Eventually(b, func() bool { return p.locket.count() == cells }, time.Minute, 100*time.Millisecond)
	empty := metrics(b, debug)
	var after map[string]float64
	for b.Loop() {
		for id, at := range p.locket.presences(b) {
			req := &repv1.PerformRequest{CellId: id}
			for i := range int32(each) {
				req.Lrps = append(req.Lrps, &repv1.PerformRequest_LRPWork{
					Key:       &workloadv1.ActualLRPKey{ProcessGuid: "process-" + id, Index: i, Domain: "test"},
					Resources: &workloadv1.Resources{MemoryMb: 64, DiskMb: 64}, Placement: &workloadv1.PlacementConstraint{RootFs: "preloaded:sample"},
				})
			}
			_, err := repv1.NewAuctionClient(p.dial(mtls.RoleAuctioneer, id, at.RepAddress)).Perform(b.Context(), req)
			require.NoError(b, err)
		}
		began := time.Now()
		require.Eventually(b, func() bool { return len(p.bbs.running()) == cells*each }, 5*time.Minute, 10*time.Millisecond)
		b.ReportMetric(cells*each/time.Since(began).Seconds(), "starts/s")
		after = measure(b, debug)
	}
	b.ReportMetric(empty["process_resident_memory_bytes"]/(1<<20), "MiB-empty")
	for name, value := range empty {
		if name != "cpu" {
			after[name] -= value // what the cells cost without them
		}
	}
	report(b, after, "instance", cells*each)
}

// measure reads the metrics after the time to settle; the key "cpu" is the share of a core meanwhile.
func measure(b *testing.B, debug string) map[string]float64 {
	b.Helper()
	before := metrics(b, debug)
	wait(b, settle)
	after := metrics(b, debug)
	after["cpu"] = (after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]) / settle.Seconds()
	return after
}

func report(b *testing.B, after map[string]float64, what string, n int) {
	b.Helper()
	b.ReportMetric(after["process_resident_memory_bytes"]/(1<<20), "MiB")
	b.ReportMetric(after["process_resident_memory_bytes"]/(1<<10)/float64(n), "KiB/"+what)
	b.ReportMetric(after["go_memstats_heap_inuse_bytes"]/(1<<10)/float64(n), "heap-KiB/"+what)
	b.ReportMetric(after["go_memstats_stack_inuse_bytes"]/(1<<10)/float64(n), "stack-KiB/"+what)
	b.ReportMetric(after["go_goroutines"]/float64(n), "goroutines/"+what)
	b.ReportMetric(after["cpu"]*100, "%core")
}

// launch starts the program and returns its debug address. It is stopped with the benchmark.
func launch(b *testing.B, p *peers) string {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, os.Args[0], "-config", p.configuration())
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	found := make(chan string, 1)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		debug := regexp.MustCompile(`"debug":"([0-9.:]+)"`)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if match := debug.FindStringSubmatch(lines.Text()); match != nil {
				select {
				case found <- match[1]:
				default:
				}
			}
		}
	}()
	b.Cleanup(func() {
		cancel()
		<-drained
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			b.Errorf("the program ended with %v", err)
		}
	})
	select {
	case address := <-found:
		return address
	case <-time.After(time.Minute):
		b.Fatal("no start line")
		return ""
	}
}

// metrics reads the values without labels.
func metrics(b *testing.B, debug string) map[string]float64 {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+debug+"/metrics", nil)
	require.NoError(b, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(b, err)
	defer func() { require.NoError(b, resp.Body.Close()) }()
	out := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		if value, err := strconv.ParseFloat(text, 64); err == nil {
			out[name] = value
		}
	}
	require.NoError(b, lines.Err())
	return out
}

func wait(b *testing.B, d time.Duration) {
	b.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.Context().Done():
	}
}
