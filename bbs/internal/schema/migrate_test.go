package schema

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/postgrestest"
)

// migrate runs a migrator to its end.
func migrate(t *testing.T, cfg Config) Action {
	t.Helper()
	m, err := New(cfg)
	require.NoError(t, err)
	action, err := m.Run(t.Context())
	require.NoError(t, err)
	require.False(t, m.Status().Running)
	return action
}

func requireVersions(t *testing.T, want, got Versions) {
	t.Helper()
	require.Equal(t, [2]int64{want.Current, want.Target}, [2]int64{got.Current, got.Target})
}

func realSteps(t *testing.T) []Step {
	t.Helper()
	steps, err := Steps()
	require.NoError(t, err)
	return steps
}

// testSteps are the steps of the program and, after them, some that change a table with data in several
// statements, and back.
func testSteps(t *testing.T) []Step {
	t.Helper()
	steps := realSteps(t)
	next := int64(len(steps))
	return append(steps,
		Step{
			Version: next + 1, Name: "split",
			Up: statements(`create table parts (guid text primary key, part text not null);
				truncate parts;
				insert into parts select guid, domain || '/' || guid from tasks;
				alter table tasks drop column domain`),
			Down: statements(`alter table tasks add column domain text not null default '';
				update tasks set domain = split_part(part, '/', 1) from parts where parts.guid = tasks.guid;
				alter table tasks alter column domain drop default;
				drop table parts`),
		},
		Step{Version: next + 2, Name: "additive", Additive: true, Up: statements(`alter table tasks add column if not exists note text`)},
	)
}

// insertTasks puts rows into a database of the program's version.
func insertTasks(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, n int,
) error {
	var count int
	err := db.QueryRow(ctx, `with made as (insert into tasks (guid, domain, state, cell_id, instance_guid, created_at, updated_at, first_completed_at,
			failed, failure_reason, result, rejection_count, rejection_reason, memory_mb, disk_mb, max_pids, root_fs, definition_digest,
			has_callback, revision)
		select 'task-' || i, 'domain-' || i % 7, 1, '', '', i, i, 0, false, '', '\x010361626300'::bytea, 0, '', 1, 1, 1, 'preloaded:x', '\x00', false, i
		from generate_series(1, $1) as i returning 1) select count(*) from made`, n).Scan(&count)
	if err == nil && count != n {
		err = fmt.Errorf("made %d tasks of %d", count, n)
	}
	return err
}

// describe tells all of a database: columns in order of name, constraints, indexes, functions and rows.
// What the epoch is and when the version changed does not matter.
func describe(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	var out strings.Builder
	for _, sql := range []string{
		`select table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(column_default, '')
			from information_schema.columns where table_schema = 'public' order by table_name, column_name`,
		`select conrelid::regclass || ' ' || pg_get_constraintdef(oid) from pg_constraint where connamespace = 'public'::regnamespace order by 1`,
		`select indexdef from pg_indexes where schemaname = 'public' order by 1`,
		`select pg_get_functiondef(oid) from pg_proc where pronamespace = 'public'::regnamespace order by 1`,
	} {
		for _, line := range texts(t, pool, sql) {
			fmt.Fprintln(&out, line)
		}
	}
	for _, table := range texts(t, pool, `select tablename from pg_tables where schemaname = 'public' order by 1`) {
		sql := `select (to_jsonb(r) - array['epoch', 'changed_at', 'since'])::text from ` + table + ` r order by 1`
		for _, line := range texts(t, pool, sql) {
			fmt.Fprintln(&out, table, line)
		}
	}
	return out.String()
}

func texts(t *testing.T, pool *pgxpool.Pool, sql string) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), sql)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return found
}

func TestMigrateFillsAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, nil)
	versions, err := Read(t.Context(), pool)
	require.NoError(t, err)
	requireVersions(t, Versions{}, versions)
	require.Equal(t, Serve, migrate(t, Config{Pool: pool, Steps: realSteps(t)}))
	versions, err = Read(t.Context(), pool)
	require.NoError(t, err)
	requireVersions(t, Versions{Current: Built(), Target: Built()}, versions)

	before := describe(t, pool)
	require.Equal(t, Serve, migrate(t, Config{Pool: pool, Steps: realSteps(t)}))
	require.Equal(t, before, describe(t, pool), "a second start changes nothing")
}

