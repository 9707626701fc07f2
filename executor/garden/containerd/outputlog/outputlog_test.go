package outputlog

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func deliver(t require.TestingT, folder string, w *bytes.Buffer) (bool, int64) {
	r, err := OpenReader(folder, "stdout")
	require.NoError(t, err)
	defer r.Close()
	ended, err := r.Deliver(w, make([]byte, 1000))
	require.NoError(t, err)
	return ended, r.Dropped()
}

// TestReaderTakesUp interleaves writes with readers that come and go: together they see each byte once and in order.
func TestReaderTakesUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		folder, err := os.MkdirTemp("", "outputlog") //nolint:usetesting // rapid runs many cases in one test
		require.NoError(t, err)
		defer func() { _ = os.RemoveAll(folder) }()
		w := NewWriter(folder, "stdout")
		var want, got bytes.Buffer
		for range rapid.IntRange(0, 12).Draw(t, "rounds") {
			chunk := bytes.Repeat([]byte{byte(want.Len())}, rapid.IntRange(1, SegmentBytes).Draw(t, "size"))
			want.Write(chunk)
			_, err := w.Write(chunk)
			require.NoError(t, err)
			if rapid.Bool().Draw(t, "read") {
				ended, dropped := deliver(t, folder, &got)
				require.False(t, ended)
				require.Zero(t, dropped)
			}
		}
		require.NoError(t, w.Close())
		ended, _ := deliver(t, folder, &got)
		require.True(t, ended)
		require.True(t, bytes.Equal(want.Bytes(), got.Bytes()), "%d bytes written, %d delivered", want.Len(), got.Len())
	})
}

func TestWriterIsBounded(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	w := NewWriter(folder, "stdout")
	chunk := make([]byte, SegmentBytes/2)
	for range 2 * 3 * KeepBytes / SegmentBytes {
		_, err := w.Write(chunk)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	var got bytes.Buffer
	ended, dropped := deliver(t, folder, &got)
	require.True(t, ended)
	require.LessOrEqual(t, got.Len(), KeepBytes)
	require.EqualValues(t, 3*KeepBytes, int64(got.Len())+dropped, "what is not delivered is counted")
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestBrokenWriterDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	w := NewWriter(folder, "stdout")
	_, err := w.Write([]byte("lost"))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	r, err := OpenReader(folder, "stdout")
	require.NoError(t, err)
	defer r.Close()
	ended, err := r.Deliver(brokenWriter{}, make([]byte, 1))
	require.Error(t, err)
	require.True(t, ended)
}
