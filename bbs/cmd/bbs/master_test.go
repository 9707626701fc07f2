package main

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"diego.internal/bbs/internal/api"
	"diego.internal/bbs/internal/cells"
	"diego.internal/bbs/internal/effect"
	"diego.internal/bbs/internal/schema"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/store"
	"diego.internal/locket/lockclient"
	"diego.internal/locket/lockclient/backendtest"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/fault"
	"diego.internal/servicekit/grpcserver"
	"diego.internal/servicekit/lifecycle"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/postgrestest"
	"diego.internal/servicekit/telemetry"
)

// bbs is a BBS without a process: what run makes, on a store of locks in memory.
type bbs struct {
	t      *testing.T
	store  *store.Store
	status *schemaStatus
	conn   *grpc.ClientConn
	stop   context.CancelFunc
	ended  chan error
}

// world is what several BBSs share.
type world struct {
	pool      *pgxpool.Pool
	locks     *backendtest.Memory
	authority *mtlstest.Authority
}

func newWorld(t *testing.T, migrate func(context.Context, *pgxpool.Pool) error) *world {
	t.Helper()
	return &world{pool: postgrestest.New(t, migrate), locks: backendtest.NewMemory(), authority: mtlstest.NewAuthority(t)}
}

// noCells is an empty fleet.
type noCells struct{ effect.Cells }

func (noCells) List() []cells.Cell { return nil }

// start runs a BBS until the test ends or it is stopped. Its keys are labels, the active one first.
func (w *world) start(t *testing.T, owner string, rollBackTo int64, labels ...string) *bbs {
	t.Helper()
	tel := telemetry.Discard()
	if len(labels) == 0 {
		labels = []string{"key"}
	}
	var secrets []seal.Key
	for _, label := range labels {
		key := seal.Key{Label: label}
		copy(key.Secret[:], label)
		secrets = append(secrets, key)
	}
	keys, err := seal.New(secrets, labels[0])
	require.NoError(t, err)
	server, err := grpcserver.New(grpcserver.Options{
		Source: w.authority.Source(mtls.Identity{Role: mtls.RoleBBS}), Allow: api.Roles(), Telemetry: tel, Listen: "127.0.0.1:0",
	})
	require.NoError(t, err)
	cfg := Config{Lock: lockclient.Config{Owner: owner, TTL: 3 * time.Second}, RollBackTo: rollBackTo}
	cfg.Convergence.SetDefaults()
	cfg.Tasks.SetDefaults()
	st, err := store.New(storeConfig(cfg, w.pool, keys, tel, nil))
	require.NoError(t, err)
	effects := effect.New(effectConfig(cfg), effectStore{st}, effect.Peers{Cells: noCells{}, Callbacks: http.DefaultClient}, tel.Log)
	api.Register(server.GRPC(), api.Config{Store: st, Cells: noCells{}, Effects: effects, Log: tel.Log, NewGUID: uuid.NewString, Instance: owner})
	server.SetServing(healthService, false)
	// Not the product's own client, which tries again for as long as it is told to wait.
	tls := w.authority.Source(mtls.Identity{Role: mtls.RoleOperator, Name: "alice"}).ClientConfig(mtls.Peer{Role: mtls.RoleBBS})
	conn, err := grpc.NewClient(server.Addr(), grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	require.NoError(t, err)

	b := &bbs{t: t, store: st, status: &schemaStatus{}, conn: conn, ended: make(chan error, 1)}
	m := master{cfg: cfg, tel: tel, pool: w.pool, store: st, effects: effects, server: server, backend: w.locks, schema: b.status}
	observe(tel, st, effects)
	observeSchema(tel, st, b.status)
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	served := make(chan error, 1)
	go func() { served <- server.Run(ctx) }()
	go func() { b.ended <- m.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-served)
		require.NoError(t, conn.Close())
	})
	return b
}

// end stops a BBS and waits for its end.
func (b *bbs) end() {
	b.t.Helper()
	b.stop()
	require.NoError(b.t, <-b.ended)
}

// desire asks for a domain, which every BBS that serves grants.
func (b *bbs) desire() error {
	_, err := bbsv1.NewDomainsClient(b.conn).UpsertDomain(b.t.Context(), &bbsv1.UpsertDomainRequest{Domain: "cf-apps"})
	return err
}

func (b *bbs) eventually(what string, holds func() bool) {
	b.t.Helper()
	require.Eventually(b.t, holds, 30*time.Second, 10*time.Millisecond, what)
}

func (b *bbs) serves() bool { return b.desire() == nil }

// reason is why it does not serve.
func (b *bbs) reason() string { return fault.Reason(b.desire()) }

