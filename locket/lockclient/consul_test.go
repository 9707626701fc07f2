package lockclient_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"diego.internal/locket/consultest"
	"diego.internal/locket/lockclient"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

// hold holds the lock "bbs" as "bbs-1" until the test ends or stop is called; lost has what Hold returned.
func hold(t *testing.T, b lockclient.Backend) (lock *lockclient.Lock, lost chan error, stop func()) {
	t.Helper()
	lock, err := lockclient.Acquire(t.Context(), bbsLock(b, "bbs-1"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	lost = make(chan error, 1)
	done := make(chan struct{})
	go func() { defer close(done); lost <- lock.Hold(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return lock, lost, cancel
}

func sessions(t *testing.T, s *consultest.Server) []*api.SessionEntry {
	t.Helper()
	list, _, err := s.API().Session().List((&api.QueryOptions{RequireConsistent: true}).WithContext(t.Context()))
	require.NoError(t, err)
	return list
}

func TestConsulTakeOver(t *testing.T) {
	t.Parallel()
	// As Consul comes: sessions of 10 s, which it ends after 20 s.
	b := consulBackend(t, consultest.Start(t, consultest.Config{}).Client())
	first, lost, stop := hold(t, b)

	type acquisition struct {
		lock *lockclient.Lock
		at   time.Time
	}
	standby := func(owner string) <-chan acquisition {
		got := make(chan acquisition, 1)
		go func() {
			lock, err := lockclient.Acquire(t.Context(), bbsLock(b, owner))
			if err == nil {
				got <- acquisition{lock, time.Now()}
			}
		}()
		return got
	}
	next := standby("bbs-2")
	select {
	case <-next:
		t.Fatal("a lock that is held and renewed was taken over")
	case <-time.After(7 * time.Second): // the ttl and more
	}
	stopped := time.Now()
	stop()
	require.NoError(t, <-lost)
	second := <-next // and from here on bbs-2 is dead: nobody renews
	clean := second.at.Sub(stopped)

	presence := lockclient.Claim{Key: "cell-1", Owner: "run-1", Type: lockclient.TypePresence, TTL: 5 * time.Second}
	_, err := b.Claim(t.Context(), presence)
	require.NoError(t, err)
	registered := time.Now()
	expired := make(chan time.Time, 1)
	go func() {
		_ = lockclient.WatchPresences(t.Context(), b, quiet, func(e lockclient.PresenceEvent) {
			if e.Kind == lockclient.Expired {
				expired <- time.Now()
			}
		})
	}()

	third := <-standby("bbs-3")
	hard := third.at.Sub(second.at)
	silent := (<-expired).Sub(registered)
	t.Logf("clean take-over %v, hard take-over %v, expiry of a presence %v", clean, hard, silent)
	require.Less(t, clean, time.Second)
	require.GreaterOrEqual(t, hard, 4*time.Second, "the holder may have trusted its lease until then")
	require.Less(t, hard, 7500*time.Millisecond)
	require.Greater(t, silent, 10*time.Second, "never before the session's ttl")
	require.Less(t, silent, 25*time.Second)
	require.Greater(t, second.lock.Token(), first.Token())
	require.Greater(t, third.lock.Token(), second.lock.Token())
}

func TestConsulRestartMovesNoLock(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t, consultest.Config{})
	b := consulBackend(t, server.Client())
	lock, lost, _ := hold(t, b)
	token := lock.Token()
	server.Kill()
	server.Restart()
	server.Signal(syscall.SIGSTOP)
	until := time.NewTimer(1500 * time.Millisecond)
	<-until.C
	server.Signal(syscall.SIGCONT)
	until.Reset(5 * time.Second)
	<-until.C
	select {
	case err := <-lost:
		t.Fatalf("the lock is lost: %v", err)
	default:
	}
	require.True(t, lock.Valid())
	held, err := b.Fetch(t.Context(), "bbs")
	require.NoError(t, err)
	require.Equal(t, token, held.Token)
}

func TestConsulOutageEndsTheLock(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t, consultest.Config{})
	b := consulBackend(t, server.Client())
	lock, lost, _ := hold(t, b)
	server.Signal(syscall.SIGSTOP)
	require.ErrorIs(t, <-lost, lockclient.ErrLost)
	require.False(t, lock.Valid())
	server.Signal(syscall.SIGCONT)
	again, err := lockclient.Acquire(t.Context(), bbsLock(b, "bbs-2"))
	require.NoError(t, err)
	require.Greater(t, again.Token(), lock.Token())
}

func TestConsulLosesAClaimBehindOurBack(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t, consultest.Config{})
	cfg := server.Client()
	cfg.LockDelay = 2 * time.Second
	b := consulBackend(t, cfg)
	lock, lost, _ := hold(t, b)
	for _, s := range sessions(t, server) {
		_, err := server.API().Session().Destroy(s.ID, nil)
		require.NoError(t, err)
	}
	destroyed := time.Now()
	_, err := b.Claim(t.Context(), lockclient.Claim{Key: "bbs", Owner: "x", Type: lockclient.TypeLock, TTL: 5 * time.Second})
	require.ErrorIs(t, err, lockclient.ErrCollision, "within the lock delay")
	second, err := lockclient.Acquire(t.Context(), bbsLock(b, "bbs-2"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(destroyed), 1900*time.Millisecond)
	require.Greater(t, second.Token(), lock.Token())
	require.ErrorIs(t, <-lost, lockclient.ErrLost, "the next renewal finds out")

	// An operator deletes the key: the lock index of Consul begins anew, tokens do not.
	_, err = server.API().KV().DeleteTree("diego/", nil)
	require.NoError(t, err)
	third, err := b.Claim(t.Context(), lockclient.Claim{Key: "bbs", Owner: "bbs-3", Type: lockclient.TypeLock, TTL: 5 * time.Second})
	require.NoError(t, err)
	require.Greater(t, third.Token, second.Token())
}

func TestConsulSessions(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t, consultest.Config{})
	cfg := server.Client()
	cfg.LockDelay = 3 * time.Second
	b := consulBackend(t, cfg)
	claim(t, b, lockclient.Claim{Key: "bbs", Owner: "a", Type: lockclient.TypeLock, TTL: 30 * time.Second})
	claim(t, b, lockclient.Claim{Key: "cell-1", Owner: "b", Type: lockclient.TypePresence, TTL: 5 * time.Second, Incarnation: 1})
	list := sessions(t, server)
	require.Len(t, list, 2, "one for each claim")
	for _, s := range list {
		require.Empty(t, s.Checks)
		require.Empty(t, s.NodeChecks)
		require.Empty(t, s.ServiceChecks)
		if s.Name == "a" {
			require.Equal(t, "30s", s.TTL)
			require.Equal(t, "release", s.Behavior)
			require.Equal(t, cfg.LockDelay, s.LockDelay)
		} else {
			require.Equal(t, "10s", s.TTL)
			require.Equal(t, "delete", s.Behavior)
			require.Less(t, s.LockDelay, 10*time.Millisecond)
		}
	}

	// Refusals make no session; take-overs, releases and repeated claims leave none.
	for i := range 5 {
		_, err := b.Claim(t.Context(), lockclient.Claim{Key: "bbs", Owner: fmt.Sprintf("other-%d", i), Type: lockclient.TypeLock, TTL: 5 * time.Second})
		require.ErrorIs(t, err, lockclient.ErrCollision)
		claim(t, b, lockclient.Claim{Key: "bbs", Owner: "a", Type: lockclient.TypeLock, TTL: 30 * time.Second})
		claim(t, b, lockclient.Claim{Key: "cell-1", Owner: fmt.Sprintf("run-%d", i), Type: lockclient.TypePresence, TTL: 5 * time.Second, Incarnation: int64(i) + 2})
	}
	require.Len(t, sessions(t, server), 2)
	require.NoError(t, b.Release(t.Context(), "bbs", "a"))
	require.NoError(t, b.Release(t.Context(), "cell-1", "run-4"))
	require.Empty(t, sessions(t, server))
}

func TestConsulTokens(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t, consultest.Config{ManagementToken: "6bb6a1f8-9bb9-4bd5-b1d3-2d1e6b4cf0a5"})
	lock := lockclient.Claim{Key: "bbs", Owner: "x", Type: lockclient.TypeLock, TTL: 5 * time.Second}
	tests := map[string]struct {
		rules   string
		refused bool
	}{
		"no token":                   {"", true},
		"a token that may only read": {`key_prefix "diego/v1/" {policy = "read"} session_prefix "" {policy = "write"}`, true},
		"a token without sessions":   {`key_prefix "diego/v1/" {policy = "write"}`, true},
		"a token for another prefix": {`key_prefix "other/" {policy = "write"} session_prefix "" {policy = "write"}`, true},
		"the token of the readme":    {`key_prefix "diego/v1/" {policy = "write"} session_prefix "" {policy = "write"}`, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := server.Client()
			if test.rules != "" {
				cfg.TokenFile = tokenFile(t, server.API(), test.rules)
			}
			b := consulBackend(t, cfg)
			if test.refused {
				_, err := b.Claim(t.Context(), lock)
				require.ErrorIs(t, err, lockclient.ErrRefused)
				return
			}
			claim(t, b, lock)
			claim(t, b, lock)
			require.NoError(t, b.Release(t.Context(), lock.Key, lock.Owner))
			require.Empty(t, sessions(t, server))
		})
	}
}

