package executor

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
	"diego.internal/executor/logs"
)

// await polls on the real clock; tests of real connections cannot run in a bubble.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("waited 30 s for: %s", what)
		case <-tick.C:
		}
	}
}

func archiveOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}))
	_, err := io.WriteString(w, content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// artifacts serves archives with an ETag each, and tells how often each was sent in full.
type artifacts struct {
	url   string
	sent  atomic.Int64
	files map[string][]byte
}

func serveArtifacts(t *testing.T, files map[string][]byte) *artifacts {
	t.Helper()
	a := &artifacts{files: files}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := a.files[r.URL.Path]
		tag := fmt.Sprintf("%q", fmt.Sprint(crc32.ChecksumIEEE(body)))
		switch {
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		case r.Header.Get("If-None-Match") == tag:
			w.WriteHeader(http.StatusNotModified)
		default:
			a.sent.Add(1)
			w.Header().Set("ETag", tag)
			_, _ = w.Write(body)
		}
	}))
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

func TestCachedDependencies(t *testing.T) {
	t.Parallel()
	server := serveArtifacts(t, map[string][]byte{"/lifecycle.tar": archiveOf(t, "bin/launcher", "#!")})
	var specs sync.Map
	c := newCell(t, nil, func(cfg *simulated.Config) {
		cfg.OnCreate = func(s garden.ContainerSpec) (time.Duration, error) { specs.Store(s.Handle, s); return 0, nil }
	}).open()
	defer func() { c.stop() }()
	mountOf := func(guid string) garden.BindMount {
		spec, ok := specs.Load(guid)
		require.True(t, ok)
		return spec.(garden.ContainerSpec).BindMounts[0]
	}
	app := process("/app", "APP")
	dependency := CachedDependency{Name: "lifecycle", From: server.url + "/lifecycle.tar", To: "/tmp/lifecycle", CacheKey: "lifecycle"}
	c.run("i", RunInfo{Action: &app, CachedDependencies: []CachedDependency{dependency}})
	await(t, "container to run", func() bool { return c.get("i").State == StateRunning })
	mount := mountOf("i")
	require.Equal(t, "/tmp/lifecycle", mount.DstPath)
	require.True(t, mount.ReadOnly)
	launcher := filepath.Join(mount.SrcPath, "bin", "launcher")
	content, err := os.ReadFile(launcher)
	require.NoError(t, err)
	require.Equal(t, "#!", string(content))
	require.Contains(t, c.lines("i"), "CELL OUT Downloading lifecycle...")
	require.Contains(t, c.lines("i"), "CELL OUT Downloaded lifecycle (2K)")

	c.run("j", RunInfo{Action: &app, CachedDependencies: []CachedDependency{dependency}})
	await(t, "second container to run", func() bool { return c.get("j").State == StateRunning })
	require.Equal(t, mount.SrcPath, mountOf("j").SrcPath, "containers share a folder")
	require.Contains(t, c.lines("j"), "CELL OUT Downloaded lifecycle")
	require.Equal(t, int64(1), server.sent.Load())

	server.files["/lifecycle.tar"] = archiveOf(t, "bin/launcher", "#!2")
	c.run("k", RunInfo{Action: &app, CachedDependencies: []CachedDependency{dependency}})
	await(t, "third container to run", func() bool { return c.get("k").State == StateRunning })
	require.NotEqual(t, mount.SrcPath, mountOf("k").SrcPath, "a changed download gets a folder of its own")
	c.restart()
	require.FileExists(t, launcher, "a restart keeps what adopted containers use")
	require.NoError(t, c.client.DeleteContainer(t.Context(), "i"))
	require.FileExists(t, launcher, "the other container still uses it")
	require.NoError(t, c.client.DeleteContainer(t.Context(), "j"))
	require.NoFileExists(t, launcher, "what was replaced goes with its last user")
	require.NoError(t, c.client.DeleteContainer(t.Context(), "k"))
	require.DirExists(t, mountOf("k").SrcPath, "the current one stays for the next")
}