func (b *bbs) healthy() bool {
	resp, err := healthv1.NewHealthClient(b.conn).Check(b.t.Context(), &healthv1.HealthCheckRequest{Service: healthService})
	return err == nil && resp.GetStatus() == healthv1.HealthCheckResponse_SERVING
}

// requireExit waits until a BBS ends by itself and makes sure that it leaves the store to an operator.
func (b *bbs) requireExit(target error, text string) {
	b.t.Helper()
	select {
	case err := <-b.ended:
		require.ErrorIs(b.t, err, target)
		require.ErrorContains(b.t, err, text)
		coded, ok := errors.AsType[interface {
			error
			ExitCode() int
		}](err)
		require.True(b.t, ok, "no exit code: %v", err)
		require.Equal(b.t, lifecycle.ExitStore, coded.ExitCode())
	case <-b.t.Context().Done():
		b.t.Fatal("it did not end")
	}
}

func (w *world) versions(t *testing.T) [2]int64 {
	t.Helper()
	versions, err := schema.Read(t.Context(), w.pool)
	require.NoError(t, err)
	return [2]int64{versions.Current, versions.Target}
}

// atVersion1 makes tables of the first version.
func atVersion1(ctx context.Context, pool *pgxpool.Pool) error {
	if err := store.Migrate(ctx, pool); err != nil {
		return err
	}
	steps, err := schema.Steps()
	if err != nil {
		return err
	}
	m, err := schema.New(schema.Config{Pool: pool, Steps: steps, RollBackTo: 1})
	if err != nil {
		return err
	}
	_, err = m.Run(ctx)
	return err
}

// TestMasterMigrates holds a migration up and looks at the BBS from all sides meanwhile.
func TestMasterMigrates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, atVersion1)
	hold, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = hold.Exec(t.Context(), `lock table batch_log in access exclusive mode`)
	require.NoError(t, err)

	first := w.start(t, "bbs-1", 0)
	first.eventually("clients are told", func() bool { return first.reason() == "Migrating" })
	first.eventually("it has said so in the database", func() bool { return first.status.migration().Target == schema.Built() })
	require.Equal(t, codes.Unavailable, fault.Code(first.desire()))
	require.False(t, first.healthy())
	detail, err := schemaReadiness(first.store, first.status)
	require.ErrorIs(t, err, errMigrating)
	require.Equal(t, map[string]any{"built_for": schema.Built(), "version": int64(1), "target": schema.Built()}, detail)

	second := w.start(t, "bbs-2", 0)
	second.eventually("a standby waits for the tables", func() bool {
		return second.store.StandbyWaits() == "waiting: the tables have version 1, this program is built for "+strconv.FormatInt(schema.Built(), 10)
	})
	require.Equal(t, "NotMaster", second.reason())

	require.NoError(t, hold.Rollback(t.Context()))
	first.eventually("it serves when that is done", first.serves)
	require.True(t, first.healthy())
	_, err = schemaReadiness(first.store, first.status)
	require.NoError(t, err)
	require.Positive(t, first.status.migration().Took)
	second.eventually("the standby follows", func() bool { return second.store.Committed() != nil && second.store.StandbyWaits() == "" })
}

func TestMasterThatIsStoppedWhileItMigrates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, atVersion1)
	hold, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = hold.Exec(t.Context(), `lock table batch_log in access exclusive mode`)
	require.NoError(t, err)
	first := w.start(t, "bbs-1", 0)
	first.eventually("it migrates", func() bool { return first.status.migration().Target == schema.Built() })
	require.Equal(t, "Migrating", first.reason())
	first.end()
	require.Equal(t, [2]int64{1, schema.Built()}, w.versions(t))
	require.NoError(t, hold.Rollback(t.Context()))
	second := w.start(t, "bbs-2", 0)
	second.eventually("the next one completes it", second.serves)
	require.Equal(t, [2]int64{schema.Built(), schema.Built()}, w.versions(t))
}

// TestMasterRollsBack goes the operator's way back to the release before.
func TestMasterRollsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.Migrate)
	first := w.start(t, "bbs-1", 0)
	first.eventually("it serves", first.serves)
	second := w.start(t, "bbs-2", 1)
	first.end()
	second.eventually("it rolls back and gives up the lock", func() bool {
		_, err := w.locks.Fetch(t.Context(), "bbs")
		return second.status.rolledBack.Load() && errors.Is(err, lockclient.ErrNotHeld)
	})
	require.Equal(t, [2]int64{1, 1}, w.versions(t))
	require.Equal(t, "NotMaster", second.reason())
	_, err := schemaReadiness(second.store, second.status)
	require.ErrorIs(t, err, errRolledBack)
	second.end()

	third := w.start(t, "bbs-3", 0)
	third.eventually("the later release comes back", third.serves)
	require.Equal(t, [2]int64{schema.Built(), schema.Built()}, w.versions(t))
}