func tokenFile(t *testing.T, client *api.Client, rules string) config.SecretFile {
	t.Helper()
	policy, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: fmt.Sprintf("policy-%d", time.Now().UnixNano()), Rules: rules}, nil)
	require.NoError(t, err)
	token, _, err := client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(token.SecretID+"\n"), 0o600))
	return config.SecretFile(file)
}

// What a release leaves, so that watches can tell it, does not stay for ever, and a lock's does no harm.
func TestConsulIsTidied(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t, consultest.Config{})
	b := consulBackend(t, server.Client())
	lockclient.SetMarkerAge(b, 100*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = lockclient.WatchPresences(ctx, b, quiet, func(lockclient.PresenceEvent) {})
	}()
	t.Cleanup(func() { cancel(); <-done })

	keys := func() []string {
		list, _, err := server.API().KV().Keys("diego/v1/claims/", "", (&api.QueryOptions{RequireConsistent: true}).WithContext(t.Context()))
		require.NoError(t, err)
		return list
	}
	for _, key := range []string{"cell-1", "cell-2"} {
		claim(t, b, lockclient.Claim{Key: key, Owner: "run", Type: lockclient.TypePresence, TTL: 5 * time.Second})
	}
	require.NoError(t, b.Release(t.Context(), "cell-1", "run"))
	deadline := time.Now().Add(20 * time.Second) // a watch looks each 10 s at least
	for len(keys()) > 1 {
		require.True(t, time.Now().Before(deadline), "still there: %v", keys())
		// Something happens, which wakes the watch; the present claim survives its tidying.
		claim(t, b, lockclient.Claim{Key: "cell-2", Owner: "run", Type: lockclient.TypePresence, TTL: 5 * time.Second, Value: []byte(time.Now().String())})
	}
	require.Equal(t, []string{"diego/v1/claims/cell-2"}, keys())
}