func TestMigrateUpDownUp(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, nil)
	steps := testSteps(t)
	base := len(steps) - 2
	require.Equal(t, Serve, migrate(t, Config{Pool: pool, Steps: steps[:base]}))
	require.NoError(t, insertTasks(t.Context(), pool, 20))
	_, err := pool.Exec(t.Context(), `insert into sealing_labels values ('abc', now())`)
	require.NoError(t, err)
	below := describe(t, pool)
	require.Equal(t, Serve, migrate(t, Config{Pool: pool, Steps: steps}))
	above := describe(t, pool)
	require.NotEqual(t, below, above)

	require.Equal(t, StayPassive, migrate(t, Config{Pool: pool, Steps: steps, RollBackTo: 1}))
	versions, err := Read(t.Context(), pool)
	require.NoError(t, err)
	requireVersions(t, Versions{Current: 1, Target: 1}, versions)
	require.Equal(t, Serve, migrate(t, Config{Pool: pool, Steps: steps}))
	require.Equal(t, above, describe(t, pool), "the same schema and the same data")

	require.Equal(t, StayPassive, migrate(t, Config{Pool: pool, Steps: steps, RollBackTo: int64(base)}))
	// What an additive step has added stays: the release before does not mind.
	_, err = pool.Exec(t.Context(), `alter table tasks drop column note`)
	require.NoError(t, err)
	require.Equal(t, below, describe(t, pool))
}

// errKilled ends a migration in a test.
var errKilled = errors.New("killed by the test")

// TestMigrateSurvivesAKillAtEachStatement ends the connection of the migration before its first statement,
// its second, and so on, up and down. Each time the next start must complete it, as if nothing had been.
func TestMigrateSurvivesAKillAtEachStatement(t *testing.T) {
	t.Parallel()
	steps := testSteps(t)
	base := steps[:len(steps)-2]
	template := func(ctx context.Context, pool *pgxpool.Pool) error {
		m, err := New(Config{Pool: pool, Steps: base})
		if err == nil {
			_, err = m.Run(ctx)
		}
		if err == nil {
			err = insertTasks(ctx, pool, 5)
		}
		return err
	}
	for name, tc := range map[string]struct {
		prepare    func(ctx context.Context, pool *pgxpool.Pool) error
		rollBackTo int64
	}{
		"from an empty database": {},
		"up with data":           {prepare: template},
		"down with data": {rollBackTo: 1, prepare: func(ctx context.Context, pool *pgxpool.Pool) error {
			if err := template(ctx, pool); err != nil {
				return err
			}
			m, err := New(Config{Pool: pool, Steps: steps})
			if err == nil {
				_, err = m.Run(ctx)
			}
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			undisturbed := postgrestest.New(t, tc.prepare)
			migrate(t, Config{Pool: undisturbed, Steps: steps, RollBackTo: tc.rollBackTo})
			want := describe(t, undisturbed)
			pool := postgrestest.New(t, nil)
			for n, killed := 1, true; killed; n++ {
				reset(t, pool, tc.prepare)
				killed = killAt(t, Config{Pool: pool, Steps: steps, RollBackTo: tc.rollBackTo}, n)
				migrate(t, Config{Pool: pool, Steps: steps, RollBackTo: tc.rollBackTo})
				require.Equal(t, want, describe(t, pool), "killed before statement %d", n)
			}
		})
	}
}

// reset empties a database and prepares it anew, which is quicker than to make one.
func reset(t *testing.T, pool *pgxpool.Pool, prepare func(context.Context, *pgxpool.Pool) error) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `drop schema public cascade; create schema public`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	if prepare != nil {
		require.NoError(t, prepare(t.Context(), pool))
	}
}

// killAt migrates and ends the connection before statement n. It reports whether there was one.
func killAt(t *testing.T, cfg Config, n int) (killed bool) {
	t.Helper()
	count := 0
	cfg.Valid = func() bool {
		if count++; count == n {
			var pids int
			err := cfg.Pool.QueryRow(t.Context(), `select count(pg_terminate_backend(pid)) from pg_stat_activity
				where datname = current_database() and state = 'idle in transaction'`).Scan(&pids)
			require.NoError(t, err)
			require.Equal(t, 1, pids)
			killed = true
		}
		return true
	}
	m, err := New(cfg)
	require.NoError(t, err)
	_, err = m.Run(t.Context())
	if killed {
		require.True(t, postgres.IsUnavailable(err), "got %v", err)
	} else {
		require.NoError(t, err)
	}
	return killed
}

