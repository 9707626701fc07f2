package faults

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/mtls"
)

const (
	workers  = 12
	watchers = 4
)

// load is many clients that write and some that watch.
type load struct {
	w        *world
	operator operatorAPI
	workers  []*worker
	watchers []*watcher
	from     uint64 // the revision before the first write
	stop     chan struct{}
	writing  *errgroup.Group
	watching *errgroup.Group
	unwatch  context.CancelFunc
	// broken ends with the first error of anybody.
	broken context.Context //nolint:containedctx // its end is an event that many wait for
}

// startLoad begins to write and to watch.
func startLoad(w *world) *load {
	w.t.Helper()
	conn := w.dial(mtls.RoleOperator, "load")
	ctx, unwatch := context.WithCancel(w.t.Context())
	l := &load{w: w, operator: newOperatorAPI(conn), stop: make(chan struct{}), unwatch: unwatch}
	from, err := w.revision(w.active())
	require.NoError(w.t, err)
	l.from = from

	broken, fail := context.WithCancelCause(ctx)
	l.broken = broken
	l.writing, l.watching = &errgroup.Group{}, &errgroup.Group{}
	run := func(group *errgroup.Group, f func() error) {
		group.Go(func() error {
			err := f()
			if err != nil {
				fail(err)
			}
			return err
		})
	}
	for i := range watchers {
		seen := newWatcher(bbsv1.NewWatchClient(w.dial(mtls.RoleOperator, fmt.Sprint("watcher-", i))), from, i*200)
		l.watchers = append(l.watchers, seen)
		run(l.watching, func() error { return seen.run(ctx) })
	}
	for i := range workers {
		id := fmt.Sprint("cell-", i)
		cell := w.dial(mtls.RoleCell, id)
		one := &worker{
			guid: fmt.Sprint("lrp-", i), domain: fmt.Sprint("load-", i), cellID: id, operator: l.operator,
			cell:        cellAPI{lrps: bbsv1.NewActualLRPCellClient(cell), tasks: bbsv1.NewTaskCellClient(cell)},
			random:      rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano()))),
			permissions: map[string]int{},
		}
		l.workers = append(l.workers, one)
		run(l.writing, func() error { return one.run(w.t.Context(), l.stop) })
	}
	return l
}

func (l *load) acknowledged() int64 {
	sum := int64(0)
	for _, w := range l.workers {
		sum += w.acknowledged.Load()
	}
	return sum
}

// progress waits until the load has written some more, and then a random time, so that what comes next
// meets it anywhere.
func (l *load) progress() {
	l.w.t.Helper()
	more := l.acknowledged() + 200
	eventually(l.w.t, "the load goes on", func() error {
		if l.broken.Err() != nil {
			l.w.t.Fatal(context.Cause(l.broken))
		}
		if now := l.acknowledged(); now < more {
			return fmt.Errorf("%d writes are acknowledged, awaiting %d", now, more)
		}
		return nil
	})
	passes(l.broken, rand.N(500*time.Millisecond))
}

// finish ends the load and holds everything against everything: what each worker knows, what the BBS
// answers, what watchers saw, what the database logged, and what a BBS makes of the tables that starts
// anew.
func (l *load) finish() {
	t := l.w.t
	t.Helper()
	close(l.stop)
	require.NoError(t, l.writing.Wait(), "a worker")
	unknown, happened, permissions := 0, 0, 0
	for _, w := range l.workers {
		unknown, happened, permissions = unknown+w.unknown, happened+w.happened, permissions+len(w.permissions)
		for run, times := range w.permissions {
			require.Equal(t, 1, times, "permissions to begin %s", run)
		}
	}
	final := l.read()
	eventually(t, "all watchers have seen all", func() error {
		if l.broken.Err() != nil {
			t.Fatal(context.Cause(l.broken))
		}
		for i, seen := range l.watchers {
			if at := seen.revision(); at < final.revision {
				return fmt.Errorf("watcher %d is at %d of %d", i, at, final.revision)
			}
		}
		return nil
	})
	l.unwatch()
	require.NoError(t, l.watching.Wait(), "a watcher")
	streams := 0
	for i, seen := range l.watchers {
		streams += seen.streams
		requireSame(t, fmt.Sprintf("watcher %d and the BBS", i), contents{desired: seen.desired, rows: seen.rows, tasks: seen.tasks}, final.visible())
		require.Equal(t, l.watchers[0].history.Sum(nil), seen.history.Sum(nil), "the history of watcher %d and of watcher 0", i)
	}
	l.requireLogged(final.revision)
	t.Logf("%d writes acknowledged, %d without an answer of which %d were done, %d permissions, %d revisions, %d streams",
		l.acknowledged(), unknown, happened, permissions, final.revision-l.from, streams)

	for _, p := range l.w.bbs {
		if p.running() {
			p.kill(t)
		}
	}
	l.w.bbs[0].start(t)
	require.Zero(t, l.w.active())
	cold := l.read()
	requireSame(t, "the state before and after a start from the tables", final.contents, cold.contents)
}

