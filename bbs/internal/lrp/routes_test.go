package lrp

import (
	"strings"
	"testing"
)

func TestParseRoutes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		routes  map[string][]byte
		routers []string
		names   []string
		problem string
	}{
		"none":                        {},
		"sorted, byte for byte":       {routes: map[string][]byte{"tcp-router": []byte(`[ ]`), "cf-router": []byte(`{"a": 1}`)}, routers: []string{"cf-router", "tcp-router"}},
		"host names":                  {routes: map[string][]byte{InternalRouter: []byte(`[{"hostname":"b"},{"hostname":"a"},{"hostname":"b"}]`)}, routers: []string{InternalRouter}, names: []string{"a", "b"}},
		"no JSON":                     {routes: map[string][]byte{"cf-router": []byte(`[`)}, problem: `route "cf-router" is not valid JSON`},
		"an empty value":              {routes: map[string][]byte{"cf-router": nil}, problem: "not valid JSON"},
		"internal router of no list":  {routes: map[string][]byte{InternalRouter: []byte(`{"hostname":"a"}`)}, problem: "not a list of host names"},
		"internal router of texts":    {routes: map[string][]byte{InternalRouter: []byte(`["a"]`)}, problem: "not a list of host names"},
		"internal router without one": {routes: map[string][]byte{InternalRouter: []byte(`[{}]`)}, problem: "an entry has no hostname"},
		"too long together":           {routes: map[string][]byte{"a": long(MaxRoutesBytes / 2), "b": long(MaxRoutesBytes/2 + 1)}, problem: "more than 131072"},
		"as long as may be":           {routes: map[string][]byte{"a": long(MaxRoutesBytes / 2), "b": long(MaxRoutesBytes / 2)}, routers: []string{"a", "b"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, names, err := ParseRoutes(test.routes)
			if test.problem != "" {
				if err == nil || !strings.Contains(err.Error(), test.problem) {
					t.Fatalf("ParseRoutes: %v, want %q", err, test.problem)
				}
				return
			}
			if err != nil {
				t.Fatalf("ParseRoutes: %v", err)
			}
			var routers []string
			for _, r := range got {
				routers = append(routers, r.Router)
				diff(t, "value of "+r.Router, string(test.routes[r.Router]), string(r.Value))
			}
			diff(t, "routers", test.routers, routers)
			diff(t, "host names", test.names, names)
		})
	}
}

// long makes a JSON value of n bytes.
func long(n int) []byte { return []byte(`"` + strings.Repeat("x", n-2) + `"`) }

func TestDrift(t *testing.T) {
	t.Parallel()
	d := &Desired{
		InternalHostnames: []string{"a", "b"},
		MetricTags:        []MetricTag{{Name: "app", Static: "x"}, {Name: "guid", Dynamic: DynamicInstanceGUID}, {Name: "index", Dynamic: DynamicIndex}},
	}
	good := func() *Actual {
		a := runningOn(cell1)
		a.InternalRoutes = []string{"b", "a"}
		a.MetricTags = sortedTags(ResolveTags(d, a))
		return a
	}
	tests := map[string]struct {
		change       func(*Actual)
		routes, tags bool
	}{
		"as desired":                      {func(*Actual) {}, false, false},
		"a host name is missing":          {func(a *Actual) { a.InternalRoutes = []string{"a"} }, true, false},
		"a host name is another":          {func(a *Actual) { a.InternalRoutes = []string{"a", "c"} }, true, false},
		"no host names":                   {func(a *Actual) { a.InternalRoutes = nil }, true, false},
		"a static tag is another":         {func(a *Actual) { a.MetricTags[0].Value = "y" }, false, true},
		"the guid is another":             {func(a *Actual) { a.MetricTags[1].Value = "i2" }, false, true},
		"the index is another":            {func(a *Actual) { a.MetricTags[2].Value = "2" }, false, true},
		"a tag has another name":          {func(a *Actual) { a.MetricTags[0].Name = "bpp" }, false, true},
		"a tag is missing":                {func(a *Actual) { a.MetricTags = a.MetricTags[:2] }, false, true},
		"a cell that knows no tags is ok": {func(a *Actual) { a.MetricTags = nil }, false, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := good()
			test.change(a)
			if got := RoutesDrifted(d, a); got != test.routes {
				t.Errorf("RoutesDrifted = %v", got)
			}
			if got := TagsDrifted(d, a); got != test.tags {
				t.Errorf("TagsDrifted = %v", got)
			}
		})
	}
}

func TestDriftDoesNotAllocate(t *testing.T) {
	d := &Desired{InternalHostnames: []string{"a"}, MetricTags: []MetricTag{{Name: "index", Dynamic: DynamicIndex}}}
	a := runningOn(cell1)
	a.InternalRoutes, a.MetricTags = []string{"a"}, []TagValue{{"index", "1"}}
	if n := testing.AllocsPerRun(100, func() { _ = RoutesDrifted(d, a) || TagsDrifted(d, a) }); n > 0 {
		t.Errorf("looking for drift allocates %v times", n)
	}
}