// TestMigrateStopsWhenTheLockIsLost loses the lock before the first statement, the second, and so on.
func TestMigrateStopsWhenTheLockIsLost(t *testing.T) {
	t.Parallel()
	steps := testSteps(t)
	base := func(ctx context.Context, pool *pgxpool.Pool) error {
		m, err := New(Config{Pool: pool, Steps: steps[:1]})
		if err == nil {
			_, err = m.Run(ctx)
		}
		return err
	}
	pool := postgrestest.New(t, nil)
	for n := 1; ; n++ {
		reset(t, pool, base)
		asked := 0
		m, err := New(Config{Pool: pool, Steps: steps, Valid: func() bool { asked++; return asked < n }})
		require.NoError(t, err)
		if _, err = m.Run(t.Context()); err == nil {
			require.Greater(t, n, 10, "the lock was never asked for")
			return
		}
		require.ErrorIs(t, err, ErrLockLost)
		require.Equal(t, n, asked, "nothing more is tried")
		versions, err := Read(t.Context(), pool)
		require.NoError(t, err)
		require.LessOrEqual(t, versions.Current, int64(len(steps)))
		require.Equal(t, Serve, migrate(t, Config{Pool: pool, Steps: steps}), "after losing the lock before statement %d", n)
	}
}

// A statement that takes long is ended on the server too when the context of the migration ends.
func TestMigrateEndsALongStatement(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, nil)
	steps := append(realSteps(t), Step{Version: Built() + 1, Name: "long", Additive: true, Up: statements(`select pg_sleep(3600)`)})
	m, err := New(Config{Pool: pool, Steps: steps})
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { _, err := m.Run(ctx); ended <- err }()
	sleeping := func() int {
		var n int
		require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = current_database() and query like '%pg_sleep(3600)%'
			and state = 'active' and pid <> pg_backend_pid()`).Scan(&n))
		return n
	}
	require.Eventually(t, func() bool { return sleeping() == 1 }, 20*time.Second, 5*time.Millisecond)
	require.True(t, m.Status().Running)
	cancel(errKilled)
	require.ErrorIs(t, <-ended, errKilled)
	require.Eventually(t, func() bool { return sleeping() == 0 }, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, Serve, migrate(t, Config{Pool: pool, Steps: steps[:Built()]}), "a later release died on its way; what is there is intact")
}

func TestMigrateTakesTurns(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, nil)
	steps := testSteps(t)
	ran := 0
	count := func(change Change) Change {
		return func(ctx context.Context, tx pgx.Tx) error { ran++; return change(ctx, tx) } // one at a time: the database sees to it
	}
	for i := range steps {
		steps[i].Up = count(steps[i].Up)
	}
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			m, err := New(Config{Pool: pool, Steps: steps})
			if err == nil {
				_, err = m.Run(t.Context())
			}
			errs[i] = err
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Equal(t, len(steps), ran, "each step ran once")
}

// TestMigrateRefuses writes nothing to tables that are not the program's to touch.
func TestMigrateRefuses(t *testing.T) {
	t.Parallel()
	steps := testSteps(t)
	last := int64(len(steps))
	later := Versions{Current: last + 1, Target: last + 1}
	for name, tc := range map[string]struct {
		versions Versions
		rollback int64
		want     error
		text     string
	}{
		"tables of a later release":               {versions: later, want: ErrNewer, text: fmt.Sprint("rollback_to_version: ", last)},
		"tables of a later release, rolling back": {versions: later, rollback: 1, want: ErrNewer},
		"a rollback that somebody has begun":      {versions: Versions{Current: last, Target: 2}, want: ErrRollingBack, text: "rollback_to_version: 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := postgrestest.New(t, nil)
			migrate(t, Config{Pool: pool, Steps: steps})
			_, err := pool.Exec(t.Context(), `update bbs_schema set current_version = $1, target_version = $2`, tc.versions.Current, tc.versions.Target)
			require.NoError(t, err)
			var epoch int64
			require.NoError(t, pool.QueryRow(t.Context(), `select epoch from bbs_state`).Scan(&epoch))
			before := describe(t, pool)
			m, err := New(Config{Pool: pool, Steps: steps, RollBackTo: tc.rollback})
			require.NoError(t, err)
			_, err = m.Run(t.Context())
			require.ErrorIs(t, err, tc.want)
			require.ErrorContains(t, err, tc.text)
			require.Equal(t, before, describe(t, pool))
			var after int64
			require.NoError(t, pool.QueryRow(t.Context(), `select epoch from bbs_state`).Scan(&after))
			require.Equal(t, epoch, after)
		})
	}
}

func TestNewRefusesARollbackToNowhere(t *testing.T) {
	t.Parallel()
	for _, version := range []int64{-1, Built() + 1} {
		_, err := New(Config{Steps: realSteps(t), RollBackTo: version})
		require.ErrorContains(t, err, "this program knows 1 to")
	}
}

// TestMigrateFencesTheFormerMaster makes sure that a BBS that was active before cannot write from the
// first change on.
func TestMigrateFencesTheFormerMaster(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, nil)
	steps := testSteps(t)
	migrate(t, Config{Pool: pool, Steps: steps[:Built()]})
	_, err := pool.Exec(t.Context(), `update bbs_state set epoch = 7, holder = gen_random_uuid()`)
	require.NoError(t, err)
	reached := false
	steps[Built()].Up = func(ctx context.Context, _ pgx.Tx) error {
		reached = true
		_, err := pool.Exec(ctx, `select bbs_advance(7, 0)`)
		require.ErrorContains(t, err, "fenced out")
		tag, err := pool.Exec(ctx, `update bbs_state set epoch = epoch + 1 where holder is not null`)
		require.NoError(t, err)
		require.Zero(t, tag.RowsAffected(), "nor may it raise the epoch again")
		return nil
	}
	migrate(t, Config{Pool: pool, Steps: steps[:Built()+1]})
	require.True(t, reached)
}

// TestMigrateAdoptsTheFirstRelease takes over tables whose version the runner of the first release kept,
// and leaves them so that that release starts on them again.
func TestMigrateAdoptsTheFirstRelease(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, nil)
	first, err := fs.ReadFile(files, "migrations/001_initial.sql")
	require.NoError(t, err)
	former := fstest.MapFS{"001_initial.sql": {Data: first}}
	release1 := func() error { return postgres.Migrate(t.Context(), pool, former, "bbs_schema_version") }
	require.NoError(t, release1())
	require.NoError(t, insertTasks(t.Context(), pool, 3))
	_, err = pool.Exec(t.Context(), `insert into task_definitions values ('damaged', '\x'), ('damaged too', '\x017f00'), ('other', '\x010162ff')`)
	require.NoError(t, err)
	before := describe(t, pool)

	require.Equal(t, Serve, migrate(t, Config{Pool: pool, Steps: realSteps(t)}))
	require.Equal(t, []string{"abc", "b"}, texts(t, pool, `select convert_from(label, 'UTF8') from sealing_labels order by 1`), "labels of what is stored")
	require.Error(t, release1(), "the first release does not start on the tables of the second")

	require.Equal(t, StayPassive, migrate(t, Config{Pool: pool, Steps: realSteps(t), RollBackTo: 1}))
	require.NoError(t, release1())
	_, err = pool.Exec(t.Context(), `drop table bbs_schema`)
	require.NoError(t, err)
	require.Equal(t, before, describe(t, pool))
}

// TestMigrateManyRecords rewrites 100,000 records in a step that is made for it: keyset pages, one
// statement for each. It says how long that took.
func TestMigrateManyRecords(t *testing.T) {
	t.Parallel()
	const records, page = 100_000, 10_000
	pool := postgrestest.New(t, nil)
	migrate(t, Config{Pool: pool, Steps: realSteps(t)})
	require.NoError(t, insertTasks(t.Context(), pool, records))
	rewrite := func(ctx context.Context, tx pgx.Tx) error {
		for after, more := "", true; more; {
			rows, err := tx.Query(ctx, `select guid, domain from tasks where guid > $1 order by guid limit $2`, after, page)
			if err != nil {
				return err
			}
			var guids, domains []string
			var guid, domain string
			if _, err = pgx.ForEachRow(rows, []any{&guid, &domain}, func() error {
				guids, domains = append(guids, guid), append(domains, strings.ToUpper(domain))
				return nil
			}); err != nil {
				return err
			}
			if more = len(guids) == page; len(guids) > 0 {
				after = guids[len(guids)-1]
			}
			_, err = tx.Exec(ctx, `update tasks set domain = d from unnest($1::text[], $2::text[]) as u (g, d) where guid = g`, guids, domains)
			if err != nil {
				return err
			}
		}
		return nil
	}
	steps := append(realSteps(t), Step{Version: Built() + 1, Name: "shout", Up: rewrite, Additive: true})
	m, err := New(Config{Pool: pool, Steps: steps})
	require.NoError(t, err)
	_, err = m.Run(t.Context())
	require.NoError(t, err)
	var done int
	require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from tasks where domain ~ '^DOMAIN-[0-6]$'`).Scan(&done))
	require.Equal(t, records, done)
	require.Positive(t, m.Status().Took)
	t.Logf("%d records in %v", records, m.Status().Took)
}
