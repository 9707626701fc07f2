package lockclient_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockclient"
	"diego.internal/locket/lockclient/backendtest"
	"diego.internal/servicekit/lifecycle"
)

var (
	quiet   = slog.New(slog.DiscardHandler)
	errDown = errors.New("the store is down")
)

func bbsLock(b lockclient.Backend, owner string) lockclient.LockConfig {
	return lockclient.LockConfig{Key: "bbs", Owner: owner, Backend: b, Log: quiet} // TTL 5 s: trusted for 4 s
}

// acquired is what a standby gets, and when.
type acquired struct {
	lock *lockclient.Lock
	err  error
	at   time.Time
}

func acquireInBackground(ctx context.Context, cfg lockclient.LockConfig) <-chan acquired {
	got := make(chan acquired, 1)
	go func() {
		lock, err := lockclient.Acquire(ctx, cfg)
		got <- acquired{lock, err, time.Now()}
	}()
	return got
}

// wait lets time pass.
func wait(d time.Duration) { <-time.After(d) }

func TestLockIsHeldForAsLongAsHoldRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		lock, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1"))
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		held := make(chan error, 1)
		go func() { held <- lock.Hold(ctx) }()
		wait(time.Hour)
		require.True(t, lock.Valid())
		require.Len(t, store.Held(), 1)
		require.Equal(t, lock.Token(), store.Held()[0].Token)
		require.Equal(t, lock.Owner(), store.Held()[0].Owner)

		stop()
		require.NoError(t, <-held)
		require.False(t, lock.Valid())
		require.Empty(t, store.Held(), "a clean stop releases the lock")
	})
}

func TestAcquireTakesOverAtOnceFromAHolderThatStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		first, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1"))
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		held := make(chan error, 1)
		go func() { held <- first.Hold(ctx) }()
		standby := acquireInBackground(t.Context(), bbsLock(store, "bbs-2"))
		wait(20*time.Second + 500*time.Millisecond) // in the middle between two polls
		released := time.Now()
		stop()
		require.NoError(t, <-held)
		second := <-standby
		require.NoError(t, second.err)
		require.Equal(t, released, second.at, "told by the watch, without waiting for a poll")
		require.Greater(t, second.lock.Token(), first.Token())
	})
}

func TestAcquireTakesOverWhenADeadHoldersLeaseEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		begun := time.Now()
		first, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1")) // and never holds it
		require.NoError(t, err)
		second := <-acquireInBackground(t.Context(), bbsLock(store, "bbs-2"))
		require.NoError(t, second.err)
		require.Equal(t, 5*time.Second, second.at.Sub(begun), "at the end of the ttl")
		require.False(t, first.Valid(), "two valid holders")
	})
}

// Whatever the watch does, polls find a free lock.
func TestAcquireDoesNotDependOnTheWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		begun := time.Now()
		_, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1"))
		require.NoError(t, err)
		second := <-acquireInBackground(t.Context(), bbsLock(watchless{store}, "bbs-2"))
		require.NoError(t, second.err)
		require.LessOrEqual(t, second.at.Sub(begun), 6*time.Second)
	})
}

// watchless is a store whose watches say nothing.
type watchless struct{ lockclient.Backend }

func (watchless) Watch(ctx context.Context, _ lockclient.Filter, _ func(lockclient.Event)) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestAcquireWaitsForAStoreThatIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		store.Fail(errDown)
		standby := acquireInBackground(t.Context(), bbsLock(store, "bbs-1"))
		wait(time.Minute)
		store.Fail(nil)
		back := time.Now()
		got := <-standby
		require.NoError(t, got.err)
		require.LessOrEqual(t, got.at.Sub(back), time.Second)
	})
}

func TestAcquireReturnsWhatWaitingCannotCure(t *testing.T) {
	t.Parallel()
	store := backendtest.NewMemory()
	for name, change := range map[string]func(*lockclient.LockConfig){
		"no key":            func(c *lockclient.LockConfig) { c.Key = "" },
		"no backend":        func(c *lockclient.LockConfig) { c.Backend = nil },
		"a ttl of a second": func(c *lockclient.LockConfig) { c.TTL = time.Second },
		"a ttl of an hour":  func(c *lockclient.LockConfig) { c.TTL = time.Hour },
	} {
		cfg := bbsLock(store, "bbs-1")
		change(&cfg)
		_, err := lockclient.Acquire(t.Context(), cfg)
		require.Error(t, err, name)
	}
	store.Fail(lockclient.ErrRefused.With("wrong certificate"))
	_, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1"))
	require.ErrorIs(t, err, lockclient.ErrRefused)
}

func TestAcquireEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		lock, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1"))
		require.NoError(t, err)
		holding, stop := context.WithCancel(t.Context())
		held := make(chan error, 1)
		go func() { held <- lock.Hold(holding) }()
		reason := errors.New("asked to stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		standby := acquireInBackground(ctx, bbsLock(store, "bbs-2"))
		wait(time.Minute)
		cancel(reason)
		require.ErrorIs(t, (<-standby).err, reason)
		stop()
		require.NoError(t, <-held)
	})
}

// Two runs of one configuration are two owners: a restarted process never shares the lock with what
// may be left of its former self.
func TestAcquireIsNotTheRenewalOfAnEarlierRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		before, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1"))
		require.NoError(t, err)
		after := <-acquireInBackground(t.Context(), bbsLock(store, "bbs-1"))
		require.NoError(t, after.err)
		require.False(t, before.Valid(), "the earlier run still trusts its lease")
		require.Greater(t, after.lock.Token(), before.Token())
	})
}

func TestHoldLosesTheLock(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		happens func(store *backendtest.Memory)
		after   time.Duration // at the latest
		left    int           // claims afterwards
	}{
		"when the store is away for too long":   {func(m *backendtest.Memory) { m.Fail(errDown) }, 4 * time.Second, 1},
		"when the store does not answer":        {func(m *backendtest.Memory) { m.Freeze() }, 4 * time.Second, 1},
		"when another owner has it":             {stolen, 2 * time.Second, 1},
		"when its claim was gone in the middle": {func(m *backendtest.Memory) { m.Drop("bbs") }, 2 * time.Second, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := backendtest.NewMemory()
				lock, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1"))
				require.NoError(t, err)
				begun := time.Now()
				tc.happens(store)
				err = lock.Hold(t.Context())
				require.ErrorIs(t, err, lockclient.ErrLost)
				require.False(t, lock.Valid())
				require.LessOrEqual(t, time.Since(begun), tc.after)
				require.Len(t, store.Held(), tc.left)
				var coded interface{ ExitCode() int }
				require.ErrorAs(t, err, &coded)
				require.Equal(t, lifecycle.ExitLockLost, coded.ExitCode())
				store.Thaw()
				wait(10 * time.Second) // what is left expires
			})
		})
	}
}

func stolen(m *backendtest.Memory) {
	m.Drop("bbs")
	_, err := m.Claim(context.Background(), lockclient.Claim{Key: "bbs", Owner: "thief", Type: lockclient.TypeLock, TTL: 5 * time.Second})
	if err != nil {
		panic(err)
	}
}

func TestHoldSurvivesAStoreThatIsAwayForAMoment(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct{ begin, end func(*backendtest.Memory) }{
		"failing": {func(m *backendtest.Memory) { m.Fail(errDown) }, func(m *backendtest.Memory) { m.Fail(nil) }},
		"frozen":  {(*backendtest.Memory).Freeze, (*backendtest.Memory).Thaw},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := backendtest.NewMemory()
				lock, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1"))
				require.NoError(t, err)
				ctx, stop := context.WithCancel(t.Context())
				held := make(chan error, 1)
				go func() { held <- lock.Hold(ctx) }()
				for range 50 {
					fault.begin(store)
					wait(1900 * time.Millisecond)
					fault.end(store)
					require.True(t, lock.Valid())
					wait(1300 * time.Millisecond)
					require.True(t, lock.Valid())
				}
				stop()
				require.NoError(t, <-held)
			})
		})
	}
}

// The store is gone when the holder stops: it must not hang.
func TestHoldStopsWithoutItsStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := backendtest.NewMemory()
		lock, err := lockclient.Acquire(t.Context(), bbsLock(store, "bbs-1"))
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		held := make(chan error, 1)
		go func() { held <- lock.Hold(ctx) }()
		store.Freeze()
		begun := time.Now()
		stop()
		require.NoError(t, <-held)
		require.LessOrEqual(t, time.Since(begun), 2*time.Second)
		require.False(t, lock.Valid())
		store.Thaw()
		wait(10 * time.Second)
	})
}
