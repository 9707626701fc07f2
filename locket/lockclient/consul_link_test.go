package lockclient_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"diego.internal/locket/consultest"
	"diego.internal/locket/lockclient"
)

// A holder that is cut off from Consul stops before anybody else, who is not, gets the lock.
func TestConsulHolderCutOff(t *testing.T) {
	t.Parallel()
	server := consultest.Start(t, consultest.Config{})
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "consul", "127.0.0.1:0", server.Addr())
	require.NoError(t, proxy.Start())
	t.Cleanup(proxy.Stop)
	far := server.Client()
	far.Address = (&url.URL{Scheme: "https", Host: proxy.Listen}).String()
	lock, lost, _ := hold(t, consulBackend(t, far))

	for _, stream := range []string{"upstream", "downstream"} {
		_, err := proxy.Toxics.AddToxicJson(strings.NewReader(`{"type": "timeout", "stream": "` + stream + `", "attributes": {"timeout": 0}}`))
		require.NoError(t, err)
	}
	cut := time.Now()
	next := make(chan *lockclient.Lock, 1)
	near := bbsLock(consulBackend(t, server.Client()), "bbs-2")
	go func() {
		if lock, err := lockclient.Acquire(t.Context(), near); err == nil {
			next <- lock
		}
	}()
	select {
	case <-next:
		t.Fatal("two holders")
	case err := <-lost:
		require.ErrorIs(t, err, lockclient.ErrLost)
	}
	stopped := time.Since(cut)
	second := <-next
	t.Logf("the holder stopped %v after the cut, the next one had the lock %v after it", stopped, time.Since(cut))
	require.Greater(t, second.Token(), lock.Token())
	require.Less(t, time.Since(cut), 7500*time.Millisecond)
}
