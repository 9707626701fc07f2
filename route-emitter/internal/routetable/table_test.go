package routetable

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

var since = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func tag(index uint32) ModificationTag { return ModificationTag{Epoch: "e", Index: index} }

// desired is a process "p" with two instances and the given host names on port 8080.
func desired(index uint32, hostnames ...string) Desired {
	d := Desired{ProcessGUID: "p", Domain: "d", LogGUID: "log", Instances: 2, Tag: tag(index)}
	for _, h := range hostnames {
		d.Routes.HTTP = append(d.Routes.HTTP, HTTPRoute{Hostname: h, ContainerPort: 8080})
	}
	return d
}

// running is instance n of process "p", on host 10.0.0.n and port 61000.
func running(n int, index uint32) Endpoint {
	return Endpoint{
		ProcessGUID: "p", InstanceGUID: fmt.Sprintf("i%d", n), Index: n, CellID: "cell", HostAddress: fmt.Sprintf("10.0.0.%d", n), ContainerAddress: fmt.Sprintf("172.16.0.%d", n),
		Ports: []Port{{Container: 8080, Host: 61000}}, Since: since, Tag: tag(index),
	}
}

func evacuating(e Endpoint) Endpoint {
	e.Evacuating = true
	return e
}

// short describes changes as "+uri@address" and "-uri@address".
func short(c Changes) []string {
	out := []string{}
	for _, m := range c.Register {
		out = append(out, "+"+m.Key.URI+"@"+m.Key.Address)
	}
	for _, m := range c.Unregister {
		out = append(out, "-"+m.Key.URI+"@"+m.Key.Address)
	}
	for _, m := range c.Withdraw {
		out = append(out, "~"+m.Key.URI+"@"+m.Key.Address)
	}
	return out
}

