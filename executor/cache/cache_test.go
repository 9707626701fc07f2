package cache

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/transfer"
)

// server sends one tar per path. Its versions are told by ETag, by Last-Modified, or not at all.
type server struct {
	t   *testing.T
	url string

	mu       sync.Mutex
	contents map[string]string
	header   string // "ETag", "Last-Modified" or ""
	status   int
	full     int
	asked    int
	arrived  chan struct{}
	proceed  chan struct{}
}

func newServer(t *testing.T, header string) *server {
	t.Helper()
	s := &server{t: t, header: header, contents: make(map[string]string)}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.arrived != nil {
		s.arrived <- struct{}{}
		<-s.proceed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	content, ok := s.contents[r.URL.Path]
	validator := fmt.Sprintf("%q", content[:min(len(content), 8)])
	condition := map[string]string{"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}[s.header]
	switch {
	case s.status != 0:
		w.WriteHeader(s.status)
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	case condition != "" && r.Header.Get(condition) == validator:
		w.WriteHeader(http.StatusNotModified)
	default:
		s.full++
		if s.header != "" {
			w.Header().Set(s.header, validator)
		}
		_, _ = w.Write(archive(s.t, content))
	}
}

func (s *server) set(path, content string) transfer.Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.contents[path] = content
	return transfer.Source{URL: s.url + path}
}

func (s *server) counts() (full, asked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full, s.asked
}

func archive(t *testing.T, content string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}))
	_, err := io.WriteString(w, content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// shelf is a folder for a cache, which may be opened many times.
type shelf struct {
	t   *testing.T
	cfg Config
}

func newShelf(t *testing.T, limit int64) *shelf {
	t.Helper()
	dir := t.TempDir()
	temporary := filepath.Join(dir, "tmp")
	require.NoError(t, os.Mkdir(temporary, 0o700))
	t.Cleanup(func() {
		left, err := os.ReadDir(temporary)
		require.NoError(t, err)
		require.Empty(t, left, "temporary files left")
	})
	return &shelf{t: t, cfg: Config{
		Dir:       filepath.Join(dir, "cache"),
		Limit:     limit,
		Transfers: transfer.New(transfer.Config{TempDir: temporary, Downloads: 5, Uploads: 1, MaxBytes: 1 << 20}),
	}}
}

func (s *shelf) open(keep ...string) *Cache {
	s.t.Helper()
	owners := make(map[string]bool)
	for _, owner := range keep {
		owners[owner] = true
	}
	c, err := Open(s.cfg, owners)
	require.NoError(s.t, err)
	s.t.Cleanup(c.removals.Wait)
	return c
}

func folder(t *testing.T, c *Cache, owner, key string, source transfer.Source) Folder {
	t.Helper()
	f, err := c.Folder(t.Context(), owner, key, source)
	require.NoError(t, err)
	return f
}

func content(t *testing.T, f Folder) string {
	t.Helper()
	read, err := os.ReadFile(filepath.Join(f.Path, "file"))
	require.NoError(t, err)
	return string(read)
}

func (c *Cache) bytesUsed() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

func TestFolderIsSharedUntilItChanges(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"ETag", "Last-Modified"} {
		t.Run(header, func(t *testing.T) {
			t.Parallel()
			s, c := newServer(t, header), newShelf(t, 1<<20).open()
			source := s.set("/a", "one")
			first := folder(t, c, "i", "k", source)
			require.Equal(t, Folder{Path: first.Path, Size: 2048}, first)
			require.Equal(t, Folder{Path: first.Path, Cached: true}, folder(t, c, "j", "k", source))
			full, asked := s.counts()
			require.Equal(t, []int{1, 2}, []int{full, asked}, "the server is asked each time and sends once")

			s.set("/a", "two")
			second := folder(t, c, "k", "k", source)
			require.Equal(t, "two", content(t, second))
			require.Equal(t, "one", content(t, first), "the old version lives while it is used")
			require.Equal(t, int64(2*block), c.bytesUsed())
			require.NoError(t, c.Release("i"))
			require.Equal(t, "one", content(t, first))
			require.NoError(t, c.Release("j"))
			require.NoDirExists(t, first.Path)
			require.Equal(t, int64(block), c.bytesUsed())
			require.NoError(t, c.Release("k"))
			require.Equal(t, "two", content(t, second), "the current version stays for the next")
		})
	}
}

