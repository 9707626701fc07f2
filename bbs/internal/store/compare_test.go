package store

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/servicekit/postgrestest"
)

func compareConfig(t *testing.T, pool *pgxpool.Pool) Config {
	t.Helper()
	cfg := testConfig(t, pool)
	cfg.Comparison = Comparison{Interval: 5 * time.Millisecond, Chunk: 2, Pause: time.Millisecond}
	return cfg
}

// lastOf returns the result of the last comparison.
func lastOf(t *testing.T, s *Store) comparisonResult {
	t.Helper()
	result, _ := s.LastComparison()
	last, ok := result.(comparisonResult)
	require.True(t, ok, "nothing was compared")
	return last
}

// injections change a table behind the back of the BBS. The differences are in order of tables and keys.
var injections = map[string]struct { //nolint:gochecknoglobals // a table of cases for two tests
	sql  string
	want []string
}{
	"a number of instances":     {`update desired_lrps set instances = 99 where process_guid = 'app'`, []string{"desired_lrps app: differs"}},
	"a healthy definition":      {`delete from healthy_definitions`, []string{"desired_lrps app: differs"}},
	"an instance that is gone":  {`delete from actual_lrps where instance_index = 1`, []string{"actual_lrps app/1/ORDINARY: missing in the table"}},
	"the state of an instance":  {`update actual_lrps set stop_requested = true where instance_index = 2`, []string{"actual_lrps app/2/ORDINARY: differs"}},
	"a domain out of nowhere":   {`insert into domains (name, fresh_until, revision) values ('a', 0, 1), ('zzz', 0, 1)`, []string{"domains a: missing in memory", "domains zzz: missing in memory"}},
	"all tasks":                 {`delete from tasks`, []string{"tasks task-1: missing in the table"}},
	"a result that is damaged":  {`update tasks set result = set_byte(result, 40, get_byte(result, 40) # 1)`, []string{"tasks task-1: unreadable"}},
	"a revision of a task":      {`update tasks set revision = revision + 1`, []string{"tasks task-1: differs"}},
	"an expiry in a domain":     {`update domains set fresh_until = fresh_until - 1 where name = 'short'`, []string{"domains short: differs"}},
	"nothing that matters here": {`update lrp_definitions set created_at = created_at + 1`, nil},
}

func TestCompareFindsWhatDiffers(t *testing.T) {
	t.Parallel()
	for name, tc := range injections {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := postgrestest.New(t, Migrate)
			s, _ := running(t, compareConfig(t, pool))
			fill(t, s)
			require.NoError(t, s.compareOnce(t.Context()))
			last := lastOf(t, s)
			require.Zero(t, last.Differences, "%v", last.First)
			require.Equal(t, 7, last.Rows, "one LRP, three instances, one task, two domains")
			before := s.Committed()

			_, err := pool.Exec(t.Context(), tc.sql)
			require.NoError(t, err)
			require.NoError(t, s.compareOnce(t.Context()))
			if diff := cmp.Diff(tc.want, lastOf(t, s).First); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
			require.Same(t, before, s.Committed(), "the active one changes nothing by itself")
			require.False(t, s.reload.Load())
		})
	}
}

// TestCompareUnderLoad compares again and again while everything changes: each chunk is of one revision, so
// nothing may seem to differ.
func TestCompareUnderLoad(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	s, _ := running(t, compareConfig(t, pool))
	fill(t, s)
	standby, err := New(compareConfig(t, pool))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = standby.Follow(ctx) })
	for _, guid := range []string{"one", "two", "three"} {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := desire(t.Context(), s, desired(guid, 2))
				require.NoError(t, err)
				key := lrp.Key{ProcessGUID: guid, Index: 1}
				_, err = claim(t.Context(), s, key, lrp.InstanceKey{InstanceGUID: "i", CellID: "cell"})
				require.NoError(t, err)
				_, err = s.Apply(t.Context(), func(tx *Tx) error {
					before := tx.Desired(guid)
					change, err := lrp.RemoveDesired(before, nil, lrp.Group(tx.InstancesOf(guid)))
					tx.PutChange(before, change)
					return err
				})
				require.NoError(t, err)
				_, err = s.Apply(t.Context(), func(tx *Tx) error {
					before := tx.Instance(key)
					tx.PutInstance(before, lrp.Outcome{})
					return nil
				})
				require.NoError(t, err)
			}
		})
	}
	for _, of := range []*Store{s, standby} {
		for compared := 0; compared < 10; {
			err := of.compareOnce(t.Context())
			if err != nil {
				require.ErrorIs(t, err, errNotReached, "the standby loads or has not loaded")
				continue
			}
			if result, differences := of.LastComparison(); result != nil {
				require.Zero(t, differences, "%v", result)
				compared++
			}
		}
	}
	cancel()
	wg.Wait()
}

func TestStandbyThatDiffersReloads(t *testing.T) {
	t.Parallel()
	for name, tc := range injections {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := postgrestest.New(t, Migrate)
			active, _ := running(t, testConfig(t, pool))
			fill(t, active)
			standby, err := New(compareConfig(t, pool))
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { _ = standby.Follow(ctx) })
			wg.Go(func() { _ = standby.Compare(ctx) })
			defer wg.Wait()
			defer cancel()
			require.Eventually(t, func() bool { result, _ := standby.LastComparison(); return result != nil }, 20*time.Second, time.Millisecond)
			require.Zero(t, lastOf(t, standby).Differences)
			_, err = pool.Exec(t.Context(), tc.sql)
			require.NoError(t, err)
			if tc.want == nil {
				return
			}
			require.Eventually(t, func() bool {
				return testutil.ToFloat64(standby.metrics.reloads) == 1 && !standby.reload.Load() && lastOf(t, standby).Differences == 0
			}, 20*time.Second, 5*time.Millisecond)
			loaded, err := New(testConfig(t, pool))
			require.NoError(t, err)
			require.NoError(t, loaded.Load(t.Context()))
			requireSameContent(t, loaded.Committed(), standby.Committed())
			require.Equal(t, loaded.QuarantinedCount(), standby.QuarantinedCount())
			require.Positive(t, testutil.CollectAndCount(standby.metrics.differences))
		})
	}
}

func TestComparisonTakesATwentiethOfTheTime(t *testing.T) {
	t.Parallel()
	gentle := Comparison{}.withDefaults()
	require.Equal(t, 200*time.Millisecond, gentle.pauseAfter(time.Millisecond))
	require.Equal(t, 19*time.Second, gentle.pauseAfter(time.Second))
}
