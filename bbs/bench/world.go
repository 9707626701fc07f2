package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/authority"
)

const (
	callers  = 50
	watchers = 100
	maxCells = 1000

	trustDomain = "bench.internal"
)

// world is a BBS and everybody who calls it.
type world struct {
	n, cells int
	server   *exec.Cmd
	input    io.WriteCloser
	output   *bufio.Scanner
	address  string
	ca       *authority.Authority
	folder   string

	operators []*grpc.ClientConn
	cellConns []*grpc.ClientConn
}

func startWorld(ctx context.Context, folder, database string, n int) (*world, error) {
	w := &world{n: n, cells: min(n, maxCells), folder: folder}
	var err error
	if w.ca, err = authority.New(trustDomain, 24*time.Hour); err != nil {
		return nil, err
	}
	if err := w.startServer(ctx, database); err != nil {
		return nil, fmt.Errorf("starting the bbs: %w", err)
	}
	for i := range 4 {
		conn, err := w.dial(mtls.RoleOperator, fmt.Sprint("bench-", i))
		if err != nil {
			return nil, err
		}
		w.operators = append(w.operators, conn)
	}
	for i := range w.cells {
		conn, err := w.dial(mtls.RoleCell, cellName(i))
		if err != nil {
			return nil, err
		}
		conn.Connect()
		w.cellConns = append(w.cellConns, conn)
	}
	return w, nil
}

func (w *world) issue(role, name string) (mtls.Config, error) {
	base := filepath.Join(w.folder, role+"-"+name)
	files := mtls.Config{CA: filepath.Join(w.folder, "ca.crt"), Certificate: base + ".crt", Key: base + ".key"}
	return files, w.ca.Issue(authority.Leaf{
		Identity: mtls.Identity{TrustDomain: trustDomain, Role: role, Name: name}, Lifetime: 12 * time.Hour,
	}, files)
}

func (w *world) dial(role, name string) (*grpc.ClientConn, error) {
	files, err := w.issue(role, name)
	if err != nil {
		return nil, err
	}
	source, err := mtls.Load(files)
	if err != nil {
		return nil, err
	}
	return grpcclient.Dial(grpcclient.Config{Addresses: []string{w.address}}, grpcclient.Options{
		Source: source, Server: mtls.Peer{Role: mtls.RoleBBS}, Timeout: time.Minute,
	})
}

// startServer runs this program once more as the BBS, so that its memory is its own.
func (w *world) startServer(ctx context.Context, database string) error {
	files, err := w.issue(mtls.RoleBBS, "")
	if err != nil {
		return err
	}
	text, err := json.Marshal(serverConfig{Database: database, TLS: files})
	if err != nil {
		return err
	}
	file := filepath.Join(w.folder, "server.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	w.server = exec.CommandContext(ctx, self, "-serve", file) //nolint:gosec // this program
	w.server.Stderr = os.Stderr
	if w.input, err = w.server.StdinPipe(); err != nil {
		return err
	}
	out, err := w.server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := w.server.Start(); err != nil {
		return err
	}
	w.output = bufio.NewScanner(out)
	if !w.output.Scan() {
		return errors.Join(errors.New("it did not say its address"), w.output.Err())
	}
	w.address = w.output.Text()
	return nil
}

func (w *world) stop() {
	for _, conn := range append(w.operators, w.cellConns...) {
		_ = conn.Close()
	}
	_ = w.input.Close()
	_ = w.server.Wait()
}

// operator returns a connection for caller number i.
func (w *world) operator(i int) *grpc.ClientConn { return w.operators[i%len(w.operators)] }

// each calls f for 0..n-1 from all callers and returns how long it took.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) (time.Duration, error) {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	started := time.Now()
	for range callers {
		g.Go(func() error {
			for ctx.Err() == nil {
				i := int(next.Add(1) - 1)
				if i >= n {
					return nil
				}
				if err := f(ctx, i); err != nil {
					return err
				}
			}
			return context.Cause(ctx)
		})
	}
	err := g.Wait()
	return time.Since(started), err
}

func perSecond(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }

