package executor

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestChangelogKeepsReadersUpToDate lets readers of different patience follow containers that come, change and go.
func TestChangelogKeepsReadersUpToDate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := newChangelog()
		truth := map[string]int{} // the version of each container
		type reader struct {
			seen   map[string]int
			number uint64
		}
		readers := []*reader{{}, {}, {}}
		read := func(r *reader) (told int) {
			guids, number, partial := l.since(r.number)
			if !partial {
				r.seen = map[string]int{}
			}
			for _, guid := range guids {
				if version, there := truth[guid]; there {
					r.seen[guid] = version
				} else {
					delete(r.seen, guid)
				}
			}
			require.GreaterOrEqual(t, number, r.number)
			r.number = number
			require.Equal(t, truth, r.seen)
			return len(guids)
		}
		t.Repeat(map[string]func(*rapid.T){
			"change": func(t *rapid.T) {
				guid := fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "guid"))
				truth[guid]++
				l.changed(guid)
			},
			"forget": func(t *rapid.T) {
				guid := fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "guid"))
				delete(truth, guid)
				l.forgotten(guid)
			},
			"many come and go": func(*rapid.T) {
				for i := range maxForgotten {
					l.changed(fmt.Sprint("short-lived ", i))
					l.forgotten(fmt.Sprint("short-lived ", i))
				}
			},
			"read": func(t *rapid.T) {
				r := readers[rapid.IntRange(0, len(readers)-1).Draw(t, "reader")]
				read(r)
				require.Zero(t, read(r), "nothing has changed since")
			},
		})
		for _, r := range readers {
			read(r)
		}
		require.LessOrEqual(t, l.order.Len(), 10+maxForgotten)
		require.Len(t, l.at, l.order.Len())
	})
}

func TestChangelogTellsOnlyWhatIsNew(t *testing.T) {
	t.Parallel()
	l := newChangelog()
	l.changed("a")
	l.changed("b")
	guids, number, partial := l.since(0)
	require.False(t, partial, "who knows nothing reads all")
	require.ElementsMatch(t, []string{"a", "b"}, guids)
	l.changed("a")
	l.changed("a")
	l.changed("c")
	guids, next, partial := l.since(number)
	require.True(t, partial)
	require.Equal(t, []string{"c", "a"}, guids)
	_, _, partial = l.since(next + 1)
	require.False(t, partial, "a number of another client")
}
