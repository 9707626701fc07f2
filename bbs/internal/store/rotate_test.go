package store

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/seal"
	"diego.internal/servicekit/postgrestest"
)

// ring returns a keyring of labels, of which the first is active. A label has the same key everywhere.
func ring(t *testing.T, labels ...string) *seal.Keyring {
	t.Helper()
	var keys []seal.Key
	for _, label := range labels {
		key := seal.Key{Label: label}
		copy(key.Secret[:], label+" is a secret")
		keys = append(keys, key)
	}
	r, err := seal.New(keys, labels[0])
	require.NoError(t, err)
	return r
}

func ringConfig(t *testing.T, pool *pgxpool.Pool, labels ...string) Config {
	t.Helper()
	cfg := testConfig(t, pool)
	cfg.Keys = ring(t, labels...)
	cfg.Rotation = Rotation{Batch: 3, Pause: time.Millisecond}
	return cfg
}

// filledUnderOld returns a database that a BBS with the key "old" has filled.
func filledUnderOld(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := postgrestest.New(t, Migrate)
	s, _ := running(t, ringConfig(t, pool, "old"))
	fill(t, s)
	for i := range 10 {
		require.NoError(t, desire(t.Context(), s, desired(fmt.Sprint("more-", i), 1)))
		require.NoError(t, desireTask(t.Context(), s, fmt.Sprint("more-", i)))
	}
	return pool
}

// valuesUnder counts the values under a label in every column of bytes of the whole schema, so also in
// columns that nobody has told the rotation of.
func valuesUnder(t *testing.T, pool *pgxpool.Pool, label string) int {
	t.Helper()
	rows, err := pool.Query(t.Context(), `select table_name, column_name from information_schema.columns
		where table_schema = 'public' and data_type = 'bytea' and table_name <> 'sealing_labels'`)
	require.NoError(t, err)
	type column struct{ Table, Name string }
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(columns), len(sealedColumns()))
	total := 0
	prefix := append([]byte{1, byte(len(label))}, label...)
	for _, c := range columns {
		var n int
		err := pool.QueryRow(t.Context(), fmt.Sprintf(`select count(*) from %s where substring(%s from 1 for $1) = $2`, c.Table, c.Name), len(prefix), prefix).Scan(&n)
		require.NoError(t, err)
		total += n
	}
	return total
}

func labelsOf(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	labels, err := readLabels(t.Context(), pool)
	require.NoError(t, err)
	return labels
}

func TestRotateCoversEverything(t *testing.T) {
	t.Parallel()
	pool := filledUnderOld(t)
	require.Positive(t, valuesUnder(t, pool, "old"))
	cfg, registry := ringConfig(t, pool, "new", "old"), prometheus.NewRegistry()
	cfg.Metrics = registry
	s, err := New(cfg)
	require.NoError(t, err)
	require.NoError(t, s.TakeOver(t.Context(), always))
	require.Equal(t, []string{"new", "old"}, labelsOf(t, pool))
	require.False(t, s.KeyRotation().Known)
	requireMetric := func(want string) {
		t.Helper()
		require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(want), "bbs_values_under_old_keys"))
	}
	requireMetric("") // nobody has counted yet
	before := s.Committed()
	require.NoError(t, s.Rotate(t.Context()))

	require.Zero(t, valuesUnder(t, pool, "old"))
	require.Equal(t, []string{"new"}, labelsOf(t, pool))
	require.Equal(t, []string{"old"}, s.KeyRotation().Removable)
	require.Same(t, before, s.Committed(), "memory does not notice")
	requireMetric(`
# HELP bbs_values_under_old_keys Stored values that are sealed under another key than the active one, by its label.
# TYPE bbs_values_under_old_keys gauge
bbs_values_under_old_keys{label="old"} 0
`)

	// Without the old key everything is there: memory, definitions, and the log for those who follow it.
	after, err := New(ringConfig(t, pool, "new"))
	require.NoError(t, err)
	require.NoError(t, after.TakeOver(t.Context(), always))
	requireSameContent(t, before, after.Committed())
	for i := range 10 {
		_, err := after.LRPDefinition(t.Context(), fmt.Sprint("more-", i), "def-1")
		require.NoError(t, err)
		_, err = after.TaskDefinition(t.Context(), fmt.Sprint("more-", i))
		require.NoError(t, err)
	}
	logged, err := after.readLog(t.Context(), 0, 1<<30)
	require.NoError(t, err)
	require.Len(t, logged, int(after.Committed().Revision()))
}

