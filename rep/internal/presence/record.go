// Package presence words what a cell publishes about itself. Holding the presence is locket/lockclient's.
package presence

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"

	workloadv1 "diego.internal/proto/workload/v1"
)

// Value is the presence record as the lock service keeps it: the JSON form of workload.v1.CellPresence, with the names of the
// contract.
func Value(presence *workloadv1.CellPresence) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(presence)
	if err != nil {
		return nil, fmt.Errorf("wording the presence of cell %q: %w", presence.GetCellId(), err)
	}
	return text, nil
}