func TestFolderIsRefused(t *testing.T) {
	t.Parallel()
	plain, tagged := newServer(t, ""), newServer(t, "ETag")
	wrong := tagged.set("/a", "one")
	wrong.ChecksumAlgorithm, wrong.ChecksumValue = "md5", strings.Repeat("0", 32)
	tests := map[string]struct {
		key    string
		source transfer.Source
		want   string
	}{
		"without a key":            {source: tagged.set("/a", "one"), want: "Not cacheable directory: cache key is missing"},
		"without validators":       {key: "k", source: plain.set("/a", "one"), want: "Not cacheable directory: ETag and Last-Modified were missing from response"},
		"with a wrong checksum":    {key: "k", source: wrong, want: "Checksum failed: 'checksum mismatch', expected '00000000000000000000000000000000', got '"},
		"when the server refuses":  {key: "k", source: transfer.Source{URL: tagged.url + "/missing"}, want: "Download failed: Status code 404"},
		"when it does not fit":     {key: "k", source: tagged.set("/large", strings.Repeat("x", 10_000)), want: "no room in the cache of downloads"},
		"when it is no url at all": {key: "k", source: transfer.Source{URL: "nowhere"}, want: "unsupported protocol scheme"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newShelf(t, 2*block).open()
			_, err := c.Folder(t.Context(), "i", tc.key, tc.source)
			require.ErrorContains(t, err, tc.want)
			require.Zero(t, c.bytesUsed())
			left, err := os.ReadDir(filepath.Join(c.cfg.Dir, entriesDir))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func TestCallersOfOneKeyWaitForEachOther(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, "ETag"), newShelf(t, 1<<20).open()
	source := s.set("/a", "one")
	var wg sync.WaitGroup
	paths := make([]string, 8)
	for i := range paths {
		wg.Go(func() {
			f, err := c.Folder(t.Context(), fmt.Sprint(i), "k", source)
			if err == nil {
				paths[i] = f.Path
			}
		})
	}
	wg.Wait()
	for _, path := range paths {
		require.Equal(t, paths[0], path)
	}
	require.NotEmpty(t, paths[0])
	full, _ := s.counts()
	require.Equal(t, 1, full)
	require.Zero(t, c.locks.Len())
}

func TestWaitingForAKeyEndsWithTheContext(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, "ETag"), newShelf(t, 1<<20).open()
	source := s.set("/a", "one")
	s.arrived, s.proceed = make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		_, err := c.Folder(context.Background(), "i", "k", source)
		first <- err
	}()
	<-s.arrived
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Folder(ctx, "j", "k", source)
	require.ErrorIs(t, err, context.Canceled)
	close(s.proceed)
	require.NoError(t, <-first)
}

func TestOldestUnusedGoesFirst(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, "ETag"), newShelf(t, 3*block).open()
	a := folder(t, c, "used", "a", s.set("/a", "aaa"))
	b := folder(t, c, "i", "b", s.set("/b", "bbb"))
	d := folder(t, c, "i", "d", s.set("/d", "ddd"))
	require.NoError(t, c.Release("i"))
	require.True(t, folder(t, c, "i", "b", s.set("/b", "bbb")).Cached, "b is used again, later than d")
	require.NoError(t, c.Release("i"))

	e := folder(t, c, "i", "e", s.set("/e", "eee"))
	require.NoDirExists(t, d.Path)
	for _, f := range []Folder{a, b, e} {
		require.DirExists(t, f.Path)
	}
	_, err := c.Folder(t.Context(), "i", "large", s.set("/large", strings.Repeat("x", 2*block)))
	require.ErrorIs(t, err, ErrFull)
	require.DirExists(t, b.Path, "nothing is evicted for what would not fit")
	require.Equal(t, int64(3*block), c.bytesUsed())
}

func TestArchives(t *testing.T) {
	t.Parallel()
	first := func(t *testing.T, c *Cache, key string, source transfer.Source) (string, bool) {
		t.Helper()
		a, err := c.Archive(t.Context(), key, source)
		require.NoError(t, err)
		defer func() { require.NoError(t, a.Remove()) }()
		stream, err := a.Tar()
		require.NoError(t, err)
		defer func() { require.NoError(t, stream.Close()) }()
		in := tar.NewReader(stream)
		_, err = in.Next()
		require.NoError(t, err)
		read, err := io.ReadAll(in)
		require.NoError(t, err)
		return string(read), a.Cached
	}
	tests := map[string]struct {
		header, key string
		want        bool
	}{
		"with a key it is kept":                   {header: "ETag", key: "k", want: true},
		"without a key it is received each time":  {header: "ETag"},
		"without validators it is never the same": {key: "k"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := newServer(t, tc.header), newShelf(t, 1<<20).open()
			source := s.set("/a", "one")
			got, cached := first(t, c, tc.key, source)
			require.Equal(t, "one", got)
			require.False(t, cached)
			got, cached = first(t, c, tc.key, source)
			require.Equal(t, "one", got)
			require.Equal(t, tc.want, cached)
			s.set("/a", "two")
			got, cached = first(t, c, tc.key, source)
			require.Equal(t, "two", got)
			require.False(t, cached)
			for _, v := range c.versions {
				require.True(t, v.idle())
			}
		})
	}
}

func TestAChecksumIsNotTakenOnTrust(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, "ETag"), newShelf(t, 1<<20).open()
	source := s.set("/a", "one")
	folder(t, c, "i", "k", source)
	sum := sha256.Sum256(archive(t, "one"))
	source.ChecksumAlgorithm, source.ChecksumValue = "sha256", hex.EncodeToString(sum[:])
	require.False(t, folder(t, c, "j", "k", source).Cached, "what nobody verified is received again")
	require.True(t, folder(t, c, "k", "k", source).Cached)
	source.ChecksumValue = strings.Repeat("0", 64)
	_, err := c.Folder(t.Context(), "l", "k", source)
	require.ErrorContains(t, err, "checksum mismatch")
}