// TestRotateUnderLoad changes all that is sealed while values are sealed anew: no change may be lost.
func TestRotateUnderLoad(t *testing.T) {
	t.Parallel()
	pool := filledUnderOld(t)
	s, _ := running(t, ringConfig(t, pool, "new", "old"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var writes atomic.Int64
	for w := range 3 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				guid := fmt.Sprint("more-", (i*3+w)%10)
				annotation := fmt.Sprint("note ", i)
				_, err := s.Apply(t.Context(), func(tx *Tx) error {
					before := tx.Desired(guid)
					tx.Know([]byte(secretOfTests))
					change, err := lrp.ApplyUpdate(before, lrp.Update{Annotation: &annotation}, lrp.Group(tx.InstancesOf(guid)), stamp())
					tx.PutChange(before, change)
					return err
				})
				require.NoError(t, err)
				guid = fmt.Sprintf("new-%d-%d", w, i)
				require.NoError(t, desire(t.Context(), s, desired(guid, 1)))
				require.NoError(t, desireTask(t.Context(), s, guid))
				writes.Add(3)
			}
		})
	}
	require.NoError(t, s.Rotate(t.Context()))
	cancel()
	wg.Wait()
	require.Positive(t, writes.Load())
	require.Zero(t, valuesUnder(t, pool, "old"))
	loaded, err := New(ringConfig(t, pool, "new"))
	require.NoError(t, err)
	require.NoError(t, loaded.Load(t.Context()))
	requireSameContent(t, s.Committed(), loaded.Committed())
}

// TestRotateGoesOnAfterAnEnd breaks the rotation off after each batch, as a dead process would, and lets the
// next BBS go on.
func TestRotateGoesOnAfterAnEnd(t *testing.T) {
	t.Parallel()
	pool := filledUnderOld(t)
	left := valuesUnder(t, pool, "old")
	for rounds := 0; ; rounds++ {
		s, err := New(ringConfig(t, pool, "new", "old"))
		require.NoError(t, err)
		require.NoError(t, s.TakeOver(t.Context(), always))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Rotate(ctx) }()
		require.Eventually(t, func() bool {
			return valuesUnder(t, pool, "old") < left || len(labelsOf(t, pool)) == 1
		}, 20*time.Second, time.Millisecond)
		cancel()
		require.NoError(t, <-ended)
		if len(labelsOf(t, pool)) == 1 {
			require.Zero(t, valuesUnder(t, pool, "old"))
			require.Positive(t, rounds, "it was broken off at least once")
			return
		}
		left = valuesUnder(t, pool, "old")
	}
}

// pageOf reads the first old values of a column.
func pageOf(t *testing.T, s *Store, table string) (sealedColumn, []oldValue) {
	t.Helper()
	for _, c := range sealedColumns() {
		if c.table == table {
			page, err := s.oldValues(t.Context(), c, c.first, "")
			require.NoError(t, err)
			require.NotEmpty(t, page)
			return c, page
		}
	}
	t.Fatalf("no column of %s", table)
	return sealedColumn{}, nil
}

func TestRotateReplacesOnlyWhatItRead(t *testing.T) {
	t.Parallel()
	pool := filledUnderOld(t)
	s, _ := running(t, ringConfig(t, pool, "new", "old"))
	c, page := pageOf(t, s, "desired_lrps")
	annotation := "changed meanwhile"
	_, err := s.Apply(t.Context(), func(tx *Tx) error {
		before := tx.Desired(page[0].a)
		tx.Know([]byte(secretOfTests))
		change, err := lrp.ApplyUpdate(before, lrp.Update{Annotation: &annotation}, lrp.Group(tx.InstancesOf(page[0].a)), stamp())
		tx.PutChange(before, change)
		return err
	})
	require.NoError(t, err)
	s.rotation.set(map[string]int{"old": len(page)}, map[string]int{})
	n := len(page)
	moved, conflicts, err := s.sealAnew(t.Context(), c, page)
	require.NoError(t, err)
	require.Equal(t, n-1, moved)
	require.Equal(t, 1, conflicts)
	loaded, err := New(ringConfig(t, pool, "new", "old"))
	require.NoError(t, err)
	require.NoError(t, loaded.Load(t.Context()))
	require.Equal(t, annotation, loaded.Committed().Desired(page[0].a).Annotation)
}

func TestRotateOfAFormerMasterWritesNothing(t *testing.T) {
	t.Parallel()
	pool := filledUnderOld(t)
	former, err := New(ringConfig(t, pool, "new", "old"))
	require.NoError(t, err)
	require.NoError(t, former.TakeOver(t.Context(), always))
	c, page := pageOf(t, former, "lrp_definitions")
	former.rotation.set(map[string]int{"old": len(page)}, map[string]int{})

	// The operator went back to the old key, and the new master has nothing to seal anew.
	current, err := New(ringConfig(t, pool, "old", "new"))
	require.NoError(t, err)
	require.NoError(t, current.TakeOver(t.Context(), always))
	require.NoError(t, current.Rotate(t.Context()))
	require.Equal(t, []string{"old"}, labelsOf(t, pool))

	_, _, err = former.sealAnew(t.Context(), c, page)
	require.ErrorIs(t, err, ErrFenced)
	require.ErrorIs(t, former.strikeOut(t.Context(), []string{"old"}), ErrFenced)
	require.ErrorIs(t, former.Rotate(t.Context()), ErrFenced)
	require.Zero(t, valuesUnder(t, pool, "new"))
	require.Equal(t, []string{"old"}, labelsOf(t, pool))
}

