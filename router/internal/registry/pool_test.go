package registry

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

// pool returns a pool of three plain endpoints 10.0.0.1 (instance a, zone z1), .2 (b, z1) and .3 (c, z2).
func pool(t *testing.T, cfg Config) *Pool {
	t.Helper()
	if cfg.Rand == nil {
		cfg.Rand = first
	}
	r := New(cfg)
	a, b, c := plain("10.0.0.1", "a"), plain("10.0.0.2", "b"), plain("10.0.0.3", "c")
	a.Zone, b.Zone, c.Zone = "z1", "z1", "z2"
	register(t, r, "app.example.com", a, b, c)
	return r.Lookup("app.example.com", "/")
}

// picks returns the instances of n choices that are released at once.
func picks(t *testing.T, p *Pool, c Criteria, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := p.Pick(c, start)
		require.NoError(t, err)
		out = append(out, l.InstanceID)
		l.Release()
	}
	return out
}

func TestPoolRoundRobin(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		rand func(int) int
		c    Criteria
		want []string
	}{
		"each in turn":                           {first, Criteria{}, []string{"a", "b", "c", "a"}},
		"it starts at a random place":            {func(int) int { return 2 }, Criteria{}, []string{"c", "a", "b", "c"}},
		"tried endpoints are left out":           {first, Criteria{Tried: map[string]bool{"10.0.0.2:61000": true}}, []string{"a", "c", "a", "c"}},
		"the preferred instance is always taken": {first, Criteria{Prefer: "b"}, []string{"b", "b", "b", "b"}},
		"an unknown preference is ignored":       {first, Criteria{Prefer: "x"}, []string{"a", "b", "c", "a"}},
		"the own zone only":                      {first, Criteria{Zone: "z1"}, []string{"a", "b", "a", "b"}},
		"a zone without endpoints is ignored":    {first, Criteria{Zone: "z9"}, []string{"a", "b", "c", "a"}},
		"a match":                                {first, Criteria{Match: func(e Endpoint) bool { return e.InstanceID == "c" }}, []string{"c", "c", "c", "c"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := picks(t, pool(t, Config{Rand: tc.rand}), tc.c, 4)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("choices (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPoolPickErrors(t *testing.T) {
	t.Parallel()
	p := pool(t, Config{MaxConnections: 1})
	_, err := p.Pick(Criteria{Match: func(Endpoint) bool { return false }}, start)
	require.ErrorIs(t, err, ErrNoMatch)
	_, err = p.Pick(Criteria{Tried: map[string]bool{"10.0.0.1:61000": true, "10.0.0.2:61000": true, "10.0.0.3:61000": true}}, start)
	require.ErrorIs(t, err, ErrExhausted)
	leases := []*Lease{}
	for range 3 {
		l, err := p.Pick(Criteria{}, start)
		require.NoError(t, err)
		leases = append(leases, l)
	}
	_, err = p.Pick(Criteria{}, start)
	require.ErrorIs(t, err, ErrLimit)
	leases[1].Release()
	l, err := p.Pick(Criteria{}, start)
	require.NoError(t, err)
	require.Equal(t, leases[1].InstanceID, l.InstanceID, "the only one with room")
}

func TestPoolFailedEndpoints(t *testing.T) {
	t.Parallel()
	p := pool(t, Config{})
	fail := func(id string, at time.Time) {
		l, err := p.Pick(Criteria{Prefer: id}, at)
		require.NoError(t, err)
		l.Release()
		l.MarkFailed(at)
	}
	fail("b", start)
	require.Equal(t, []string{"a", "c", "a", "c"}, picks(t, p, Criteria{}, 4), "a failed endpoint is passed over")
	require.NotContains(t, picks(t, p, Criteria{Prefer: "b"}, 2), "b", "even if it is preferred")
	at := start.Add(30 * time.Second)
	l, err := p.Pick(Criteria{Prefer: "b"}, at)
	require.NoError(t, err)
	require.Equal(t, "b", l.InstanceID, "after 30 seconds it is eligible again")
	for _, id := range []string{"a", "b", "c"} {
		fail(id, at)
	}
	require.ElementsMatch(t, []string{"a", "b", "c"}, picks(t, p, Criteria{}, 3), "if all failed, the marks are cleared")
}

func TestPoolLeastConnection(t *testing.T) {
	t.Parallel()
	p := pool(t, Config{Balancing: LeastConnection})
	seen := map[string]int{}
	for range 6 {
		l, err := p.Pick(Criteria{}, start) // not released
		require.NoError(t, err)
		seen[l.InstanceID]++
	}
	if diff := cmp.Diff(map[string]int{"a": 2, "b": 2, "c": 2}, seen); diff != "" {
		t.Errorf("open requests (-want +got):\n%s", diff)
	}
}

func TestPoolBalancingOfRoute(t *testing.T) {
	t.Parallel()
	r := New(Config{Rand: first})
	e := plain("10.0.0.1", "a")
	e.Balancing = LeastConnection
	register(t, r, "x.com", plain("10.0.0.2", "b"), e)
	p := r.Lookup("x.com", "")
	held, err := p.Pick(Criteria{Prefer: "b"}, start)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "a"}, picks(t, p, Criteria{}, 2), "b has an open request")
	held.Release()
	register(t, r, "x.com", plain("10.0.0.2", "b"))
	require.ElementsMatch(t, []string{"a", "b"}, picks(t, p, Criteria{}, 2), "the last registration asks for the default, round robin")
}

func TestPoolLimitIsSharedByRoutes(t *testing.T) {
	t.Parallel()
	r := New(Config{MaxConnections: 1})
	register(t, r, "x.com", plain("10.0.0.1", "a"))
	register(t, r, "y.com", plain("10.0.0.1", "a"))
	_, err := r.Lookup("x.com", "").Pick(Criteria{}, start)
	require.NoError(t, err)
	_, err = r.Lookup("y.com", "").Pick(Criteria{}, start)
	require.ErrorIs(t, err, ErrLimit)
}

func TestPoolTurnSurvivesRemoval(t *testing.T) {
	t.Parallel()
	r := New(Config{Rand: first})
	register(t, r, "x.com", plain("10.0.0.1", "a"), plain("10.0.0.2", "b"), plain("10.0.0.3", "c"))
	p := r.Lookup("x.com", "")
	require.Equal(t, []string{"a", "b"}, picks(t, p, Criteria{}, 2))
	require.True(t, r.Unregister("x.com", plain("10.0.0.1", "a"), start))
	require.Equal(t, []string{"c", "b", "c"}, picks(t, p, Criteria{}, 3), "c was next and still is")
}
