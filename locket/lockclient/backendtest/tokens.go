package backendtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/locket/lockclient"
)

// model is what a store of claims has to do with one key while no time passes.
type model struct {
	holder *lockclient.Held // nil if nobody holds the key
	last   int64            // the highest token so far
}

// grants reports whether a claim succeeds.
func (m *model) grants(c lockclient.Claim) bool {
	switch h := m.holder; {
	case h == nil:
		return true
	case h.Type != c.Type:
		return false
	default:
		return h.Owner == c.Owner || c.Type == lockclient.TypePresence && c.Incarnation > h.Incarnation
	}
}

// obeysTheModel runs random claims and releases of a few owners on one key after the other. Whoever
// acquires gets a higher token than everybody before; whoever renews keeps his.
func obeysTheModel(t *testing.T, b lockclient.Backend) {
	t.Helper()
	keys := 0
	rapid.Check(t, func(t *rapid.T) {
		keys++
		key, m := fmt.Sprintf("key-%d", keys), &model{}
		owner := rapid.SampledFrom([]string{"one", "two", "three"})
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			if rapid.IntRange(0, 2).Draw(t, "what") == 0 {
				m.release(t, b, key, owner.Draw(t, "releases"))
				continue
			}
			m.claim(t, b, lockclient.Claim{
				Key: key, Owner: owner.Draw(t, "claims"), TTL: time.Minute,
				Type:        rapid.SampledFrom([]lockclient.Type{lockclient.TypeLock, lockclient.TypePresence, lockclient.TypePresence}).Draw(t, "as"),
				Incarnation: rapid.Int64Range(0, 4).Draw(t, "incarnation"),
				Value:       []byte(rapid.StringMatching(`[a-zé"\\]{0,4}`).Draw(t, "value")),
			})
		}
	})
}

func (m *model) claim(t *rapid.T, b lockclient.Backend, c lockclient.Claim) {
	held, err := b.Claim(t.Context(), c)
	if !m.grants(c) {
		require.ErrorIs(t, err, lockclient.ErrCollision)
		return
	}
	require.NoError(t, err)
	if m.holder != nil && m.holder.Owner == c.Owner {
		require.Equal(t, m.holder.Token, held.Token, "a renewal keeps the token")
		require.Equal(t, m.holder.Incarnation, held.Incarnation, "a renewal keeps the incarnation")
	} else {
		require.Greater(t, held.Token, m.last, "an acquisition has a higher token than any before")
		m.last = held.Token
	}
	require.Equal(t, string(c.Value), string(held.Value))
	m.holder = &held
	m.check(t, b, c.Key)
}

func (m *model) release(t *rapid.T, b lockclient.Backend, key, owner string) {
	err := b.Release(t.Context(), key, owner)
	if m.holder != nil && m.holder.Owner != owner {
		require.ErrorIs(t, err, lockclient.ErrCollision)
		return
	}
	require.NoError(t, err)
	m.holder = nil
	m.check(t, b, key)
}

func (m *model) check(t *rapid.T, b lockclient.Backend, key string) {
	held, err := b.Fetch(t.Context(), key)
	if m.holder == nil {
		require.ErrorIs(t, err, lockclient.ErrNotHeld, "fetched %+v", held)
		return
	}
	require.NoError(t, err)
	require.Equal(t, m.holder.Claim, held.Claim)
	require.Equal(t, m.holder.Token, held.Token)
}
