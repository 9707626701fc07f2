package store

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"diego.internal/bbs/internal/lrp"
)

func TestConnectionToAFormerPrimaryIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newBench(t)
	domain := func(i int) func(*Tx) error {
		return func(tx *Tx) error {
			after, event := lrp.UpsertDomain(nil, benchGUID(i), 0, nil, time.Now())
			tx.PutDomain(nil, after, event)
			return nil
		}
	}
	refuseWith := func(sqlstate string) {
		_, err := s.pool.Exec(t.Context(), `create or replace function refuse() returns trigger language plpgsql as $$
			begin raise exception 'refused by the test' using errcode = '`+sqlstate+`'; end $$;
			create or replace trigger refuse before insert on domains execute function refuse()`)
		require.NoError(t, err)
		requests := s.requests(t.Context(), 1, domain)
		_, err = s.w.commitSome(t.Context(), requests)
		require.NoError(t, err)
		require.ErrorIs(t, (<-requests[0].done).err, ErrUnavailable)
	}
	refuseWith("40001")
	require.NotNil(t, s.w.conn, "the next batch may go through")
	refuseWith("25006")
	require.Nil(t, s.w.conn, "it is read-only, as are all batches on it")

	_, err := s.pool.Exec(t.Context(), `drop trigger refuse on domains`)
	require.NoError(t, err)
	s.commit(t, 1, 1, domain)
}

// What is stored after a removal of the same batch stays, what was stored before it does not.
func TestDefinitionsOfABatchAreWrittenInItsOrder(t *testing.T) {
	t.Parallel()
	s := newBench(t)
	put := func(guid, id string, content byte) func(*Tx) error {
		return func(tx *Tx) error {
			tx.PutDefinition(SealedDefinition{ProcessGUID: guid, ID: id, Sealed: []byte{content}})
			return nil
		}
	}
	remove := func(guid string) func(*Tx) error {
		return func(tx *Tx) error { tx.DeleteDefinitions(guid); return nil }
	}
	stored := func() map[string]byte {
		rows, err := s.pool.Query(t.Context(), `select process_guid || ' ' || definition_id, definition from lrp_definitions`)
		require.NoError(t, err)
		found := map[string]byte{}
		var name string
		var content []byte
		_, err = pgx.ForEachRow(rows, []any{&name, &content}, func() error { found[name] = content[0]; return nil })
		require.NoError(t, err)
		return found
	}
	commit := func(all ...func(*Tx) error) {
		s.commit(t, len(all), len(all), func(i int) func(*Tx) error { return all[i] })
	}
	commit(put("old", "1", 1), put("kept", "1", 1), put("both", "1", 1))
	require.Equal(t, map[string]byte{"old 1": 1, "kept 1": 1, "both 1": 1}, stored())
	commit(
		remove("old"), put("new", "1", 1), remove("new"),
		put("both", "2", 1), remove("both"), put("both", "3", 1), put("both", "3", 2),
		put("kept", "1", 2), put("kept", "2", 1),
	)
	require.Equal(t, map[string]byte{"both 3": 2, "kept 1": 2, "kept 2": 1}, stored())
	commit(remove("both"), remove("both"))
	require.Equal(t, map[string]byte{"kept 1": 2, "kept 2": 1}, stored())
}
