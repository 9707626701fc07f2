package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"diego.internal/rep/internal/cell"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/telemetry"
)

// errEmptied ends a process whose cells were all evacuated for good. It is a success.
var errEmptied = errors.New("all cells are evacuated")

func run(ctx context.Context, args []string) error {
	cfg, err := config.Load[Config](args)
	if err != nil {
		return err
	}
	tel, err := telemetry.New("simulated-cells", cfg.Config) //nolint:contextcheck // opens a listener, which outlives ctx
	if err != nil {
		return fmt.Errorf("setting up telemetry: %w", err)
	}
	h := newHost(cfg, tel)
	cell.ShowMetrics(tel.Registry, h.list)
	tel.AddReadiness("cells", h.readiness)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return tel.Run(ctx) })
	group.Go(func() error {
		if err := h.run(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		return errEmptied
	})
	tel.Started(slog.Int("cells", cfg.Cells.Count)) //nolint:contextcheck // one log line
	if err := group.Wait(); err != nil && !errors.Is(err, errEmptied) {
		return err
	}
	return nil
}
