package outputlog

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// kept is a keeper with a process that writes to it.
type kept struct {
	folder         string
	keeper         *Keeper
	stdout, stderr *os.File
}

func keep(t *testing.T) *kept {
	t.Helper()
	// Longer than what the kernel takes as the path of a socket.
	k := &kept{folder: filepath.Join(t.TempDir(), strings.Repeat("long", 30))}
	require.NoError(t, os.MkdirAll(filepath.Join(k.folder, "p", "output"), 0o700))
	var err error
	k.keeper, err = NewKeeper(k.folder)
	require.NoError(t, err)
	go k.keeper.Serve()
	k.stdout, k.stderr = k.follow(t, "p/output")
	return k
}

func (k *kept) follow(t *testing.T, name string) (stdout, stderr *os.File) {
	t.Helper()
	var read [2]*os.File
	var err error
	read[0], stdout, err = os.Pipe()
	require.NoError(t, err)
	read[1], stderr, err = os.Pipe()
	require.NoError(t, err)
	require.NoError(t, Follow(t.Context(), k.folder, name, read[0], read[1]))
	for _, file := range read {
		require.NoError(t, file.Close())
	}
	return stdout, stderr
}

// stream waits for the end of a stream.
func (k *kept) stream(t *testing.T, name string) string {
	t.Helper()
	reader, err := OpenReader(filepath.Join(k.folder, "p", "output"), name)
	require.NoError(t, err)
	defer reader.Close()
	var got bytes.Buffer
	require.Eventually(t, func() bool {
		ended, err := reader.Deliver(&got, make([]byte, 100))
		return err == nil && ended
	}, 30*time.Second, time.Millisecond)
	return got.String()
}

func TestKeeper(t *testing.T) {
	t.Parallel()
	k := keep(t)
	_, err := NewKeeper(k.folder)
	require.Error(t, err, "there is one already")
	_, err = k.stdout.WriteString("out")
	require.NoError(t, err)
	_, err = k.stderr.WriteString("err")
	require.NoError(t, err)
	require.NoError(t, k.stdout.Close())
	require.NoError(t, k.stderr.Close())
	require.Equal(t, "out", k.stream(t, Stdout))
	require.Equal(t, "err", k.stream(t, Stderr))
	require.NoError(t, Finish(t.Context(), k.folder, "p/output"), "what has ended may be finished")
	require.ErrorIs(t, Finish(t.Context(), k.folder, "../p"), ErrOrder)
	k.keeper.Close()
	require.Error(t, Finish(t.Context(), k.folder, "p/output"), "it is gone")
}

// TestKeeperFinish has a child of the process that keeps its output open.
func TestKeeperFinish(t *testing.T) {
	t.Parallel()
	k := keep(t)
	defer k.keeper.Close()
	_, err := k.stdout.WriteString("before")
	require.NoError(t, err)
	require.NoError(t, Finish(t.Context(), k.folder, "p/output"))
	require.Equal(t, "before", k.stream(t, Stdout))
	require.Empty(t, k.stream(t, Stderr))
	require.NoError(t, k.stdout.Close())
	require.NoError(t, k.stderr.Close())
}

// TestKeeperClose is the end of a container whose processes are still there: what they wrote is stored.
func TestKeeperClose(t *testing.T) {
	t.Parallel()
	k := keep(t)
	require.NoError(t, os.MkdirAll(filepath.Join(k.folder, "q"), 0o700))
	stdout, stderr := k.follow(t, "q")
	_, err := k.stdout.WriteString("before")
	require.NoError(t, err)
	k.keeper.Close()
	require.Equal(t, "before", k.stream(t, Stdout))
	for _, file := range []*os.File{stdout, stderr, k.stdout, k.stderr} {
		require.NoError(t, file.Close())
	}
}
