package store

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/seal"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/watch"
	"diego.internal/bbs/internal/workload"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/postgres"
	"diego.internal/servicekit/postgrestest"
)

func always() bool { return true }

func testKeys(tb testing.TB) *seal.Keyring {
	tb.Helper()
	keys, err := seal.New([]seal.Key{{Label: "test", Secret: [32]byte{1}}}, "test")
	require.NoError(tb, err)
	return keys
}

func testConfig(tb testing.TB, pool *pgxpool.Pool) Config {
	tb.Helper()
	return Config{Pool: pool, Keys: testKeys(tb), Log: slog.New(slog.DiscardHandler)}
}

// running starts a store as the active one and stops its writer at the end of the test. The error of
// the writer comes through the channel.
func running(tb testing.TB, cfg Config) (*Store, <-chan error) {
	tb.Helper()
	s, err := New(cfg)
	require.NoError(tb, err)
	require.NoError(tb, s.TakeOver(tb.Context(), always))
	return s, run(tb, s)
}

func run(tb testing.TB, s *Store) <-chan error {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- s.Run(ctx)
	}()
	tb.Cleanup(func() {
		cancel()
		<-done
	})
	return ended
}

// secretOfTests is the value of the secret route of all LRPs of the tests.
const secretOfTests = `{"private_key":"secret"}`

func desired(guid string, instances int32) *lrp.Desired {
	routes, hostnames, err := lrp.ParseRoutes(map[string][]byte{
		"cf-router":       []byte(`[{"hostnames":["a.example.com"],"port":8080}]`),
		"internal-router": []byte(`[{"hostname":"a.internal"}]`),
		"diego-ssh":       []byte(secretOfTests),
	})
	if err != nil {
		panic(err)
	}
	seconds := uint32(60)
	return &lrp.Desired{
		ProcessGUID: guid, Domain: "cf-apps", LogGUID: "log", Annotation: "note", Routes: routes, InternalHostnames: hostnames,
		MetricTags:         []lrp.MetricTag{{Name: "index", Dynamic: lrp.DynamicIndex}, {Name: "source_id", Static: "app"}},
		Resources:          workload.Resources{MemoryMB: 256, DiskMB: 1024, MaxPids: 100},
		Placement:          workload.Placement{RootFS: "preloaded:busybox", PlacementTags: []string{"tag"}, VolumeDrivers: []string{"nfs"}},
		CrashPolicy:        &lrp.CrashPolicy{MaxSecondsBetweenRestarts: &seconds},
		ActiveDefinitionID: "def-1", Instances: instances, UpdateStrategy: lrp.Recreate,
	}
}

func stamp() lrp.Stamp {
	return lrp.Stamp{Now: time.Now().UTC().Truncate(time.Microsecond), Epoch: "epoch"}
}

func desire(ctx context.Context, s *Store, d *lrp.Desired) error {
	def, err := s.SealLRPDefinition(d.ProcessGUID, &workloadv1.LRPDefinition{DefinitionId: d.ActiveDefinitionID}, 1)
	if err != nil {
		return err
	}
	_, err = s.Apply(ctx, func(tx *Tx) error {
		change, err := lrp.Desire(tx.Desired(d.ProcessGUID), d, lrp.Group(tx.InstancesOf(d.ProcessGUID)), stamp())
		if err != nil {
			return err
		}
		tx.PutChange(nil, change)
		tx.PutDefinition(def)
		return nil
	})
	return err
}

func claim(ctx context.Context, s *Store, key lrp.Key, by lrp.InstanceKey) (uint64, error) {
	return s.Apply(ctx, func(tx *Tx) error {
		before := tx.Instance(key)
		out, err := lrp.Claim(before, by, time.Now())
		if err != nil {
			return err
		}
		tx.PutInstance(before, out)
		return nil
	})
}

func start(ctx context.Context, s *Store, key lrp.Key, by lrp.InstanceKey) (uint64, error) {
	report := &lrp.Report{
		Key: key, InstanceKey: by, Domain: "cf-apps", Routable: true, Zone: "z1", DefinitionID: "def-1",
		NetInfo:        lrp.NetInfo{Address: "10.0.0.1", Ports: []lrp.PortMapping{{ContainerPort: 8080, HostPort: 61000}}, InstanceAddress: "10.255.0.2"},
		InternalRoutes: []string{"a.internal"}, MetricTags: map[string]string{"index": "0", "source_id": "app"},
	}
	return s.Apply(ctx, func(tx *Tx) error {
		before := tx.Instance(key)
		out, err := lrp.Start(before, report, stamp())
		if err != nil {
			return err
		}
		tx.PutInstance(before, out)
		return nil
	})
}

