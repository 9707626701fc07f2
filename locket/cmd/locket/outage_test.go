package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockclient"
	"diego.internal/servicekit/lifecycle"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/postgres/privateserver"
)

// killAll ends every locket at once; startAll brings them back at their addresses.
func (in *installation) killAll(t *testing.T) {
	t.Helper()
	for _, p := range in.lockets {
		p.signal(t, syscall.SIGKILL)
	}
	for _, p := range in.lockets {
		<-p.exited
	}
}

func (in *installation) startAll(t *testing.T) {
	t.Helper()
	for i, p := range in.lockets {
		in.lockets[i] = in.start(t, place{listen: p.grpc})
	}
}

func TestARestartOfAllLocketsLosesNothing(t *testing.T) {
	t.Parallel()
	in := install(t)
	h := in.hold(t)
	in.killAll(t)
	pass(t, time.Second)
	in.startAll(t)
	pass(t, 6*time.Second) // the ttl and more
	h.mustHold(t)
}

func TestALongAbsenceOfAllLockets(t *testing.T) {
	t.Parallel()
	in := install(t)
	h := in.hold(t)
	token := h.lock.Token()
	in.killAll(t)
	require.ErrorIs(t, <-h.held, lockclient.ErrLost, "the holder has to stop before its lease ends")
	pass(t, 7*time.Second) // longer than any lease

	in.startAll(t)
	eventually(t, "the presence to be held", h.presence.Held)
	pass(t, time.Second)
	require.Empty(t, h.watched(), "the presence must not expire because nobody could renew it")
	second, err := lockclient.Acquire(t.Context(), lockclient.LockConfig{
		Key: "bbs", Owner: "bbs-2", Backend: in.backend(t, mtls.Identity{Role: mtls.RoleBBS}), Log: discard,
	})
	require.NoError(t, err)
	require.Greater(t, second.Token(), token)
}

// The primary dies and its synchronous standby takes its place, within the lease: nothing moves, although
// renewals wait for no disk and the last of them may be missing there.
func TestAPromotedStandbyLosesNothing(t *testing.T) {
	t.Parallel()
	in := prepare(t, 0)
	ctx := context.WithoutCancel(t.Context())
	folder, err := os.MkdirTemp("", "locket-pg-") //nolint:usetesting // short, for its socket, and its parents let the server's user through
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	require.NoError(t, os.Chmod(folder, 0o755))
	standby, err := privateserver.StartStandby(ctx, in.database, privateserver.Config{Folder: folder})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Stop(ctx)) })
	require.NoError(t, in.database.RequireStandby(ctx))
	both := privateserver.MultiHost("postgres", in.database, standby)
	for range 2 {
		in.lockets = append(in.lockets, in.start(t, place{database: both}))
	}
	in.ttl = 15 * time.Second // a busy machine needs some seconds for a promotion
	h := in.hold(t)
	pass(t, 6*time.Second) // a renewal

	begun := time.Now()
	require.NoError(t, in.database.Kill())
	in.database = nil
	require.NoError(t, standby.Promote(ctx))
	t.Logf("promoted after %v", time.Since(begun))
	for _, p := range in.lockets {
		eventually(t, "locket to work with the new primary", func() bool { return p.ready() == http.StatusOK })
	}
	pass(t, in.ttl+time.Second)
	h.mustHold(t)
	held, err := in.backend(t, mtls.Identity{Role: mtls.RoleBBS}).Fetch(t.Context(), "bbs")
	require.NoError(t, err)
	require.Equal(t, h.lock.Token(), held.Token)

	// What is new has a higher token than all that the lost primary gave.
	later, err := in.backend(t, mtls.Identity{Role: mtls.RoleOperator, Name: "ada"}).Claim(t.Context(),
		lockclient.Claim{Key: "other", Owner: "ada", Type: lockclient.TypeLock, TTL: time.Minute})
	require.NoError(t, err)
	require.Greater(t, later.Token, h.lock.Token())
}

func TestALocketStartedBeforeItsDatabase(t *testing.T) {
	t.Parallel()
	in := prepare(t, 0)
	database := in.database.ConnectionString("postgres")
	in.stopDatabase(t)
	launched := func() *process {
		p := &process{debug: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
		file := in.config(t, place{database: database})
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, append(text, "debug: {listen: \""+p.debug+"\"}\n"...), 0o600))
		p.cmd = exec.Command(in.binary, "-config", file)
		p.cmd.Stdout, p.cmd.Stderr = p, p
		p.exited = launch(t, p.cmd)
		t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.exited })
		eventually(t, "locket to say that it is not ready", func() bool { return p.ready() == http.StatusServiceUnavailable })
		status, _ := p.get("/healthz")
		require.Equal(t, http.StatusOK, status)
		return p
	}
	waits, stops := launched(), launched()
	stops.signal(t, syscall.SIGTERM)
	<-stops.exited
	require.Zero(t, stops.cmd.ProcessState.ExitCode(), stops.logged())

	in.startDatabase(t)
	eventually(t, "locket to be ready", func() bool { return waits.ready() == http.StatusOK })
}

func TestALocketWhoseTablesAreGoneEnds(t *testing.T) {
	t.Parallel()
	in := install(t)
	conn, err := pgx.Connect(t.Context(), in.database.ConnectionString("postgres"))
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "DROP TABLE claims")
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	for _, p := range in.lockets {
		<-p.exited
		require.Equal(t, lifecycle.ExitStore, p.cmd.ProcessState.ExitCode(), p.logged())
	}
}

// What is refused is counted, and so is what the database does for it.
func TestLocketCountsRefusals(t *testing.T) {
	t.Parallel()
	in := install(t)
	in.hold(t)
	only := in.backendAt(t, mtls.Identity{Role: mtls.RoleOperator, Name: "ada"}, in.lockets[0].grpc)
	_, err := only.Claim(t.Context(), lockclient.Claim{Key: "bbs", Owner: "ada", Type: lockclient.TypeLock, TTL: time.Minute})
	require.ErrorIs(t, err, lockclient.ErrCollision)
	require.ErrorIs(t, only.Release(t.Context(), "cell-1", "ada"), lockclient.ErrCollision)
	foreign := in.backendAt(t, mtls.Identity{Role: mtls.RoleCell, Name: "cell-1"}, in.lockets[0].grpc)
	_, err = foreign.Claim(t.Context(), lockclient.Claim{Key: "bbs", Owner: "x", Type: lockclient.TypeLock, TTL: time.Minute})
	require.ErrorIs(t, err, lockclient.ErrRefused)
	_, metrics := in.lockets[0].get("/metrics")
	for _, want := range []string{
		`claims_refused_total{type="lock"} 1`, `releases_refused_total{type="presence"} 1`,
		`code="PermissionDenied",method="/locket.v1.Locket/Lock"`,
		"watch_backlog 0", "watch_lag_seconds_count", "db_open_connections", `db_query_duration_seconds_count{result="succeeded"}`,
		"database_up 1",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %q", want)
		}
	}
	if t.Failed() {
		t.Log(metrics)
	}
}
