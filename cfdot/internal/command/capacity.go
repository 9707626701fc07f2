package command

import (
	"diego.internal/cfdot/internal/output"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

type capacity = workloadv1.CellCapacity

// used is how much of one dimension of a cell is reserved.
func used(state *repv1.StateResponse, dimension func(*capacity) int32) string {
	if state == nil {
		return ""
	}
	total := dimension(state.GetTotalResources())
	return output.Percent(total-dimension(state.GetAvailableResources()), total)
}