func desireTask(ctx context.Context, s *Store, guid string) error {
	sealed, err := s.SealTaskDefinition(guid, &workloadv1.TaskDefinition{ResultFile: "/r"})
	if err != nil {
		return err
	}
	_, err = s.Apply(ctx, func(tx *Tx) error {
		want := &task.Task{
			GUID: guid, Domain: "cf-tasks", DefinitionDigest: "\x00\xff", HasCallback: true, Result: "r",
			Placement: workload.Placement{RootFS: "preloaded:busybox", Constraint: &workload.Constraint{}},
		}
		after, err := task.Desire(tx.Task(guid), want, stamp().Now)
		if err != nil {
			return err
		}
		tx.PutTask(nil, after)
		tx.PutTaskDefinition(guid, sealed)
		return nil
	})
	return err
}

// content is all that a view holds, for comparing two stores.
type content struct {
	Revision uint64
	Desireds []*lrp.Desired
	Actuals  []*lrp.Actual
	Encoded  [][]byte
	Tasks    []*task.Task
	Domains  []*lrp.Domain
}

func contentOf(v *View) content {
	c := content{Revision: v.Revision()}
	for d := range v.Desireds() {
		c.Desireds = append(c.Desireds, d)
	}
	for a := range v.Actuals() {
		c.Actuals = append(c.Actuals, a.Actual)
		c.Encoded = append(c.Encoded, a.Encoded)
	}
	for t := range v.Tasks() {
		c.Tasks = append(c.Tasks, t)
	}
	for d := range v.Domains() {
		c.Domains = append(c.Domains, d)
	}
	return c
}

func requireSameContent(t *testing.T, want, got *View) {
	t.Helper()
	if diff := cmp.Diff(contentOf(want), contentOf(got), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("the states differ (-want +got):\n%s", diff)
	}
}

// fill makes some of everything.
func fill(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	err := desire(ctx, s, desired("app", 3))
	require.NoError(t, err)
	err = desire(ctx, s, desired("other", 1))
	require.NoError(t, err)
	for i := range int32(2) {
		key, by := lrp.Key{ProcessGUID: "app", Index: i}, lrp.InstanceKey{InstanceGUID: fmt.Sprint("i", i), CellID: "cell-1"}
		_, err = claim(ctx, s, key, by)
		require.NoError(t, err)
		_, err = start(ctx, s, key, by)
		require.NoError(t, err)
		_, err = s.Apply(ctx, func(tx *Tx) error { tx.MarkHealthy("app", "def-1"); return nil })
		require.NoError(t, err)
	}
	require.NoError(t, desireTask(ctx, s, "task-1"))
	_, err = s.Apply(ctx, func(tx *Tx) error {
		for _, name := range []string{"forever", "short"} {
			after, event := lrp.UpsertDomain(nil, name, time.Duration(len(name)%2)*time.Minute, nil, stamp().Now)
			tx.PutDomain(nil, after, event)
		}
		return nil
	})
	require.NoError(t, err)
	_, err = s.Apply(ctx, func(tx *Tx) error {
		before := tx.Desired("other")
		change, err := lrp.RemoveDesired(before, nil, lrp.Group(tx.InstancesOf("other")))
		tx.PutChange(before, change)
		tx.DeleteDefinitions("other")
		return err
	})
	require.NoError(t, err)
}

func TestStoreSurvivesRestart(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	first, _ := running(t, testConfig(t, pool))
	fill(t, first)

	second, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, second.Load(t.Context()))
	requireSameContent(t, first.Committed(), second.Committed())

	def, err := second.LRPDefinition(t.Context(), "app", "def-1")
	require.NoError(t, err)
	require.Equal(t, "def-1", def.GetDefinitionId())
	_, err = second.LRPDefinition(t.Context(), "other", "def-1")
	require.ErrorIs(t, err, lrp.ErrNotFound)
	taskDef, err := second.TaskDefinition(t.Context(), "task-1")
	require.NoError(t, err)
	require.Equal(t, "/r", taskDef.GetResultFile())
}

// TestLoadMayTakeLong has a table that cannot be read for longer than any other statement may take.
func TestLoadMayTakeLong(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	impatient, err := postgres.Open(t.Context(), postgres.Config{ConnectionString: postgrestest.URL(pool), StatementTimeout: 200 * time.Millisecond})
	require.NoError(t, err)
	defer impatient.Close()
	s, err := New(testConfig(t, impatient))
	require.NoError(t, err)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `lock table actual_lrps in access exclusive mode`)
	require.NoError(t, err)
	_, err = impatient.Exec(t.Context(), `select count(*) from actual_lrps`)
	require.ErrorContains(t, err, "statement timeout")
	loaded := make(chan error, 1)
	go func() { loaded <- s.Load(t.Context()) }()
	require.Eventually(t, func() bool {
		var waiting bool
		err := pool.QueryRow(t.Context(), `select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
			and clock_timestamp() - query_start > interval '500 milliseconds')`).Scan(&waiting)
		return err == nil && waiting
	}, 20*time.Second, 10*time.Millisecond)
	require.NoError(t, tx.Rollback(t.Context()))
	require.NoError(t, <-loaded)
}

