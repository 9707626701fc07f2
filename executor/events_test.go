package executor

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSubscription(t *testing.T) {
	t.Parallel()
	record := func(guid string, routable bool) Container { return Container{GUID: guid, Routable: routable} }

	t.Run("of one container only the newest change is kept", func(t *testing.T) {
		t.Parallel()
		h := newHub()
		s := h.subscribe()
		h.emit(EventReserved, record("a", false))
		h.emit(EventReserved, record("b", false))
		h.emit(EventRunning, record("a", true))
		first, err := s.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, Event{Kind: EventRunning, Container: record("a", true)}, first)
		second, err := s.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, "b", second.Container.GUID)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = s.Next(ctx)
		require.ErrorIs(t, err, context.Canceled)
	})

	t.Run("a reader that is far behind is told to look at everything", func(t *testing.T) {
		t.Parallel()
		h := newHub()
		s := h.subscribe()
		for i := range maxPendingEvents + 1 {
			h.emit(EventReserved, record(fmt.Sprint(i), false))
		}
		first, err := s.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, EventResync, first.Kind)
		second, err := s.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(maxPendingEvents), second.Container.GUID, "what comes after the mark is kept")
	})

	t.Run("closing ends a waiting reader", func(t *testing.T) {
		t.Parallel()
		for name, end := range map[string]func(*hub, *Subscription){
			"subscription": func(_ *hub, s *Subscription) { s.Close(); s.Close() },
			"hub":          func(h *hub, s *Subscription) { h.close(); s.Close() },
		} {
			h := newHub()
			s := h.subscribe()
			result := make(chan error, 1)
			go func() {
				_, err := s.Next(context.Background())
				result <- err
			}()
			end(h, s)
			require.ErrorIs(t, <-result, ErrClosed, name)
			h.close()
			_, err := h.subscribe().Next(t.Context())
			require.ErrorIs(t, err, ErrClosed, name)
		}
	})
}
