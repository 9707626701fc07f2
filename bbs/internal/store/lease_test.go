package store

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/postgrestest"
)

// A request that was accepted in time, and then waited while the proof of being active ran out, is not
// written.
func TestLeaseThatLapsesWhileARequestWaits(t *testing.T) {
	t.Parallel()
	s, err := New(testConfig(t, postgrestest.New(t, Migrate)))
	require.NoError(t, err)
	var held atomic.Bool
	held.Store(true)
	require.NoError(t, s.TakeOver(t.Context(), held.Load))
	run(t, s)

	begun, release := make(chan struct{}), make(chan struct{})
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.Apply(t.Context(), func(*Tx) error {
			close(begun)
			<-release
			return nil
		})
		first <- err
	}()
	<-begun
	go func() {
		_, err := upsertDomain(t.Context(), s, "late")
		second <- err
	}()
	require.Eventually(t, func() bool { return len(s.queue) == 1 }, time.Minute, time.Millisecond, "the second request waits")
	held.Store(false)
	close(release)
	require.NoError(t, <-first, "the first, which was on its way")
	require.ErrorIs(t, <-second, ErrNotMaster)
	require.Zero(t, s.Committed().Revision())
}
