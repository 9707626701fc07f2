package lrp

import (
	"slices"
	"testing"
)

// FuzzParseRoutes feeds what clients may send as the route of the internal router, the one that is read.
func FuzzParseRoutes(f *testing.F) {
	for _, seed := range []string{
		`[{"hostname":"a.internal"}]`, `[{"hostname":"b"},{"hostname":"a"},{"hostname":"b"}]`, `[]`, `null`, `[{}]`, `{"hostname":"a"}`,
		`[{"hostname":1}]`, `[{"hostname":"a"}] x`, `[{"hostname":"\u0000"}]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		routes, hostnames, err := ParseRoutes(map[string][]byte{InternalRouter: value, "cf-router": []byte(`[]`)})
		if err != nil {
			return
		}
		if len(routes) != 2 || string(routes[1].Value) != string(value) {
			t.Fatalf("the value was not kept byte for byte: %v", routes)
		}
		if !slices.IsSorted(hostnames) || len(slices.Compact(slices.Clone(hostnames))) != len(hostnames) || slices.Contains(hostnames, "") {
			t.Fatalf("the host names are %q", hostnames)
		}
		if again := internalHostnames(routes); !slices.Equal(again, hostnames) {
			t.Fatalf("what was stored has host names %q, and %q when it was accepted", again, hostnames)
		}
		// An instance that reports exactly these has not drifted, in whatever order its cell keeps them.
		reported := slices.Clone(hostnames)
		slices.Reverse(reported)
		if RoutesDrifted(&Desired{InternalHostnames: hostnames}, &Actual{InternalRoutes: reported}) {
			t.Fatalf("an instance with the routes %q has drifted from %q", reported, hostnames)
		}
	})
}
