package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"diego.internal/auctioneer/internal/batch"
	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/fault"
)

func active() bool  { return true }
func standby() bool { return false }

var placement = &workloadv1.PlacementConstraint{RootFs: "preloaded:stack"}

func TestAuctionsRequestLRPAuctions(t *testing.T) {
	t.Parallel()
	queue := batch.NewQueue(10)
	resp, err := NewAuctions(queue, active).RequestLRPAuctions(t.Context(), &auctioneerv1.RequestLRPAuctionsRequest{Starts: []*auctioneerv1.LRPStart{
		{ProcessGuid: "good", Domain: "d", Indices: []int32{0, 1}, Placement: placement},
		{ProcessGuid: "no-domain", Indices: []int32{0}, Placement: placement},
		{ProcessGuid: "no-rootfs", Domain: "d", Indices: []int32{0}},
		{ProcessGuid: "good too", Domain: "d", Indices: []int32{7}, Placement: placement},
	}})
	require.NoError(t, err)
	want := &auctioneerv1.RequestLRPAuctionsResponse{Rejected: []*auctioneerv1.RejectedItem{
		{Position: 1, Problem: "domain is empty", Field: "domain"},
		{Position: 2, Problem: "placement constraint cannot be empty", Field: "placement.root_fs"},
	}}
	if diff := cmp.Diff(want, resp, protocmp.Transform()); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
	waiting, _, _ := queue.Lengths()
	require.Equal(t, 3, waiting)
}

func TestAuctionsRequestTaskAuctions(t *testing.T) {
	t.Parallel()
	queue := batch.NewQueue(10)
	resp, err := NewAuctions(queue, active).RequestTaskAuctions(t.Context(), &auctioneerv1.RequestTaskAuctionsRequest{Starts: []*auctioneerv1.TaskStart{
		{Placement: placement}, {TaskGuid: "good", Placement: placement},
	}})
	require.NoError(t, err)
	want := &auctioneerv1.RequestTaskAuctionsResponse{Rejected: []*auctioneerv1.RejectedItem{{Position: 0, Problem: "task guid is empty", Field: "task_guid"}}}
	if diff := cmp.Diff(want, resp, protocmp.Transform()); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
	waiting, _, _ := queue.Lengths()
	require.Equal(t, 1, waiting)
}

func TestAuctionsRefuse(t *testing.T) {
	t.Parallel()
	lrps := &auctioneerv1.RequestLRPAuctionsRequest{Starts: []*auctioneerv1.LRPStart{
		{ProcessGuid: "app", Domain: "d", Indices: []int32{0, 1}, Placement: placement},
	}}
	tasks := &auctioneerv1.RequestTaskAuctionsRequest{Starts: []*auctioneerv1.TaskStart{
		{TaskGuid: "a", Placement: placement}, {TaskGuid: "b", Placement: placement},
	}}
	tests := map[string]struct {
		active func() bool
		limit  int
		code   codes.Code
		reason string
	}{
		"a standby takes nothing":    {active: standby, limit: 10, code: codes.Unavailable, reason: "NotActive"},
		"a full queue takes nothing": {active: active, limit: 1, code: codes.ResourceExhausted, reason: "QueueFull"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			queue := batch.NewQueue(tt.limit)
			s := NewAuctions(queue, tt.active)
			_, lrpErr := s.RequestLRPAuctions(t.Context(), lrps)
			_, taskErr := s.RequestTaskAuctions(t.Context(), tasks)
			for _, err := range []error{lrpErr, taskErr} {
				require.Equal(t, tt.code, fault.Code(err))
				require.Equal(t, tt.reason, fault.Reason(err))
			}
			waiting, _, _ := queue.Lengths()
			require.Zero(t, waiting)
		})
	}
}
