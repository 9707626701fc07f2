package lockclient_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockclient"
	"diego.internal/locket/lockclient/backendtest"
)

func TestWhileReleasesWhenTheWorkHasReturned(t *testing.T) {
	t.Parallel()
	errWork := errors.New("the work failed")
	tests := map[string]struct {
		work func(ctx context.Context) error
		want error
	}{
		"by itself":       {func(context.Context) error { return nil }, nil},
		"with an error":   {func(context.Context) error { return errWork }, errWork},
		"at the end":      {func(ctx context.Context) error { <-ctx.Done(); return nil }, nil},
		"long afterwards": {func(ctx context.Context) error { <-ctx.Done(); wait(time.Hour); return errWork }, errWork},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := backendtest.NewMemory()
				lock, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1"))
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				err = lock.While(ctx, func(ctx context.Context) error {
					defer func() { require.True(t, lock.Valid(), "held until the work has returned") }()
					return test.work(ctx)
				})
				require.ErrorIs(t, err, test.want)
				require.Empty(t, store.Held())
				require.False(t, lock.Valid())
			})
		})
	}
}

func TestWhileEndsTheWorkWhenTheLockIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		lock, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1"))
		require.NoError(t, err)
		wait(time.Second)
		require.NoError(t, store.Release(t.Context(), "bbs", lock.Owner()), "an operator frees it")
		err = lock.While(t.Context(), func(ctx context.Context) error {
			<-ctx.Done()
			require.ErrorIs(t, context.Cause(ctx), lockclient.ErrLost)
			return nil
		})
		require.ErrorIs(t, err, lockclient.ErrLost)
	})
}
