package lockclient

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	locketv1 "diego.internal/proto/locket/v1"
)

// Whatever somebody writes below our prefix in Consul: it is read as a claim, or not, and what is read
// is written and read again as the same.
func FuzzDecodeEntry(f *testing.F) {
	for _, seed := range []entry{
		{Type: wordLock, Owner: "bbs-1", TTL: time.Second, AcquiredAt: time.Unix(1, 0).UTC()},
		{Type: wordPresence, Owner: "é", Value: `{"a":"b"}`, TTL: time.Minute, Incarnation: 3, Token: 9, Released: true, After: &ending{Owner: "x", How: endExpired}},
	} {
		data, err := json.Marshal(seed)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte(`{"type":"lock"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEntry(data)
		if err != nil {
			if r := decodeRecord("key", &api.KVPair{Value: data, Session: "s", ModifyIndex: 4}); r.readable || !r.held() {
				t.Errorf("unreadable, but taken for %+v", r)
			}
			return
		}
		written, err := e.encode()
		require.NoError(t, err)
		again, err := decodeEntry(written)
		require.NoError(t, err)
		if diff := cmp.Diff(e, again); diff != "" {
			t.Errorf("written and read again (-before +after):\n%s", diff)
		}
		r := decodeRecord("key", &api.KVPair{Value: data, Session: "s", ModifyIndex: 4})
		require.Positive(t, r.Token)
		require.Equal(t, e.Owner, r.asHeld().Owner)
	})
}

// Whatever a server of another version sends: a watch understands it or leaves it out.
func FuzzDecodeWatchResponse(f *testing.F) {
	for _, seed := range []*locketv1.WatchResponse{
		{Event: &locketv1.WatchResponse_Synced_{}},
		{Event: &locketv1.WatchResponse_Change_{Change: &locketv1.WatchResponse_Change{
			Kind: locketv1.ChangeKind_CHANGE_KIND_EXPIRED,
			Held: &locketv1.Held{Claim: &locketv1.Claim{Key: "k", Owner: "o", Value: "v", Type: locketv1.ClaimType_CLAIM_TYPE_LOCK}, FencingToken: 3},
		}}},
	} {
		data, err := proto.Marshal(seed)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		resp := &locketv1.WatchResponse{}
		if proto.Unmarshal(data, resp) != nil {
			return
		}
		event, ok := eventFromProto(resp)
		if !ok {
			return
		}
		if event.Kind < Acquired || event.Kind > Synced {
			t.Errorf("event of kind %d", event.Kind)
		}
		if event.Kind != Synced {
			held := resp.GetChange().GetHeld()
			require.Equal(t, held.GetFencingToken(), event.Held.Token)
			require.True(t, bytes.Equal([]byte(held.GetClaim().GetValue()), event.Held.Value))
		}
	})
}

func TestConsulWatchInfers(t *testing.T) {
	t.Parallel()
	entryOf := func(typ, owner string, change func(*entry)) entry {
		e := entry{Type: typ, Owner: owner, TTL: time.Second}
		if change != nil {
			change(&e)
		}
		return e
	}
	after := func(owner, how string) func(*entry) {
		return func(e *entry) { e.After = &ending{Owner: owner, How: how} }
	}
	held := func(e entry, index uint64) *api.KVPair { return pairOf(t, e, index, "session") }
	free := func(e entry, index uint64) *api.KVPair { return pairOf(t, e, index, "") }

	tests := map[string]struct {
		typ    string
		answer *api.KVPair // the first answer has the lock or presence of "a" with token 5
		want   []string
	}{
		"nothing has changed":        {wordLock, held(entryOf(wordLock, "a", nil), 5), nil},
		"another value":              {wordLock, held(entryOf(wordLock, "a", func(e *entry) { e.Value, e.Token = "new", 5 }), 7), []string{"updated a"}},
		"released":                   {wordLock, free(entryOf(wordLock, "a", func(e *entry) { e.Released, e.Token = true, 5 }), 7), []string{"released a"}},
		"the session of a lock":      {wordLock, free(entryOf(wordLock, "a", nil), 7), []string{"expired a"}},
		"the session of a presence":  {wordPresence, nil, []string{"expired a"}},
		"released and taken":         {wordLock, held(entryOf(wordLock, "b", after("a", endReleased)), 9), []string{"released a", "acquired b"}},
		"expired and taken":          {wordLock, held(entryOf(wordLock, "b", after("a", endExpired)), 9), []string{"expired a", "acquired b"}},
		"released and taken again":   {wordLock, held(entryOf(wordLock, "a", after("a", endReleased)), 9), []string{"released a", "acquired a"}},
		"a later run":                {wordPresence, held(entryOf(wordPresence, "b", after("a", endReplaced)), 9), []string{"acquired b"}},
		"gone and there again":       {wordPresence, held(entryOf(wordPresence, "b", nil), 9), []string{"expired a", "acquired b"}},
		"several runs":               {wordPresence, held(entryOf(wordPresence, "c", after("b", endReplaced)), 9), []string{"acquired c"}},
		"several holders of a lock":  {wordLock, held(entryOf(wordLock, "c", after("b", endReleased)), 9), []string{"expired a", "acquired c"}},
		"overwritten by a stranger":  {wordLock, &api.KVPair{Key: "p/claims/key", Value: []byte("?"), ModifyIndex: 7, Session: "session"}, []string{"expired a"}},
		"taken by a claim of no use": {wordLock, held(entryOf(wordPresence, "b", nil), 9), []string{"expired a"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told []string
			w := &consulWatch{store: &consul{cfg: ConsulConfig{Prefix: "p/"}}, markers: map[string]marker{}, handle: func(e Event) {
				told = append(told, e.Kind.String()+" "+e.Held.Owner)
			}}
			first := entryOf(test.typ, "a", nil)
			w.filter.Type = first.claimType()
			w.take(api.KVPairs{held(first, 5)})
			require.Equal(t, []string{"acquired a", "synced "}, told)
			told = nil
			var answer api.KVPairs
			if test.answer != nil {
				answer = append(answer, test.answer)
			}
			w.take(answer)
			require.Equal(t, test.want, told)
			told = nil
			w.take(answer)
			require.Empty(t, told, "the same answer is no news")
		})
	}
}

func pairOf(t *testing.T, e entry, index uint64, session string) *api.KVPair {
	t.Helper()
	value, err := e.encode()
	require.NoError(t, err)
	return &api.KVPair{Key: "p/claims/key", Value: value, ModifyIndex: index, Session: session}
}
