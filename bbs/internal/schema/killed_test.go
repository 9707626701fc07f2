package schema

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"diego.internal/servicekit/postgrestest"
)

// victim is the variable by which this test binary runs itself to be killed. It holds the connection string.
const victim = "SCHEMA_TEST_VICTIM"

// TestVictim does nothing unless it runs in the process that TestMigrateSurvivesKill9 kills: there it
// migrates and says so before each statement.
//
//nolint:paralleltest // it has its process to itself
func TestVictim(t *testing.T) {
	url := os.Getenv(victim)
	if url == "" {
		return
	}
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	input := bufio.NewReader(os.Stdin)
	m, err := New(Config{Pool: pool, Steps: testSteps(t), Valid: func() bool {
		fmt.Println("statement")
		_, err := input.ReadString('\n') // waits for permission, and is killed instead
		return err == nil
	}})
	require.NoError(t, err)
	_, err = m.Run(t.Context())
	require.NoError(t, err)
}

func TestMigrateSurvivesKill9(t *testing.T) {
	t.Parallel()
	undisturbed := postgrestest.New(t, nil)
	migrate(t, Config{Pool: undisturbed, Steps: testSteps(t)})
	want := describe(t, undisturbed)
	for _, n := range []int{1, 6, 9, 20, 33} {
		t.Run(fmt.Sprintf("before statement %d", n), func(t *testing.T) {
			t.Parallel()
			pool := postgrestest.New(t, nil)
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVictim$")
			cmd.Env = append(os.Environ(), victim+"="+postgrestest.URL(pool))
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			in, err := cmd.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewScanner(out)
			for range n - 1 {
				require.True(t, lines.Scan(), "the migration has fewer statements")
				_, err := fmt.Fprintln(in)
				require.NoError(t, err)
			}
			require.True(t, lines.Scan())
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, cmd.Wait())
			require.Equal(t, Serve, migrate(t, Config{Pool: pool, Steps: testSteps(t)}))
			require.Equal(t, want, describe(t, pool))
		})
	}
}
