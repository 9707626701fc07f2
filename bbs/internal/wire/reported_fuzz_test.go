package wire

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"diego.internal/bbs/internal/lrp"
)

// FuzzDecodeReported reads what the column of reported values may hold.
func FuzzDecodeReported(f *testing.F) {
	encoded := AppendReported(nil, actual())
	f.Add(encoded)
	f.Add(encoded[:len(encoded)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var a lrp.Actual
		if DecodeReported(&a, data) != nil {
			return
		}
		var again lrp.Actual
		if err := DecodeReported(&again, AppendReported(nil, &a)); err != nil {
			t.Fatalf("what was decoded is not encoded so that it can be read: %v", err)
		}
		if diff := cmp.Diff(a, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("what was decoded does not survive: %s", diff)
		}
	})
}
