// Package postgres owns how a process uses its database: the pool and its limits, transactions that
// are repeated when the database asks for it, migrations under a lock, and what the errors of the
// database mean. It knows no table.
package postgres

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"
)

const (
	// keepAlive is how often an idle connection is probed.
	keepAlive = 10 * time.Second
	// unackedTimeout ends a connection whose other machine has vanished with our data unacknowledged;
	// without it a statement hangs for a quarter of an hour.
	unackedTimeout = 20 * time.Second
	// maxLifetime spreads connections again over a database that has moved or grown.
	maxLifetime = time.Hour
)

// Open makes a pool and waits until the database answers, up to cfg.OpenTimeout. An error that
// waiting cannot cure, such as a wrong password, is returned at once. The caller closes the pool.
func Open(ctx context.Context, cfg Config) (*pgxpool.Pool, error) {
	cfg = cfg.withDefaults()
	poolConfig, err := cfg.pool()
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("making a database pool: %w", err)
	}
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 50*time.Millisecond, time.Second
	_, err = backoff.Retry(ctx, func() (struct{}, error) {
		err := pool.Ping(ctx)
		if err != nil && !IsUnavailable(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(pause), backoff.WithMaxElapsedTime(cfg.OpenTimeout))
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("reaching the database (%s): %w", describe(&poolConfig.ConnConfig.Config), err)
	}
	return pool, nil
}

// pool translates the section into the configuration of pgx.
func (c Config) pool() (*pgxpool.Config, error) {
	pc, err := pgxpool.ParseConfig(c.ConnectionString)
	if err != nil {
		return nil, fmt.Errorf("reading the connection string: %w", err)
	}
	pc.MaxConns = c.MaxConnections
	pc.MaxConnLifetime = maxLifetime
	pc.MaxConnLifetimeJitter = maxLifetime / 10

	conn := pc.ConnConfig
	conn.ConnectTimeout = c.ConnectTimeout
	conn.DialFunc = dialer(c.ConnectTimeout).DialContext
	conn.OnPgError = keepConnection
	conn.Tracer = newQueryTracer()
	setUnlessGiven(conn.RuntimeParams, "statement_timeout", milliseconds(c.StatementTimeout))
	// A transaction that nobody continues would hold its locks until the connection dies.
	setUnlessGiven(conn.RuntimeParams, "idle_in_transaction_session_timeout", milliseconds(c.StatementTimeout))
	if c.PasswordFile != "" {
		pc.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) error {
			cc.Password, err = c.PasswordFile.Read()
			return err
		}
	}
	return pc, nil
}

func setUnlessGiven(params map[string]string, key, value string) {
	if _, given := params[key]; !given {
		params[key] = value
	}
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// dialer notices machines that vanish without closing their connections.
func dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:   timeout,
		KeepAlive: keepAlive,
		Control: func(network, _ string, raw syscall.RawConn) error {
			if network != "tcp4" && network != "tcp6" {
				return nil
			}
			var option error
			err := raw.Control(func(fd uintptr) {
				option = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedTimeout.Milliseconds()))
			})
			if err != nil {
				return err
			}
			return option
		},
	}
}

// keepConnection tells pgx whether a connection is of use after an error of the server. One to a
// former primary is not: it would refuse every write from now on.
func keepConnection(_ *pgconn.PgConn, err *pgconn.PgError) bool {
	return err.SeverityUnlocalized != "FATAL" && err.SeverityUnlocalized != "PANIC" && err.Code != readOnlyTransaction
}
