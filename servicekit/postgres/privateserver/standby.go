package privateserver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// StartStandby copies a running server into cfg.Folder and starts the copy as a streaming standby of
// it: it answers reads, and refuses writes until Promote. A folder that was used before is started as
// what it is. It blocks until the copy answers or ctx ends.
//
// The primary does not wait for it unless RequireStandby says so.
func StartStandby(ctx context.Context, primary *Server, cfg Config) (*Server, error) {
	return start(ctx, cfg, primary)
}

// copyTo are the arguments by which pg_basebackup makes a standby of this server.
func (s *Server) copyTo(data string) []string {
	return []string{
		"--pgdata=" + data, "--host=" + s.sockets, "--port=" + strconv.Itoa(s.port()), "--username=" + superuser,
		"--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-password",
	}
}

// RequireStandby has every commit wait until a standby has written it to its log too, and returns when
// one does: from then on no commit that was acknowledged is lost with this server. Without a standby
// commits then wait for ever.
func (s *Server) RequireStandby(ctx context.Context) error {
	err := s.exec(ctx, "alter system set synchronous_standby_names = '*'", "select pg_reload_conf()")
	if err != nil {
		return fmt.Errorf("requiring a standby: %w", err)
	}
	err = s.waitUntil(ctx, "select exists (select from pg_stat_replication where sync_state = 'sync' and state = 'streaming')")
	if err != nil {
		return fmt.Errorf("waiting for a synchronous standby: %w", err)
	}
	return nil
}

// Promote makes a standby a primary, and returns when it accepts writes. Its old primary must not
// accept any more. The promoted server waits for no standby of its own.
func (s *Server) Promote(ctx context.Context) error {
	err := s.exec(ctx, "select pg_promote(wait => true)", "alter system reset synchronous_standby_names", "select pg_reload_conf()")
	if err != nil {
		return fmt.Errorf("promoting the standby in %s: %w", s.cfg.Folder, err)
	}
	return nil
}

// MultiHost returns a connection string that names several servers and means the one of them that
// accepts writes.
func MultiHost(database string, servers ...*Server) string {
	hosts, ports := make([]string, len(servers)), make([]string, len(servers))
	for i, s := range servers {
		hosts[i], ports[i] = s.sockets, strconv.Itoa(s.port())
	}
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable target_session_attrs=read-write",
		strings.Join(hosts, ","), strings.Join(ports, ","), superuser, database)
}

// exec runs statements, each by itself, as superuser.
func (s *Server) exec(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, s.ConnectionString(superuser))
	if err != nil {
		return err
	}
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", sql, err), conn.Close(ctx))
		}
	}
	return conn.Close(ctx)
}

// waitUntil asks until the answer is true or ctx ends.
func (s *Server) waitUntil(ctx context.Context, question string) error {
	conn, err := pgx.Connect(ctx, s.ConnectionString(superuser))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // nothing is pending
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		var holds bool
		if err := conn.QueryRow(ctx, question).Scan(&holds); err != nil || holds {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
