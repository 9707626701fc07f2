package logs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestWriter(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", MaxLine-1)
	tests := map[string]struct {
		pieces []string
		want   []string
	}{
		"lines end at either end":              {pieces: []string{"a\nb\rc\r\nd\n"}, want: []string{"a", "b", "c", "d"}},
		"empty lines are dropped":              {pieces: []string{"\n\n\na\n\n"}, want: []string{"a"}},
		"a line may come in pieces":            {pieces: []string{"he", "llo", "\nwor"}, want: []string{"hello", "wor"}},
		"a long line goes on in the next":      {pieces: []string{long + "yz\n"}, want: []string{long + "y", "z"}},
		"a character is not cut":               {pieces: []string{long + "é!\n"}, want: []string{long, "é!"}},
		"what is no text is replaced":          {pieces: []string{"a\xffb\n"}, want: []string{"a\uFFFDb"}},
		"a line of just the limit stays whole": {pieces: []string{long + "y\n"}, want: []string{long + "y"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			w := NewWriter(func(m string) { got = append(got, m) })
			for _, p := range tc.pieces {
				_, err := w.Write([]byte(p))
				require.NoError(t, err)
			}
			w.Flush()
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("Write(%.40q) (-want +got):\n%s", tc.pieces, diff)
			}
		})
	}
}

