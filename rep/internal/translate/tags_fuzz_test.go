package translate

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"diego.internal/executor"
)

// FuzzTags reads the tags that an adopted container may have, of this release or of another one.
func FuzzTags(f *testing.F) {
	f.Add("0", `{"rootFs":"preloaded:a","placementTags":["x"],"constraint":{"require":["y"]}}`, []byte(`[{"hostname":"a"}]`))
	f.Add("-1", `{}`, []byte(`[]`))
	f.Add("2147483648", `{`, []byte(`{}`))
	f.Add("", "", []byte(""))
	f.Fuzz(func(t *testing.T, index, placement string, routes []byte) {
		c := executor.Container{GUID: "g", Tags: map[string]string{TagProcessIndex: index, TagPlacement: placement}}
		if key, by, err := LRPOf(c, "cell-1"); err == nil && (key == nil || by.GetCellId() != "cell-1") {
			t.Fatalf("an instance without a key: %v, %v", key, by)
		}
		if found := Placement(c); found != nil {
			c.Tags[TagPlacement] = marshalPlacement(found)
			if again := Placement(c); !proto.Equal(found, again) {
				t.Fatalf("%v was written and read again as %v", found, again)
			}
		}
		_, _ = InternalRoutes(map[string][]byte{"internal-router": routes}) // it must only not panic
	})
}
