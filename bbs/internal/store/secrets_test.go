package store

import (
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/wire"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/postgrestest"
)

// TestSecretRoutesAreNotInMemory looks at each way by which a record comes into memory.
func TestSecretRoutesAreNotInMemory(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	standby, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, standby.Load(t.Context()))
	s, _ := running(t, testConfig(t, pool))
	require.NoError(t, desire(t.Context(), s, desired("app", 1)))
	require.NoError(t, standby.followOnce(t.Context()))
	loaded, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, loaded.Load(t.Context()))
	for name, holder := range map[string]*Store{"the active one": s, "one that follows the log": standby, "one that loads the tables": loaded} {
		d := holder.Committed().Desired("app")
		require.True(t, lrp.IsConcealed(secretRoute(d)), name)
		require.NotContains(t, string(d.Encoded), "private_key", name)
		value, err := holder.SecretRoute(t.Context(), d)
		require.NoError(t, err, name)
		require.JSONEq(t, secretOfTests, string(value), name)
	}
	require.NoError(t, s.compareOnce(t.Context()))
	require.Zero(t, lastOf(t, s).Differences)
}

// TestSecretRouteThatHasChanged is not mixed up with that of an older record.
func TestSecretRouteThatHasChanged(t *testing.T) {
	t.Parallel()
	s, _ := running(t, testConfig(t, postgrestest.New(t, Migrate)))
	require.NoError(t, desire(t.Context(), s, desired("app", 1)))
	before := s.Committed().Desired("app")
	put := func(routes []lrp.Route, know string) error {
		_, err := s.Apply(t.Context(), func(tx *Tx) error {
			if know != "" {
				tx.Know([]byte(know))
			}
			change, err := lrp.ApplyUpdate(tx.Desired("app"), lrp.Update{Routes: &routes}, nil, stamp())
			if err == nil {
				tx.PutChange(tx.Desired("app"), change)
			}
			return err
		})
		return err
	}
	const other = `{"private_key":"other"}`
	require.NoError(t, put([]lrp.Route{{Router: wire.SecretRouter, Value: []byte(other)}}, ""))
	_, err := s.SecretRoute(t.Context(), before)
	require.Equal(t, "SecretMoved", fault.Reason(err))
	value, err := s.SecretRoute(t.Context(), s.Committed().Desired("app"))
	require.NoError(t, err)
	require.JSONEq(t, other, string(value))

	// One that is concealed and that nobody knows spoils its own request, and no other of the batch.
	gone := []lrp.Route{{Router: wire.SecretRouter, Value: lrp.Conceal([]byte(secretOfTests))}}
	require.ErrorContains(t, put(gone, ""), errConcealed.Error())
	require.NoError(t, put(gone, secretOfTests))
	value, err = s.SecretRoute(t.Context(), s.Committed().Desired("app"))
	require.NoError(t, err)
	require.JSONEq(t, secretOfTests, string(value))

	require.NoError(t, put(nil, ""))
	value, err = s.SecretRoute(t.Context(), s.Committed().Desired("app"))
	require.NoError(t, err)
	require.Nil(t, value)
}

// TestRequestThatIsUndoneNeedsNoSecret has a refused update in the batch of an accepted one of another LRP: the record that stays as
// it was is not written, because its secret is not known.
func TestRequestThatIsUndoneNeedsNoSecret(t *testing.T) {
	t.Parallel()
	s, _ := running(t, testConfig(t, postgrestest.New(t, Migrate)))
	require.NoError(t, desire(t.Context(), s, desired("app", 1)))
	_, err := s.Apply(t.Context(), func(tx *Tx) error {
		refused, before := &Tx{records: tx.records, batch: tx.batch}, tx.batch.mark()
		routes := []lrp.Route{{Router: wire.SecretRouter, Value: []byte(`{}`)}}
		change, err := lrp.ApplyUpdate(tx.Desired("app"), lrp.Update{Routes: &routes}, nil, stamp())
		require.NoError(t, err)
		refused.PutChange(tx.Desired("app"), change)
		refused.rollback(before)

		d := desired("other", 1)
		change, err = lrp.Desire(nil, d, nil, stamp())
		tx.PutChange(nil, change)
		return err
	})
	require.NoError(t, err)
	require.NotNil(t, s.Committed().Desired("other"))
	value, err := s.SecretRoute(t.Context(), s.Committed().Desired("app"))
	require.NoError(t, err)
	require.JSONEq(t, secretOfTests, string(value))
}
