package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// dialTimeout is how long the application has to take a connection.
	dialTimeout = 250 * time.Millisecond
	// handshakeTimeout bounds what a client that says nothing costs.
	handshakeTimeout = 10 * time.Second
	// acceptPause is the pause after a connection could not be taken, as for want of descriptors.
	acceptPause = 100 * time.Millisecond
)

// server is a proxy at work.
type server struct {
	cfg       Config
	log       *slog.Logger
	large     *sync.Pool
	listeners []listener
	pending   sync.WaitGroup // connections
}

// listener is one listening socket.
type listener struct {
	net.Listener
	appPort uint32
	tls     *tls.Config
}

// Run reads the folder, listens, and relays connections until ctx ends. Then it takes no more, waits for those that are open, at
// most for Config.DrainTime, and returns nil. An error means that it could not begin, or not go on.
func Run(ctx context.Context, folder string, log *slog.Logger) error {
	s, err := open(ctx, folder, log)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

// open opens all ports, and looks at the credentials once, so that a proxy that could serve nobody ends at once.
func open(ctx context.Context, folder string, log *slog.Logger) (*server, error) {
	cfg, err := readConfig(folder)
	if err != nil {
		return nil, err
	}
	s := &server{cfg: cfg, log: log, large: newLargeBuffers()}
	routers, containers := newTerms(cfg, folder, log)
	for _, l := range cfg.Listeners {
		how := routers
		if l.C2C {
			how = containers
		}
		if _, err := how.current(); err != nil {
			s.close()
			return nil, err
		}
		socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", net.JoinHostPort("0.0.0.0", port(l.Port)))
		if err != nil {
			s.close()
			return nil, fmt.Errorf("listening for port %d of the application: %w", l.AppPort, err)
		}
		s.listeners = append(s.listeners, listener{Listener: socket, appPort: l.AppPort, tls: how.server()})
	}
	return s, nil
}

func (s *server) close() {
	for _, l := range s.listeners {
		_ = l.Close() // which is the end of its loop
	}
}

func (s *server) run(ctx context.Context) error {
	// What ends all connections, when those that are left have had their time.
	cut, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, accepting := errgroup.WithContext(ctx)
	context.AfterFunc(accepting, s.close)
	for _, l := range s.listeners {
		group.Go(func() error { return s.accept(accepting, cut, l) })
	}
	err := group.Wait()
	if err == nil {
		s.drain()
	}
	end()
	s.pending.Wait()
	return err
}

func port(number uint32) string { return strconv.FormatUint(uint64(number), 10) }

// accept takes connections, whose life is cut's, until ctx ends.
func (s *server) accept(ctx, cut context.Context, l listener) error {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			s.pending.Go(func() { s.serve(cut, l, conn) })
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the socket was closed because of it
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("taking connections: %w", err)
		default:
			s.log.Warn("taking-connection-failed", slog.Any("error", err))
			if !wait(ctx, acceptPause) {
				return nil
			}
		}
	}
}

func wait(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// serve is one connection. Nothing is logged of it: a client that is turned away is told by the handshake, and one whose
// application does not answer sees the connection end.
func (s *server) serve(cut context.Context, l listener, raw net.Conn) {
	release := context.AfterFunc(cut, func() { _ = raw.Close() })
	defer release()
	client := tls.Server(raw, l.tls)
	defer func() { _ = raw.Close() }() // a second time, mostly
	ctx, cancel := context.WithTimeout(cut, handshakeTimeout)
	defer cancel()
	if err := client.HandshakeContext(ctx); err != nil {
		return
	}
	// Only now: who is not let in must not reach the application even by a connection.
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(s.cfg.Upstream, port(l.appPort)))
	if err != nil {
		_ = client.Close()
		return
	}
	app, ok := conn.(*net.TCPConn)
	if !ok { // TCP yields nothing else
		_ = conn.Close()
		return
	}
	abort := func() { reset(raw); reset(app) }
	releaseApp := context.AfterFunc(cut, abort)
	defer releaseApp()
	relay(client, app, abort, s.large)
}

// reset ends a connection such that the other side cannot take it for an end that was meant. TLS has a goodbye for that, but
// many do without it.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // if this fails, the connection has ended already
	}
	_ = conn.Close() // it is of no use any more
}

// drain waits until the connections have ended or had their time.
func (s *server) drain() {
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.pending.Wait()
	}()
	timer := time.NewTimer(s.cfg.DrainTime)
	defer timer.Stop()
	select {
	case <-over:
	case <-timer.C:
	}
}
