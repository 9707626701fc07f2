package privateserver_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/postgres/privateserver"
)

// folder returns a short path that the server's user may enter.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pg-") //nolint:usetesting // t.TempDir is too long for a socket
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, "server")
}

func start(t *testing.T, cfg privateserver.Config) *privateserver.Server {
	t.Helper()
	s, err := privateserver.Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
		defer cancel()
		require.NoError(t, s.Stop(ctx))
	})
	return s
}

func TestServerKeepsItsDataOverARestart(t *testing.T) {
	t.Parallel()
	cfg := privateserver.Config{Folder: folder(t), Port: freePort(t)}
	s := start(t, cfg)
	require.NoError(t, s.CreateDatabase(t.Context(), "bbs"))
	require.NoError(t, s.CreateDatabase(t.Context(), "bbs"), "again")
	conn, err := pgx.Connect(t.Context(), s.ConnectionString("bbs"))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "create table kept ()")
	require.NoError(t, err)
	var fsync string
	require.NoError(t, conn.QueryRow(t.Context(), "show fsync").Scan(&fsync))
	require.Equal(t, "on", fsync)
	require.NoError(t, s.Stop(t.Context()), "with a client connected")

	again := start(t, cfg)
	conn, err = pgx.Connect(t.Context(), again.ConnectionString("bbs"))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "select from kept")
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().(*net.TCPAddr).Port
}

func TestServerDoneTellsOfItsEnd(t *testing.T) {
	t.Parallel()
	s := start(t, privateserver.Config{Folder: folder(t), Unsafe: true})
	require.NoError(t, syscall.Kill(s.PID(), syscall.SIGQUIT))
	select {
	case <-s.Done():
	case <-t.Context().Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the server did not end")
	}
	require.NoError(t, s.Stop(t.Context()), "after its end")
}

func TestStartReportsWhatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := privateserver.Start(t.Context(), privateserver.Config{Folder: filepath.Join(t.TempDir(), strings.Repeat("x", 100))})
	require.ErrorContains(t, err, "too long for a unix socket")
	_, err = privateserver.Start(t.Context(), privateserver.Config{
		Folder: folder(t), Unsafe: true, Settings: map[string]string{"max_connections": "many"},
	})
	require.ErrorContains(t, err, "max_connections", "the server's own words")
}