func TestCachedDependenciesThatFail(t *testing.T) {
	t.Parallel()
	server := serveArtifacts(t, map[string][]byte{"/large": archiveOf(t, "large", string(make([]byte, 5000))), "/text": []byte("text")})
	tests := map[string]CachedDependency{
		"the server does not have it": {Name: "d", From: server.url + "/missing", To: "/d", CacheKey: "d"},
		"it is no archive":            {Name: "d", From: server.url + "/text", To: "/d", CacheKey: "d"},
		"it has no cache key":         {Name: "d", From: server.url + "/large", To: "/d"},
		"it is larger than the cache": {Name: "d", From: server.url + "/large", To: "/d", CacheKey: "d"},
		"its checksum is wrong": {
			Name: "d", From: server.url + "/large", To: "/d", CacheKey: "d", ChecksumAlgorithm: "sha1", ChecksumValue: "da39a3ee5e6b4b0d3255bfef95601890afd80709",
		},
	}
	for name, dependency := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCell(t, nil)
			c.cfg.CacheSizeBytes = 5000
			c.open()
			defer func() { c.stop() }()
			app := process("/app", "APP")
			c.run("i", RunInfo{Action: &app, CachedDependencies: []CachedDependency{dependency}})
			await(t, "container to fail", func() bool { return c.get("i").State == StateCompleted })
			require.Equal(t, Result{Failed: true, Retryable: true, FailureReason: "failed to download cached artifacts"}, c.get("i").Result)
			require.Contains(t, c.lines("i"), "CELL ERR Downloading d failed")
			require.NoError(t, c.client.DeleteContainer(t.Context(), "i"))
		})
	}
}

func TestDownloadStepsUseTheCache(t *testing.T) {
	t.Parallel()
	server := serveArtifacts(t, map[string][]byte{"/app": archiveOf(t, "app.txt", "content")})
	c := newCell(t, nil).open()
	defer func() { c.stop() }()
	for _, tc := range []struct{ guid, want string }{{"i", "CELL OUT Downloaded app (2K)"}, {"j", "CELL OUT Downloaded app"}} {
		c.run(tc.guid, RunInfo{Action: &Action{Download: &DownloadAction{
			Artifact: "app", From: server.url + "/app", To: "/home/vcap", User: "vcap", CacheKey: "app",
		}}})
		await(t, "container to complete", func() bool { return c.get(tc.guid).State == StateCompleted })
		require.Equal(t, Result{}, c.get(tc.guid).Result)
		require.Contains(t, c.lines(tc.guid), tc.want)
	}
	require.Equal(t, int64(1), server.sent.Load())
}

func TestDownloadAndUploadSteps(t *testing.T) {
	t.Parallel()
	uploaded := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, _ := io.ReadAll(r.Body)
			uploaded <- string(body)
			return
		}
		_, _ = w.Write(archiveOf(t, "app.txt", "content"))
	}))
	t.Cleanup(server.Close)
	c := newCell(t, script{"/task": {}}).open()
	defer func() { c.stop() }()
	c.run("i", RunInfo{Action: &Action{Serial: &SerialAction{Actions: []Action{
		{Download: &DownloadAction{Artifact: "app", From: server.URL, To: "/home/vcap", User: "vcap"}},
		process("/task", "TASK"),
		{Upload: &UploadAction{Artifact: "result", From: "/home/vcap/app.txt", To: server.URL, User: "vcap"}},
	}}}})
	await(t, "container to complete", func() bool { return c.get("i").State == StateCompleted })
	require.Equal(t, Result{}, c.get("i").Result, "log: %q", c.lines("i"))
	require.Equal(t, "content", <-uploaded)
	for _, want := range []string{"CELL OUT Downloading app...", "CELL OUT Downloaded app (2K)", "CELL OUT Uploading result...", "CELL OUT Uploaded result (7B)"} {
		require.Contains(t, c.lines("i"), want)
	}
	stream, err := c.client.GetFiles(t.Context(), "i", "/home/vcap/app.txt")
	require.NoError(t, err)
	in := tar.NewReader(stream)
	_, err = in.Next()
	require.NoError(t, err)
	content, err := io.ReadAll(in)
	require.NoError(t, err)
	require.Equal(t, "content", string(content))
	require.NoError(t, stream.Close())
	_, err = c.client.GetFiles(t.Context(), "nobody", "/")
	require.ErrorIs(t, err, ErrContainerNotFound)
}

