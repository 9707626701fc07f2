package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"diego.internal/bbs/internal/api"
	"diego.internal/bbs/internal/cells"
	"diego.internal/bbs/internal/converge"
	"diego.internal/bbs/internal/effect"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/store"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/telemetry"
)

// serverConfig is what the bench tells the BBS that it starts.
type serverConfig struct {
	Database string
	TLS      mtls.Config
}

// noCells and noEffects stand for what a BBS talks to and the bench does not have.
type noCells struct{}

func (noCells) List() []cells.Cell { return nil }

type noEffects struct{}

func (noEffects) CancelTask(string, string, string) {}
func (noEffects) OverrideBrake(bool, time.Duration) {}
func (noEffects) Status() effect.Status             { return effect.Status{} }

// runServer is the BBS. It prints its address, and then answers each line "converge" on its standard
// input with the milliseconds that a look at everything took; the end of the input ends it.
func runServer(ctx context.Context, file string) error {
	text, err := os.ReadFile(file) //nolint:gosec // written by the parent
	if err != nil {
		return err
	}
	var cfg serverConfig
	if err := json.Unmarshal(text, &cfg); err != nil {
		return err
	}
	pool, err := postgres.Open(ctx, postgres.Config{ConnectionString: cfg.Database})
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := store.Migrate(ctx, pool); err != nil {
		return err
	}
	keys, err := seal.New([]seal.Key{{Label: "bench", Secret: [32]byte{7}}}, "bench")
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	st, err := store.New(store.Config{Pool: pool, Keys: keys, Log: log})
	if err != nil {
		return err
	}
	if err := st.TakeOver(ctx, func() bool { return true }); err != nil {
		return err
	}
	source, err := mtls.Load(cfg.TLS)
	if err != nil {
		return err
	}
	server, err := grpcserver.New(grpcserver.Options{Source: source, Allow: api.Roles(), Telemetry: telemetry.Discard(), Listen: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	api.Register(server.GRPC(), api.Config{Store: st, Cells: noCells{}, Effects: noEffects{}, Log: log, NewGUID: uuid.NewString})
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return st.Run(ctx) })
	g.Go(func() error { return server.Run(ctx) })
	fmt.Println(server.Addr())
	g.Go(func() error {
		defer stop()
		return answer(st)
	})
	return g.Wait()
}

func answer(st *store.Store) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Printf("%g\n", convergeIdle(st))
	}
	return lines.Err()
}

// convergeIdle returns the median milliseconds of five looks at everything with every cell present.
func convergeIdle(st *store.Store) float64 {
	view := &converge.View{Now: time.Now(), Cells: converge.Cells{}, Config: converge.DefaultConfig()}
	for i := range maxCells {
		view.Cells[cellName(i)] = converge.Present
	}
	var times []float64
	for range 5 {
		started := time.Now()
		view.Make(st.Committed())
		times = append(times, milliseconds(time.Since(started)))
	}
	slices.Sort(times)
	return times[len(times)/2]
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