// TestMasterBesideALaterRelease is a standby of this release beside a master of the next: it stays passive for
// as long as that one has the lock, and ends when it gets the lock itself, with nothing written.
func TestMasterBesideALaterRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.Migrate)
	later, err := lockclient.Acquire(t.Context(), lockclient.LockConfig{Key: "bbs", Owner: "later", TTL: 3 * time.Second, Backend: w.locks, Log: telemetry.Discard().Log})
	require.NoError(t, err)
	hold, release := context.WithCancel(t.Context())
	held := make(chan error, 1)
	go func() { held <- later.Hold(hold) }()

	b := w.start(t, "bbs-1", 0)
	b.eventually("it follows", func() bool { return b.store.Committed() != nil })
	_, err = w.pool.Exec(t.Context(), `update bbs_schema set current_version = current_version + 1, target_version = target_version + 1, changed_at = now();
		alter table tasks rename column domain to tenant`)
	require.NoError(t, err)
	b.eventually("it waits", func() bool { return b.store.StandbyWaits() != "" })
	require.Nil(t, b.store.Committed(), "it forgets what may not be so any more")
	require.Equal(t, "NotMaster", b.reason())
	var before, after int64
	require.NoError(t, w.pool.QueryRow(t.Context(), `select epoch from bbs_state`).Scan(&before))

	release()
	require.NoError(t, <-held)
	b.requireExit(schema.ErrNewer, "it is at version "+strconv.FormatInt(schema.Built()+1, 10))
	_, err = w.locks.Fetch(t.Context(), "bbs")
	require.ErrorIs(t, err, lockclient.ErrNotHeld, "the lock is free")
	require.NoError(t, w.pool.QueryRow(t.Context(), `select epoch from bbs_state`).Scan(&after))
	require.Equal(t, before, after)
}

func TestMasterWithoutATable(t *testing.T) {
	t.Parallel()
	t.Run("at the take-over", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, store.Migrate)
		_, err := w.pool.Exec(t.Context(), `drop table domains`)
		require.NoError(t, err)
		w.start(t, "bbs-1", 0).requireExit(schema.ErrMissing, "domains")
	})
	t.Run("at a write", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, store.Migrate)
		b := w.start(t, "bbs-1", 0)
		b.eventually("it serves", b.serves)
		_, err := w.pool.Exec(t.Context(), `drop table domains`)
		require.NoError(t, err)
		_, err = bbsv1.NewDomainsClient(b.conn).UpsertDomain(t.Context(), &bbsv1.UpsertDomainRequest{Domain: "another"})
		require.Equal(t, "Unrecoverable", fault.Reason(err))
		b.requireExit(schema.ErrMissing, "domains")
	})
	t.Run("at the read of a definition", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, store.Migrate)
		b := w.start(t, "bbs-1", 0)
		b.eventually("it serves", b.serves)
		_, err := w.pool.Exec(t.Context(), `drop table lrp_definitions`)
		require.NoError(t, err)
		_, err = b.store.LRPDefinition(t.Context(), "app", "definition")
		require.ErrorIs(t, err, schema.ErrMissing)
		b.requireExit(schema.ErrMissing, "lrp_definitions")
	})
}

// TestRotationOfKeysWithoutDowntime goes the operator's way: the new key everywhere, then active everywhere,
// then the old one away, a standby before the active one each time.
func TestRotationOfKeysWithoutDowntime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.Migrate)
	active := w.start(t, "bbs-0", 0, "old")
	active.eventually("it serves", active.serves)
	for i, labels := range [][]string{{"old", "new"}, {"new", "old"}, {"new"}} {
		next := w.start(t, "bbs-"+strconv.Itoa(i+1), 0, labels...)
		next.eventually("it follows", func() bool { return next.store.Committed() != nil && next.store.StandbyWaits() == "" })
		require.NoError(t, active.desire())
		active.end()
		next.eventually("it serves", next.serves)
		next.eventually("values are counted", func() bool { return next.store.KeyRotation().Known })
		if labels[0] == "new" {
			next.eventually("nothing is left", func() bool {
				labels, err := w.labels(t.Context())
				return err == nil && len(labels) == 1 && labels[0] == "new"
			})
		}
		active = next
	}
}

func (w *world) labels(ctx context.Context) ([]string, error) {
	var labels []string
	err := w.pool.QueryRow(ctx, `select array_agg(convert_from(label, 'UTF8') order by label) from sealing_labels`).Scan(&labels)
	return labels, err
}

func TestMasterWithoutAKeyThatIsNeeded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, store.Migrate)
	first := w.start(t, "bbs-1", 0, "old")
	first.eventually("it serves", first.serves)
	first.end()
	second := w.start(t, "bbs-2", 0, "new")
	second.requireExit(seal.ErrUnknownKey, `the key labelled "old" is still needed`)
}
