package spec

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// TestDesiredLRPRoundTrip shows an LRP with every field filled and reads it back: nothing is lost but what the BBS sets.
func TestDesiredLRPRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := &workloadv1.DesiredLRP{}
		fill(t, want)
		want.ActiveDefinitionId = want.GetDefinition().GetDefinitionId()
		text := encode(t, DesiredLRPOf(want))
		got, err := ParseDesiredLRP(text)
		if err != nil {
			t.Fatalf("reading %s: %v", text, err)
		}
		// The BBS says these, and nobody tells it.
		ignored := protocmp.IgnoreFields(&workloadv1.DesiredLRP{}, "modification_tag", "created_at", "updated_at", "revision",
			"active_definition_id", "healthy_definition_id", "previous_definition_id")
		definition := protocmp.IgnoreFields(&workloadv1.LRPDefinition{}, "created_at")
		if diff := cmp.Diff(want, got, protocmp.Transform(), ignored, definition); diff != "" {
			t.Fatalf("shown and read back (-want +got):\n%s", diff)
		}
	})
}

func TestTaskRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := &workloadv1.Task{}
		fill(t, want)
		shown := TaskOf(want)
		text := encode(t, map[string]any{"task_guid": shown.TaskGUID, "domain": shown.Domain, "task_definition": shown.TaskDefinition})
		got, err := ParseTask(text)
		if err != nil {
			t.Fatalf("reading %s: %v", text, err)
		}
		request := &bbsv1.DesireTaskRequest{TaskGuid: want.GetTaskGuid(), Domain: want.GetDomain(), TaskDefinition: want.GetDefinition()}
		if diff := cmp.Diff(request, got, protocmp.Transform()); diff != "" {
			t.Fatalf("shown and read back (-want +got):\n%s", diff)
		}
	})
}

func encode(t *rapid.T, document any) []byte {
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatalf("encoding: %v", err)
	}
	return text
}
