package registry

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func first(int) int { return 0 }

func plain(host, instance string) Endpoint {
	return Endpoint{Host: host, Port: 61000, InstanceID: instance}
}

func hosts(es []Endpoint) []string {
	var out []string
	for _, e := range es {
		out = append(out, e.Host)
	}
	slices.Sort(out)
	return out
}

func TestRegistryLookup(t *testing.T) {
	t.Parallel()
	r := New(Config{Rand: first})
	for _, uri := range []string{
		"app.example.com", "app.example.com/a", "app.example.com/a/b/", "*.example.com", "*.com", "Upper.Example.com/Path?x=1",
		"deep.example.com/only/here", "*.example.com/wild",
	} {
		_, err := r.Register(uri, plain("10.0.0.1", "i"), start)
		require.NoError(t, err)
	}
	tests := map[string]struct{ host, path, want string }{
		"the host alone":                                     {"app.example.com", "/", "app.example.com"},
		"a port in the host is ignored":                      {"app.example.com:8080", "/", "app.example.com"},
		"case is ignored":                                    {"APP.Example.COM", "/", "app.example.com"},
		"a trailing dot of the host is ignored":              {"app.example.com.", "/", "app.example.com"},
		"the longest path prefix wins":                       {"app.example.com", "/a/b/c", "app.example.com/a/b"},
		"a prefix is made of whole segments":                 {"app.example.com", "/a/bc", "app.example.com/a"},
		"an unknown path falls to the host":                  {"app.example.com", "/x/y", "app.example.com"},
		"case and query of registrations do not count":       {"upper.example.com", "/path/more", "upper.example.com/path"},
		"a query in the path does not count":                 {"app.example.com", "/a?b=/a/b", "app.example.com/a"},
		"a wildcard takes unknown hosts":                     {"other.example.com", "/", "*.example.com"},
		"a wildcard has paths too":                           {"other.example.com", "/wild/x", "*.example.com/wild"},
		"wildcards are tried label by label":                 {"a.b.example.com", "/", "*.example.com"},
		"the shortest wildcard comes last":                   {"a.b.org.com", "/", "*.com"},
		"a host without matching path falls to the wildcard": {"deep.example.com", "/other", "*.example.com"},
		"nothing matches":                                    {"example.org", "/", ""},
		"no host":                                            {"", "/", ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ""
			if p := r.Lookup(tc.host, tc.path); p != nil {
				got = p.Name()
			}
			if got != tc.want {
				t.Errorf("Lookup(%q, %q) = %q, want %q", tc.host, tc.path, got, tc.want)
			}
		})
	}
}

func TestRegistryRefusesURIWithoutHost(t *testing.T) {
	t.Parallel()
	r := New(Config{})
	for _, uri := range []string{"", "/path", "?q", ":80/x"} {
		_, err := r.Register(uri, plain("10.0.0.1", "i"), start)
		require.ErrorIs(t, err, ErrBadURI, "uri %q", uri)
	}
	require.Zero(t, r.Routes())
}