// measure runs all measurements of the BBS.
func (w *world) measure(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		w.measureWrites, w.measureNoops, w.measureLists, w.measureConvergence, w.measureWatchers, w.measureMemory,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) measureWrites(ctx context.Context) error {
	for _, pass := range []struct {
		name string
		call func(ctx context.Context, i int) error
	}{
		{"bbs_desire_lrp", func(ctx context.Context, i int) error {
			_, err := bbsv1.NewDesiredLRPsClient(w.operator(i)).DesireLRP(ctx, &bbsv1.DesireLRPRequest{DesiredLrp: desiredLRP(i)})
			return err
		}},
		{"bbs_claim_actual_lrp", func(ctx context.Context, i int) error {
			_, err := w.cell(i).ClaimActualLRP(ctx, claimRequest(i, w.cells))
			return err
		}},
		{"bbs_start_actual_lrp", func(ctx context.Context, i int) error { return w.startLRP(ctx, i, 0) }},
	} {
		took, err := each(ctx, w.n, pass.call)
		if err != nil {
			return fmt.Errorf("%s: %w", pass.name, err)
		}
		row(pass.name, w.n, perSecond(w.n, took), "per_s")
	}
	return nil
}

func (w *world) cell(i int) bbsv1.ActualLRPCellClient {
	return bbsv1.NewActualLRPCellClient(w.cellConns[cellOf(i, w.cells)])
}

func (w *world) startLRP(ctx context.Context, i, generation int) error {
	_, err := w.cell(i).StartActualLRP(ctx, startRequest(i, w.cells, generation))
	return err
}

func (w *world) measureNoops(ctx context.Context) error {
	calls := max(w.n, 50000)
	took, err := each(ctx, calls, func(ctx context.Context, i int) error { return w.startLRP(ctx, i%w.n, 0) })
	if err != nil {
		return fmt.Errorf("heartbeats: %w", err)
	}
	row("bbs_start_noop", w.n, perSecond(calls, took), "per_s")
	return nil
}

func (w *world) measureLists(ctx context.Context) error {
	ms, err := medianOf(5, func() error {
		stream, err := bbsv1.NewDesiredLRPsClient(w.operator(0)).ListSchedulingInfos(ctx, &bbsv1.ListSchedulingInfosRequest{})
		return count(stream, err, w.n, func(m *bbsv1.ListSchedulingInfosResponse) int { return len(m.GetSchedulingInfos()) })
	})
	if err != nil {
		return fmt.Errorf("listing scheduling infos: %w", err)
	}
	row("bbs_scheduling_infos", w.n, ms, "ms")
	lrps := bbsv1.NewActualLRPsClient(w.operator(0))
	rows := func(m *bbsv1.ListActualLRPsResponse) int { return len(m.GetActualLrps()) }
	ms, err = medianOf(5, func() error {
		stream, err := lrps.ListActualLRPs(ctx, &bbsv1.ListActualLRPsRequest{})
		return count(stream, err, w.n, rows)
	})
	if err != nil {
		return fmt.Errorf("listing actual lrps: %w", err)
	}
	row("bbs_actual_lrps", w.n, ms, "ms")

	calls := 20000
	took, err := each(ctx, calls, func(ctx context.Context, i int) error {
		stream, err := bbsv1.NewActualLRPsClient(w.operator(i)).ListActualLRPs(ctx, &bbsv1.ListActualLRPsRequest{CellId: cellName(i % w.cells)})
		return count(stream, err, -1, rows)
	})
	if err != nil {
		return fmt.Errorf("listing the actual lrps of a cell: %w", err)
	}
	row("bbs_actual_lrps_of_cell", w.n, perSecond(calls, took), "per_s")
	return nil
}

// count reads a list to its end; want is how many records it must have, if not negative.
func count[M any](stream grpc.ServerStreamingClient[M], err error, want int, rows func(*M) int) error {
	if err != nil {
		return err
	}
	got := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		got += rows(m)
	}
	if want >= 0 && got != want {
		return fmt.Errorf("got %d records, want %d", got, want)
	}
	return nil
}

func (w *world) measureConvergence(context.Context) error {
	if _, err := fmt.Fprintln(w.input, "converge"); err != nil {
		return err
	}
	if !w.output.Scan() {
		return errors.Join(errors.New("the bbs did not answer"), w.output.Err())
	}
	ms, err := strconv.ParseFloat(w.output.Text(), 64)
	if err != nil {
		return err
	}
	row("bbs_converge_idle", w.n, ms, "ms")
	return nil
}

// measureMemory reads the largest resident memory that the BBS ever had.
func (w *world) measureMemory(context.Context) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.server.Process.Pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				return err
			}
			row("bbs_rss", w.n, kib/1024, "MiB")
		}
	}
	return nil
}
