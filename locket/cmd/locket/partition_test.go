package main

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"diego.internal/locket/lockclient"
	"diego.internal/servicekit/mtls"
)

// link is a network path that can be cut.
type link struct {
	t     *testing.T
	proxy *toxiproxy.Proxy
}

// connect makes a path to a TCP address.
func connect(t *testing.T, upstream string) *link {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &link{t: t, proxy: toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", upstream)}
	require.NoError(t, l.proxy.Start())
	t.Cleanup(l.proxy.Stop)
	return l
}

func (l *link) addr() string { return l.proxy.Listen }

// cut lets nothing through any more, without a word to either side, as a failing switch does.
// Connections stay open, and new ones are accepted and lead nowhere.
func (l *link) cut() {
	l.t.Helper()
	for _, stream := range []string{"upstream", "downstream"} {
		_, err := l.proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"type": "timeout", "stream": %q, "attributes": {"timeout": 0}}`, stream)))
		require.NoError(l.t, err)
	}
}

// heal resets the connections, of which bytes are missing, and lets new ones through.
func (l *link) heal() {
	l.t.Helper()
	l.proxy.Stop()
	l.proxy.Toxics.ResetToxics(l.t.Context())
	require.NoError(l.t, l.proxy.Start())
}

// freePort returns a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().(*net.TCPAddr).Port
}

func TestALocketCutOffFromTheDatabase(t *testing.T) {
	t.Parallel()
	in := prepare(t, freePort(t))
	database := connect(t, fmt.Sprintf("127.0.0.1:%d", in.port))
	host, port, err := net.SplitHostPort(database.addr())
	require.NoError(t, err)
	cut := in.start(t, place{database: fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=disable", host, port)})
	in.lockets = []*process{cut, in.start(t, place{})}
	h := in.hold(t)
	onlyCut := in.backendAt(t, mtls.Identity{Role: mtls.RoleOperator, Name: "ada"}, cut.grpc)

	database.cut()
	begun := time.Now()
	eventually(t, "the locket to say that it is cut off", func() bool { return cut.ready() == http.StatusServiceUnavailable })
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("it said so after %v", took)
	}
	_, err = onlyCut.Claim(t.Context(), lockclient.Claim{Key: "other", Owner: "ada", Type: lockclient.TypeLock, TTL: 5 * time.Second})
	mustBeUnavailable(t, err)
	pass(t, 7*time.Second) // the ttl and more
	h.mustHold(t)

	database.heal()
	eventually(t, "the locket to be ready again", func() bool { return cut.ready() == http.StatusOK })
	held, err := onlyCut.Fetch(t.Context(), "bbs")
	require.NoError(t, err)
	require.Equal(t, h.lock.Token(), held.Token)
	h.mustHold(t)
}

func TestAClientCutOffFromOneLocket(t *testing.T) {
	t.Parallel()
	in := install(t)
	first, second := connect(t, in.lockets[0].grpc), connect(t, in.lockets[1].grpc)
	h := in.holdAt(t, first.addr(), second.addr())
	first.cut()
	pass(t, 7*time.Second) // the ttl and more
	h.mustHold(t)

	// The watch of presences, on whichever locket it was, tells what happens now.
	registration := lockclient.Claim{Key: "cell-2", Owner: "run", Type: lockclient.TypePresence, TTL: time.Minute}
	_, err := in.backend(t, mtls.Identity{Role: mtls.RoleOperator, Name: "ada"}).Claim(t.Context(), registration)
	require.NoError(t, err)
	eventually(t, "the watch to tell of a cell", func() bool { return len(h.watched()) == 1 && h.watched()[0] == "acquired cell-2" })

	// The other way round, with the first one back.
	first.heal()
	pass(t, 2*time.Second)
	second.cut()
	pass(t, 6*time.Second)
	require.True(t, h.lock.Valid())
	require.True(t, h.presence.Held())
}

func TestAClientCutOffFromAllLockets(t *testing.T) {
	t.Parallel()
	in := install(t)
	first, second := connect(t, in.lockets[0].grpc), connect(t, in.lockets[1].grpc)
	h := in.holdAt(t, first.addr(), second.addr())
	first.cut()
	second.cut()
	cutAt := time.Now()
	require.ErrorIs(t, <-h.held, lockclient.ErrLost)
	stopped := time.Since(cutAt)
	require.False(t, h.lock.Valid())
	next, err := lockclient.Acquire(t.Context(), lockclient.LockConfig{
		Key: "bbs", Owner: "bbs-2", Backend: in.backend(t, mtls.Identity{Role: mtls.RoleBBS}), Log: discard,
	})
	require.NoError(t, err)
	t.Logf("the holder stopped %v after the cut, the next one had the lock %v after it", stopped, time.Since(cutAt))
	require.Less(t, stopped, 4100*time.Millisecond, "ttl less margin")
	require.Greater(t, next.Token(), h.lock.Token())

	eventually(t, "the presence to be lost", func() bool { return !h.presence.Held() })
	first.heal()
	second.heal()
	eventually(t, "the presence to be registered again", h.presence.Held)
}
