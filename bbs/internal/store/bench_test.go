package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/workload"
	"diego.internal/servicekit/postgrestest"
)

// The benchmarks measure the processor time of one write, here and in the server process of Postgres, because wall time depends
// on what else the machine does. They go through whole batches, as Run makes them.

const (
	benchCells = 1000
	// benchBatch is what gathers while one batch commits, with the callers that cells and the auctioneer are.
	benchBatch = 50
)

func benchGUID(i int) string {
	return fmt.Sprintf("%08x-77aa-4bcd-8def-%012x-%08x-11ee-4abc-9def-%012x", i*2654435761%(1<<32), i, i*40503%(1<<32), i)
}

func randomText(n int) string {
	b := make([]byte, n/2)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// benchDesired is an LRP of the size that Cloud Foundry gives its applications.
func benchDesired(tb testing.TB, i int) *lrp.Desired {
	tb.Helper()
	routes, hostnames, err := lrp.ParseRoutes(map[string][]byte{
		"cf-router":       fmt.Appendf(nil, `[{"hostnames":["app-%06d.apps.example.com","app-%06d-blue.apps.example.com"],"port":8080},{"hostnames":["www.customer-%d.example.org/path/0"],"port":8080}]`, i, i, i),
		"diego-ssh":       fmt.Appendf(nil, `{"container_port":2222,"host_fingerprint":%q,"private_key":%q}`, randomText(48), randomText(640)),
		"internal-router": fmt.Appendf(nil, `[{"hostname":"app-%06d.apps.internal"}]`, i),
	})
	require.NoError(tb, err)
	guid := benchGUID(i)
	static := func(name, value string) lrp.MetricTag { return lrp.MetricTag{Name: name, Static: strings.Clone(value)} }
	return &lrp.Desired{
		ProcessGUID: guid, Domain: strings.Clone("cf-apps"), LogGUID: strings.Clone(guid[:36]), Annotation: "1700000042.42", Routes: routes, InternalHostnames: hostnames,
		MetricTags: []lrp.MetricTag{
			static("app_id", guid[:36]), static("app_name", fmt.Sprintf("app-%06d", i)),
			{Name: "instance_id", Dynamic: lrp.DynamicIndex},
			static("organization_id", benchGUID(i % 100)[:36]),
			{Name: "process_instance_id", Dynamic: lrp.DynamicInstanceGUID},
			static("process_type", "web"), static("source_id", guid[:36]), static("space_id", benchGUID(i % 1000)[:36]),
		},
		Resources: workload.Resources{MemoryMB: 256, DiskMB: 1024, MaxPids: 1024},
		Placement: workload.Placement{RootFS: strings.Clone("preloaded:cflinuxfs4")}, ActiveDefinitionID: benchGUID(i)[37:], Instances: 1,
	}
}

func benchKeys(i int) (lrp.Key, lrp.InstanceKey) {
	return lrp.Key{ProcessGUID: benchGUID(i)}, lrp.InstanceKey{InstanceGUID: benchGUID(i)[9:45], CellID: fmt.Sprintf("cell-%04d", i%benchCells)}
}

// benchDesire, benchClaim and benchStart make the functions that package api makes of the calls.
func benchDesire(tb testing.TB, i int, sealed []byte) func(*Tx) error {
	tb.Helper()
	d := benchDesired(tb, i)
	def := SealedDefinition{ProcessGUID: d.ProcessGUID, ID: d.ActiveDefinitionID, CreatedAt: 1, Sealed: sealed}
	at := stamp()
	return func(tx *Tx) error {
		change, err := lrp.Desire(tx.Desired(d.ProcessGUID), d, lrp.Group(tx.InstancesOf(d.ProcessGUID)), at)
		if err != nil {
			return err
		}
		tx.PutChange(nil, change)
		tx.PutDefinition(def)
		return nil
	}
}

func benchClaim(i int) func(*Tx) error {
	key, by := benchKeys(i)
	return func(tx *Tx) error {
		before := tx.Instance(key)
		out, err := lrp.Claim(before, by, time.Now())
		if err == nil {
			tx.PutInstance(before, out)
		}
		return err
	}
}

func benchReport(i, generation int) *lrp.Report {
	key, by := benchKeys(i)
	app := key.ProcessGUID[:36]
	host := uint16(61000 + generation%1000)
	return &lrp.Report{
		Key: key, InstanceKey: by, Domain: strings.Clone("cf-apps"), Routable: true, Zone: strings.Clone("z1"),
		NetInfo: lrp.NetInfo{
			Address: fmt.Sprintf("10.0.%d.%d", i/250%250, i%250), InstanceAddress: fmt.Sprintf("10.255.%d.%d", i/250%250, i%250),
			Ports: []lrp.PortMapping{{ContainerPort: 8080, HostPort: host}, {ContainerPort: 2222, HostPort: host + 1}},
		},
		InternalRoutes: []string{fmt.Sprintf("app-%06d.apps.internal", i)},
		MetricTags: map[string]string{
			"app_id": app, "source_id": app, "instance_id": "0", "process_instance_id": by.InstanceGUID, "process_type": "web",
			"app_name": fmt.Sprintf("app-%06d", i), "space_id": benchGUID(i % 1000)[:36], "organization_id": benchGUID(i % 100)[:36],
		},
	}
}

func benchStart(i, generation int) func(*Tx) error {
	report := benchReport(i, generation)
	return func(tx *Tx) error {
		before := tx.Instance(report.Key)
		out, err := lrp.Start(before, report, stamp())
		if err != nil {
			return err
		}
		tx.PutInstance(before, out)
		if out.After.Ordinary != nil {
			tx.MarkHealthy(report.ProcessGUID, out.After.Ordinary.DefinitionID)
		}
		return nil
	}
}

// bench is an active store with a writer that the benchmark drives itself.
type bench struct {
	*Store
	w       *writer
	backend int // process id of the writer's connection in Postgres
}

func newBench(tb testing.TB) *bench {
	tb.Helper()
	s, err := New(testConfig(tb, postgrestest.New(tb, Migrate)))
	require.NoError(tb, err)
	require.NoError(tb, s.TakeOver(tb.Context(), always))
	w := &writer{Store: s}
	tb.Cleanup(w.release)
	conn, err := w.connection(tb.Context())
	require.NoError(tb, err)
	out := &bench{Store: s, w: w}
	require.NoError(tb, conn.QueryRow(tb.Context(), "select pg_backend_pid()").Scan(&out.backend))
	return out
}

// commit brings functions through batches of a size.
func (s *bench) commit(tb testing.TB, size, n int, fn func(i int) func(*Tx) error) {
	tb.Helper()
	s.run(tb, size, s.requests(tb.Context(), n, fn))
}

func (s *bench) requests(ctx context.Context, n int, fn func(i int) func(*Tx) error) []*request {
	requests := make([]*request, n)
	for i := range requests {
		requests[i] = &request{ctx: ctx, apply: fn(i), done: make(chan result, 1)}
	}
	return requests
}

func (s *bench) run(tb testing.TB, size int, requests []*request) {
	tb.Helper()
	for len(requests) > 0 {
		batch := requests[:min(size, len(requests))]
		requests = requests[len(batch):]
		rest, err := s.w.commitSome(tb.Context(), batch)
		require.NoError(tb, err)
		require.Empty(tb, rest)
		for _, r := range batch {
			require.NoError(tb, (<-r.done).err)
		}
	}
}

// ownTime is the processor time of this process, and serverTime that of the writer's server process.
func ownTime(tb testing.TB) time.Duration {
	tb.Helper()
	var usage syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func (s *bench) serverTime(tb testing.TB) time.Duration {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.backend))
	require.NoError(tb, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	user, err := strconv.Atoi(fields[11])
	require.NoError(tb, err)
	system, err := strconv.Atoi(fields[12])
	require.NoError(tb, err)
	return time.Duration(user+system) * 10 * time.Millisecond // the unit of Linux for programs
}

// measure runs b.N functions and reports the processor time of each.
func (s *bench) measure(b *testing.B, size int, fn func(i int) func(*Tx) error) {
	b.Helper()
	requests := s.requests(b.Context(), b.N, fn)
	runtime.GC()
	var walBefore, walAfter int64
	const wal = `select (pg_current_wal_insert_lsn() - '0/0')::bigint`
	require.NoError(b, s.pool.QueryRow(b.Context(), wal).Scan(&walBefore))
	b.ReportAllocs()
	own, server := ownTime(b), s.serverTime(b)
	b.ResetTimer()
	s.run(b, size, requests)
	b.StopTimer()
	b.ReportMetric(float64((ownTime(b)-own).Nanoseconds())/float64(b.N), "bbs-ns/op")
	b.ReportMetric(float64((s.serverTime(b)-server).Nanoseconds())/float64(b.N), "postgres-ns/op")
	require.NoError(b, s.pool.QueryRow(b.Context(), wal).Scan(&walAfter))
	b.ReportMetric(float64(walAfter-walBefore)/float64(b.N), "wal-bytes/op")
}

func BenchmarkDesire(b *testing.B) {
	for _, n := range [...]int{5000, 50000} {
		b.Run(fmt.Sprint("of ", n), func(b *testing.B) {
			s := newBench(b)
			sealed := []byte(randomText(3000))
			s.commit(b, 1000, n, func(i int) func(*Tx) error { return benchDesire(b, i, sealed) })
			s.measure(b, benchBatch, func(i int) func(*Tx) error { return benchDesire(b, n+i, sealed) })
		})
	}
}

func BenchmarkClaim(b *testing.B) {
	for _, n := range [...]int{5000, 50000} {
		b.Run(fmt.Sprint("of ", n), func(b *testing.B) {
			s := newBench(b)
			s.commit(b, 1000, max(n, b.N), func(i int) func(*Tx) error { return benchDesire(b, i, []byte{1}) })
			s.measure(b, benchBatch, benchClaim)
		})
	}
}

// BenchmarkStart reports instances over and over again, each time on another port.
func BenchmarkStart(b *testing.B) {
	for _, n := range [...]int{5000, 50000} {
		b.Run(fmt.Sprint("of ", n), func(b *testing.B) {
			s := newBench(b)
			s.commit(b, 1000, n, func(i int) func(*Tx) error { return benchDesire(b, i, []byte{1}) })
			s.commit(b, 1000, n, func(i int) func(*Tx) error { return benchStart(i, 0) })
			// A stride puts the rows of a batch far from each other, as they are in a fleet.
			s.measure(b, benchBatch, func(i int) func(*Tx) error { return benchStart(i*7919%n, 1+i/n) })
		})
	}
}

// BenchmarkMemory reports what one LRP with one running instance takes in memory, after the writes that made it and after a load.
func BenchmarkMemory(b *testing.B) {
	const n = 50000
	heap := func() float64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return float64(stats.HeapAlloc)
	}
	for b.Loop() {
		s := newBench(b)
		s.cfg.WatchBytes = 1
		before := heap()
		s.commit(b, 50, n, func(i int) func(*Tx) error { return benchDesire(b, i, []byte{1}) })
		s.commit(b, 50, n, benchClaim)
		s.commit(b, 50, n, func(i int) func(*Tx) error { return benchStart(i, 0) })
		s.Watch().Reset(s.Committed().Revision())
		b.ReportMetric((heap()-before)/n, "written-bytes/lrp")
		loaded, err := New(testConfig(b, s.pool))
		require.NoError(b, err)
		before = heap()
		require.NoError(b, loaded.Load(b.Context()))
		b.ReportMetric((heap()-before)/n, "loaded-bytes/lrp")
		runtime.KeepAlive(s)
		runtime.KeepAlive(loaded)
	}
}