func claim(t *testing.T, b lockclient.Backend, c lockclient.Claim) lockclient.Held {
	t.Helper()
	held, err := b.Claim(t.Context(), c)
	require.NoError(t, err)
	return held
}

func TestConsulKnowsItsPeers(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewAuthority(t)
	server := consultest.Start(t, consultest.Config{CA: ca})
	stranger := mtlstest.NewAuthority(t).Issue(mtls.Identity{Role: mtls.RoleBBS})
	tests := map[string]struct {
		change  func(*lockclient.ConsulConfig)
		wantErr string
	}{
		"a client of another ca is refused": {
			change:  func(c *lockclient.ConsulConfig) { c.TLS.Certificate, c.TLS.Key = stranger.Certificate, stranger.Key },
			wantErr: "tls: ",
		},
		"a server of another ca is not trusted": {
			change:  func(c *lockclient.ConsulConfig) { c.TLS.CA = stranger.CA },
			wantErr: "unknown authority",
		},
		"a server of another name is not trusted": {
			change:  func(c *lockclient.ConsulConfig) { c.TLS.ServerName = "server.dc2.consul" },
			wantErr: "server.dc2.consul",
		},
		"the name in the configuration is enough": {
			change: func(c *lockclient.ConsulConfig) { c.TLS.ServerName = "server.dc1.consul" },
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := server.Client()
			test.change(&cfg)
			_, err := consulBackend(t, cfg).Fetch(t.Context(), "nobody")
			if test.wantErr == "" {
				require.ErrorIs(t, err, lockclient.ErrNotHeld)
				return
			}
			require.NotErrorIs(t, err, lockclient.ErrNotHeld)
			require.ErrorContains(t, err, test.wantErr)
		})
	}
}
