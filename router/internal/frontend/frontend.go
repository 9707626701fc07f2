// Package frontend owns the router's two listeners: the public one, with its limits and its drain, and the status
// one, which says to load balancers whether to send requests and to operators what the table holds. What happens
// to a request is the business of package proxy.
package frontend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Config holds what a Frontend needs; all fields but the durations are required.
type Config struct {
	Listener net.Listener
	Handler  http.Handler
	Health   *Health
	Log      *slog.Logger

	IdleTimeout       time.Duration // of a connection between two requests; 0 is none
	ReadHeaderTimeout time.Duration // from the begin of a request to the end of its headers; 0 is none
	MaxHeaderBytes    int           // the connection is closed beyond it; the proxy's own limit must be lower
	DrainWait         time.Duration // new requests are taken for so long while health says no
	DrainTimeout      time.Duration // open requests get so long afterwards
}

// Frontend serves the public listener.
type Frontend struct {
	cfg Config
}

// New returns a Frontend that begins to accept in Run.
func New(cfg Config) *Frontend {
	return &Frontend{cfg: cfg}
}

// Run serves until ctx ends, then drains: first health turns bad while requests are still taken, so that load
// balancers move on without a failed request; then the listener closes and open requests may finish; what is left,
// upgraded connections among it, is cut. It returns an error only if serving failed.
func (f *Frontend) Run(ctx context.Context) error {
	// Requests must outlive ctx during the drain, and end with cut.
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := &http.Server{
		Handler:           f.cfg.Handler,
		IdleTimeout:       f.cfg.IdleTimeout,
		ReadHeaderTimeout: f.cfg.ReadHeaderTimeout,
		MaxHeaderBytes:    f.cfg.MaxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          slog.NewLogLogger(f.cfg.Log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(f.cfg.Listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving http: %w", err)
	case <-ctx.Done():
	}
	f.cfg.Health.Drain()
	f.cfg.Log.Info("drain-started", "wait", f.cfg.DrainWait, "timeout", f.cfg.DrainTimeout)
	wait := time.NewTimer(f.cfg.DrainWait)
	defer wait.Stop()
	select {
	case err := <-served:
		return fmt.Errorf("serving http while draining: %w", err)
	case <-wait.C:
	}
	finish, cancel := context.WithTimeout(requests, f.cfg.DrainTimeout)
	defer cancel()
	err := server.Shutdown(finish)
	if errors.Is(err, context.DeadlineExceeded) {
		f.cfg.Log.Warn("drain-timed-out", "timeout", f.cfg.DrainTimeout)
		cut()
		err = server.Close()
	}
	<-served //nolint:errcheck // always http.ErrServerClosed now
	if err != nil {
		return fmt.Errorf("closing the http server: %w", err)
	}
	return nil
}
