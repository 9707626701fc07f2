package store

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/postgrestest"
)

// A promoted standby of Postgres may lack the newest batch that the primary showed, and gives its
// revision to another.
func TestStandbyNoticesAnotherHistory(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]int{
		"the revision is gone":                           0,
		"the revision is that of another batch":          1,
		"the revision is that of one that others follow": 3,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := postgrestest.New(t, Migrate)
			first, _ := running(t, testConfig(t, pool))
			_, err := upsertDomain(t.Context(), first, "kept")
			require.NoError(t, err)
			lost, err := upsertDomain(t.Context(), first, "lost")
			require.NoError(t, err)
			following, takingOver := standbyOf(t, first), standbyOf(t, first)

			_, err = pool.Exec(t.Context(), fmt.Sprintf(`delete from batch_log where revision = %[1]d; delete from domains where name = 'lost';
				update bbs_state set revision = %[1]d - 1`, lost))
			require.NoError(t, err)
			second, _ := running(t, testConfig(t, pool))
			for n := range after {
				_, err := upsertDomain(t.Context(), second, fmt.Sprint("new-", n))
				require.NoError(t, err)
			}

			require.NoError(t, following.followOnce(t.Context()))
			requireSameContent(t, second.Committed(), following.Committed())
			warm, err := takingOver.catchUp(t.Context(), second.Committed().Revision())
			require.NoError(t, err)
			require.False(t, warm, "whether the log sufficed")
			requireSameContent(t, second.Committed(), takingOver.Committed())
		})
	}
}

// standbyOf has followed a BBS to its newest revision.
func standbyOf(t *testing.T, s *Store) *Store {
	t.Helper()
	cfg := s.cfg
	cfg.Metrics = nil
	standby, err := New(cfg)
	require.NoError(t, err)
	require.NoError(t, standby.followOnce(t.Context()))
	warm, err := standby.catchUp(t.Context(), s.Committed().Revision())
	require.NoError(t, err)
	require.True(t, warm)
	return standby
}
