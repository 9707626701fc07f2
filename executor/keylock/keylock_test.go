package keylock

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestLocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var locks Locks[string]
		first, err := locks.Lock(t.Context(), "a")
		require.NoError(t, err)
		other, err := locks.Lock(t.Context(), "b")
		require.NoError(t, err, "another key is free")

		gaveUp := errors.New("gave up")
		ctx, cancel := context.WithCancelCause(t.Context())
		refused := make(chan error, 1)
		go func() {
			_, err := locks.Lock(ctx, "a")
			refused <- err
		}()
		synctest.Wait()
		cancel(gaveUp)
		require.ErrorIs(t, <-refused, gaveUp)

		got := make(chan func(), 1)
		go func() {
			unlock, err := locks.Lock(t.Context(), "a")
			if err != nil {
				t.Error(err)
			}
			got <- unlock
		}()
		synctest.Wait()
		require.Empty(t, got, "one at a time")
		first()
		(<-got)()
		other()
		require.Zero(t, locks.Len(), "a key that nobody holds costs nothing")
	})
}