func TestTableChanges(t *testing.T) {
	t.Parallel()
	type step func(*Table) Changes
	set := func(d Desired) step { return func(t *Table) Changes { return t.SetRoutes(d) } }
	unset := func(index uint32) step { return func(t *Table) Changes { return t.RemoveRoutes("p", tag(index)) } }
	add := func(e Endpoint) step { return func(t *Table) Changes { return t.AddEndpoint(e) } }
	remove := func(e Endpoint) step { return func(t *Table) Changes { return t.RemoveEndpoint(e) } }
	replace := func(a, r Endpoint) step { return func(t *Table) Changes { return t.ReplaceEndpoint(a, r) } }
	scaled := func(d Desired, n int) Desired { d.Instances = n; return d }
	reborn := desired(0, "x")
	reborn.Tag.Epoch = "another"
	withOptions := desired(2, "a")
	withOptions.Routes.HTTP[0].Options = `{"loadbalancing":"least-connection"}`
	withTags := desired(2, "a")
	withTags.MetricTags = map[string]TagValue{"x": {Static: "y"}}
	movedPort := running(0, 2)
	movedPort.Ports = []Port{{Container: 8080, Host: 61009}}
	tests := map[string]struct {
		given []step
		when  step
		want  []string
	}{
		"routes without endpoints send nothing":                  {nil, set(desired(1, "a")), []string{}},
		"an endpoint without routes sends nothing":               {nil, add(running(0, 1)), []string{}},
		"an endpoint is registered under all routes":             {[]step{set(desired(1, "a", "b"))}, add(running(0, 1)), []string{"+a@10.0.0.0:61000", "+b@10.0.0.0:61000"}},
		"routes are registered for all endpoints":                {[]step{add(running(0, 1)), add(running(1, 1))}, set(desired(1, "a")), []string{"+a@10.0.0.0:61000", "+a@10.0.0.1:61000"}},
		"an added route is registered":                           {[]step{set(desired(1, "a")), add(running(0, 1))}, set(desired(2, "a", "b")), []string{"+b@10.0.0.0:61000"}},
		"a removed route is unregistered":                        {[]step{set(desired(1, "a", "b")), add(running(0, 1))}, set(desired(2, "b")), []string{"-a@10.0.0.0:61000"}},
		"a replaced route is both":                               {[]step{set(desired(1, "a")), add(running(0, 1))}, set(desired(2, "b")), []string{"+b@10.0.0.0:61000", "-a@10.0.0.0:61000"}},
		"all routes removed":                                     {[]step{set(desired(1, "a")), add(running(0, 1))}, set(desired(2)), []string{"-a@10.0.0.0:61000"}},
		"an older tag changes nothing":                           {[]step{set(desired(2, "a")), add(running(0, 1))}, set(desired(1, "b")), []string{}},
		"the same tag changes nothing":                           {[]step{set(desired(2, "a")), add(running(0, 1))}, set(desired(2, "b")), []string{}},
		"another epoch is a new record":                          {[]step{set(desired(2, "a")), add(running(0, 1))}, set(reborn), []string{"+x@10.0.0.0:61000", "-a@10.0.0.0:61000"}},
		"changed options are sent":                               {[]step{set(desired(1, "a")), add(running(0, 1))}, set(withOptions), []string{"+a@10.0.0.0:61000"}},
		"changed metric tags are sent":                           {[]step{set(desired(1, "a")), add(running(0, 1))}, set(withTags), []string{"+a@10.0.0.0:61000"}},
		"a removed process is unregistered":                      {[]step{set(desired(1, "a")), add(running(0, 1))}, unset(1), []string{"-a@10.0.0.0:61000"}},
		"an older removal changes nothing":                       {[]step{set(desired(2, "a")), add(running(0, 1))}, unset(1), []string{}},
		"scaling down unregisters high indices":                  {[]step{set(desired(1, "a")), add(running(0, 1)), add(running(1, 1))}, set(scaled(desired(2, "a"), 1)), []string{"-a@10.0.0.1:61000"}},
		"scaling up again registers what still runs":             {[]step{set(desired(1, "a")), add(running(1, 1)), set(scaled(desired(2, "a"), 1))}, set(desired(3, "a")), []string{"+a@10.0.0.1:61000"}},
		"scaling to zero unregisters all":                        {[]step{set(desired(1, "a")), add(running(0, 1))}, set(scaled(desired(2, "a"), 0)), []string{"-a@10.0.0.0:61000"}},
		"an index that is not desired is not registered":         {[]step{set(desired(1, "a"))}, add(running(2, 1)), []string{}},
		"a removed endpoint is unregistered":                     {[]step{set(desired(1, "a")), add(running(0, 1))}, remove(running(0, 2)), []string{"-a@10.0.0.0:61000"}},
		"an older removal of an endpoint changes nothing":        {[]step{set(desired(1, "a")), add(running(0, 2))}, remove(running(0, 1)), []string{}},
		"removing an unknown endpoint changes nothing":           {[]step{set(desired(1, "a"))}, remove(running(0, 1)), []string{}},
		"an older endpoint changes nothing":                      {[]step{set(desired(1, "a")), add(movedPort)}, add(running(0, 1)), []string{}},
		"the same endpoint with a newer tag sends nothing":       {[]step{set(desired(1, "a")), add(running(0, 1))}, add(running(0, 2)), []string{}},
		"a moved endpoint is registered where it is":             {[]step{set(desired(1, "a")), add(running(0, 1))}, add(movedPort), []string{"+a@10.0.0.0:61009", "-a@10.0.0.0:61000"}},
		"the step from ordinary to evacuating sends nothing":     {[]step{set(desired(1, "a")), add(running(0, 1))}, replace(evacuating(running(0, 2)), running(0, 2)), []string{}},
		"an evacuating record beside the ordinary sends nothing": {[]step{set(desired(1, "a")), add(running(0, 1))}, add(evacuating(running(0, 1))), []string{}},
		"losing one of two records sends nothing":                {[]step{set(desired(1, "a")), add(running(0, 1)), add(evacuating(running(0, 1)))}, remove(running(0, 1)), []string{}},
		"losing the last record unregisters": {
			[]step{set(desired(1, "a")), add(running(0, 1)), add(evacuating(running(0, 1))), remove(running(0, 1))}, remove(evacuating(running(0, 1))), []string{"~a@10.0.0.0:61000"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table := New(Config{})
			for _, s := range tc.given {
				s(table)
			}
			if diff := cmp.Diff(tc.want, short(tc.when(table))); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTableEvacuationKeepsBothCells(t *testing.T) {
	t.Parallel()
	table := New(Config{})
	table.SetRoutes(desired(1, "a"))
	old, replacement := running(0, 1), running(0, 1)
	replacement.InstanceGUID, replacement.HostAddress = "i0-new", "10.0.9.9"
	table.AddEndpoint(old)
	table.ReplaceEndpoint(evacuating(old), old)
	require.Equal(t, []string{"+a@10.0.9.9:61000"}, short(table.AddEndpoint(replacement)))
	require.Len(t, table.Messages(), 2)
	require.Equal(t, []string{"~a@10.0.0.0:61000"}, short(table.RemoveEndpoint(evacuating(old))))
}

func TestTableCollision(t *testing.T) {
	t.Parallel()
	table := New(Config{})
	other := desired(1, "a", "b")
	other.ProcessGUID = "q"
	table.SetRoutes(desired(1, "a"))
	table.SetRoutes(other)
	table.AddEndpoint(running(0, 1))
	next := running(0, 1)
	next.ProcessGUID, next.InstanceGUID, next.Since = "q", "later", since.Add(time.Second)

	c := table.AddEndpoint(next)
	require.Equal(t, []string{"+a@10.0.0.0:61000", "+b@10.0.0.0:61000"}, short(c), "the newer instance takes the address over, without an unregistration that could hit it")
	want := []Collision{{Address: "10.0.0.0:61000", WinnerProcess: "q", Winner: "later", LoserProcess: "p", Loser: "i0"}}
	if diff := cmp.Diff(want, c.Collisions); diff != "" {
		t.Errorf("collisions (-want +got):\n%s", diff)
	}
	require.Equal(t, "later", c.Register[0].InstanceGUID)

	require.Empty(t, short(table.RemoveEndpoint(running(0, 2))), "the late removal of the former owner takes nothing from the new one")
	table.AddEndpoint(running(0, 3))
	require.Equal(t, []string{"+a@10.0.0.0:61000", "-b@10.0.0.0:61000"}, short(table.RemoveEndpoint(next)), "if the newer one goes, the older has the address again")
}

func TestTableCollisionIsByEmittedAddress(t *testing.T) {
	t.Parallel()
	// Both share the cell's address and host port, but are reached by their containers' addresses.
	a, b := running(0, 1), running(1, 1)
	b.HostAddress = a.HostAddress
	a.Preferred, b.Preferred = PreferInstance, PreferInstance
	table := New(Config{})
	table.SetRoutes(desired(1, "a"))
	table.AddEndpoint(a)
	require.Empty(t, table.AddEndpoint(b).Collisions)
	require.Len(t, table.Messages(), 2)
}

func TestTableUpdatedAt(t *testing.T) {
	t.Parallel()
	table := New(Config{})
	table.SetRoutes(desired(1, "a"))
	c := table.AddEndpoint(running(0, 1))
	require.Equal(t, since.UnixNano(), c.Register[0].UpdatedAtNs, "a new endpoint says since when it is there")
	require.Contains(t, string(c.Register[0].Payload()), fmt.Sprintf(`,"endpoint_updated_at_ns":%d}`, since.UnixNano()))
	require.Zero(t, table.Messages()[0].UpdatedAtNs, "repetitions do not")
	c = table.SetRoutes(desired(2, "a", "b"))
	require.Zero(t, c.Register[0].UpdatedAtNs, "nor does a new route of an old endpoint")
}

func TestTableSwap(t *testing.T) {
	t.Parallel()
	fresh := func(string) bool { return true }
	stale := func(string) bool { return false }
	build := func(steps ...func(*Table)) *Table {
		table := New(Config{})
		for _, s := range steps {
			s(table)
		}
		return table
	}
	routes := func(hostnames ...string) func(*Table) {
		return func(t *Table) { t.SetRoutes(desired(1, hostnames...)) }
	}
	endpoint := func(n int) func(*Table) { return func(t *Table) { t.AddEndpoint(running(n, 1)) } }
	tests := map[string]struct {
		old, next *Table
		fresh     func(string) bool
		want      []string
		size      int
	}{
		"the same content sends nothing":                           {build(routes("a"), endpoint(0)), build(routes("a"), endpoint(0)), fresh, []string{}, 1},
		"what is new is registered":                                {build(routes("a"), endpoint(0)), build(routes("a", "b"), endpoint(0), endpoint(1)), fresh, []string{"+a@10.0.0.1:61000", "+b@10.0.0.0:61000", "+b@10.0.0.1:61000"}, 4},
		"what is gone is unregistered":                             {build(routes("a", "b"), endpoint(0), endpoint(1)), build(routes("a"), endpoint(0)), fresh, []string{"-a@10.0.0.1:61000", "-b@10.0.0.0:61000", "-b@10.0.0.1:61000"}, 1},
		"a process that is gone from a fresh domain":               {build(routes("a"), endpoint(0)), build(endpoint(0)), fresh, []string{"-a@10.0.0.0:61000"}, 0},
		"a process that is gone from a domain that is not fresh":   {build(routes("a"), endpoint(0)), build(endpoint(0)), stale, []string{}, 1},
		"an endpoint that is gone, the domain not being fresh":     {build(routes("a"), endpoint(0), endpoint(1)), build(endpoint(1)), stale, []string{"-a@10.0.0.0:61000"}, 1},
		"an endpoint that is new, the domain not being fresh":      {build(routes("a")), build(endpoint(1)), stale, []string{"+a@10.0.0.1:61000"}, 1},
		"a present record counts even if the domain is not fresh":  {build(routes("a", "b"), endpoint(0)), build(routes("b"), endpoint(0)), stale, []string{"-a@10.0.0.0:61000"}, 1},
		"everything is gone, and the domain is fresh, so all goes": {build(routes("a"), endpoint(0)), build(), fresh, []string{"-a@10.0.0.0:61000"}, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, short(tc.old.Swap(tc.next, tc.fresh))); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			http, internal := tc.old.Size()
			if http != tc.size || internal != 0 || len(tc.old.Messages()) != tc.size {
				t.Errorf("size %d and %d, %d messages, want %d", http, internal, len(tc.old.Messages()), tc.size)
			}
		})
	}
}

func TestTableForgetsEmptyProcesses(t *testing.T) {
	t.Parallel()
	for _, order := range [][]string{{"routes", "endpoint"}, {"endpoint", "routes"}} {
		table := New(Config{InternalRoutes: true})
		table.SetRoutes(desired(1, "a"))
		table.AddEndpoint(running(0, 1))
		require.True(t, table.Knows("p"))
		for _, what := range order {
			if what == "routes" {
				table.RemoveRoutes("p", tag(1))
			} else {
				table.RemoveEndpoint(running(0, 1))
			}
		}
		require.False(t, table.Knows("p"))
		require.Empty(t, table.processes)
		require.Empty(t, table.claims)
		http, internal := table.Size()
		require.Zero(t, http+internal)
	}
}

func TestTableMessagesAreOrdered(t *testing.T) {
	t.Parallel()
	table := New(Config{})
	table.SetRoutes(desired(1, "b", "a"))
	table.AddEndpoint(running(1, 1))
	table.AddEndpoint(running(0, 1))
	var got []string
	for _, m := range table.Messages() {
		got = append(got, m.Key.URI+"@"+m.Key.Address)
	}
	want := []string{"a@10.0.0.0:61000", "a@10.0.0.1:61000", "b@10.0.0.0:61000", "b@10.0.0.1:61000"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	require.True(t, slices.IsSorted(got))
}

func TestModificationTag(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		new, old      ModificationTag
		newer, staler bool
	}{
		"nothing is stored": {tag(0), ModificationTag{}, true, false},
		"a higher index":    {tag(2), tag(1), true, false},
		"the same":          {tag(1), tag(1), false, false},
		"a lower index":     {tag(1), tag(2), false, true},
		"another epoch":     {ModificationTag{"x", 0}, tag(9), true, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tc.new.Newer(tc.old); got != tc.newer {
				t.Errorf("Newer = %v, want %v", got, tc.newer)
			}
			if got := tc.new.stale(tc.old); got != tc.staler {
				t.Errorf("stale = %v, want %v", got, tc.staler)
			}
		})
	}
}
