// Package postgrestest gives each test a database of its own on a real Postgres. The server is
// private to the test binary, starts with the first test that needs it, and goes, with all its files,
// when the binary ends, even if it is killed. Durability is off; it does not suit measurements.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5/pgxpool"

	"diego.internal/servicekit/postgres"
)

// dropTimeout bounds the removal of one database.
const dropTimeout = 20 * time.Second

// template is a migrated database that others are copied from.
type template struct {
	once    sync.Once
	name    string
	err     error
	migrate func(context.Context, *pgxpool.Pool) error // kept, so that its address is not used again
}

// New returns a pool on a new database in which migrate, if it is not nil, has been run. Databases of
// the same migrate function are copies of a template, which takes some 30 ms. The database goes when
// the test ends. Without the binaries of Postgres the test fails and names the package to install.
func New(tb testing.TB, migrate func(ctx context.Context, pool *pgxpool.Pool) error) *pgxpool.Pool {
	tb.Helper()
	c, err := shared()
	if err != nil {
		tb.Fatalf("starting a private postgres: %v", err)
	}
	name, err := c.create(tb.Context(), migrate)
	if err != nil {
		tb.Fatalf("creating a test database: %v", err)
	}
	pool, err := postgres.Open(tb.Context(), c.config(name))
	if err != nil {
		tb.Fatalf("opening a test database: %v", err)
	}
	tb.Cleanup(func() {
		// The test's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), dropTimeout)
		defer cancel()
		closePool(ctx, pool)
		if _, err := c.admin.Exec(ctx, "drop database if exists "+name+" with (force)"); err != nil {
			tb.Errorf("dropping a test database: %v", err)
		}
	})
	return pool
}

// closePool closes pool, but does not wait for ever for a connection that the test has not given back.
func closePool(ctx context.Context, pool *pgxpool.Pool) {
	closed := make(chan struct{})
	go func() { defer close(closed); pool.Close() }()
	grace, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	select {
	case <-closed:
	case <-grace.Done(): // dropping the database with force ends the connection
	}
}

// URL returns the connection string of a pool that New made, for processes that open it themselves.
func URL(pool *pgxpool.Pool) string { return pool.Config().ConnString() }

func (c *cluster) config(database string) postgres.Config {
	return postgres.Config{ConnectionString: c.server.ConnectionString(database)}
}

// create makes a database as a copy of the template of migrate.
func (c *cluster) create(ctx context.Context, migrate func(context.Context, *pgxpool.Pool) error) (string, error) {
	from := "template0"
	if migrate != nil {
		tmpl := c.template(migrate)
		tmpl.once.Do(func() { tmpl.err = c.fill(context.WithoutCancel(ctx), tmpl) })
		if tmpl.err != nil {
			return "", tmpl.err
		}
		from = tmpl.name
	}
	name := c.nextName("test")
	if _, err := c.admin.Exec(ctx, fmt.Sprintf("create database %s template %s", name, from)); err != nil {
		return "", fmt.Errorf("copying database %s: %w", from, err)
	}
	return name, nil
}

// template finds the template of a function. Functions are told apart by their closure and not by
// their code, since closures of one code may migrate differently.
func (c *cluster) template(migrate func(context.Context, *pgxpool.Pool) error) *template {
	key := *(*uintptr)(unsafe.Pointer(&migrate)) // the only identity that a function has
	c.mu.Lock()
	defer c.mu.Unlock()
	tmpl, ok := c.templates[key]
	if !ok {
		tmpl = &template{migrate: migrate}
		c.templates[key] = tmpl
	}
	return tmpl
}

// fill makes a template: a database that is migrated, and that nobody is connected to any more.
func (c *cluster) fill(ctx context.Context, tmpl *template) error {
	tmpl.name = c.nextName("template")
	if _, err := c.admin.Exec(ctx, "create database "+tmpl.name); err != nil {
		return fmt.Errorf("creating a template: %w", err)
	}
	pool, err := postgres.Open(ctx, c.config(tmpl.name))
	if err != nil {
		return fmt.Errorf("opening a template: %w", err)
	}
	err = tmpl.migrate(ctx, pool)
	pool.Close()
	if err != nil {
		return fmt.Errorf("migrating a template: %w", err)
	}
	_, err = c.admin.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", tmpl.name)
	if err != nil {
		return errors.Join(errors.New("disconnecting from a template"), err)
	}
	return nil
}

func (c *cluster) nextName(kind string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.databases++
	return fmt.Sprintf("%s_%d", kind, c.databases)
}
