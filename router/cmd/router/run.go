package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"diego.internal/router/internal/access"
	"diego.internal/router/internal/frontend"
	"diego.internal/router/internal/proxy"
	"diego.internal/router/internal/registry"
	"diego.internal/router/internal/subscriber"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/telemetry"
)

func run(ctx context.Context, args []string) error {
	cfg, err := config.Load[Config](args)
	if err != nil {
		return err //nolint:wrapcheck // complete as it is, and ErrDone must stay itself
	}
	tel, err := telemetry.New("router", cfg.Config) //nolint:contextcheck // opens a listener, which outlives ctx
	if err != nil {
		return fmt.Errorf("setting up telemetry: %w", err)
	}
	source, err := mtls.Load(cfg.TLS)
	if err != nil {
		return fmt.Errorf("loading certificates: %w", err)
	}
	source.Observe(tel)
	accessLog, closeAccessLog, err := access.Open(cfg.AccessLog.File)
	if err != nil {
		return fmt.Errorf("setting up the access log: %w", err)
	}
	defer func() { _ = closeAccessLog() }() // each line was written at once

	table := registry.New(registry.Config{
		StaleThreshold: cfg.Registration.StaleThreshold, MaxConnections: cfg.Backends.MaxConnections,
		Balancing: cfg.Requests.Balancing, EmptyPoolRetention: cfg.Registration.EmptyPool,
	})
	p := parts{cfg: cfg, tel: tel, table: table}
	link, err := p.subscriber(source)
	if err != nil {
		return err
	}
	health := frontend.NewHealth(func() time.Time { return link.Status().FirstConnected }, cfg.Status.HealthyAfter)
	tel.AddReadiness("nats", func() (any, error) {
		s := link.Status()
		if !s.Connected {
			return s, errors.New("not connected to nats")
		}
		return s, nil
	})
	tel.AddReadiness("requests", func() (any, error) {
		return map[string]int{"routes": table.Routes()}, health.Check(time.Now())
	})

	front, requests, err := p.frontend(ctx, health, accessLog)
	if err != nil {
		return err
	}
	defer requests.Close()
	status, statusAddress, err := p.status(ctx, health)
	if err != nil {
		return err
	}
	tel.Listening("http", front.address)
	tel.Listening("status", statusAddress)

	// Registrations and the status go on during the drain: requests still come.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	g, gctx := errgroup.WithContext(background)
	g.Go(func() error { return tel.Run(gctx) })
	g.Go(func() error { return source.Run(gctx) })
	g.Go(func() error { return link.Run(gctx) })
	g.Go(func() error { return status.Run(gctx) })
	g.Go(func() error {
		defer stopBackground()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(gctx, cancel)() // a failure elsewhere drains too
		return front.server.Run(ctx)
	})
	tel.Started()   //nolint:contextcheck // one log line
	return g.Wait() //nolint:wrapcheck // wrapped by each part
}

// parts is what most of the router is made from.
type parts struct {
	cfg   Config
	tel   *telemetry.Telemetry
	table *registry.Registry
}

func (p parts) subscriber(source *mtls.Source) (*subscriber.Subscriber, error) {
	cfg := p.cfg
	hosts, err := ownHosts(cfg.Listen)
	if err != nil {
		return nil, err
	}
	link, err := subscriber.New(subscriber.Config{
		Addresses: cfg.NATS.Addresses, TLS: source.ClientConfig(mtls.Peer{Role: mtls.RoleNATS}), Registry: p.table,
		Start: subscriber.Start{
			ID: cfg.Index + "-" + uuid.NewString(), Hosts: hosts,
			MinimumInterval: int(cfg.Registration.MinimumInterval / time.Second), PruneThreshold: int(cfg.Registration.StaleThreshold / time.Second),
		},
		PruneInterval: cfg.Registration.PruneInterval, SuspendPruning: cfg.Registration.SuspendPruning, Log: p.tel.Log, Metrics: p.tel.Registry,
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the link to nats: %w", err)
	}
	return link, nil
}

// public is the server of requests and where it listens.
type public struct {
	server  *frontend.Frontend
	address string
}

func (p parts) frontend(ctx context.Context, health *frontend.Health, accessLog *access.Log) (public, *proxy.Proxy, error) {
	cfg := p.cfg
	backends, err := cfg.Backends.proxyConfig()
	if err != nil {
		return public{}, nil, fmt.Errorf("setting up connections to backends: %w", err)
	}
	zone := ""
	if cfg.Requests.ZonePreference == zoneLocal {
		zone = cfg.Zone
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return public{}, nil, fmt.Errorf("listening for requests: %w", err)
	}
	requests := proxy.New(proxy.Config{
		Registry: p.table, Access: accessLog, Log: p.tel.Log, Metrics: p.tel.Registry,
		MaxAttempts: cfg.Requests.MaxAttempts, RequestTimeout: cfg.Requests.Timeout, MaxHeaderBytes: cfg.Requests.MaxHeaderBytes,
		StickyCookies: cfg.Requests.StickyCookies, LocalZone: zone, Backends: backends,
	})
	server := frontend.New(frontend.Config{
		Listener: listener, Handler: requests, Health: health, Log: p.tel.Log,
		IdleTimeout: cfg.Requests.IdleTimeout, ReadHeaderTimeout: cfg.Requests.ReadHeaderTimeout,
		// Twice the proxy's limit, so that the proxy answers with its error header and the server is a last resort.
		MaxHeaderBytes: 2 * cfg.Requests.MaxHeaderBytes,
		DrainWait:      cfg.Drain.Wait, DrainTimeout: cfg.Drain.Timeout,
	})
	return public{server, listener.Addr().String()}, requests, nil
}

func (p parts) status(ctx context.Context, health *frontend.Health) (*frontend.Status, string, error) {
	cfg := p.cfg
	password := ""
	if cfg.Status.PasswordFile != "" {
		var err error
		if password, err = cfg.Status.PasswordFile.Read(); err != nil {
			return nil, "", fmt.Errorf("reading the password of the status listener: %w", err)
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Status.Listen)
	if err != nil {
		return nil, "", fmt.Errorf("listening for status: %w", err)
	}
	return frontend.NewStatus(frontend.StatusConfig{
		Listener: listener, Health: health, Registry: p.table, Balancing: cfg.Requests.Balancing, User: cfg.Status.User, Password: password,
	}), listener.Addr().String(), nil
}

// ownHosts lists the addresses under which requests may reach this router, for the start message.
func ownHosts(listen string) ([]string, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("reading the listen address: %w", err)
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return []string{host}, nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing own addresses: %w", err)
	}
	var hosts []string
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			hosts = append(hosts, n.IP.String())
		}
	}
	slices.Sort(hosts)
	return hosts, nil
}
