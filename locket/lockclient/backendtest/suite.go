// Package backendtest is the contract of lockclient.Backend as tests: every store of claims has to
// pass Run. It also has a store in memory, for tests of programs that hold claims; that one passes
// too, or it would prove nothing.
package backendtest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockclient"
)

// patience is how long something may take that should happen at once.
const patience = 20 * time.Second

// Run runs the suite. open returns a backend on an empty store that may claim every key, always as
// the same identity; several cases run at once, each with its own.
func Run(t *testing.T, open func(t *testing.T) lockclient.Backend) {
	t.Helper()
	cases := map[string]func(t *testing.T, b lockclient.Backend){
		"a claim is stored as asked":                         storesClaims,
		"a renewal keeps the token":                          renews,
		"another owner is refused":                           refusesOthers,
		"a released key is free at once":                     releases,
		"a malformed claim is refused for good":              refusesNonsense,
		"one of many contenders wins":                        hasOneWinner,
		"a claim that is not renewed expires":                expires,
		"a later run takes over its presence":                takesOver,
		"a watch tells what is held, then every change":      watches,
		"a watch tells only what its filter lets through":    filters,
		"a watch tells an expiry before the next acquirer":   tellsExpiryFirst,
		"a watch ends with its context, and with its reason": endsWatches,
		"random claims and releases do as the model does":    obeysTheModel,
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func lock(key, owner string) lockclient.Claim {
	return lockclient.Claim{Key: key, Owner: owner, Type: lockclient.TypeLock, TTL: time.Minute}
}

func presence(key, owner string, incarnation int64) lockclient.Claim {
	return lockclient.Claim{
		Key: key, Owner: owner, Type: lockclient.TypePresence, TTL: time.Minute,
		Value: []byte(`{"of":"` + owner + `"}`), Incarnation: incarnation,
	}
}

func claim(t *testing.T, b lockclient.Backend, c lockclient.Claim) lockclient.Held {
	t.Helper()
	held, err := b.Claim(t.Context(), c)
	require.NoError(t, err)
	return held
}

func storesClaims(t *testing.T, b lockclient.Backend) {
	t.Helper()
	want := presence("cell-1", "run-1", 3)
	held := claim(t, b, want)
	if diff := cmp.Diff(want, held.Claim); diff != "" {
		t.Errorf("the answer (-asked +held):\n%s", diff)
	}
	fetched, err := b.Fetch(t.Context(), "cell-1")
	require.NoError(t, err)
	if diff := cmp.Diff(held, fetched); diff != "" {
		t.Errorf("fetched (-answered +fetched):\n%s", diff)
	}
	// Not every store tells when a claim ends.
	if left := fetched.ExpiresAt.Sub(fetched.AcquiredAt); !fetched.ExpiresAt.IsZero() && left != want.TTL {
		t.Errorf("expires %v after its acquisition, its ttl is %v", left, want.TTL)
	}
	_, err = b.Fetch(t.Context(), "cell-2")
	require.ErrorIs(t, err, lockclient.ErrNotHeld)
}

func renews(t *testing.T, b lockclient.Backend) {
	t.Helper()
	first := claim(t, b, lock("key", "one"))
	again := lock("key", "one")
	again.Value = []byte("new")
	second := claim(t, b, again)
	if second.Token != first.Token || string(second.Value) != "new" || second.ExpiresAt.Before(first.ExpiresAt) {
		t.Errorf("renewed %+v to %+v", first, second)
	}
}

func refusesOthers(t *testing.T, b lockclient.Backend) {
	t.Helper()
	claim(t, b, lock("key", "one"))
	_, err := b.Claim(t.Context(), lock("key", "two"))
	require.ErrorIs(t, err, lockclient.ErrCollision)
	require.Equal(t, "one", lockclient.HolderIn(err))
	_, err = b.Claim(t.Context(), presence("key", "three", 9))
	require.ErrorIs(t, err, lockclient.ErrCollision, "locks and presences share one space of keys")
	err = b.Release(t.Context(), "key", "two")
	require.ErrorIs(t, err, lockclient.ErrCollision)
	require.Equal(t, "one", lockclient.HolderIn(err))
	held, err := b.Fetch(t.Context(), "key")
	require.NoError(t, err)
	require.Equal(t, "one", held.Owner)
}

func releases(t *testing.T, b lockclient.Backend) {
	t.Helper()
	first := claim(t, b, lock("key", "one"))
	require.NoError(t, b.Release(t.Context(), "key", "one"))
	require.NoError(t, b.Release(t.Context(), "key", "one"), "a release may be repeated")
	_, err := b.Fetch(t.Context(), "key")
	require.ErrorIs(t, err, lockclient.ErrNotHeld)
	second := claim(t, b, lock("key", "two"))
	require.Greater(t, second.Token, first.Token, "the later holder has the higher token")
	require.NoError(t, b.Release(t.Context(), "key", "two"))
	again := claim(t, b, lock("key", "one"))
	require.Greater(t, again.Token, second.Token, "a key that was released is acquired anew, also by its former owner")
}

func refusesNonsense(t *testing.T, b lockclient.Backend) {
	t.Helper()
	for name, c := range map[string]lockclient.Claim{
		"no key":   lock("", "one"),
		"no owner": lock("key", ""),
		"no type":  {Key: "key", Owner: "one", TTL: time.Minute},
		"no ttl":   {Key: "key", Owner: "one", Type: lockclient.TypeLock},
	} {
		_, err := b.Claim(t.Context(), c)
		require.ErrorIs(t, err, lockclient.ErrRefused, name)
	}
}

func hasOneWinner(t *testing.T, b lockclient.Backend) {
	t.Helper()
	var won atomic.Int64
	var running sync.WaitGroup
	for i := range 20 {
		running.Go(func() {
			_, err := b.Claim(t.Context(), lock("key", fmt.Sprintf("owner-%d", i)))
			if err == nil {
				won.Add(1)
				return
			}
			if !errorIsCollision(err) {
				t.Errorf("a contender got %v", err)
			}
		})
	}
	running.Wait()
	require.EqualValues(t, 1, won.Load())
}

func expires(t *testing.T, b lockclient.Backend) {
	t.Helper()
	short := lock("key", "one")
	short.TTL = 1500 * time.Millisecond
	begun := time.Now()
	first := claim(t, b, short)
	second := claimWhenFree(t, b, lock("key", "two"))
	if took := time.Since(begun); took < short.TTL {
		t.Errorf("taken over after %v, its ttl is %v", took, short.TTL)
	}
	require.Greater(t, second.Token, first.Token)
	_, err := b.Claim(t.Context(), short)
	require.ErrorIs(t, err, lockclient.ErrCollision, "the former holder comes back too late")
}

func takesOver(t *testing.T, b lockclient.Backend) {
	t.Helper()
	first := claim(t, b, presence("cell-1", "run-1", 5))
	for name, c := range map[string]lockclient.Claim{
		"an equal incarnation": presence("cell-1", "other", 5),
		"a lower incarnation":  presence("cell-1", "other", 4),
		"no incarnation":       presence("cell-1", "other", 0),
	} {
		_, err := b.Claim(t.Context(), c)
		require.ErrorIs(t, err, lockclient.ErrCollision, name)
	}
	second := claim(t, b, presence("cell-1", "run-2", 6))
	require.Greater(t, second.Token, first.Token)
	_, err := b.Claim(t.Context(), presence("cell-1", "run-1", 5))
	require.ErrorIs(t, err, lockclient.ErrCollision, "the earlier run does not renew any more")

	claim(t, b, lock("lock", "one"))
	later := lock("lock", "two")
	later.Incarnation = 99
	_, err = b.Claim(t.Context(), later)
	require.ErrorIs(t, err, lockclient.ErrCollision, "a lock is never taken over")
}

func watches(t *testing.T, b lockclient.Backend) {
	t.Helper()
	claim(t, b, presence("cell-2", "b", 1))
	claim(t, b, presence("cell-1", "a", 1))
	w := watch(t, b, lockclient.Filter{Type: lockclient.TypePresence})
	w.want("acquired cell-1 a", "acquired cell-2 b", "synced")

	claim(t, b, presence("cell-1", "a", 1)) // nothing new
	updated := presence("cell-1", "a", 1)
	updated.Value = []byte("new")
	claim(t, b, updated)
	w.want("updated cell-1 a")
	claim(t, b, presence("cell-1", "c", 2))
	w.want("acquired cell-1 c")
	require.NoError(t, b.Release(t.Context(), "cell-1", "c"))
	w.want("released cell-1 c")
	short := presence("cell-3", "d", 1)
	short.TTL = 1500 * time.Millisecond
	claim(t, b, short)
	w.want("acquired cell-3 d", "expired cell-3 d")
}

func filters(t *testing.T, b lockclient.Backend) {
	t.Helper()
	claim(t, b, lock("a-lock", "x"))
	w := watch(t, b, lockclient.Filter{Type: lockclient.TypeLock, Prefix: "a-"})
	w.want("acquired a-lock x", "synced")
	claim(t, b, lock("b-lock", "x"))
	claim(t, b, presence("a-presence", "x", 1))
	claim(t, b, lock("a-second", "x"))
	w.want("acquired a-second x")
}

func tellsExpiryFirst(t *testing.T, b lockclient.Backend) {
	t.Helper()
	w := watch(t, b, lockclient.Filter{Type: lockclient.TypeLock})
	w.want("synced")
	short := lock("key", "one")
	short.TTL = 1200 * time.Millisecond
	claim(t, b, short)
	claimWhenFree(t, b, lock("key", "two"))
	w.want("acquired key one", "expired key one", "acquired key two")
}

func endsWatches(t *testing.T, b lockclient.Backend) {
	t.Helper()
	reason := fmt.Errorf("enough of %s", t.Name())
	ctx, cancel := context.WithCancelCause(t.Context())
	err := b.Watch(ctx, lockclient.Filter{Type: lockclient.TypeLock}, func(lockclient.Event) { cancel(reason) })
	require.ErrorIs(t, err, reason)
}
