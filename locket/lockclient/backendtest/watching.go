package backendtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockclient"
)

func errorIsCollision(err error) bool { return errors.Is(err, lockclient.ErrCollision) }

// claimWhenFree repeats a claim for as long as somebody else holds the key.
func claimWhenFree(t *testing.T, b lockclient.Backend, c lockclient.Claim) lockclient.Held {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		held, err := b.Claim(t.Context(), c)
		if err == nil {
			return held
		}
		require.ErrorIs(t, err, lockclient.ErrCollision)
		select {
		case <-pause.C:
		case <-deadline.C:
			t.Fatalf("%q was not free after %v", c.Key, patience)
		}
	}
}

// watching is a watch whose events a test expects one after the other.
type watching struct {
	t      *testing.T
	events chan string
}

// watch runs a watch until the end of the test.
func watch(t *testing.T, b lockclient.Backend, filter lockclient.Filter) *watching {
	t.Helper()
	w := &watching{t: t, events: make(chan string, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- b.Watch(ctx, filter, func(e lockclient.Event) {
			text := e.Kind.String()
			if e.Kind != lockclient.Synced {
				text += " " + e.Held.Key + " " + e.Held.Owner
			}
			w.events <- text
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
	})
	return w
}

// want expects exactly these events next.
func (w *watching) want(events ...string) {
	w.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for _, want := range events {
		select {
		case got := <-w.events:
			require.Equal(w.t, want, got)
		case <-deadline.C:
			w.t.Fatalf("waited %v for %q", patience, want)
		}
	}
}
