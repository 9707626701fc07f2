package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/servicekit/telemetry"
)

// silence is how long a database may fail, with no success in between, before a process that needs
// it counts as not ready.
const silence = 10 * time.Second

// Observe lets tel show the pool: metrics db_* and the readiness check "database", both from what is
// remembered of statements that ran anyway. The pool must come from Open.
func Observe(pool *pgxpool.Pool, tel *telemetry.Telemetry) error {
	tracer, ok := pool.Config().ConnConfig.Tracer.(*queryTracer)
	if !ok {
		return errors.New("the pool was not made by postgres.Open")
	}
	stat := func(name, help string, read func(*pgxpool.Stat) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return read(pool.Stat()) })
	}
	for _, c := range []prometheus.Collector{
		stat("db_open_connections", "Connections of the pool.", func(s *pgxpool.Stat) float64 { return float64(s.TotalConns()) }),
		stat("db_connections_in_use", "Connections that run something.", func(s *pgxpool.Stat) float64 { return float64(s.AcquiredConns()) }),
		stat("db_max_connections", "Limit of the pool.", func(s *pgxpool.Stat) float64 { return float64(s.MaxConns()) }),
		stat("db_wait_count", "Times that a caller had to wait for a connection.", func(s *pgxpool.Stat) float64 { return float64(s.EmptyAcquireCount()) }),
		stat("db_wait_duration_seconds", "Time that callers waited for connections.", func(s *pgxpool.Stat) float64 { return s.EmptyAcquireWaitTime().Seconds() }),
		tracer.latency, tracer.inFlight,
	} {
		if err := tel.Registry.Register(c); err != nil {
			return fmt.Errorf("registering the metrics of the database: %w", err)
		}
	}
	tel.AddReadiness("database", func() (any, error) { return tracer.readiness(pool.Stat(), time.Now()) })
	return nil
}

// queryTracer times every statement, batch and copy of a pool.
type queryTracer struct {
	latency  *prometheus.HistogramVec
	ok, bad  prometheus.Observer
	inFlight prometheus.Gauge

	success atomic.Int64 // time of the last success, in Unix nanoseconds
	failing atomic.Int64 // time of the first failure since then, 0 if none
}

func newQueryTracer() *queryTracer {
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "db_query_duration_seconds", Help: "Time of one statement, batch or copy, by result.",
		Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"result"})
	return &queryTracer{
		latency:  latency,
		ok:       latency.WithLabelValues("succeeded"),
		bad:      latency.WithLabelValues("failed"),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "db_queries_in_flight", Help: "Statements, batches and copies that run."}),
	}
}

type startKey struct{}

func (t *queryTracer) begin(ctx context.Context) context.Context {
	t.inFlight.Inc()
	return context.WithValue(ctx, startKey{}, time.Now())
}

func (t *queryTracer) end(ctx context.Context, err error) {
	t.inFlight.Dec()
	start, ok := ctx.Value(startKey{}).(time.Time)
	if !ok {
		return
	}
	now := time.Now()
	if err != nil {
		t.bad.Observe(now.Sub(start).Seconds())
		if IsUnavailable(err) {
			t.failing.CompareAndSwap(0, now.UnixNano())
		}
		return
	}
	t.ok.Observe(now.Sub(start).Seconds())
	t.success.Store(now.UnixNano())
	t.failing.Store(0)
}

func (t *queryTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return t.begin(ctx)
}

func (t *queryTracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	t.end(ctx, data.Err)
}

func (t *queryTracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return t.begin(ctx)
}

func (t *queryTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (t *queryTracer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	t.end(ctx, data.Err)
}

func (t *queryTracer) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromStartData) context.Context {
	return t.begin(ctx)
}

func (t *queryTracer) TraceCopyFromEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceCopyFromEndData) {
	t.end(ctx, data.Err)
}

func (t *queryTracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}

// TraceConnectEnd sees a database that is down even when no statement gets as far as a connection.
func (t *queryTracer) TraceConnectEnd(_ context.Context, data pgx.TraceConnectEndData) {
	if data.Err != nil && IsUnavailable(data.Err) {
		t.failing.CompareAndSwap(0, time.Now().UnixNano())
	}
}

// poolState is what the readiness document tells of a pool.
type poolState struct {
	Open           int32      `json:"open"`
	InUse          int32      `json:"in_use"`
	Limit          int32      `json:"limit"`
	WaitedForConns int64      `json:"waited_for_connections"`
	LastSuccess    *time.Time `json:"last_success,omitempty"`
	FailingSince   *time.Time `json:"failing_since,omitempty"`
}

func (t *queryTracer) readiness(stat *pgxpool.Stat, now time.Time) (any, error) {
	s := poolState{
		Open: stat.TotalConns(), InUse: stat.AcquiredConns(), Limit: stat.MaxConns(), WaitedForConns: stat.EmptyAcquireCount(),
		LastSuccess: instant(t.success.Load()), FailingSince: instant(t.failing.Load()),
	}
	if s.FailingSince != nil && now.Sub(*s.FailingSince) > silence {
		return s, fmt.Errorf("the database has not answered since %v", s.FailingSince.Format(time.RFC3339))
	}
	return s, nil
}

func instant(nanoseconds int64) *time.Time {
	if nanoseconds == 0 {
		return nil
	}
	t := time.Unix(0, nanoseconds).UTC()
	return &t
}
