package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"diego.internal/bbs/internal/api"
	"diego.internal/bbs/internal/schema"
	"diego.internal/bbs/internal/store"
	"diego.internal/servicekit/lifecycle"
	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/telemetry"
)

// errRolledBack ends the work of an active BBS that has brought the tables back to an earlier version:
// from now on it is for another program to serve.
var errRolledBack = errors.New("the schema is rolled back; this bbs stays passive")

// migrate brings the tables to the version that is wanted, while everybody who asks is told to wait. It
// returns errRolledBack if that is an earlier one.
func (m *master) migrate(ctx context.Context, valid func() bool) error {
	steps, err := schema.Steps()
	if err != nil {
		return err
	}
	migrator, err := schema.New(schema.Config{
		Pool: m.pool, Steps: steps, RollBackTo: m.cfg.RollBackTo, Valid: valid, Log: m.tel.Log,
	})
	if err != nil {
		return lifecycle.WithExitCode(err, lifecycle.ExitConfig)
	}
	m.schema.migrator.Store(migrator)
	defer m.store.SetMigrating(false)
	var action schema.Action
	err = m.persist(ctx, "migrating", func() error {
		versions, err := schema.Read(ctx, m.pool)
		if err != nil {
			return err
		}
		action = schema.Decide(versions, schema.Built(), m.cfg.RollBackTo)
		m.schema.versions.Store(&versions)
		if action == schema.Serve {
			return nil
		}
		m.store.SetMigrating(action == schema.Up || action == schema.Down)
		action, err = migrator.Run(ctx)
		reached := migrator.Status().Versions
		m.schema.versions.Store(&reached)
		return err
	})
	switch {
	case errors.Is(err, schema.ErrLockLost):
		return lifecycle.WithExitCode(err, lifecycle.ExitLockLost)
	case err != nil && ctx.Err() == nil:
		return lifecycle.WithExitCode(err, lifecycle.ExitStore)
	case err == nil && action == schema.StayPassive:
		return errRolledBack
	}
	return err
}

// persist repeats an attempt for as long as the database does not answer, or asks for it.
func (m *master) persist(ctx context.Context, doing string, attempt func() error) error {
	pause := time.NewTicker(takeOverPause)
	defer pause.Stop()
	for {
		err := attempt()
		if err == nil || (!postgres.IsUnavailable(err) && !schema.IsRepeatable(err)) {
			return err
		}
		m.tel.Log.WarnContext(ctx, "take-over-failed", "doing", doing, "error", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-pause.C:
		}
	}
}

// schemaStatus is what this process knows of the version of the tables.
type schemaStatus struct {
	versions   atomic.Pointer[schema.Versions]
	migrator   atomic.Pointer[schema.Migrator] // nil until the lock was ours
	rolledBack atomic.Bool
}

func (s *schemaStatus) migration() schema.Status {
	if migrator := s.migrator.Load(); migrator != nil {
		return migrator.Status()
	}
	return schema.Status{}
}

var errMigrating = errors.New("the schema of the database is being migrated")

// observeSchema shows the version of the tables as metrics and as readiness.
func observeSchema(tel *telemetry.Telemetry, st *store.Store, status *schemaStatus) {
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
	}
	tel.Registry.MustRegister(
		gauge("bbs_schema_version_built", "Version of the schema that this program was built for.", func() float64 { return float64(schema.Built()) }),
		gauge("bbs_schema_version", "Version of the tables when this process last had the lock, 0 before.", func() float64 {
			if versions := status.versions.Load(); versions != nil {
				return float64(versions.Current)
			}
			return 0
		}),
		gauge("bbs_migrating", "1 while this BBS migrates the schema.", func() float64 {
			if st.Migrating() {
				return 1
			}
			return 0
		}),
		gauge("bbs_migration_duration_seconds", "Time of the last migration of this process, 0 before.", func() float64 {
			return status.migration().Took.Seconds()
		}),
	)
	tel.AddReadiness("schema", func() (any, error) { return schemaReadiness(st, status) })
}

// version is that of the tables as last read, 0 before.
func (s *schemaStatus) version() int64 {
	if migration := s.migration(); migration.Current != 0 {
		return migration.Current
	}
	if versions := s.versions.Load(); versions != nil {
		return versions.Current
	}
	return 0
}

// status is for operators who ask the API.
func (s *schemaStatus) status(st *store.Store) api.SchemaStatus {
	status := api.SchemaStatus{BuiltFor: schema.Built(), Version: s.version()}
	if status.Version == 0 && st.Committed() != nil {
		status.Version = schema.Built() // a standby loads no other
	}
	if st.Migrating() {
		status.MigratingTo = s.migration().Target
	}
	return status
}

func schemaReadiness(st *store.Store, status *schemaStatus) (any, error) {
	detail := map[string]any{"built_for": schema.Built()}
	if version := status.version(); version != 0 {
		detail["version"] = version
	}
	switch {
	case st.Migrating():
		detail["target"] = status.migration().Target
		return detail, errMigrating
	case status.rolledBack.Load():
		return detail, errRolledBack
	}
	return detail, nil
}
