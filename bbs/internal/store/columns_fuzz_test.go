package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// FuzzColumns reads what the JSON columns of a row may hold. What is accepted must be written and read
// again as the same.
func FuzzColumns(f *testing.F) {
	for _, seed := range []string{
		`{"volume_drivers":["d"],"placement_tags":["t"],"constraint":["c"]}`, `{"constraint":[]}`, `{}`, `null`, `[]`, `{"constraint":null}`,
		`[{"name":"a","static":"s"},{"name":"b","dynamic":1}]`, `[{"dynamic":300}]`, `{"number_of_immediate_restarts":4294967295}`,
		`{"max_restart_attempts":-1}`, ``, `"`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if placement, err := placementFrom("preloaded:a", text); err == nil {
			written, err := placementJSON(placement)
			if err != nil {
				t.Fatalf("writing %+v: %v", placement, err)
			}
			again, err := placementFrom("preloaded:a", bytesOf(written))
			if diff := cmp.Diff(placement, again, cmpopts.EquateEmpty()); err != nil || diff != "" {
				t.Fatalf("placement: %v %s", err, diff)
			}
		}
		if tags, err := tagsFrom(text); err == nil {
			written, err := tagsJSON(tags)
			if err != nil {
				t.Fatalf("writing %+v: %v", tags, err)
			}
			again, err := tagsFrom(bytesOf(written))
			if diff := cmp.Diff(tags, again, cmpopts.EquateEmpty()); err != nil || diff != "" {
				t.Fatalf("metric tags: %v %s", err, diff)
			}
		}
		if policy, err := policyFrom(text); err == nil && policy != nil {
			policy.Valid() // whatever is stored can be judged
			written, err := policyJSON(policy)
			if err != nil {
				t.Fatalf("writing %+v: %v", policy, err)
			}
			again, err := policyFrom(bytesOf(written))
			if diff := cmp.Diff(policy, again); err != nil || diff != "" {
				t.Fatalf("crash policy: %v %s", err, diff)
			}
		}
	})
}

func bytesOf(text *string) []byte {
	if text == nil {
		return nil
	}
	return []byte(*text)
}
