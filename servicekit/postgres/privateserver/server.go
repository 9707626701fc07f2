// Package privateserver owns Postgres servers of our own: it makes their data folder and starts and
// stops them with the binaries of Debian's package, as an unprivileged user. It serves installations
// on one machine, and tests. It does not own databases or schemas in them.
package privateserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	superuser = "postgres"
	// startTimeout is ample for recovery after a crash of a small database.
	startTimeout = time.Minute
	pollInterval = 10 * time.Millisecond
	// maxSocketPath is what the kernel allows for the path of a unix socket.
	maxSocketPath = 107
)

// Config says which server to run.
type Config struct {
	// Folder holds data, socket and log. It is made if it is not there; its parents must let the
	// server's user through. A folder that was used before is used again, with its databases.
	Folder string
	// Port on 127.0.0.1, in addition to the socket; 0 = the socket only.
	Port int
	// Unsafe turns off everything that protects the data from a crash of the machine. For tests.
	Unsafe bool
	// Settings of postgresql.conf to add or change, as key and value.
	Settings map[string]string
}

// Server is a running server. It does not outlive the process that started it, even if that one is
// killed.
type Server struct {
	cfg     Config
	sockets string
	cmd     *exec.Cmd
	done    chan struct{} // closed when the server has ended
	err     error         // why, to be read after done
}

// Start makes the data folder if there is none, starts the server, and waits until it answers or ctx
// ends. Missing binaries are an error that names the package to install.
func Start(ctx context.Context, cfg Config) (*Server, error) { return start(ctx, cfg, nil) }

// start runs a server whose data folder, if there is none, is a copy of primary's or, if that is nil,
// a new one.
func start(ctx context.Context, cfg Config, primary *Server) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	owner, err := unprivileged()
	if err != nil {
		return nil, err
	}
	if cfg.Folder, err = filepath.Abs(cfg.Folder); err != nil {
		return nil, fmt.Errorf("finding the folder of postgres: %w", err)
	}
	s := &Server{cfg: cfg, done: make(chan struct{})}
	if err := s.prepare(ctx, bin, owner, primary); err != nil {
		return nil, fmt.Errorf("preparing postgres in %s: %w", cfg.Folder, err)
	}
	if err := s.launch(bin, owner); err != nil {
		return nil, fmt.Errorf("starting postgres in %s: %w", cfg.Folder, err)
	}
	if err := s.waitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("waiting for postgres in %s: %w", cfg.Folder, err), s.Stop(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// prepare makes the folders and, once, the database cluster.
func (s *Server) prepare(ctx context.Context, bin string, owner *syscall.Credential, primary *Server) error {
	if err := owned(s.cfg.Folder, owner); err != nil {
		return err
	}
	s.sockets = filepath.Join(s.cfg.Folder, "socket")
	if len(s.socketFile()) > maxSocketPath {
		return fmt.Errorf("the path %s is too long for a unix socket, at most %d characters", s.socketFile(), maxSocketPath)
	}
	if err := owned(s.sockets, owner); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(s.data(), "PG_VERSION")); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	program, args := "initdb", []string{"--pgdata=" + s.data(), "--username=" + superuser, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"}
	if primary != nil {
		program, args = "pg_basebackup", primary.copyTo(s.data())
	}
	if s.cfg.Unsafe {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, program), args...) //nolint:gosec // a fixed program
	cmd.Dir = s.cfg.Folder
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making the database cluster: %w: %s", err, out)
	}
	return nil
}

// settings are the command line of the server. A single user's machine and a test share them, but
// for durability.
func (s *Server) settings() map[string]string {
	all := map[string]string{
		"listen_addresses":        "",
		"unix_socket_directories": s.sockets,
		"unix_socket_permissions": "0777",
		"max_connections":         "300",
		"log_line_prefix":         "%m [%p] %d ",
	}
	if s.cfg.Port != 0 {
		all["listen_addresses"] = "127.0.0.1"
		all["port"] = strconv.Itoa(s.cfg.Port)
	}
	if s.cfg.Unsafe {
		all["fsync"] = "off"
		all["synchronous_commit"] = "off"
		all["full_page_writes"] = "off"
		all["shared_buffers"] = "32MB"
		all["max_wal_size"] = "256MB"
	}
	maps.Copy(all, s.cfg.Settings)
	return all
}

