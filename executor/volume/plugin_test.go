package volume

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// plugin is a real little volume driver over HTTP: a volume is a folder, mounted by a link that counts its users, as
// drivers do that a second unmount would break.
type plugin struct {
	t       *testing.T
	root    string
	server  *httptest.Server
	refuse  map[string]string // guarded by mu; error texts by path of the request
	hold    chan struct{}     // guarded by mu; a mount waits until it is closed
	mu      sync.Mutex
	options map[string]map[string]any // guarded by mu; of created volumes
	mounts  map[string]int            // guarded by mu; by volume
	calls   []string                  // guarded by mu
}

// request of any call.
type request struct {
	Name string
	ID   string
	Opts map[string]any
}

func newPlugin(t *testing.T) *plugin {
	t.Helper()
	p := &plugin{t: t, root: t.TempDir(), refuse: map[string]string{}, options: map[string]map[string]any{}, mounts: map[string]int{}}
	p.start("")
	return p
}

// start listens; at address, if it is one that it has listened at before.
func (p *plugin) start(address string) {
	p.t.Helper()
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	if address != "" {
		require.NoError(p.t, p.server.Listener.Close())
		listener, err := (&net.ListenConfig{}).Listen(p.t.Context(), "tcp", address)
		require.NoError(p.t, err)
		p.server.Listener = listener
	}
	p.server.Start()
	p.t.Cleanup(p.server.Close)
}

func (p *plugin) address() string { return p.server.Listener.Addr().String() }

// describe puts a file for this driver into a folder.
func (p *plugin) describe(folder, file, content string) {
	p.t.Helper()
	require.NoError(p.t, os.MkdirAll(folder, 0o700))
	require.NoError(p.t, os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600))
}

func (p *plugin) serve(w http.ResponseWriter, r *http.Request) {
	var q request
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		p.t.Errorf("request of %s: %v", r.URL.Path, err)
	}
	p.mu.Lock()
	p.calls = append(p.calls, r.URL.Path[len("/"):]+" "+q.Name)
	hold := p.hold
	p.mu.Unlock()
	if hold != nil && r.URL.Path == "/VolumeDriver.Mount" {
		<-hold
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := p.answer(r.URL.Path, q)
	if refusal := p.refuse[r.URL.Path]; refusal != "" {
		answer = map[string]any{"Err": refusal}
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		p.t.Errorf("answer to %s: %v", r.URL.Path, err)
	}
}

// answer is called with the lock held.
func (p *plugin) answer(path string, q request) map[string]any {
	if p.refuse[path] != "" {
		return nil
	}
	at := filepath.Join(p.root, q.Name)
	switch path {
	case "/Plugin.Activate":
		return map[string]any{"Implements": []string{"VolumeDriver"}}
	case "/VolumeDriver.Create":
		p.options[q.Name] = q.Opts
	case "/VolumeDriver.Mount":
		if p.options[q.Name] == nil {
			return map[string]any{"Err": "no such volume"}
		}
		p.mounts[q.Name]++
		if err := os.MkdirAll(at, 0o700); err != nil {
			return map[string]any{"Err": err.Error()}
		}
		return map[string]any{"Mountpoint": at}
	case "/VolumeDriver.Unmount":
		if p.mounts[q.Name] == 0 {
			return map[string]any{"Err": "not mounted"}
		}
		p.mounts[q.Name]--
	case "/VolumeDriver.Get":
		if p.options[q.Name] == nil {
			return map[string]any{"Err": "no such volume"}
		}
		if p.mounts[q.Name] == 0 {
			at = ""
		}
		return map[string]any{"Volume": map[string]any{"Name": q.Name, "Mountpoint": at}}
	default:
		return map[string]any{"Err": "no such call: " + path}
	}
	return map[string]any{}
}

// mounted is how often the driver believes that the volume is mounted.
func (p *plugin) mounted(volume string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mounts[volume]
}

func (p *plugin) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// bed is a folder of descriptions with one driver "local", and a folder of uses.
type bed struct {
	t      *testing.T
	plugin *plugin
	cfg    Config
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, plugin: newPlugin(t)}
	b.cfg = Config{
		Dir: filepath.Join(t.TempDir(), "volumes"), Folders: []string{t.TempDir()}, Interval: 5 * time.Millisecond, Timeout: 5 * time.Second, ID: "cell-1",
	}
	b.plugin.describe(b.cfg.Folders[0], "local.spec", "tcp://"+b.plugin.address())
	return b
}

// open is what a process does at start; what it does not close is what a kill leaves.
func (b *bed) open(keep ...string) *Volumes {
	b.t.Helper()
	kept := map[string]bool{}
	for _, name := range keep {
		kept[name] = true
	}
	v, err := Open(b.t.Context(), b.cfg, kept)
	require.NoError(b.t, err)
	return v
}

// run runs until the end of the test.
func (b *bed) run(v *Volumes) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- v.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		require.NoError(b.t, <-ended)
	})
}

func (b *bed) eventually(what string, condition func() bool) {
	b.t.Helper()
	require.Eventually(b.t, condition, 10*time.Second, 5*time.Millisecond, what)
}

// uses are the files of owners that are on disk.
func (b *bed) uses() []string {
	b.t.Helper()
	found, err := filepath.Glob(filepath.Join(b.cfg.Dir, "*"))
	require.NoError(b.t, err)
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return found
}