func TestStandbyFollows(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	active, _ := running(t, testConfig(t, pool))
	standby, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, standby.followOnce(t.Context()))
	fill(t, active)
	require.NoError(t, standby.followOnce(t.Context()))
	requireSameContent(t, active.Committed(), standby.Committed())

	_, err = standby.View()
	require.ErrorIs(t, err, ErrNotMaster)
	_, err = claim(t.Context(), standby, lrp.Key{ProcessGUID: "app"}, lrp.InstanceKey{InstanceGUID: "x", CellID: "c"})
	require.ErrorIs(t, err, ErrNotMaster)
}

func TestApplyRefusalChangesNothing(t *testing.T) {
	t.Parallel()
	s, _ := running(t, testConfig(t, postgrestest.New(t, Migrate)))
	fill(t, s)
	before := s.Committed()
	_, err := s.Apply(t.Context(), func(tx *Tx) error {
		d := tx.Desired("app")
		change, err := lrp.RemoveDesired(d, nil, lrp.Group(tx.InstancesOf("app")))
		if err != nil {
			return err
		}
		tx.PutChange(d, change)
		tx.DeleteDefinitions("app")
		return lrp.ErrConflict
	})
	require.ErrorIs(t, err, lrp.ErrConflict)
	require.Same(t, before, s.Committed(), "nothing was committed")

	// The same beside a request that is accepted.
	b := newBatch(s.state.copy(), 1, before.Revision()+1, time.Now())
	changed, err := b.apply(func(tx *Tx) error {
		d := tx.Desired("app")
		change, _ := lrp.RemoveDesired(d, nil, lrp.Group(tx.InstancesOf("app")))
		tx.PutChange(d, change)
		panic("a bug")
	}, "")
	require.ErrorContains(t, err, "a bug")
	require.False(t, changed)
	require.Empty(t, b.events)
	inBatch := records{b.state}
	require.Same(t, s.Committed().Desired("app"), inBatch.Desired("app"))
	require.Len(t, inBatch.InstancesOf("app"), 3)

	rev, err := s.Apply(t.Context(), func(*Tx) error { return nil })
	require.NoError(t, err)
	require.Equal(t, before.Revision(), rev, "a request without changes makes no revision")
}

func TestWriterKeepsEveryAcknowledgedWrite(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	s, _ := running(t, testConfig(t, pool))
	const callers, each = 8, 25
	var wg sync.WaitGroup
	errs := make([]error, callers)
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				if err := desire(t.Context(), s, desired(fmt.Sprintf("app-%d-%d", c, i), 1)); err != nil {
					errs[c] = err
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	loaded, err := New(testConfig(t, pool))
	require.NoError(t, err)
	require.NoError(t, loaded.Load(t.Context()))
	requireSameContent(t, s.Committed(), loaded.Committed())
	require.Len(t, contentOf(loaded.Committed()).Desireds, callers*each)

	// What is in the log is what watchers saw, without gap and in order.
	batches, err := s.ReadLog(t.Context(), 0, 1<<30)
	require.NoError(t, err)
	created := 0
	for i, b := range batches {
		require.Equal(t, uint64(i+1), b.Revision)
		for _, e := range b.Events {
			if e.Kind == watch.DesiredCreated {
				created++
			}
		}
	}
	require.Equal(t, callers*each, created)
}

func TestDataOfOneRequestHurtsNobodyElse(t *testing.T) {
	t.Parallel()
	s, _ := running(t, testConfig(t, postgrestest.New(t, Migrate)))
	w := &writer{Store: s}
	defer w.release()
	mk := func(name string) *request {
		return &request{ctx: t.Context(), done: make(chan result, 1), apply: func(tx *Tx) error {
			after, event := lrp.UpsertDomain(tx.Domain(name), name, 0, nil, time.Now())
			tx.PutDomain(nil, after, event)
			return nil
		}}
	}
	requests := []*request{mk("good"), mk("bad\x00text"), mk("fine")}
	_, err := w.commitSome(t.Context(), requests)
	require.NoError(t, err)
	require.NoError(t, (<-requests[0].done).err)
	require.ErrorIs(t, (<-requests[1].done).err, ErrInvalid)
	require.NoError(t, (<-requests[2].done).err)
	require.NotNil(t, s.Committed().Domain("good"))
	require.Nil(t, s.Committed().Domain("bad\x00text"))
	require.NotNil(t, s.Committed().Domain("fine"))
}

// TestDefinitionsStayInTheirRows is about cost only: a definition of common size is one write, not three.
func TestDefinitionsStayInTheirRows(t *testing.T) {
	t.Parallel()
	pool := postgrestest.New(t, Migrate)
	s, _ := running(t, testConfig(t, pool))
	_, err := s.Apply(t.Context(), func(tx *Tx) error {
		tx.PutDefinition(SealedDefinition{ProcessGUID: "app", ID: "def", Sealed: []byte(randomText(6000))})
		tx.PutTaskDefinition("task", []byte(randomText(6000)))
		return nil
	})
	require.NoError(t, err)
	for _, table := range []string{"lrp_definitions", "task_definitions"} {
		var pieces int64
		require.NoError(t, pool.QueryRow(t.Context(), `select pg_relation_size(reltoastrelid) from pg_class where relname = $1`, table).Scan(&pieces))
		require.Zero(t, pieces, table)
	}
}