// launch starts the server from a thread that lives as long as the server: the kernel signals the
// server when that thread ends, which is how the server dies with us and not before.
func (s *Server) launch(bin string, owner *syscall.Credential) error {
	log, err := os.OpenFile(filepath.Join(s.cfg.Folder, "postgres.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	args := []string{"-D", s.data()}
	for key, value := range s.settings() {
		args = append(args, "-c", key+"="+value)
	}
	s.cmd = exec.Command(filepath.Join(bin, "postgres"), args...) //nolint:gosec,noctx // a fixed program that Stop ends in its own way
	s.cmd.Dir = s.cfg.Folder
	s.cmd.Env = environment()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: owner,
		Setpgid:    true, // Ctrl-C is for the launcher, which stops us in its order
		Pdeathsig:  syscall.SIGINT,
	}
	if s.cfg.Unsafe {
		s.cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		defer close(s.done)
		err := s.cmd.Start()
		closeErr := log.Close() // the server has its own copy
		started <- errors.Join(err, closeErr)
		if err == nil {
			s.err = s.cmd.Wait()
		}
	}()
	return <-started
}

func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no answer within %v", startTimeout))
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		conn, err := pgx.Connect(ctx, s.ConnectionString(superuser))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.done:
			return fmt.Errorf("the server ended: %w: %s", s.err, s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w: %s", context.Cause(ctx), err, s.logTail())
		case <-ticker.C:
		}
	}
}

// ConnectionString returns how to reach a database of this server, over its socket, as superuser.
func (s *Server) ConnectionString(database string) string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable", s.sockets, s.port(), superuser, database)
}

// CreateDatabase makes an empty database unless it is there.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, s.ConnectionString(superuser))
	if err != nil {
		return fmt.Errorf("creating database %s: %w", name, err)
	}
	defer func() { _ = conn.Close(ctx) }() // nothing is pending
	var exists bool
	if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", name).Scan(&exists); err != nil {
		return fmt.Errorf("looking for database %s: %w", name, err)
	}
	if exists {
		return nil
	}
	if _, err := conn.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize()); err != nil {
		return fmt.Errorf("creating database %s: %w", name, err)
	}
	return nil
}

// PID returns the process id of the server.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Done is closed when the server has ended, asked or not.
func (s *Server) Done() <-chan struct{} { return s.done }

// Stop ends the server, open connections included, and waits for it. If ctx ends first it is killed;
// its data survive that, unless it runs Unsafe. Stopping twice is allowed.
func (s *Server) Stop(ctx context.Context) error {
	sig := syscall.SIGINT // "fast": roll back, write a checkpoint, end
	if s.cfg.Unsafe {
		sig = syscall.SIGQUIT // "immediate": the data are not needed again
	}
	_ = s.cmd.Process.Signal(sig) // it fails only if the server has ended
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		err := fmt.Errorf("stopping postgres in %s: %w", s.cfg.Folder, context.Cause(ctx))
		_ = s.cmd.Process.Kill()
		<-s.done
		return err
	}
}

func (s *Server) data() string { return filepath.Join(s.cfg.Folder, "data") }

func (s *Server) port() int {
	if s.cfg.Port != 0 {
		return s.cfg.Port
	}
	return 5432 // only the name of the socket
}

func (s *Server) socketFile() string {
	return filepath.Join(s.sockets, ".s.PGSQL."+strconv.Itoa(s.port())+".lock")
}

// logTail returns the end of the server's log, for errors.
func (s *Server) logTail() string {
	const most = 2000
	data, err := os.ReadFile(filepath.Join(s.cfg.Folder, "postgres.log"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data[max(0, len(data)-most):]))
}