// Whatever is written in whatever pieces, nothing but line ends is lost, and no message is too long or no text.
func TestWriterLosesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("aé世\n")), 0, 200, -1).Draw(t, "text")
		repeat := rapid.SampledFrom([]int{1, 5000}).Draw(t, "repeat")
		text = strings.Repeat(text, repeat)
		piece := rapid.IntRange(1, 40000).Draw(t, "piece")
		var got strings.Builder
		w := NewWriter(func(m string) {
			if len(m) > MaxLine || !utf8.ValidString(m) {
				t.Fatalf("message of %d bytes, valid %v", len(m), utf8.ValidString(m))
			}
			got.WriteString(m)
		})
		for rest := []byte(text); len(rest) > 0; {
			n := min(piece, len(rest))
			_, _ = w.Write(rest[:n])
			rest = rest[n:]
		}
		w.Flush()
		if want := strings.ReplaceAll(text, "\n", ""); got.String() != want {
			t.Fatalf("got %d bytes, want %d", got.Len(), len(want))
		}
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	type write struct {
		at   time.Duration
		text string
	}
	report := "app instance exceeded log rate limit (10 bytes/sec)"
	tests := map[string]struct {
		bytes  int64
		lines  int
		writes []write
		want   []string
	}{
		"unlimited":                        {bytes: -1, writes: []write{{0, "a"}, {0, "b"}}, want: []string{"a", "b"}},
		"nothing at all, without a report": {bytes: 0, writes: []write{{0, "a"}}},
		"within the limit":                 {bytes: 10, writes: []write{{0, "12345"}, {0, "12345"}}, want: []string{"12345", "12345"}},
		"beyond it one report, then silence for a second": {
			bytes:  10,
			writes: []write{{0, "12345678"}, {0, "abcdef"}, {500 * time.Millisecond, "x"}, {1100 * time.Millisecond, "back"}},
			want:   []string{"12345678", "ab", report, "back"},
		},
		"a line larger than the limit passes in part": {bytes: 10, writes: []write{{0, "0123456789abc"}}, want: []string{"0123456789", report}},
		"lines are limited too": {
			bytes: -1, lines: 2, writes: []write{{0, "a"}, {0, "b"}, {0, "c"}, {0, "d"}},
			want: []string{"a", "b", "app instance exceeded log rate limit (2 log-lines/sec) set by platform operator"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := newStore(t, Limits{Bytes: 1 << 20, Lines: 1000})
				sink, err := store.Create("c", SinkConfig{GUID: "g", BytesPerSecond: tc.bytes, LinesPerSecond: tc.lines})
				require.NoError(t, err)
				start := time.Now()
				for _, w := range tc.writes {
					time.Sleep(w.at - time.Since(start)) //nolint:forbidigo // the clock of the bubble
					sink.Emit("", Out, w.text)
				}
				if diff := cmp.Diff(tc.want, messages(t, store, "c", Request{})); diff != "" {
					t.Errorf("log (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func newStore(t *testing.T, limits Limits) *Store {
	t.Helper()
	store, err := NewStore(t.TempDir(), limits, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return store
}

func messages(t *testing.T, store *Store, name string, req Request) []string {
	t.Helper()
	var got []string
	for line, err := range store.Read(t.Context(), name, req) {
		require.NoError(t, err)
		got = append(got, line.Message)
	}
	return got
}

func TestStoreKeepsTheNewest(t *testing.T) {
	t.Parallel()
	store := newStore(t, Limits{Bytes: 1 << 20, Lines: 40})
	sink, err := store.Create("c", SinkConfig{GUID: "g", Index: 3, BytesPerSecond: -1, Tags: map[string]string{"a": "1"}})
	require.NoError(t, err)
	for i := range 100 {
		sink.Emit("APP", Err, fmt.Sprint(i))
	}
	got := messages(t, store, "c", Request{})
	require.LessOrEqual(t, len(got), 40)
	require.GreaterOrEqual(t, len(got), 30)
	require.Equal(t, "99", got[len(got)-1])
	require.Equal(t, []string{"98", "99"}, messages(t, store, "c", Request{Tail: 2}))
	for line, err := range store.Read(t.Context(), "c", Request{Tail: 1}) {
		require.NoError(t, err)
		require.Equal(t, "APP", line.Source)
		require.Equal(t, Err, line.Stream)
		require.Equal(t, map[string]string{"source_id": "g", "instance_id": "3", "a": "1"}, line.Tags)
	}
}

func TestStoreBoundsBytes(t *testing.T) {
	t.Parallel()
	store := newStore(t, Limits{Bytes: 64 << 10, Lines: 1 << 20})
	sink, err := store.Create("c", SinkConfig{GUID: "g", BytesPerSecond: -1})
	require.NoError(t, err)
	for range 100 {
		sink.Emit("APP", Out, strings.Repeat("x", 5000))
	}
	require.NotEmpty(t, messages(t, store, "c", Request{}))
	var size int64
	files, err := filepath.Glob(filepath.Join(store.dir, "c", "*.log"))
	require.NoError(t, err)
	for _, name := range files {
		info, err := os.Stat(name)
		require.NoError(t, err)
		size += info.Size()
	}
	require.LessOrEqual(t, size, int64(64<<10))
}

// Several readers follow while a writer writes; each sees every line once and in order, and ends when the log does.
func TestStoreFollow(t *testing.T) {
	t.Parallel()
	store := newStore(t, Limits{Bytes: 1 << 20, Lines: 100_000})
	sink, err := store.Create("c", SinkConfig{GUID: "g", BytesPerSecond: -1})
	require.NoError(t, err)
	const lines = 5000
	results := make(chan []string, 3)
	for range 3 {
		go func() {
			var got []string
			for line, err := range store.Read(context.Background(), "c", Request{Follow: true}) {
				if err != nil {
					break
				}
				got = append(got, line.Message)
			}
			results <- got
		}()
	}
	var want []string
	for i := range lines {
		want = append(want, fmt.Sprint(i))
		sink.Emit("", Out, want[i])
	}
	require.NoError(t, store.Retire("c"))
	for range 3 {
		got := <-results
		// A reader that started before the log was retired has all; one that came after, too.
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("followed lines (-want +got):\n%.2000s", diff)
		}
	}
}

func TestStoreSurvivesRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	limits := Limits{Bytes: 1 << 20, Lines: 1000}
	first, err := NewStore(dir, limits, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	sink, err := first.Create("c", SinkConfig{GUID: "g", BytesPerSecond: -1})
	require.NoError(t, err)
	sink.Emit("", Out, "one")
	require.NoError(t, first.Close())
	// A kill in the middle of a write leaves half a frame.
	segment := filepath.Join(dir, "c", "000000000001.log")
	whole, err := os.ReadFile(segment)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(segment, append(whole, 0, 0, 1, 0, frameLine), 0o600))

	second, err := NewStore(dir, limits, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer func() { require.NoError(t, second.Close()) }()
	require.Equal(t, []string{"one"}, messages(t, second, "c", Request{}), "read without a writer")
	sink, err = second.Resume("c", SinkConfig{GUID: "g", BytesPerSecond: -1})
	require.NoError(t, err)
	sink.Emit("", Out, "two")
	require.Equal(t, []string{"one", "two"}, messages(t, second, "c", Request{}))
}

func TestStoreSweep(t *testing.T) {
	t.Parallel()
	store := newStore(t, Limits{Bytes: 1 << 20, Lines: 1000})
	for _, name := range []string{"open", "retired"} {
		sink, err := store.Create(name, SinkConfig{GUID: "g", BytesPerSecond: -1})
		require.NoError(t, err)
		sink.Emit("", Out, name)
	}
	require.NoError(t, store.Retire("retired"))
	require.NoError(t, store.Sweep(time.Now().Add(-time.Minute)))
	require.Equal(t, []string{"retired"}, messages(t, store, "retired", Request{}))
	require.NoError(t, store.Sweep(time.Now().Add(time.Minute)))
	require.Equal(t, []string{"open"}, messages(t, store, "open", Request{}))
	for _, err := range store.Read(t.Context(), "retired", Request{}) {
		require.ErrorIs(t, err, ErrNotFound)
	}
}

func TestSinkWithoutGUIDDiscards(t *testing.T) {
	t.Parallel()
	store := newStore(t, Limits{Bytes: 1 << 20, Lines: 1000})
	sink, err := store.Create("c", SinkConfig{BytesPerSecond: -1})
	require.NoError(t, err)
	sink.Emit("APP", Out, "output")
	sink.Platform(Out, "Cell")
	require.Equal(t, []string{"Cell"}, messages(t, store, "c", Request{}))
}
