package command

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

// workingRep answers everything.
func workingRep(id string) *fakeRep {
	return &fakeRep{
		state: func(context.Context) (*repv1.StateResponse, error) {
			return &repv1.StateResponse{
				CellId: id, Zone: "z1", Healthy: true, RepAddress: "10.0.0.1:1801",
				TotalResources:     &workloadv1.CellCapacity{MemoryMb: 1024, DiskMb: 2048, Containers: 100},
				AvailableResources: &workloadv1.CellCapacity{MemoryMb: 768, DiskMb: 2048, Containers: 99},
			}, nil
		},
		evacuate: func(stream grpc.ServerStreamingServer[repv1.EvacuateResponse]) error {
			for left := int32(1); left >= 0; left-- {
				if err := stream.Send(&repv1.EvacuateResponse{RemainingLrps: left, Done: left == 0, Deadline: timestamppb.Now()}); err != nil {
					return err
				}
			}
			return nil
		},
		metrics: func(context.Context) (*repv1.ContainerMetricsResponse, error) {
			return &repv1.ContainerMetricsResponse{Containers: []*repv1.ContainerMetrics{use("p", 0)}}, nil
		},
		follow: func(_ *repv1.FollowRequest, stream grpc.ServerStreamingServer[repv1.FollowResponse]) error {
			return stream.Send(&repv1.FollowResponse{Lines: []*repv1.LogLine{logAt(1, "hello")}})
		},
	}
}

// brokenRep answers nothing but that it cannot.
func brokenRep() *fakeRep {
	rep := workingRep("")
	rep.state = func(context.Context) (*repv1.StateResponse, error) {
		return nil, fault.New(codes.FailedPrecondition, "", "the engine is gone")
	}
	return rep
}

