package faults

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"diego.internal/locket/lockettest"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
	"diego.internal/servicekit/telemetry"
)

const (
	// lockTTL is the shortest that a lock may have: how long it takes until a dead bbs is replaced.
	lockTTL = 3 * time.Second
	// commitTimeout is after how long a bbs gives up a commit and looks for its outcome.
	commitTimeout = 2 * time.Second
)

// world is two BBSs on one database, of which one is active, and the lock service.
type world struct {
	t        *testing.T
	ca       *mtlstest.Authority
	database string // connection string
	bbs      [2]*process
	// direct are connections to each bbs alone, whether it is active or not, without the client's repetition of calls.
	direct [2]*grpc.ClientConn
}

// newWorld starts both BBSs, and returns when one is active.
func newWorld(t *testing.T, database string) *world {
	t.Helper()
	w := &world{t: t, ca: mtlstest.NewAuthority(t), database: database}
	locket := lockettest.Start(t, lockettest.Config{CA: w.ca})
	key := filepath.Join(t.TempDir(), "key")
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails, see crypto/rand
	require.NoError(t, os.WriteFile(key, []byte(hex.EncodeToString(secret)), 0o600))
	for i := range w.bbs {
		name, address := fmt.Sprintf("bbs-%d", i+1), freeAddress(t)
		tls := w.ca.Issue(mtls.Identity{Role: mtls.RoleBBS})
		w.bbs[i] = newProcess(t, name, address, fmt.Sprintf(`
debug: {listen: "127.0.0.1:0"}
grpc: {listen: %q, tls: {ca: %q, certificate: %q, key: %q}}
database: {connection_string: %q}
locket: {addresses: [%q]}
auctioneer: {addresses: ["127.0.0.1:1"]} # nobody: nothing is placed but by the load
lock: {owner: %q, ttl: %v}
encryption: {active_key: k, keys: [{label: k, file: %q}]}
# No cell is present, and none is to be missed. Tasks stay until the load deletes them.
convergence: {interval: 1s, presence_ttl: 5m, brake_for: 1h}
tasks: {kick: 1h, expire_completed: 1h, expire_pending: 1h}
writer: {commit_timeout: %v}
watch: {bookmark: 200ms, memory_mb: 1}
`, address, tls.CA, tls.Certificate, tls.Key, database, locket.Addr(), name, lockTTL, key, commitTimeout))
		w.bbs[i].start(t)
		w.direct[i] = w.dialDirect(address)
	}
	w.active()
	return w
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().String()
}

// dial is the ordinary client of a caller, who finds the active bbs by himself.
func (w *world) dial(role, name string) *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{w.bbs[0].address, w.bbs[1].address}}, grpcclient.Options{
		Source: w.ca.Source(mtls.Identity{Role: role, Name: name}), Server: mtls.Peer{Role: mtls.RoleBBS}, HealthService: "bbs.v1",
		Telemetry: telemetry.Discard(),
	})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close() }) // calls may still be under way if the test has failed
	return conn
}

func (w *world) dialDirect(address string) *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpcclient.Dial(grpcclient.Config{Addresses: []string{address}}, grpcclient.Options{
		Source: w.ca.Source(mtls.Identity{Role: mtls.RoleOperator, Name: "direct"}), Server: mtls.Peer{Role: mtls.RoleBBS},
		Telemetry: telemetry.Discard(),
	})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close() }) // as above
	return conn
}

// active waits until one of the BBSs answers reads, and returns its place.
func (w *world) active() int {
	w.t.Helper()
	found := -1
	eventually(w.t, "a bbs is active", func() error {
		var problems []error
		for i, p := range w.bbs {
			if !p.running() {
				continue
			}
			if _, err := w.revision(i); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", p.name, err))
				continue
			}
			found = i
			return nil
		}
		return fmt.Errorf("none answers: %w", errors.Join(problems...))
	})
	return found
}

// revision reads the newest revision from one bbs.
func (w *world) revision(i int) (uint64, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 200*time.Millisecond)
	defer cancel()
	resp, err := bbsv1.NewDomainsClient(w.direct[i]).ListDomains(ctx, &bbsv1.ListDomainsRequest{})
	return resp.GetRevision(), err
}

// collect reads a list to its end.
func collect[C, R any](stream grpc.ServerStreamingClient[C], err error, rows func(*C) []R) ([]R, error) {
	var all []R
	for err == nil {
		var chunk *C
		if chunk, err = stream.Recv(); err == nil {
			all = append(all, rows(chunk)...)
		}
	}
	if errors.Is(err, io.EOF) {
		return all, nil
	}
	return nil, err
}
