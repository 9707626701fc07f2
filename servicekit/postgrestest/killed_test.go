package postgrestest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/postgrestest"
)

// victim is the variable by which this test binary runs itself to be killed.
const victim = "POSTGRESTEST_VICTIM"

// TestVictim does nothing unless it runs in the process that TestNothingOutlivesAKilledBinary kills:
// there it tells where its server is and waits.
//
//nolint:paralleltest // it has its process to itself
func TestVictim(t *testing.T) {
	if os.Getenv(victim) == "" {
		return
	}
	pool := postgrestest.New(t, nil)
	var data string
	require.NoError(t, pool.QueryRow(t.Context(), "show data_directory").Scan(&data))
	fmt.Println("data " + data)
	select {}
}

func TestNothingOutlivesAKilledBinary(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVictim$")
	cmd.Env = append(os.Environ(), victim+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	data, ok := strings.CutPrefix(strings.TrimSpace(line), "data ")
	require.True(t, ok, line)
	pidFile, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscan(string(pidFile), &pid)
	require.NoError(t, err)

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	folder := filepath.Dir(filepath.Dir(data))
	waitFor(t, "the server ends", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	waitFor(t, "the folder "+folder+" goes", func() bool {
		_, err := os.Stat(folder)
		return errors.Is(err, fs.ErrNotExist)
	})
}

func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