func TestReleaseFolder(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, "ETag"), newShelf(t, 1<<20).open()
	f := folder(t, c, "i", "k", s.set("/a", "one"))
	require.ErrorIs(t, c.ReleaseFolder("i", "/etc/"+filepath.Base(f.Path)), ErrNotFound)
	require.ErrorIs(t, c.ReleaseFolder("i", filepath.Join(filepath.Dir(f.Path), "other")), ErrNotFound)
	require.NoError(t, c.ReleaseFolder("i", f.Path))
	require.ErrorIs(t, c.ReleaseFolder("i", f.Path), ErrReleased)
	require.NoError(t, c.Release("i"))
	require.NoError(t, c.Release("nobody"))
}

func TestReopened(t *testing.T) {
	t.Parallel()
	edit := func(change func(*index)) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			path := filepath.Join(dir, indexFile)
			encoded, err := os.ReadFile(path)
			require.NoError(t, err)
			var saved index
			require.NoError(t, json.Unmarshal(encoded, &saved))
			change(&saved)
			encoded, err = json.Marshal(saved)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, encoded, 0o600))
		}
	}
	tests := map[string]struct {
		close  bool
		change func(t *testing.T, dir string)
		// wantIdle says whether what nobody used is still cached; what was in use always stays.
		wantIdle bool
	}{
		"after a kill":         {wantIdle: true},
		"after a close":        {close: true, wantIdle: true},
		"with a damaged index": {change: func(t *testing.T, dir string) { t.Helper(); damage(t, dir) }},
		"without an index": {change: func(t *testing.T, dir string) {
			t.Helper()
			require.NoError(t, os.Remove(filepath.Join(dir, indexFile)))
		}},
		"after a crash of the host": {change: edit(func(i *index) { i.Boot = "other" })},
		"after a clean reboot":      {close: true, change: edit(func(i *index) { i.Boot = "other" }), wantIdle: true},
		"by an older release":       {close: true, change: edit(func(i *index) { i.Version = 2 })},
		"with an entry that points elsewhere": {wantIdle: true, change: edit(func(i *index) {
			i.Entries = append(i.Entries, indexEntry{Name: "../uses", Form: formFolder, Key: "x", Current: true})
		})},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, place := newServer(t, "ETag"), newShelf(t, 1<<20)
			c := place.open()
			used := folder(t, c, "stays", "used", s.set("/used", "used"))
			idle := folder(t, c, "goes", "idle", s.set("/idle", "idle"))
			dir := place.cfg.Dir
			half := filepath.Join(dir, asideDir, "half")
			require.NoError(t, os.MkdirAll(half, 0o755))
			stray := filepath.Join(dir, entriesDir, "stray")
			require.NoError(t, os.MkdirAll(stray, 0o755))
			if tc.close {
				require.NoError(t, c.Close())
			}
			if tc.change != nil {
				tc.change(t, dir)
			}

			c = place.open("stays")
			require.NoDirExists(t, half)
			require.NoDirExists(t, stray)
			require.Equal(t, "used", content(t, used), "a container still shows it")
			require.DirExists(t, filepath.Join(dir, usesDir, "stays"))
			require.NoDirExists(t, filepath.Join(dir, usesDir, "goes"))
			require.Equal(t, tc.wantIdle, exists(idle.Path))
			require.Equal(t, tc.wantIdle, folder(t, c, "new", "idle", s.set("/idle", "idle")).Cached)
			require.Equal(t, int64(2*block), c.bytesUsed())
			require.NoError(t, c.Release("stays"))
			require.Equal(t, tc.wantIdle, exists(used.Path), "without an index it was its owner's alone")
		})
	}
}

func damage(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, indexFile), []byte(`{"version":1,"entr`), 0o600))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestALostFolderIsReceivedAgain(t *testing.T) {
	t.Parallel()
	s, c := newServer(t, "ETag"), newShelf(t, 1<<20).open()
	source := s.set("/a", "one")
	f := folder(t, c, "i", "k", source)
	require.NoError(t, c.Release("i"))
	require.NoError(t, os.RemoveAll(f.Path))
	require.Equal(t, "one", content(t, folder(t, c, "i", "k", source)))
	require.Equal(t, int64(block), c.bytesUsed())
}

func TestInMemoryWritesNoIndex(t *testing.T) {
	t.Parallel()
	s, place := newServer(t, "ETag"), newShelf(t, 1<<20)
	place.cfg.Memory = true
	c := place.open()
	f := folder(t, c, "i", "k", s.set("/a", "one"))
	require.NoFileExists(t, filepath.Join(place.cfg.Dir, indexFile))
	require.NoDirExists(t, filepath.Join(place.cfg.Dir, usesDir, "i"))
	require.NoError(t, c.Close())
	place.open()
	require.NoDirExists(t, f.Path)
}
