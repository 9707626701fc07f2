package work

import (
	"errors"
	"slices"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// InvalidError says what is wrong with an item of a request. Problem is part of the
// interface: it becomes the placement error of the work.
type InvalidError struct{ Field, Problem string }

// Error returns the problem alone.
func (e InvalidError) Error() string { return e.Problem }

// checkLRP finds the first thing that is wrong with an item. After the mistakes that
// clients know by their words come the rules of Perform: an item that breaks one of
// them would have a cell refuse its neighbours as well.
func checkLRP(start *auctioneerv1.LRPStart) error {
	switch {
	case start.GetProcessGuid() == "":
		return InvalidError{"process_guid", "proccess guid is empty"} //nolint:misspell // the spelling is what clients know
	case start.GetDomain() == "":
		return InvalidError{"domain", "domain is empty"}
	case len(start.GetIndices()) == 0:
		return InvalidError{"indices", "indices must not be empty"}
	case slices.Min(start.GetIndices()) < 0:
		return InvalidError{"indices", "indices must not be negative"}
	}
	if field := negative(start.GetResources()); field != "" {
		return InvalidError{field, "resources cannot be less than 0"}
	}
	if start.GetPlacement().GetRootFs() == "" {
		return InvalidError{"placement.root_fs", "placement constraint cannot be empty"}
	}
	return checkRules(&repv1.PerformRequest_LRPWork{
		Key:       &workloadv1.ActualLRPKey{ProcessGuid: start.GetProcessGuid(), Domain: start.GetDomain()},
		Resources: start.GetResources(), Placement: start.GetPlacement(),
	})
}

func checkTask(start *auctioneerv1.TaskStart) error {
	if start.GetTaskGuid() == "" {
		return InvalidError{"task_guid", "task guid is empty"}
	}
	if field := negative(start.GetResources()); field != "" {
		return InvalidError{field, "resources cannot be less than zero"}
	}
	if start.GetPlacement().GetRootFs() == "" {
		return InvalidError{"placement.root_fs", "placement constraint cannot be empty"}
	}
	return checkRules(&repv1.PerformRequest_TaskWork{
		TaskGuid: start.GetTaskGuid(), Resources: start.GetResources(), Placement: start.GetPlacement(),
	})
}

// negative names the amount that is below zero, or nothing.
func negative(r *workloadv1.Resources) string {
	switch {
	case r.GetMemoryMb() < 0:
		return "resources.memory_mb"
	case r.GetDiskMb() < 0:
		return "resources.disk_mb"
	default:
		return ""
	}
}

// checkRules applies the rules that are written in the contract.
func checkRules(offer proto.Message) error {
	err := protovalidate.Validate(offer)
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok || len(invalid.Violations) == 0 { // the rules are wrong, not the item
		return nil
	}
	rule := invalid.Violations[0].Proto
	field := strings.TrimPrefix(protovalidate.FieldPathString(rule.GetField()), "key.")
	return InvalidError{Field: field, Problem: field + " " + rule.GetMessage()}
}