func TestFailedDownloadIsWorded(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("no archive")) }))
	t.Cleanup(server.Close)
	tests := map[string]struct {
		action DownloadAction
		want   string
	}{
		"a wrong checksum": {
			action: DownloadAction{Artifact: "app", From: server.URL, To: "/", User: "vcap", ChecksumAlgorithm: "md5", ChecksumValue: "00000000000000000000000000000000"},
			want:   "Downloading app failed",
		},
		"no archive": {
			action: DownloadAction{From: server.URL, To: "/", User: "vcap"},
			want:   "Copying into the container failed: unknown archive format",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCell(t, nil).open()
			defer func() { c.stop() }()
			c.run("i", RunInfo{Action: &Action{Download: &tc.action}})
			await(t, "container to complete", func() bool { return c.get("i").State == StateCompleted })
			require.Equal(t, Result{Failed: true, FailureReason: tc.want}, c.get("i").Result)
			require.Contains(t, c.lines("i"), "CELL ERR "+tc.want)
		})
	}
}

func TestUpdateMetricsAndFollow(t *testing.T) {
	t.Parallel()
	c := newCell(t, nil, func(cfg *simulated.Config) {
		cfg.OnMetrics = func(garden.ContainerSpec) garden.Metrics { return garden.Metrics{MemoryInBytes: 5, PidCount: 2} }
	}).open()
	defer func() { c.stop() }()
	app := process("/app", "APP")
	require.ErrorIs(t, c.client.UpdateContainer(t.Context(), UpdateRequest{GUID: "i"}), ErrContainerNotFound)
	c.run("i", RunInfo{Action: &app, CPUWeight: 100})
	await(t, "container to run", func() bool { return c.get("i").State == StateRunning })
	sub := c.client.SubscribeToEvents()
	defer sub.Close()
	require.NoError(t, c.client.UpdateContainer(t.Context(), UpdateRequest{
		GUID: "i", InternalRoutes: []InternalRoute{{Hostname: "h"}}, MetricTags: map[string]string{"app_name": "dora"},
	}))
	e, err := sub.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, "h", e.Container.RunInfo.InternalRoutes[0].Hostname)
	inside, err := c.engine.Lookup(t.Context(), "i")
	require.NoError(t, err)
	info, err := inside.Info(t.Context())
	require.NoError(t, err)
	require.Contains(t, info.Properties["log_config"], "dora")

	metrics, err := c.client.GetBulkMetrics(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(5), metrics["i"].MemoryUsageInBytes)
	require.Equal(t, uint64(64<<20), metrics["i"].DiskLimitInBytes)
	require.Equal(t, map[string]string{"source_id": "app", "instance_id": "1", "app_name": "dora"}, metrics["i"].Tags)

	followed := make(chan []string, 1)
	go func() {
		var got []string
		for line, err := range c.client.Logs(context.Background(), "i", logs.Request{Follow: true}) {
			if err != nil {
				break
			}
			got = append(got, line.Message)
		}
		followed <- got
	}()
	require.NoError(t, c.client.DeleteContainer(t.Context(), "i"))
	got := <-followed
	require.Equal(t, "Cell cell-1 successfully destroyed container for instance i", got[len(got)-1])
	for _, err := range c.client.Logs(t.Context(), "nobody", logs.Request{}) {
		require.ErrorIs(t, err, ErrContainerNotFound)
	}
}

func TestHealthyFollowsTheEngine(t *testing.T) {
	t.Parallel()
	c := newCell(t, nil)
	c.cfg.EngineCheckInterval = 10 * time.Millisecond
	c.open()
	defer func() { c.stop() }()
	c.engine.SetDown(os.ErrClosed)
	await(t, "cell to be unhealthy", func() bool { ok, _ := c.client.Healthy(); return !ok })
	c.engine.SetDown(nil)
	await(t, "cell to be healthy again", func() bool { ok, _ := c.client.Healthy(); return ok })
}

func TestCleanup(t *testing.T) {
	t.Parallel()
	c := newCell(t, nil).open()
	app := process("/app", "APP")
	c.run("i", RunInfo{Action: &app})
	c.run("j", RunInfo{Action: &app})
	await(t, "containers to run", func() bool { return c.get("i").State == StateRunning && c.get("j").State == StateRunning })
	require.NoError(t, c.client.Cleanup(t.Context()))
	require.Empty(t, c.client.ListContainers())
	c.run("k", RunInfo{Action: &app})
	await(t, "container to run", func() bool { return c.get("k").State == StateRunning })
	c.stop()
	require.NoError(t, Clean(t.Context(), c.cfg))
	left, err := c.engine.Containers(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, left)
	entries, err := os.ReadDir(c.cfg.StateDir)
	require.NoError(t, err)
	require.Empty(t, entries)
}