func TestRegistryUnregister(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		registered, unregistered Endpoint
		want                     bool
	}{
		"same address and instance":                    {plain("10.0.0.1", "i1"), plain("10.0.0.1", "i1"), true},
		"a message without instance matches any":       {plain("10.0.0.1", "i1"), plain("10.0.0.1", ""), true},
		"a record without instance matches any":        {plain("10.0.0.1", ""), plain("10.0.0.1", "i1"), true},
		"a former owner of the address does not match": {plain("10.0.0.1", "i2"), plain("10.0.0.1", "i1"), false},
		"another address does not match":               {plain("10.0.0.1", "i1"), plain("10.0.0.2", "i1"), false},
		"another port does not match":                  {plain("10.0.0.1", "i1"), Endpoint{Host: "10.0.0.1", Port: 61001, InstanceID: "i1"}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := New(Config{})
			_, err := r.Register("a.example.com", tc.registered, start)
			require.NoError(t, err)
			if got := r.Unregister("A.example.com/", tc.unregistered, start); got != tc.want {
				t.Errorf("Unregister = %v, want %v", got, tc.want)
			}
			if got := r.Lookup("a.example.com", "/") == nil; got != tc.want {
				t.Errorf("route gone = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestRegistryReplacesOwnerOfAddress(t *testing.T) {
	t.Parallel()
	r := New(Config{})
	outcomes := []Outcome{}
	for _, id := range []string{"old", "old", "new"} {
		o, err := r.Register("a.example.com", plain("10.0.0.1", id), start)
		require.NoError(t, err)
		outcomes = append(outcomes, o)
	}
	if diff := cmp.Diff([]Outcome{Added, Refreshed, Replaced}, outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	pool := r.Lookup("a.example.com", "/")
	require.Equal(t, 1, pool.Len())
	lease, err := pool.Pick(Criteria{}, start)
	require.NoError(t, err)
	require.Equal(t, "new", lease.InstanceID)
	require.Len(t, r.backends, 1, "the former owner's record is forgotten")
}

func TestRegistryFailureMarkDoesNotOutliveOwner(t *testing.T) {
	t.Parallel()
	r := New(Config{Rand: first})
	register(t, r, "a.example.com", plain("10.0.0.1", "old"), plain("10.0.0.2", "other"))
	lease, err := r.Lookup("a.example.com", "").Pick(Criteria{Prefer: "old"}, start)
	require.NoError(t, err)
	lease.MarkFailed(start)
	register(t, r, "a.example.com", plain("10.0.0.1", "new"))
	again, err := r.Lookup("a.example.com", "").Pick(Criteria{Prefer: "new"}, start)
	require.NoError(t, err)
	require.Equal(t, "new", again.InstanceID)
}

func register(t *testing.T, r *Registry, uri string, es ...Endpoint) {
	t.Helper()
	for _, e := range es {
		_, err := r.Register(uri, e, start)
		require.NoError(t, err)
	}
}

func TestRegistryPrune(t *testing.T) {
	t.Parallel()
	secure := plain("10.0.0.3", "tls")
	secure.TLS = true
	short := plain("10.0.0.2", "short")
	short.StaleAfter = 30 * time.Second
	long := plain("10.0.0.4", "long")
	long.StaleAfter = time.Hour
	tests := map[string]struct {
		after time.Duration
		want  []string
	}{
		"nothing is stale at first":                           {0, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}},
		"a message's threshold counts":                        {31 * time.Second, []string{"10.0.0.1", "10.0.0.3", "10.0.0.4"}},
		"exactly the threshold is not stale":                  {120 * time.Second, []string{"10.0.0.1", "10.0.0.3", "10.0.0.4"}},
		"no threshold exceeds the router's, and TLS has none": {121 * time.Second, []string{"10.0.0.3"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := New(Config{})
			register(t, r, "a.example.com", plain("10.0.0.1", "i"), short, secure, long)
			pruned := r.Prune(start.Add(tc.after))
			got := hosts(r.Snapshot()["a.example.com"])
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
			if pruned != 4-len(tc.want) {
				t.Errorf("Prune = %d, want %d", pruned, 4-len(tc.want))
			}
		})
	}
}

func TestRegistrySuspendedPruning(t *testing.T) {
	t.Parallel()
	r := New(Config{})
	register(t, r, "a.example.com", plain("10.0.0.1", "i"))
	r.Suspend()
	late := start.Add(time.Hour)
	require.Zero(t, r.Prune(late), "suspended")
	r.Resume(late)
	require.Zero(t, r.Prune(late.Add(120*time.Second)), "a full threshold after the link is back")
	require.Equal(t, 1, r.Prune(late.Add(121*time.Second)))
	require.Nil(t, r.Lookup("a.example.com", ""))

	register(t, r, "b.example.com", plain("10.0.0.1", "i"))
	r.Resume(late)
	require.Equal(t, 1, r.Prune(start.Add(121*time.Second)), "resuming what was not suspended refreshes nothing")
}

func TestRegistryEmptyPoolRetention(t *testing.T) {
	t.Parallel()
	r := New(Config{EmptyPoolRetention: time.Minute})
	register(t, r, "a.example.com", plain("10.0.0.1", "i"))
	require.True(t, r.Unregister("a.example.com", plain("10.0.0.1", "i"), start))
	require.NotNil(t, r.Lookup("a.example.com", "/"), "the route is still known")
	_, err := r.Lookup("a.example.com", "/").Pick(Criteria{}, start)
	require.ErrorIs(t, err, ErrNoEndpoints)
	require.Zero(t, r.Routes())
	register(t, r, "*.example.com", plain("10.0.0.2", "w"))
	require.Equal(t, "*.example.com", r.Lookup("a.example.com", "/").Name(), "a wildcard with endpoints goes before an empty pool")
	r.Prune(start.Add(time.Minute))
	require.NotContains(t, r.Snapshot(), "a.example.com")
}

func TestRegistryEvict(t *testing.T) {
	t.Parallel()
	r := New(Config{})
	for _, uri := range []string{"a.example.com", "b.example.com/x"} {
		register(t, r, uri, plain("10.0.0.1", "gone"), plain("10.0.0.2", "stays"))
	}
	require.Zero(t, r.Evict(plain("10.0.0.1", "somebody else"), start), "another instance at the address")
	require.Equal(t, 2, r.Evict(plain("10.0.0.1", "gone"), start))
	for uri, es := range r.Snapshot() {
		if diff := cmp.Diff([]string{"10.0.0.2"}, hosts(es)); diff != "" {
			t.Errorf("endpoints of %s (-want +got):\n%s", uri, diff)
		}
	}
	require.Equal(t, 2, r.Evict(plain("10.0.0.2", "stays"), start))
	require.Empty(t, r.Snapshot())
	require.Empty(t, r.hosts, "no empty branch is left")
}

// TestRegistryModel compares the registry with a plain map after any sequence of operations.
func TestRegistryModel(t *testing.T) {
	t.Parallel()
	uris := []string{"a.com", "a.com/x", "a.com/x/y", "*.com", "b.com"}
	rapid.Check(t, func(rt *rapid.T) {
		r := New(Config{})
		model := map[string]map[string]string{} // uri -> address -> instance
		now := start
		remove := func(uri, addr string) {
			delete(model[uri], addr)
			if len(model[uri]) == 0 {
				delete(model, uri)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"register": func(rt *rapid.T) {
				uri, e := rapid.SampledFrom(uris).Draw(rt, "uri"), drawEndpoint(rt)
				_, err := r.Register(uri, e, now)
				require.NoError(rt, err)
				if model[uri] == nil {
					model[uri] = map[string]string{}
				}
				model[uri][e.Address()] = e.InstanceID
			},
			"unregister": func(rt *rapid.T) {
				uri, e := rapid.SampledFrom(uris).Draw(rt, "uri"), drawEndpoint(rt)
				want := false
				if id, ok := model[uri][e.Address()]; ok && id == e.InstanceID {
					remove(uri, e.Address())
					want = true
				}
				require.Equal(rt, want, r.Unregister(uri, e, now))
			},
			"evict": func(rt *rapid.T) {
				e := drawEndpoint(rt)
				for _, uri := range slices.Collect(maps.Keys(model)) {
					if model[uri][e.Address()] == e.InstanceID {
						remove(uri, e.Address())
					}
				}
				r.Evict(e, now)
			},
			"": func(rt *rapid.T) {
				got := map[string]map[string]string{}
				for uri, es := range r.Snapshot() {
					got[uri] = map[string]string{}
					for _, e := range es {
						got[uri][e.Address()] = e.InstanceID
					}
				}
				if diff := cmp.Diff(model, got); diff != "" {
					rt.Fatalf("registry (-model +got):\n%s", diff)
				}
				used := map[backendKey]bool{}
				for _, es := range got {
					for a, id := range es {
						used[backendKey{a, id}] = true
					}
				}
				require.Len(rt, r.backends, len(used), "backends are kept exactly while a route leads to them")
			},
		})
	})
}

func drawEndpoint(rt *rapid.T) Endpoint {
	return plain(
		"10.0.0."+strconv.Itoa(rapid.IntRange(1, 3).Draw(rt, "host")),
		rapid.SampledFrom([]string{"i1", "i2"}).Draw(rt, "instance"),
	)
}

func TestRegistryConcurrentUse(t *testing.T) {
	t.Parallel()
	r := New(Config{MaxConnections: 2})
	done := make(chan struct{})
	const workers = 8
	for w := range workers {
		go func() {
			defer func() { done <- struct{}{} }()
			e := plain("10.0.0."+strconv.Itoa(w%3), "i")
			for range 500 {
				_, _ = r.Register("a.com/x", e, start)
				if p := r.Lookup("a.com", "/x/y"); p != nil {
					if l, err := p.Pick(Criteria{}, start); err == nil {
						if rand.IntN(2) == 0 {
							l.MarkFailed(start)
						}
						l.Release()
					}
				}
				r.Prune(start)
				r.Unregister("a.com/x", e, start)
			}
		}()
	}
	for range workers {
		<-done
	}
	for w := range 3 {
		r.Unregister("a.com/x", plain("10.0.0."+strconv.Itoa(w), "i"), start)
	}
	require.Empty(t, r.backends)
}