func TestCellStatesArePartial(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	for i := range 5 {
		id := fmt.Sprintf("cell-%d", i)
		p.addCell(id, workingRep(id))
	}
	require.Equal(t, ExitOK, p.run("cell-states").exit)
	p.addCell("cell-bad", brokenRep())
	hanging := workingRep("cell-hangs")
	hanging.state = func(ctx context.Context) (*repv1.StateResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	p.addCell("cell-hangs", hanging)
	got := p.run("cell-states", "--timeout", "1")
	require.Equal(t, ExitPartial, got.exit)
	require.Len(t, got.lines(), 5, "one cell that hangs holds up no other")
	require.Contains(t, got.errors, "Rep error: Failed to get cell state for cell cell-bad: ")
	require.Contains(t, got.errors, "Rep error: Failed to get cell state for cell cell-hangs: ")
	require.NotContains(t, got.errors, "BBS error")

	table := p.run("cells", "-o", "table", "--timeout", "1")
	require.Equal(t, ExitOK, table.exit)
	require.Contains(t, table.out, "unreachable")
	require.Contains(t, table.out, "ready")
}

func TestOneCell(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.addCell("cell-1", workingRep("cell-1"))
	p.addCell("cell-bad", brokenRep())
	got := p.run("cell-state", "cell-1")
	require.Equal(t, ExitOK, got.exit, got.errors)
	var state map[string]any
	require.NoError(t, json.Unmarshal([]byte(got.out), &state))
	for _, name := range []string{
		"rep_url", "cell_id", "cell_index", "RootFSProviders", "AvailableResources", "TotalResources", "LRPs", "Tasks", "StartingContainerCount",
		"Zone", "Evacuating", "VolumeDrivers", "PlacementTags", "OptionalPlacementTags", "ProxyMemoryAllocationMB",
	} {
		require.Contains(t, state, name)
		require.NotNil(t, state[name], name)
	}
	got = p.run("cell-state", "cell-bad")
	require.Equal(t, ExitAPI, got.exit)
	require.True(t, strings.HasPrefix(got.errors, "Rep error: Failed to get cell state for cell cell-bad: "), got.errors)
	for _, command := range []string{"cell", "cell-state"} {
		got = p.run(command, "cell-9")
		require.Equal(t, ExitNotFound, got.exit)
		require.Contains(t, got.errors, "Cell not found")
	}
	got = p.run("cell", "cell-1")
	var presence map[string]any
	require.NoError(t, json.Unmarshal([]byte(got.out), &presence))
	for _, name := range []string{"cell_id", "rep_address", "zone", "capacity", "rootfs_provider_list", "placement_tags", "optional_placement_tags", "rep_url"} {
		require.NotNil(t, presence[name], name)
	}
}

// TestACellMustBeItself sends the operator to another cell than the one that is asked about.
func TestACellMustBeItself(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.addCell("cell-1", workingRep("cell-1"))
	p.bbs.addCell("cell-2", p.bbs.cells[0].GetPresence().GetRepAddress())
	got := p.run("cell-state", "cell-2", "--timeout", "1")
	require.Equal(t, ExitUnreachable, got.exit, got.errors)
}

func TestEvacuate(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.addCell("cell-1", workingRep("cell-1"))
	dying := workingRep("cell-2")
	dying.evacuate = func(stream grpc.ServerStreamingServer[repv1.EvacuateResponse]) error {
		return stream.Send(&repv1.EvacuateResponse{RemainingLrps: 4, Deadline: timestamppb.Now()})
	}
	p.addCell("cell-2", dying)
	got := p.run("evacuate", "cell-1", "--yes")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Len(t, got.lines(), 2)
	require.Contains(t, got.lines()[1], `"done":true`)
	got = p.run("evacuate", "cell-1", "--yes", "-o", "table")
	require.Equal(t, "cell-1: 1 instances and 0 tasks left\ncell-1: 0 instances and 0 tasks left\n", got.out)
	got = p.run("evacuate", "cell-2", "--yes")
	require.Equal(t, ExitUnreachable, got.exit, "an end of the rep is no end of the evacuation")
	require.Contains(t, got.errors, "the rep ended before the evacuation did")
}

func logAt(second int64, text string) *repv1.LogLine {
	return &repv1.LogLine{At: timestamppb.New(time.Unix(second, 0)), Source: "APP/PROC/WEB", Index: "0", Stream: repv1.LogLine_STREAM_STDOUT, Text: text}
}

// logging makes a rep that sends these lines, and then, if it is followed, more of them when it is told to.
func logging(lines []*repv1.LogLine, more <-chan *repv1.LogLine) *fakeRep {
	rep := workingRep("")
	rep.follow = func(q *repv1.FollowRequest, stream grpc.ServerStreamingServer[repv1.FollowResponse]) error {
		if err := stream.Send(&repv1.FollowResponse{Lines: lines}); err != nil || !q.GetFollow() {
			return err
		}
		for {
			select {
			case <-stream.Context().Done():
				return nil
			case line, open := <-more:
				if !open {
					return nil
				}
				if err := stream.Send(&repv1.FollowResponse{Lines: []*repv1.LogLine{line}}); err != nil {
					return err
				}
			}
		}
	}
	return rep
}

// knowingNothing is a rep without the container.
func knowingNothing() *fakeRep {
	rep := workingRep("")
	rep.follow = func(*repv1.FollowRequest, grpc.ServerStreamingServer[repv1.FollowResponse]) error {
		return fault.New(codes.NotFound, "ResourceNotFound", "this cell has no such container")
	}
	return rep
}

func texts(o outcome) string {
	var out []string
	for _, line := range o.lines() {
		fields := strings.Fields(line)
		out = append(out, fields[len(fields)-1])
	}
	return strings.Join(out, " ")
}

func TestLogsAreMergedByTime(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.addCell("cell-1", logging([]*repv1.LogLine{logAt(1, "a"), logAt(3, "c"), logAt(5, "e")}, nil))
	p.addCell("cell-2", logging([]*repv1.LogLine{logAt(2, "b"), logAt(4, "d")}, nil))
	p.addCell("cell-3", knowingNothing())
	got := p.run("logs", "p")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Equal(t, "a b c d e", texts(got))
	require.Contains(t, got.lines()[0], " [APP/PROC/WEB/0] OUT a")

	got = p.run("logs", "p", "-o", "json")
	var line map[string]any
	require.NoError(t, json.Unmarshal([]byte(got.lines()[1]), &line))
	require.Equal(t, "cell-2", line["cell_id"])
	require.Equal(t, "b", line["text"])
}

func TestLogsOfNothing(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.addCell("cell-1", knowingNothing())
	got := p.run("logs", "p")
	require.Equal(t, ExitNotFound, got.exit)
	require.Contains(t, got.errors, "no cell keeps a log of that")
	broken := workingRep("")
	broken.follow = func(*repv1.FollowRequest, grpc.ServerStreamingServer[repv1.FollowResponse]) error {
		return fault.New(codes.FailedPrecondition, "", "no disk")
	}
	p.addCell("cell-2", broken)
	got = p.run("logs", "p")
	require.Equal(t, ExitAPI, got.exit)
	require.Contains(t, got.errors, "Rep error: Failed to read the logs of cell cell-2: ")
	p.addCell("cell-3", logging([]*repv1.LogLine{logAt(1, "a")}, nil))
	got = p.run("logs", "p")
	require.Equal(t, ExitPartial, got.exit, "what there is is printed, and that it is not all is said")
	require.Equal(t, "a", texts(got))
}

// TestLogsAreFollowed merges two cells: what is there in order of time, and what comes as it comes.
func TestLogsAreFollowed(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	first, second := make(chan *repv1.LogLine), make(chan *repv1.LogLine)
	p.addCell("cell-1", logging([]*repv1.LogLine{logAt(1, "a"), logAt(3, "c")}, first))
	p.addCell("cell-2", logging([]*repv1.LogLine{logAt(2, "b")}, second))
	printed := make(chan string, 100)
	ended := make(chan outcome, 1)
	go func() {
		ended <- p.runIn(t.Context(), Environment{Stdout: notifier{lines: printed}}, "logs", "p", "-f")
	}()
	var got []string
	for range 3 {
		got = append(got, lastWord(<-printed))
	}
	require.ElementsMatch(t, []string{"a", "b", "c"}, got)
	second <- logAt(5, "e")
	require.Equal(t, "e", lastWord(<-printed))
	first <- logAt(6, "f")
	require.Equal(t, "f", lastWord(<-printed))
	close(first)
	close(second)
	require.Equal(t, ExitOK, (<-ended).exit)
}

func lastWord(line string) string {
	fields := strings.Fields(line)
	return fields[len(fields)-1]
}
