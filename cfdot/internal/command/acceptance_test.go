package command

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

// TestManyCellsOfWhichTenHang has the ten give up only when all of them hang at the same time, so that it ends at once if they are
// asked together and not at all in time if they are asked one after the other. All cells are one by name and two by address.
func TestManyCellsOfWhichTenHang(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	const cells, hanging = 200, 10
	var under, most, hung atomic.Int32
	all := make(chan struct{})
	good, bad := workingRep(""), workingRep("")
	good.state = func(context.Context) (*repv1.StateResponse, error) {
		n := under.Add(1)
		defer under.Add(-1)
		for before := most.Load(); n > before; before = most.Load() {
			if most.CompareAndSwap(before, n) {
				break
			}
		}
		return &repv1.StateResponse{CellId: "x", Healthy: true}, nil
	}
	bad.state = func(ctx context.Context) (*repv1.StateResponse, error) {
		if hung.Add(1) == hanging {
			close(all)
		}
		select {
		case <-ctx.Done():
		case <-all:
		}
		return nil, fault.New(codes.FailedPrecondition, "", "it hung")
	}
	goodAddress := p.serve(mtls.Identity{Role: mtls.RoleCell, Name: "cell"}, "rep.v1", good.register)
	badAddress := p.serve(mtls.Identity{Role: mtls.RoleCell, Name: "cell"}, "rep.v1", bad.register)
	for i := range cells {
		address := goodAddress
		if i%(cells/hanging) == 0 {
			address = badAddress
		}
		p.bbs.addCell("cell", address)
	}
	got := p.run("cell-states", "--timeout", "60")
	require.Equal(t, ExitPartial, got.exit, got.errors[:min(len(got.errors), 500)])
	require.Len(t, got.lines(), cells-hanging)
	require.Equal(t, hanging, strings.Count(got.errors, "it hung"))
	require.LessOrEqual(t, most.Load(), int32(cellsAtOnce))
}

// counting is a standard output that counts lines and looks how much memory is held while they come.
type counting struct {
	lines int
	most  uint64
}

func (c *counting) Write(text []byte) (int, error) {
	c.lines += strings.Count(string(text), "\n")
	if c.lines%5000 == 0 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		c.most = max(c.most, m.HeapAlloc)
	}
	return len(text), nil
}

// TestListsNeedNoMoreMemoryForMoreRecords lists many instances in each way of printing. It runs alone, for it looks at the memory
// of the process.
func TestListsNeedNoMoreMemoryForMoreRecords(t *testing.T) { //nolint:paralleltest // it measures the memory of the process
	p := newPlatform(t)
	const few, many = 5_000, 40_000
	chunk := make([]*workloadv1.ActualLRP, 500)
	count := few
	for i := range chunk {
		chunk[i] = anInstance(int32(i))
	}
	p.bbs.stream = func(stream grpc.ServerStreamingServer[bbsv1.ListActualLRPsResponse]) error {
		for range count / len(chunk) {
			if err := stream.Send(&bbsv1.ListActualLRPsResponse{ActualLrps: chunk}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, format := range []string{"json", "table", "name", "custom=P:.process_guid"} {
		held := map[int]uint64{}
		for _, count = range []int{few, many} {
			out := &counting{}
			got := p.runIn(t.Context(), Environment{Stdout: out, Width: 120}, "actual-lrps", "-o", format)
			require.Equal(t, ExitOK, got.exit, got.errors)
			require.InDelta(t, count, out.lines, 1, "%s", format) // and the names of the columns
			held[count] = out.most
		}
		const slack = 8 << 20 // what a connection holds of records that were not read yet comes and goes
		require.Less(t, held[many], held[few]+slack, "%s: %d records need %d bytes, %d need %d", format, few, held[few], many, held[many])
	}
}

// TestTheFirstLineOfManyComesAtOnce, and then the reader leaves, as head does.
func TestTheFirstLineOfManyComesAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	sent := 0
	p.bbs.stream = func(stream grpc.ServerStreamingServer[bbsv1.ListActualLRPsResponse]) error {
		for ; sent < 1_000_000; sent++ {
			if err := stream.Send(&bbsv1.ListActualLRPsResponse{ActualLrps: []*workloadv1.ActualLRP{anInstance(0)}}); err != nil {
				return err
			}
		}
		return nil
	}
	got := p.run("actual-lrps", "--limit", "1")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Len(t, got.lines(), 1)
	require.Less(t, sent, 1_000_000, "the rest was not read")
}

// TestAnIdleStreamSurvives a time that is longer than that of any request, with nothing but bookmarks, or nothing at all.
func TestAnIdleStreamSurvives(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	for name, idle := range map[string]func(watchStream){
		"bookmarks": func(stream watchStream) {
			for i := range uint64(6) {
				pause(300 * time.Millisecond)(stream.Context())
				_ = stream.Send(bookmark(i + 1)) // the reader may have left
			}
		},
		"nothing": func(stream watchStream) { pause(1800 * time.Millisecond)(stream.Context()) },
	} {
		p.bbs.watch = func(_ *bbsv1.WatchRequest, stream watchStream) error {
			idle(stream)
			return stream.Send(changes(50, false, crash(3)))
		}
		got := p.run("lrp-events", "--timeout", "1")
		require.Equal(t, ExitOK, got.exit, "%s: %s", name, got.errors)
		require.Equal(t, "50/3", printedEvents(t, got), name)
	}
}

// TestUnreachableServersSayWhy, address by address.
func TestUnreachableServersSayWhy(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	mute, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, mute.Close()) })
	talkative, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() {
		for {
			conn, err := talkative.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "SSH-2.0\r\n") // the reader may have left
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { require.NoError(t, talkative.Close()) })
	stranger := mtlstest.NewAuthority(t)
	foreign := stranger.Issue(mtls.Identity{Role: mtls.RoleOperator, Name: "olive"})
	standby := p.serve(mtls.Identity{Role: mtls.RoleBBS}, "bbs.v1.not", (&fakeBBS{}).register)
	p.locket.held = someHeld()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"nobody listens":           {[]string{"--bbs", "127.0.0.1:1"}, "127.0.0.1:1: connection refused"},
		"an unknown host":          {[]string{"--bbs", "nobody.invalid:7"}, "nobody.invalid"},
		"it does not speak":        {[]string{"--bbs", mute.Addr().String()}, "it takes connections, but does not answer"},
		"it speaks something else": {[]string{"--bbs", talkative.Addr().String()}, "TLS: "},
		"another authority":        {[]string{"--caCertFile", foreign.CA}, "certificate signed by unknown authority"},
		"another of ours":          {[]string{"--clientCertFile", foreign.Certificate, "--clientKeyFile", foreign.Key}, "TLS: "},
		"another server":           {[]string{"--bbs", p.env["LOCKET_API_LOCATION"]}, "TLS: "},
		"only a standby":           {[]string{"--bbs", standby}, "it answers, but is not active\n  the lock bbs is held by bbs-1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := p.run(append([]string{"domains", "--timeout", "1"}, test.args...)...)
			require.Equal(t, ExitUnreachable, got.exit, got.errors)
			require.Contains(t, got.errors, test.want)
			require.NotContains(t, got.errors, "context deadline exceeded")
		})
	}
}
