package seal

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/config"
)

func newKey(t *testing.T, label string) Key {
	t.Helper()
	key := Key{Label: label}
	_, err := rand.Read(key.Secret[:])
	require.NoError(t, err)
	return key
}

func TestKeyringOpen(t *testing.T) {
	t.Parallel()
	oldKey, newKey := newKey(t, "2025"), newKey(t, "2026")
	before, err := New([]Key{oldKey}, "2025")
	require.NoError(t, err)
	place := Place{Table: "tasks", Key: "task-1", Column: "definition"}
	sealed, err := before.Seal([]byte("secret"), place)
	require.NoError(t, err)
	require.NotContains(t, string(sealed), "secret")

	rotated, err := New([]Key{oldKey, newKey}, "2026")
	require.NoError(t, err)
	foreign, err := New([]Key{{Label: "2025", Secret: newKey.Secret}}, "2025")
	require.NoError(t, err)

	flipped := append([]byte{}, sealed...)
	flipped[len(flipped)-1] ^= 1

	tests := map[string]struct {
		ring   *Keyring
		sealed []byte
		place  Place
		broken bool
	}{
		"the ring that sealed it opens it":               {ring: before, sealed: sealed, place: place},
		"a ring with a newer active key opens it":        {ring: rotated, sealed: sealed, place: place},
		"another key under the same label does not":      {ring: foreign, sealed: sealed, place: place, broken: true},
		"a value moved to another row does not open":     {ring: before, sealed: sealed, place: Place{"tasks", "task-2", "definition"}, broken: true},
		"a value moved to another column does not open":  {ring: before, sealed: sealed, place: Place{"tasks", "task-1", "result"}, broken: true},
		"parts of a place cannot be shifted":             {ring: before, sealed: sealed, place: Place{"task", "stask-1", "definition"}, broken: true},
		"a changed bit is noticed":                       {ring: before, sealed: flipped, place: place, broken: true},
		"a value cut short is refused":                   {ring: before, sealed: sealed[:9], place: place, broken: true},
		"an empty value is refused":                      {ring: before, sealed: nil, place: place, broken: true},
		"a value of another version of the format fails": {ring: before, sealed: append([]byte{9}, sealed[1:]...), place: place, broken: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := tc.ring.Open(tc.sealed, tc.place)
			if tc.broken {
				require.ErrorIs(t, err, ErrBroken)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "secret", string(got))
		})
	}

	onlyNew, err := New([]Key{newKey}, "2026")
	require.NoError(t, err)
	_, err = onlyNew.Open(sealed, place)
	require.ErrorIs(t, err, ErrUnknownKey, "a missing key is told from a broken value")

	label, err := LabelOf(sealed)
	require.NoError(t, err)
	require.Equal(t, "2025", label)
}

func TestKeyringSealNeverRepeats(t *testing.T) {
	t.Parallel()
	ring, err := New([]Key{newKey(t, "a")}, "a")
	require.NoError(t, err)
	seen := map[string]bool{}
	for range 1000 {
		sealed, err := ring.Seal([]byte("same"), Place{})
		require.NoError(t, err)
		require.False(t, seen[string(sealed)])
		seen[string(sealed)] = true
	}
}

func TestNewNamesAllProblems(t *testing.T) {
	t.Parallel()
	_, err := New([]Key{{Label: ""}, {Label: "a"}, {Label: "a"}}, "b")
	require.ErrorContains(t, err, `label ""`)
	require.ErrorContains(t, err, "given twice")
	require.ErrorContains(t, err, `active label "b"`)
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) config.SecretFile {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return config.SecretFile(path)
	}
	hexKey := write("hex", strings.Repeat("ab", 32)+"\n")
	ring, err := Load(Config{ActiveLabel: "a", Keys: []KeyConfig{{Label: "a", File: hexKey}}})
	require.NoError(t, err)
	require.Equal(t, "a", ring.Active())

	short := write("short", "abcd")
	_, err = Load(Config{ActiveLabel: "a", Keys: []KeyConfig{{Label: "a", File: short}}})
	require.ErrorContains(t, err, "want 32 bytes")
	require.NotContains(t, err.Error(), "abcd")
}

func FuzzKeyringOpen(f *testing.F) {
	ring, err := New([]Key{{Label: "a"}}, "a")
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := ring.Seal([]byte("x"), Place{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, data []byte) {
		// Only what was sealed opens; nothing panics.
		if _, err := ring.Open(data, Place{Table: "other"}); err == nil {
			t.Fatal("opened a value that nobody sealed for this place")
		}
	})
}
