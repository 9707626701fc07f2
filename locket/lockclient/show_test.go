package lockclient_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockclient"
	"diego.internal/locket/lockclient/backendtest"
)

// shown is what /readyz would tell of a lock.
type shown struct {
	check func() (any, error)
}

func (s *shown) add(_ string, check func() (any, error)) { s.check = check }

// look returns the detail as an operator sees it, and why the process is not ready.
func (s *shown) look(t *testing.T) (string, error) {
	t.Helper()
	detail, err := s.check()
	encoded, jsonErr := json.Marshal(detail)
	require.NoError(t, jsonErr)
	return string(encoded), err
}

func TestLockShowsWhoHoldsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		var active, standby shown
		cfg := bbsLock(store, "bbs-1")
		cfg.Readiness = active.add
		lock, err := lockclient.Acquire(t.Context(), cfg)
		require.NoError(t, err)
		detail, err := active.look(t)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(detail, `{"lock":"bbs","role":"active","owner":"`+lock.Owner()+`","fencing_token":`), detail)
		require.Contains(t, detail, `"valid_for":"4s"`)

		ctx, stop := context.WithCancel(t.Context())
		cfg = bbsLock(store, "bbs-2")
		cfg.Readiness = standby.add
		waiting := acquireInBackground(ctx, cfg)
		synctest.Wait()
		detail, err = standby.look(t)
		require.ErrorContains(t, err, lock.Owner()+`" holds the lock`)
		require.Contains(t, detail, `"role":"standby"`)
		require.Contains(t, detail, `"holder":"`+lock.Owner()+`"`)
		stop()
		require.Error(t, (<-waiting).err)

		wait(time.Until(lock.Deadline()))
		detail, err = active.look(t)
		require.ErrorContains(t, err, "lost or given up")
		require.Contains(t, detail, `"role":"standby"`)
		require.NotContains(t, detail, "valid_for")
	})
}
