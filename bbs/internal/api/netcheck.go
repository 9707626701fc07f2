package api

import (
	"google.golang.org/protobuf/proto"

	workloadv1 "diego.internal/proto/workload/v1"
)

// withFallbacks returns a definition for a reader who, if he asks for fallbacks, does not know net
// checks: each gives way to its fallback action. The original is shared, so what changes is a copy.
func withFallbacks(asked bool, def *workloadv1.LRPDefinition) *workloadv1.LRPDefinition {
	if !asked || def == nil {
		return def
	}
	c := proto.CloneOf(def)
	c.Setup, c.Action, c.Monitor = fallback(c.GetSetup()), fallback(c.GetAction()), fallback(c.GetMonitor())
	for _, sidecar := range c.GetSidecars() {
		sidecar.Action = fallback(sidecar.GetAction())
	}
	return c
}

// withTaskFallbacks is withFallbacks for tasks.
func withTaskFallbacks(asked bool, def *workloadv1.TaskDefinition) *workloadv1.TaskDefinition {
	if !asked || def == nil {
		return def
	}
	c := proto.CloneOf(def)
	c.Action = fallback(c.GetAction())
	return c
}

// fallback returns a tree of actions without net checks, but for those that have no fallback. It changes
// the tree that it is given. The depth of a tree was bounded when it was accepted.
func fallback(a *workloadv1.Action) *workloadv1.Action {
	switch kind := a.GetAction().(type) {
	case *workloadv1.Action_NetCheck:
		if instead := kind.NetCheck.GetFallbackAction(); instead != nil {
			return fallback(instead)
		}
	case *workloadv1.Action_Timeout:
		kind.Timeout.Action = fallback(kind.Timeout.GetAction())
	case *workloadv1.Action_EmitProgress:
		kind.EmitProgress.Action = fallback(kind.EmitProgress.GetAction())
	case *workloadv1.Action_Try:
		kind.Try.Action = fallback(kind.Try.GetAction())
	case *workloadv1.Action_Parallel:
		fallbacks(kind.Parallel.GetActions())
	case *workloadv1.Action_Serial:
		fallbacks(kind.Serial.GetActions())
	case *workloadv1.Action_Codependent:
		fallbacks(kind.Codependent.GetActions())
	}
	return a
}

func fallbacks(actions []*workloadv1.Action) {
	for i, a := range actions {
		actions[i] = fallback(a)
	}
}
