package lockclient_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/locket/consultest"
	"diego.internal/locket/lockclient"
	"diego.internal/locket/lockettest"
	"diego.internal/servicekit/config"
	"diego.internal/servicekit/grpcclient"
	"diego.internal/servicekit/mtls"
	"diego.internal/servicekit/mtls/mtlstest"
)

// process is the configuration of a process that holds a lock and watches presences.
type process struct {
	lockclient.StoresConfig `yaml:",inline"`

	Lock      lockclient.Config `yaml:"lock"`
	Presences struct {
		Backend lockclient.Kind `yaml:"backend"`
	} `yaml:"presences"`
}

func (p *process) Validate() error { return p.CheckStores(p.Lock.Backend, p.Presences.Backend) }

func load(t *testing.T, text string) (process, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return config.Load[process]([]string{"-config", file})
}

func TestStoresConfig(t *testing.T) {
	t.Parallel()
	files := mtlstest.NewAuthority(t).Issue(mtls.Identity{Role: mtls.RoleBBS})
	tls := "  tls: {ca: " + files.CA + ", certificate: " + files.Certificate + ", key: " + files.Key + "}\n"
	good := "locket: {addresses: ['127.0.0.1:1']}\nconsul:\n  address: https://127.0.0.1:8501\n  lock_delay: 5s\n" + tls +
		"lock: {owner: bbs-1, backend: consul}\n"
	cfg, err := load(t, good)
	require.NoError(t, err)
	require.Equal(t, lockclient.KindConsul, cfg.Lock.Backend)
	require.Equal(t, 5*time.Second, cfg.Consul.LockDelay)
	require.Equal(t, 5*time.Second, cfg.Lock.TTL)

	tests := map[string]struct {
		text string
		want []string
	}{
		"an unknown store":               {"locket: {addresses: ['a:1']}\nlock: {owner: x, backend: etcd}\n", []string{"backend", "etcd"}},
		"a store that is not configured": {"locket: {addresses: ['a:1']}\nlock: {owner: x, backend: consul}\n", []string{"consul", "is missing"}},
		"locket by default":              {"lock: {owner: x}\n", []string{"locket", "is missing"}},
		"nonsense in the section of consul": {
			"locket: {addresses: ['a:1']}\nconsul: {address: 'http://a:1', prefix: 'x/../y/', lock_delay: 2m, session_ttl_min: 1ms}\nlock: {owner: x}\n",
			[]string{"https://", "prefix", "lock_delay", "session_ttl_min", "ca", "certificate", "key"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, test.text)
			for _, want := range test.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// One process holds its lock in Consul and its presence in locket.
func TestStoresOpenWhatIsChosen(t *testing.T) {
	t.Parallel()
	server := lockettest.Start(t, lockettest.Config{})
	consul := consultest.Start(t, consultest.Config{})
	consulCfg := consul.Client()
	stores := lockclient.NewStores(lockclient.StoresConfig{
		Locket: &grpcclient.Config{Addresses: []string{server.Addr()}}, Consul: &consulCfg,
	}, server.CA.Source(operator), nil)
	t.Cleanup(func() { require.NoError(t, stores.Close()) })
	inLocket, err := stores.Open("")
	require.NoError(t, err)
	inConsul, err := stores.Open(lockclient.KindConsul)
	require.NoError(t, err)
	again, err := stores.Open(lockclient.KindConsul)
	require.NoError(t, err)
	require.Same(t, inConsul, again, "opened once")

	claim(t, inConsul, lockclient.Claim{Key: "bbs", Owner: "x", Type: lockclient.TypeLock, TTL: 5 * time.Second})
	claim(t, inLocket, lockclient.Claim{Key: "cell", Owner: "x", Type: lockclient.TypePresence, TTL: 5 * time.Second})
	_, err = inLocket.Fetch(t.Context(), "bbs")
	require.ErrorIs(t, err, lockclient.ErrNotHeld)
	pair, _, err := consul.API().KV().Get("diego/v1/claims/bbs", nil)
	require.NoError(t, err)
	require.NotEmpty(t, pair.Session)

	_, err = stores.Open("etcd")
	require.ErrorContains(t, err, "etcd")
	_, err = lockclient.NewStores(lockclient.StoresConfig{}, nil, nil).Open(lockclient.KindLocket)
	require.ErrorContains(t, err, "is missing")
}
