package faults

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/postgres/privateserver"
)

const database = "bbs"

// postgresFolder returns a folder for a server that keeps what it commits, also when it is killed.
func postgresFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "bbs-pg-") //nolint:usetesting // t.TempDir is too long for a socket
	require.NoError(t, err)
	require.NoError(t, os.Chmod(folder, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	return filepath.Join(folder, "server")
}

// startPostgres starts a server in a folder, anew if one has been there.
func startPostgres(t *testing.T, folder string) *privateserver.Server {
	t.Helper()
	server, err := privateserver.Start(t.Context(), privateserver.Config{Folder: folder})
	require.NoError(t, err)
	stopAtTheEnd(t, server)
	return server
}

// startStandby copies a primary into a folder and makes every commit wait for the copy.
func startStandby(t *testing.T, primary *privateserver.Server, folder string) *privateserver.Server {
	t.Helper()
	require.NoError(t, os.RemoveAll(folder))
	standby, err := privateserver.StartStandby(t.Context(), primary, privateserver.Config{Folder: folder})
	require.NoError(t, err)
	stopAtTheEnd(t, standby)
	require.NoError(t, primary.RequireStandby(t.Context()))
	return standby
}

func stopAtTheEnd(t *testing.T, server *privateserver.Server) {
	t.Helper()
	t.Cleanup(func() { require.NoError(t, server.Kill()) })
}
