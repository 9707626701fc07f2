package lockclient_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockclient"
	"diego.internal/locket/lockclient/backendtest"
)

// told writes an event the way the tests below read.
func told(e lockclient.PresenceEvent) string {
	text := e.Kind.String()
	if e.Inferred {
		text = "inferred " + text
	}
	if e.Kind != lockclient.Synced {
		return fmt.Sprintf("%s %s %s", text, e.Held.Key, e.Held.Value)
	}
	for _, held := range e.All {
		text += " " + held.Key
	}
	return text
}

func TestWatchPresencesTellsTheDifferenceAfterAnInterruption(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		put := func(cell, value string, incarnation int64) {
			_, err := store.Claim(t.Context(), lockclient.Claim{
				Key: cell, Owner: fmt.Sprintf("run-%d", incarnation), Type: lockclient.TypePresence,
				Value: []byte(value), TTL: 100 * time.Second, Incarnation: incarnation,
			})
			require.NoError(t, err)
		}
		put("a", "1", 1)
		put("b", "1", 1)
		put("c", "1", 1)
		put("d", "1", 1)

		var mu sync.Mutex
		var events []string
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- lockclient.WatchPresences(ctx, store, quiet, func(e lockclient.PresenceEvent) {
				mu.Lock()
				defer mu.Unlock()
				events = append(events, told(e))
			})
		}()
		want := func(expected ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff(expected, events); diff != "" {
				t.Fatalf("told (-want +got):\n%s", diff)
			}
			events = nil
		}
		want("acquired a 1", "acquired b 1", "acquired c 1", "acquired d 1", "synced a b c d")

		put("a", "2", 1)
		put("e", "1", 1)
		require.NoError(t, store.Release(t.Context(), "e", "run-1"))
		want("updated a 2", "acquired e 1", "released e 1")

		// The stream breaks, and before it is back: a changes, b has a new run, c goes, f comes.
		store.Fail(errDown)
		wait(time.Second)
		store.Fail(nil)
		put("a", "3", 1)
		put("b", "1", 2)
		store.Drop("c")
		put("f", "1", 1)
		wait(2 * time.Second)
		want("inferred expired c 1", "inferred updated a 3", "inferred acquired b 1", "inferred acquired f 1", "synced a b d f")

		// And again, with nothing changed.
		store.Fail(errDown)
		wait(time.Second)
		store.Fail(nil)
		wait(2 * time.Second)
		want("synced a b d f")

		wait(2 * time.Minute)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, events, 4, "all have expired: %v", events)
		require.Subset(t, events, []string{"expired a 3", "expired b 1", "expired d 1", "expired f 1"})

		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
}
