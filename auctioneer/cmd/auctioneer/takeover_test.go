package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/auctioneer/internal/simulationtest"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/lifecycle"
	"diego.internal/servicekit/mtls"
)

// asProcess is the variable that makes this test binary an auctioneer, so that a test can kill one.
const asProcess = "AUCTIONEER_TEST_CONFIG"

func TestMain(m *testing.M) {
	if file := os.Getenv(asProcess); file != "" {
		os.Args = []string{"auctioneer", "-config", file}
		os.Exit(lifecycle.Main("auctioneer", run))
	}
	os.Exit(m.Run())
}

// spawn starts an auctioneer as a process of its own, which listens when it returns.
func spawn(t *testing.T, world *simulationtest.World, owner string) (address string, process *os.Process) {
	t.Helper()
	for range 5 { // the address may be taken by somebody else before the process has it
		address = freeAddress(t)
		cmd := exec.CommandContext(context.Background(), os.Args[0])
		cmd.Env = append(os.Environ(), asProcess+"="+writeConfig(t, world, address, owner))
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait() // killed by the test
		}()
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // it may be dead already
			<-ended
		})
		if listens(t, address, ended) {
			return address, cmd.Process
		}
	}
	t.Fatal("no auctioneer starts")
	return "", nil
}

// listens waits until somebody takes connections at the address; false if the process ended before.
func listens(t *testing.T, address string, ended <-chan struct{}) bool {
	t.Helper()
	gone := false
	require.Eventually(t, func() bool {
		select {
		case <-ended:
			gone = true
			return true
		default:
		}
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, patience, 5*time.Millisecond)
	return !gone
}

// batchSize is how many instances are offered at a time; a quarter of the demand is a multiple of it.
const batchSize = 20

// demand is what a BBS does: it offers what is on no cell, until somebody accepted it, and knows what waits.
type demand struct {
	cells []*simulationtest.Cell
	total int
	// killed is closed when the first auctioneer is dead. A quarter of the offers waits for that.
	killed chan struct{}

	mu       sync.Mutex
	desired  int // the first so many exist by now
	accepted int
}

func (d *demand) guid(i int) string { return fmt.Sprintf("app-%04d", i) }

// placed counts the instances by name over all cells.
func (d *demand) placed() map[string]int {
	out := map[string]int{}
	for _, c := range d.cells {
		for _, name := range c.Instances() {
			out[name]++
		}
	}
	return out
}

// waiting answers ListUnplaced.
func (d *demand) waiting() *bbsv1.ListUnplacedResponse {
	placed, answer := d.placed(), &bbsv1.ListUnplacedResponse{}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.desired {
		if placed[d.guid(i)+".0"] == 0 {
			s := request(d.guid(i)).GetStarts()[0]
			answer.Lrps = append(answer.Lrps, &bbsv1.ListUnplacedResponse_UnplacedLRP{
				ProcessGuid: s.GetProcessGuid(), Domain: s.GetDomain(), Indices: []int32{0}, Resources: s.GetResources(), Placement: s.GetPlacement(),
			})
		}
	}
	return answer
}

// offer asks for everything, a few instances at a time, each until one auctioneer has accepted it.
func (d *demand) offer(ctx context.Context, client auctioneerv1.AuctionsClient) error {
	for first := 0; first < d.total; {
		if first == d.total*3/4 {
			<-d.killed
		}
		d.mu.Lock()
		d.desired = min(first+batchSize, d.total)
		d.mu.Unlock()
		placed, req := d.placed(), &auctioneerv1.RequestLRPAuctionsRequest{}
		for i := first; i < min(first+batchSize, d.total); i++ {
			if placed[d.guid(i)+".0"] == 0 {
				s := request(d.guid(i)).GetStarts()[0]
				s.Indices = []int32{0}
				req.Starts = append(req.Starts, s)
			}
		}
		if len(req.GetStarts()) > 0 {
			if _, err := client.RequestLRPAuctions(ctx, req); err != nil {
				if ctx.Err() != nil {
					return err
				}
				continue // the call waits for somebody who serves
			}
		}
		first += batchSize
		d.mu.Lock()
		d.accepted = first
		d.mu.Unlock()
	}
	return nil
}

func (d *demand) acceptedSoFar() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.accepted
}

// TestTakeoverUnderLoad kills the active auctioneer while work streams in and while it has accepted work
// that no cell has, or that a cell has and nobody knows. Its successor places the rest.
func TestTakeoverUnderLoad(t *testing.T) {
	t.Parallel()
	world := simulationtest.New(t)
	d := &demand{cells: world.AddCells(12), total: 960, killed: make(chan struct{})}
	world.BBS.Locked(func(b *simulationtest.BBS) { b.Waiting = d.waiting })
	first, active := spawn(t, world, "first")
	require.Eventually(t, holds(world, "first"), patience, 5*time.Millisecond)
	second, _ := spawn(t, world, "second")

	// From the half on no cell answers before the auctioneer is dead; then every other does what it was told.
	for i, c := range d.cells {
		c.OnPerform(func(_ context.Context, perform func()) error {
			if d.acceptedSoFar() > d.total/2 {
				<-d.killed
				if i%2 == 0 {
					return context.Canceled
				}
			}
			perform()
			return nil
		})
	}
	client := auctioneerv1.NewAuctionsClient(world.DialAuctioneers(mtls.RoleBBS, first, second))
	offered := make(chan error, 1)
	go func() { offered <- d.offer(t.Context(), client) }()
	require.Eventually(t, func() bool { return d.acceptedSoFar() == d.total*3/4 }, patience, time.Millisecond)
	require.NoError(t, active.Kill())
	require.Less(t, len(d.placed()), d.total*3/4, "some of what it accepted is on no cell")
	close(d.killed)
	for _, c := range d.cells {
		c.OnPerform(nil)
	}
	world.Locket.Expire("auctioneer")

	require.NoError(t, <-offered)
	require.Eventually(t, func() bool { return len(d.placed()) == d.total }, patience, 20*time.Millisecond, "nothing is lost")
	require.True(t, holds(world, "second")())
	// The one call that waited for the successor may come after what it asks for was recovered and placed. The BBS refuses
	// the claim of the second cell. Nothing else may be on two.
	underWay := map[string]bool{}
	for i := range batchSize {
		underWay[d.guid(d.total*3/4+i)+".0"] = true
	}
	for name, n := range d.placed() {
		require.True(t, n == 1 || underWay[name], "%s is on %d cells", name, n)
	}
}