// contents is all that the load made.
type contents struct {
	desired map[string]*workloadv1.SchedulingInfo
	rows    map[rowKey]*workloadv1.ActualLRP
	tasks   map[string]*workloadv1.Task
}

// visible is what watchers know of it.
func (c contents) visible() contents {
	return contents{desired: visibles(c.desired), rows: visibles(c.rows), tasks: visibles(c.tasks)}
}

func visibles[K comparable, M proto.Message](records map[K]M) map[K]M {
	all := make(map[K]M, len(records))
	for key, record := range records {
		all[key] = visible(record)
	}
	return all
}

type reading struct {
	contents
	revision uint64
}

func requireSame(t *testing.T, what string, one, other contents) {
	t.Helper()
	require.Empty(t, cmp.Diff(one.desired, other.desired, protocmp.Transform()), "desired lrps: %s", what)
	require.Empty(t, cmp.Diff(one.rows, other.rows, protocmp.Transform()), "actual lrps: %s", what)
	require.Empty(t, cmp.Diff(one.tasks, other.tasks, protocmp.Transform()), "tasks: %s", what)
}

// read reads everything when nobody writes any more.
func (l *load) read() reading {
	t, ctx := l.w.t, l.w.t.Context()
	t.Helper()
	r := reading{contents: contents{
		desired: map[string]*workloadv1.SchedulingInfo{}, rows: map[rowKey]*workloadv1.ActualLRP{}, tasks: map[string]*workloadv1.Task{},
	}}
	domains, err := l.operator.domains.ListDomains(ctx, &bbsv1.ListDomainsRequest{})
	require.NoError(t, err)
	r.revision = domains.GetRevision()
	infos, err := l.operator.desired.ListSchedulingInfos(ctx, &bbsv1.ListSchedulingInfosRequest{})
	desired, err := collect(infos, err, (*bbsv1.ListSchedulingInfosResponse).GetSchedulingInfos)
	require.NoError(t, err)
	for _, d := range desired {
		r.desired[d.GetProcessGuid()] = d
	}
	actuals, err := l.operator.actual.ListActualLRPs(ctx, &bbsv1.ListActualLRPsRequest{})
	rows, err := collect(actuals, err, (*bbsv1.ListActualLRPsResponse).GetActualLrps)
	require.NoError(t, err)
	for _, a := range rows {
		r.rows[keyOf(a)] = a
	}
	list, err := l.operator.tasks.ListTasks(ctx, &bbsv1.ListTasksRequest{})
	tasks, err := collect(list, err, (*bbsv1.ListTasksResponse).GetTasks)
	require.NoError(t, err)
	for _, task := range tasks {
		r.tasks[task.GetTaskGuid()] = task
	}
	return r
}

// requireLogged compares what watchers were told with the log: each revision there is once, and each of
// its events was told.
func (l *load) requireLogged(upTo uint64) {
	t, ctx := l.w.t, l.w.t.Context()
	t.Helper()
	conn, err := pgx.Connect(ctx, l.w.database)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(ctx)) }()
	rows, err := conn.Query(ctx, `select revision, events from batch_log where revision > $1 and revision <= $2 order by revision`, l.from, upTo)
	require.NoError(t, err)
	logged, next := map[uint64]int{}, l.from
	var revision int64
	var events int
	_, err = pgx.ForEachRow(rows, []any{&revision, &events}, func() error {
		next++
		if uint64(revision) != next {
			return fmt.Errorf("revision %d comes after %d", revision, next-1)
		}
		if events > 0 {
			logged[next] = events
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, upTo, next, "the newest revision of the log")
	for i, seen := range l.watchers {
		told := maps.Clone(seen.events)
		maps.DeleteFunc(told, func(revision uint64, _ int) bool { return revision > upTo })
		require.Empty(t, cmp.Diff(logged, told), "revisions and events of the log and of watcher %d", i)
	}
}