func TestRotateLeavesAloneWhatItCannotOpen(t *testing.T) {
	t.Parallel()
	pool := filledUnderOld(t)
	for _, c := range []string{
		"desired_lrps set client_data = set_byte(client_data, 60, get_byte(client_data, 60) # 1) where process_guid = 'more-3'",
		"lrp_definitions set definition = set_byte(definition, 30, get_byte(definition, 30) # 1) where process_guid = 'more-4'",
		"task_definitions set definition = '' where guid = 'more-5'",
	} {
		tag, err := pool.Exec(t.Context(), `update `+c)
		require.NoError(t, err)
		require.EqualValues(t, 1, tag.RowsAffected())
	}
	damaged := func() [][]byte {
		rows, err := pool.Query(t.Context(), `select client_data from desired_lrps where process_guid = 'more-3' union all
			select definition from lrp_definitions where process_guid = 'more-4' union all select definition from task_definitions where guid = 'more-5'`)
		require.NoError(t, err)
		values, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		require.NoError(t, err)
		return values
	}
	before := damaged()
	s, err := New(ringConfig(t, pool, "new", "old"))
	require.NoError(t, err)
	require.NoError(t, s.TakeOver(t.Context(), always))
	require.Equal(t, 1, s.QuarantinedCount())
	require.NoError(t, s.Rotate(t.Context()))
	require.Equal(t, map[string]int{"old": 2, "": 1}, s.KeyRotation().Unreadable)
	require.Equal(t, []string{"old"}, s.KeyRotation().Removable)
	require.True(t, bytes.Equal(bytes.Join(before, nil), bytes.Join(damaged(), nil)), "damaged values stay as they are")

	// The old key may go: what nobody could read before stays in quarantine and stops nobody.
	after, err := New(ringConfig(t, pool, "new"))
	require.NoError(t, err)
	require.NoError(t, after.TakeOver(t.Context(), always))
	require.True(t, after.DesiredQuarantined("more-3"))
	requireSameContent(t, s.Committed(), after.Committed())
}

func TestTakeOverWithoutAKeyThatIsNeeded(t *testing.T) {
	t.Parallel()
	pool := filledUnderOld(t)
	// Only the log and the definitions are still under the old key, which a load does not open.
	_, err := pool.Exec(t.Context(), `update desired_lrps set client_data = null; update tasks set result = null`)
	require.NoError(t, err)
	var before, after int64
	require.NoError(t, pool.QueryRow(t.Context(), `select epoch from bbs_state`).Scan(&before))
	s, err := New(ringConfig(t, pool, "new"))
	require.NoError(t, err)
	err = s.TakeOver(t.Context(), always)
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	require.ErrorContains(t, err, `bbs_values_under_old_keys{label="old"}`)
	require.NoError(t, pool.QueryRow(t.Context(), `select epoch from bbs_state`).Scan(&after))
	require.Equal(t, before, after, "nothing is written")
	require.False(t, s.Active())
}

func TestStandbyWithoutTheNewKeyWaits(t *testing.T) {
	t.Parallel()
	pool := filledUnderOld(t)
	standby, err := New(ringConfig(t, pool, "old"))
	require.NoError(t, err)
	require.NoError(t, standby.followOnce(t.Context()))
	before := standby.Committed()
	s, _ := running(t, ringConfig(t, pool, "new", "old"))
	_, err = upsertDomain(t.Context(), s, "sealed with the new key")
	require.NoError(t, err)
	for range 3 {
		require.ErrorIs(t, standby.followOnce(t.Context()), seal.ErrUnknownKey)
	}
	require.Contains(t, standby.StandbyWaits(), `label "new"`)
	require.Same(t, before, standby.Committed(), "it does not load everything again and again")

	// A standby that has both keys follows whatever they are sealed under, also through the rotation.
	both, err := New(ringConfig(t, pool, "old", "new"))
	require.NoError(t, err)
	require.NoError(t, both.followOnce(t.Context()))
	require.NoError(t, s.Rotate(t.Context()))
	_, err = upsertDomain(t.Context(), s, "after")
	require.NoError(t, err)
	require.NoError(t, both.followOnce(t.Context()))
	require.Empty(t, both.StandbyWaits())
	requireSameContent(t, s.Committed(), both.Committed())
}
