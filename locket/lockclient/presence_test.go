package lockclient_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockclient"
	"diego.internal/locket/lockclient/backendtest"
)

func cellPresence(b lockclient.Backend, incarnation int64) lockclient.PresenceConfig {
	return lockclient.PresenceConfig{Key: "cell-1", Incarnation: incarnation, Backend: b, Log: quiet}
}

// runPresence runs p until stop, which returns what Run returned.
func runPresence(ctx context.Context, p *lockclient.Presence) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

func TestPresenceNeverGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		store.Fail(errDown)
		p := lockclient.NewPresence(cellPresence(store, 1))
		stop := runPresence(t.Context(), p)
		wait(time.Minute)
		require.False(t, p.Held())
		store.Fail(nil)
		require.NoError(t, p.WaitHeld(t.Context()))
		require.True(t, p.Held())

		store.Fail(errDown) // until the presence has expired
		wait(4 * time.Second)
		require.False(t, p.Held(), "trusted for longer than the ttl less its margin")
		wait(time.Minute)
		require.Empty(t, store.Held())
		store.Fail(nil)
		wait(time.Second)
		require.True(t, p.Held())
		require.Len(t, store.Held(), 1)

		require.NoError(t, stop())
		require.Len(t, store.Held(), 1, "the next run takes it over")
		wait(10 * time.Second)
	})
}

func TestPresenceOfALaterRunTakesOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		first, second := lockclient.NewPresence(cellPresence(store, 1)), lockclient.NewPresence(cellPresence(store, 2))
		stopFirst := runPresence(t.Context(), first)
		require.NoError(t, first.WaitHeld(t.Context()))
		begun := time.Now()
		stopSecond := runPresence(t.Context(), second)
		require.NoError(t, second.WaitHeld(t.Context()))
		require.Equal(t, begun, time.Now(), "at once")
		wait(time.Minute)
		require.False(t, first.Held())
		require.True(t, second.Held())
		require.Equal(t, second.Owner(), store.Held()[0].Owner)
		require.NoError(t, stopFirst())
		require.NoError(t, stopSecond())
		wait(10 * time.Second)
	})
}

func TestPresencePublishesItsValue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		var evacuating atomic.Bool
		cfg := cellPresence(store, 1)
		cfg.Value = func() []byte {
			if evacuating.Load() {
				return []byte("evacuating")
			}
			return []byte("running")
		}
		p := lockclient.NewPresence(cfg)
		p.Refresh() // before it is held it has no effect
		stop := runPresence(t.Context(), p)
		require.NoError(t, p.WaitHeld(t.Context()))
		require.Equal(t, "running", string(store.Held()[0].Value))
		evacuating.Store(true)
		p.Refresh()
		synctest.Wait()
		require.Equal(t, "evacuating", string(store.Held()[0].Value), "without waiting for the next renewal")
		p.SetReleaseOnStop(true)
		require.NoError(t, stop())
		require.Empty(t, store.Held())
		require.False(t, p.Held())
	})
}

func TestPresenceRefusesABadConfig(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*lockclient.PresenceConfig){
		"no key":            func(c *lockclient.PresenceConfig) { c.Key = "" },
		"no log":            func(c *lockclient.PresenceConfig) { c.Log = nil },
		"a ttl of a second": func(c *lockclient.PresenceConfig) { c.TTL = time.Second },
	} {
		cfg := cellPresence(backendtest.NewMemory(), 1)
		change(&cfg)
		require.Error(t, lockclient.NewPresence(cfg).Run(t.Context()), name)
	}
}

func TestPresenceWaitHeldEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := lockclient.NewPresence(cellPresence(backendtest.NewMemory(), 1)).WaitHeld(ctx)
	require.ErrorIs(t, err, context.Canceled)
}
