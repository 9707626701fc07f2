package store

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/schema"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/postgrestest"
)

func TestRefusalsHaveTheNamesThatClientsKnow(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		sqlstate string
		code     codes.Code
		reason   string
	}{
		"a key that is taken":                 {sqlstate: "23505", code: codes.AlreadyExists, reason: "ResourceExists"},
		"a value that is too long":            {sqlstate: "22001", code: codes.InvalidArgument, reason: "InvalidRequest"},
		"a text that is not one":              {sqlstate: "22021", code: codes.InvalidArgument, reason: "InvalidRequest"},
		"a condition that a column has":       {sqlstate: "23514", code: codes.Internal, reason: "UnknownError"},
		"a limit of the server":               {sqlstate: "54000", code: codes.Internal, reason: "UnknownError"},
		"a table that is not there":           {sqlstate: "42P01", code: codes.Internal, reason: "Unrecoverable"},
		"a lock that came too late":           {sqlstate: "55P03", code: codes.Unavailable, reason: "DatabaseUnavailable"},
		"a deadlock":                          {sqlstate: "40P01", code: codes.Unavailable, reason: "DatabaseUnavailable"},
		"a transaction that came in too late": {sqlstate: "40001", code: codes.Unavailable, reason: "DatabaseUnavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := postgrestest.New(t, Migrate)
			s, _ := running(t, testConfig(t, pool))
			// The database itself refuses, as it would in earnest.
			_, err := pool.Exec(t.Context(), `create function refuse() returns trigger language plpgsql as $$
				begin raise exception 'refused by the test' using errcode = '`+tc.sqlstate+`'; end $$;
				create trigger refuse before insert on domains execute function refuse()`)
			require.NoError(t, err)
			_, err = upsertDomain(t.Context(), s, "a")
			require.Equal(t, tc.code, fault.Code(err), "%v", err)
			require.Equal(t, tc.reason, fault.Reason(err))
			var refusal *pgconn.PgError
			require.ErrorAs(t, err, &refusal)
			require.Nil(t, s.Committed().Domain("a"))
		})
	}
}

func TestMissingTableEndsTheWriter(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	s, ended := running(t, testConfig(t, pool))
	_, err := pool.Exec(t.Context(), `drop table domains`)
	require.NoError(t, err)
	_, err = upsertDomain(t.Context(), s, "a")
	require.ErrorIs(t, err, schema.ErrMissing)
	require.ErrorIs(t, <-ended, schema.ErrMissing)
	require.False(t, s.Active())
}

func TestRefusalsAreCounted(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	cfg := testConfig(t, pool)
	cfg.Metrics = prometheus.NewRegistry()
	s, ended := running(t, cfg)
	require.NoError(t, desire(t.Context(), s, desired("app", 1)))
	require.ErrorIs(t, desire(t.Context(), s, desired("app", 1)), lrp.ErrExists)
	_, err := s.Apply(t.Context(), func(*Tx) error { return errors.New("no name") })
	require.Error(t, err)
	require.InDelta(t, 1, testutil.ToFloat64(s.metrics.refusals.WithLabelValues("ResourceExists")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(s.metrics.refusals.WithLabelValues("UnknownError")), 0)

	_, err = pool.Exec(t.Context(), `update bbs_state set epoch = epoch + 1, holder = null`)
	require.NoError(t, err)
	_, err = upsertDomain(t.Context(), s, "a")
	require.ErrorIs(t, err, ErrFenced)
	require.ErrorIs(t, <-ended, ErrFenced)
	require.InDelta(t, 1, testutil.ToFloat64(s.metrics.fenced), 0)
}
