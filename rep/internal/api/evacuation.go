package api

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	repv1 "diego.internal/proto/rep/v1"
	"diego.internal/rep/internal/evacuation"
)

func evacuationMessage(p evacuation.Progress) *repv1.EvacuationProgress {
	return &repv1.EvacuationProgress{
		Deadline: timestamppb.New(p.Deadline), UntoldLrps: int32(p.Untold), ReplacingLrps: int32(p.Replacing), //nolint:gosec // at most a few hundred
		StoppingLrps: int32(p.Stopping), Tasks: int32(p.Tasks), //nolint:gosec // at most a few hundred
	}
}

func evacuatingContainers(left []evacuation.Container) []*repv1.EvacuatingContainer {
	out := make([]*repv1.EvacuatingContainer, 0, len(left))
	for _, c := range left {
		out = append(out, &repv1.EvacuatingContainer{ContainerGuid: c.GUID, Key: c.LRP.GetKey(), TaskGuid: c.Task.GetTaskGuid(), Step: evacuationStep(c.Step)})
	}
	return out
}

func evacuationStep(s evacuation.Step) repv1.EvacuationStep {
	switch s {
	case evacuation.StepUntold:
		return repv1.EvacuationStep_EVACUATION_STEP_UNTOLD
	case evacuation.StepReplacing:
		return repv1.EvacuationStep_EVACUATION_STEP_REPLACING
	case evacuation.StepStopping:
		return repv1.EvacuationStep_EVACUATION_STEP_STOPPING
	case evacuation.StepTask:
		return repv1.EvacuationStep_EVACUATION_STEP_TASK
	default:
		return repv1.EvacuationStep_EVACUATION_STEP_UNSPECIFIED
	}
}
