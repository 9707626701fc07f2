package store

import (
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/servicekit/postgrestest"
)

// TestAnLRPDesiredAnewInheritsNothing removes an LRP whose definition was healthy and desires another of the same guid in one
// batch: the new one has no healthy definition, in memory, in the tables and on a standby.
func TestAnLRPDesiredAnewInheritsNothing(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	s, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, s.TakeOver(t.Context(), always))
	w := &writer{Store: s}
	defer w.release()
	standby, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, standby.Load(t.Context()))
	batch := func(operations ...operation) {
		requests := make([]*request, len(operations))
		for i := range operations {
			requests[i] = &request{ctx: t.Context(), apply: operations[i], done: make(chan result, 1)}
		}
		_, err := w.commitSome(t.Context(), requests)
		require.NoError(t, err)
		for _, r := range requests {
			require.NoError(t, (<-r.done).err)
		}
	}
	desire := func(tx *Tx) error {
		change, err := lrp.Desire(tx.Desired("a"), desired("a", 0), lrp.Group(tx.InstancesOf("a")), stamp())
		if err == nil {
			tx.PutChange(nil, change)
			tx.PutDefinition(SealedDefinition{ProcessGUID: "a", ID: "def-1", Sealed: []byte{1}})
		}
		return err
	}
	remove := func(tx *Tx) error {
		before := tx.Desired("a")
		change, err := lrp.RemoveDesired(before, nil, lrp.Group(tx.InstancesOf("a")))
		if err == nil {
			tx.PutChange(before, change)
			tx.DeleteDefinitions("a")
		}
		return err
	}
	batch(desire)
	batch(func(tx *Tx) error { tx.MarkHealthy("a", "def-1"); return nil })
	view, err := s.View()
	require.NoError(t, err)
	require.Equal(t, "def-1", view.Desired("a").HealthyDefinitionID)

	batch(remove, desire)
	view, err = s.View()
	require.NoError(t, err)
	require.Empty(t, view.Desired("a").HealthyDefinitionID)
	require.NoError(t, standby.followOnce(t.Context()))
	requireSameContent(t, s.Committed(), standby.Committed())
	requireLoadsTheSame(t, pool, s)
}
