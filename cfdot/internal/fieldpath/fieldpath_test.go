package fieldpath

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestGet(t *testing.T) {
	t.Parallel()
	document, err := Of(map[string]any{
		"name": "a", "since": int64(1763717000123456789), "ports": []any{map[string]any{"host_port": 61001}}, "tags": map[string]any{"app_name": "shop"}, "none": nil, "on": true,
	})
	require.NoError(t, err)
	for path, want := range map[string]string{
		".name": "a", "name": "a", ".since": "1763717000123456789", ".ports[0].host_port": "61001", "tags.app_name": "shop", ".on": "true",
		".ports[0]": `{"host_port":61001}`, ".ports": `[{"host_port":61001}]`,
	} {
		p, err := Parse(path)
		require.NoError(t, err, path)
		got, found := document.Get(p)
		require.True(t, found, path)
		require.Equal(t, want, got, path)
		require.Equal(t, path, p.String())
	}
	for _, path := range []string{".nobody", ".ports[1]", ".ports.host_port", ".name.first", ".none", ".tags[0]"} {
		p, err := Parse(path)
		require.NoError(t, err, path)
		_, found := document.Get(p)
		require.False(t, found, path)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, path := range []string{".a.", "a..b", ".ports[x]", ".ports[-1]", "[", ".a[1", "..a"} {
		_, err := Parse(path)
		require.Error(t, err, path)
	}
}

// TestNamesAreFound reads back a member of any name without a dot or a bracket.
func TestNamesAreFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z_-]+`).Draw(t, "name")
		value := strings.ToValidUTF8(rapid.String().Draw(t, "value"), "")
		document, err := Of(map[string]any{"in": map[string]string{name: value}})
		if err != nil {
			t.Fatal(err)
		}
		p, err := Parse(".in." + name)
		if err != nil {
			t.Fatal(err)
		}
		if got, found := document.Get(p); !found || got != value {
			t.Fatalf("%s is %q, not %q", p, got, value)
		}
	})
}
