package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/lifecycle"
	"diego.internal/servicekit/postgres/privateserver"
	"diego.internal/servicekit/postgrestest"
)

// A bbs that is killed at any moment is replaced by the standby, and comes back as one.
func TestActiveBBSKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, postgrestest.URL(postgrestest.New(t, nil)))
	l := startLoad(w)
	for range rounds(t, 4) {
		l.progress()
		active := w.active()
		w.bbs[active].kill(t)
		passes(t.Context(), rand.N(time.Second))
		w.bbs[active].start(t)
	}
	l.progress()
	l.finish()
}

// A bbs that sleeps for longer than its lock lives does nothing more when it wakes: whatever it was
// asked before, while it slept or afterwards, it neither writes nor answers reads.
func TestActiveBBSPaused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, postgrestest.URL(postgrestest.New(t, nil)))
	l := startLoad(w)
	for range rounds(t, 2) {
		l.progress()
		paused := w.active()
		_, err := w.revision(paused) // so that there is a connection
		require.NoError(t, err)
		w.bbs[paused].pause(t)
		require.NotEqual(t, paused, w.active(), "the active bbs after the lock of the other one has expired")

		answers, stopAsking := askInVain(w, paused)
		w.bbs[paused].resume(t)
		require.Equal(t, lifecycle.ExitLockLost, w.bbs[paused].awaitExit(t))
		stopAsking()
		for answer := range answers {
			require.Error(t, answer.err, "what a bbs was asked while it slept: %s", answer.question)
		}
		requireNoLateDomains(t, l)
		w.bbs[paused].start(t)
	}
	l.progress()
	l.finish()
}

// answer is what came of a question.
type answer struct {
	question string
	err      error
}

// askInVain sends reads and writes to a bbs that is paused, which it finds when it wakes. The answers
// are complete when stop was called.
func askInVain(w *world, paused int) (answers <-chan answer, stop func()) {
	const questions = 20
	ctx, cancel := context.WithCancel(w.t.Context())
	all := make(chan answer, questions)
	client := bbsv1.NewDomainsClient(w.direct[paused])
	var asking sync.WaitGroup
	for n := range questions {
		asking.Go(func() {
			if n%2 == 0 {
				_, err := client.ListDomains(ctx, &bbsv1.ListDomainsRequest{})
				all <- answer{question: "a read", err: err}
				return
			}
			_, err := client.UpsertDomain(ctx, &bbsv1.UpsertDomainRequest{Domain: fmt.Sprint("late-", n)})
			all <- answer{question: "a write", err: err}
		})
	}
	passes(ctx, 100*time.Millisecond) // until all of it is on its way
	return all, func() {
		cancel()
		asking.Wait()
		close(all)
	}
}

func requireNoLateDomains(t *testing.T, l *load) {
	t.Helper()
	list, err := l.operator.domains.ListDomains(t.Context(), &bbsv1.ListDomainsRequest{})
	require.NoError(t, err)
	for _, domain := range list.GetDomains() {
		require.NotContains(t, domain.GetDomain(), "late-", "what a bbs was asked to write while it slept")
	}
}

// Postgres dies in the middle of commits, by all its processes at once or by its own order. The bbs
// stays, finds out what became of the commit that was on its way, and goes on.
func TestPostgresKilled(t *testing.T) {
	t.Parallel()
	folder := postgresFolder(t)
	server := startPostgres(t, folder)
	require.NoError(t, server.CreateDatabase(t.Context(), database))
	w := newWorld(t, server.ConnectionString(database))
	l := startLoad(w)
	for round := range rounds(t, 4) {
		l.progress()
		if round%2 == 0 {
			require.NoError(t, server.Kill())
		} else {
			require.NoError(t, syscall.Kill(server.PID(), syscall.SIGQUIT)) // "immediate shutdown"
			<-server.Done()
		}
		passes(t.Context(), rand.N(time.Second))
		server = startPostgres(t, folder)
	}
	l.progress()
	for _, p := range w.bbs {
		require.True(t, p.running(), "%s has ended", p.name)
	}
	l.finish()
}

// The primary is lost, and its synchronous standby promoted, to which the connection string leads by
// itself. Now and then the active bbs is lost with the primary.
func TestPostgresPromoted(t *testing.T) {
	t.Parallel()
	folders := [2]string{postgresFolder(t), postgresFolder(t)}
	primary := startPostgres(t, folders[0])
	require.NoError(t, primary.CreateDatabase(t.Context(), database))
	standby := startStandby(t, primary, folders[1])
	w := newWorld(t, privateserver.MultiHost(database, primary, standby))
	l := startLoad(w)
	for round := range rounds(t, 2) {
		if round > 0 {
			standby = startStandby(t, primary, folders[round%2^1])
		}
		l.progress()
		require.NoError(t, primary.Kill())
		if active := w.active(); round%2 == 1 {
			w.bbs[active].kill(t)
			w.bbs[active].start(t)
		}
		require.NoError(t, standby.Promote(t.Context()))
		primary = standby
	}
	l.progress()
	l.finish()
}
