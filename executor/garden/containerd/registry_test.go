package containerd

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
)

// registryServer is a registry with a certificate of its own authority that asks for a password.
type registryServer struct {
	server *httptest.Server
	host   string
	ca     string // path

	open     atomic.Bool // no password is asked for
	failures atomic.Int32
	mu       sync.Mutex
	requests []string
	replace  func(path string) []byte // answers in the place of the registry, if not nil
}

func newRegistryServer(t *testing.T) *registryServer {
	t.Helper()
	r := &registryServer{ca: filepath.Join(t.TempDir(), "ca.pem")}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		user, password, _ := request.BasicAuth()
		if !r.open.Load() && (user != "me" || password != "secret") {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.failures.Add(-1) >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		r.mu.Lock()
		if !r.open.Load() {
			r.requests = append(r.requests, request.URL.Path)
		}
		replace := r.replace
		r.mu.Unlock()
		if replace != nil {
			if content := replace(request.URL.Path); content != nil {
				_, _ = w.Write(content)
				return
			}
		}
		handler.ServeHTTP(w, request)
	}))
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it
	r.server.StartTLS()
	t.Cleanup(r.server.Close)
	r.host = r.server.Listener.Addr().String()
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw})
	require.NoError(t, os.WriteFile(r.ca, encoded, 0o600))
	return r
}

// push stores an image and returns its digest.
func (r *registryServer) push(t *testing.T, reference string, image v1.Image) string {
	t.Helper()
	r.open.Store(true)
	defer r.open.Store(false)
	parsed, err := name.ParseReference(r.host + "/" + reference)
	require.NoError(t, err)
	require.NoError(t, remote.Write(parsed, image, remote.WithContext(t.Context()), remote.WithTransport(r.server.Client().Transport)))
	digest, err := image.Digest()
	require.NoError(t, err)
	return digest.String()
}

// asked returns and forgets the paths that were asked for with the password.
func (r *registryServer) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.requests
	r.requests = nil
	return asked
}

func (r *registryServer) answerWith(replace func(string) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replace = replace
}

// trust gives the cell the registry's certificate.
func (b *bench) trust(t *testing.T, r *registryServer) {
	t.Helper()
	b.cfg.Registries = map[string]Registry{r.host: {CA: r.ca}}
	b.reopen(t)
}

func (r *registryServer) image(reference string) garden.Image {
	return garden.Image{URI: "docker://" + r.host + "/" + reference, Username: "me", Password: "secret"}
}

// baseLayer is a root filesystem; fileLayer one file of so many bytes over it.
func baseLayer(t *testing.T) v1.Layer {
	t.Helper()
	layer, err := tarball.LayerFromFile(packRootFS(t, shared.rootfs))
	require.NoError(t, err)
	return layer
}

func fileLayer(t *testing.T, size int, headers ...tar.Header) v1.Layer {
	t.Helper()
	var packed bytes.Buffer
	writer := tar.NewWriter(&packed)
	content := make([]byte, size)
	_, err := rand.Read(content)
	require.NoError(t, err)
	for _, header := range headers {
		if header.Typeflag == tar.TypeReg {
			header.Size = int64(size)
		}
		require.NoError(t, writer.WriteHeader(&header))
		if header.Typeflag == tar.TypeReg {
			_, err := writer.Write(content)
			require.NoError(t, err)
		}
	}
	require.NoError(t, writer.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil })
	require.NoError(t, err)
	return layer
}

func imageOf(t *testing.T, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, layers...)
	require.NoError(t, err)
	image, err = mutate.Config(image, config)
	require.NoError(t, err)
	return image
}

func (b *bench) try(t *testing.T, image garden.Image) error {
	t.Helper()
	_, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "h", Image: image})
	if err == nil {
		require.NoError(t, b.backend.Destroy(t.Context(), "h"))
	}
	return err
}

// TestRegistryFailures is what a user reads when an image cannot be had, and what is left of it.
func TestRegistryFailures(t *testing.T) {
	t.Parallel()
	hub := newRegistryServer(t)
	b := newBench(t)
	digest := hub.push(t, "org/app:v1", imageOf(t, v1.Config{}, baseLayer(t)))
	require.ErrorIs(t, b.try(t, hub.image("org/app:v1")), garden.ErrRegistryUnavailable, "its authority is unknown")
	b.trust(t, hub)

	anonymous, wrong := hub.image("org/app:v1"), hub.image("org/app:v1")
	anonymous.Username, anonymous.Password, wrong.Password = "", "", "guess"
	require.ErrorIs(t, b.try(t, anonymous), garden.ErrRegistryUnauthorized)
	require.ErrorIs(t, b.try(t, wrong), garden.ErrRegistryUnauthorized)
	require.ErrorIs(t, b.try(t, hub.image("org/app:v2")), garden.ErrImageNotFound)
	require.ErrorIs(t, b.try(t, hub.image("org/none")), garden.ErrImageNotFound)
	require.ErrorIs(t, b.try(t, hub.image("org/app#sha256:"+strings.Repeat("0", 64))), garden.ErrImageNotFound)
	require.ErrorIs(t, b.try(t, hub.image("NOT/a reference")), garden.ErrInvalidSpec)
	require.ErrorIs(t, b.try(t, hub.image("org/app@sha256:short")), garden.ErrInvalidSpec)

	// What a registry hands out in the place of what was asked for is not used.
	hub.push(t, "org/other:v1", imageOf(t, v1.Config{}, fileLayer(t, 10, tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o644})))
	hub.answerWith(func(path string) []byte {
		if strings.Contains(path, "/blobs/") {
			return []byte("something else")
		}
		return nil
	})
	require.ErrorIs(t, b.try(t, hub.image("org/app@"+digest)), garden.ErrImageDigest)
	hub.answerWith(func(path string) []byte {
		if strings.Contains(path, "/manifests/") {
			return []byte(`{"schemaVersion":2}`)
		}
		return nil
	})
	require.ErrorIs(t, b.try(t, hub.image("org/app#"+digest)), garden.ErrImageDigest)
	hub.answerWith(nil)

	hub.failures.Store(1000)
	require.ErrorIs(t, b.try(t, hub.image("org/app:v1")), garden.ErrRegistryUnavailable)
	hub.failures.Store(2)
	require.NoError(t, b.try(t, hub.image("org/app:v1")), "an answer that fails is asked for again")
	hub.server.Close()
	err := b.try(t, hub.image("org/app:v1"))
	require.ErrorIs(t, err, garden.ErrRegistryUnavailable)
	require.ErrorContains(t, err, hub.host, "who reads it knows which registry is meant")
	require.Empty(t, b.leftovers(t))
}

// TestPinnedImage is one that a digest names: it is asked for once per caller, and is there when the registry is not.
func TestPinnedImage(t *testing.T) {
	t.Parallel()
	hub := newRegistryServer(t)
	b := newBench(t)
	b.trust(t, hub)
	digest := hub.push(t, "org/app:v1", imageOf(t, v1.Config{}, baseLayer(t)))
	require.NoError(t, b.try(t, hub.image("org/app@"+digest)))
	require.NotEmpty(t, hub.asked())
	require.NoError(t, b.try(t, hub.image("org/app#"+digest)))
	require.Empty(t, hub.asked())
	stranger := hub.image("org/app@" + digest)
	stranger.Password = "guess"
	require.ErrorIs(t, b.try(t, stranger), garden.ErrRegistryUnauthorized, "an image that is there is not there for everybody")

	// A tag may mean something else any time.
	require.NoError(t, b.try(t, hub.image("org/app:v1")))
	require.True(t, slices.ContainsFunc(hub.asked(), func(path string) bool { return strings.Contains(path, "/manifests/v1") }))
	hub.server.Close()
	require.NoError(t, b.try(t, hub.image("org/app@"+digest)), "the registry is not needed")
}

// TestCellCredentials are for images that come without any.
func TestCellCredentials(t *testing.T) {
	t.Parallel()
	hub := newRegistryServer(t)
	b := newBench(t)
	hub.push(t, "org/app:v1", imageOf(t, v1.Config{}, baseLayer(t)))
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("secret\n"), 0o600))
	b.cfg.Registries = map[string]Registry{hub.host: {CA: hub.ca, Username: "me", PasswordFile: password}}
	b.reopen(t)
	require.NoError(t, b.try(t, garden.Image{URI: "docker://" + hub.host + "/org/app:v1"}))
}

// TestImageConfig is what an image says about its processes.
func TestImageConfig(t *testing.T) {
	t.Parallel()
	hub := newRegistryServer(t)
	b := newBench(t)
	b.trust(t, hub)
	hub.push(t, "org/app:v1", imageOf(t, v1.Config{
		Env: []string{"IMAGE=image", "BOTH=image", "ALL=image", "PATH=/opt/bin:/bin"}, User: "vcap", WorkingDir: "/work/here",
		Entrypoint: []string{"/no/such/program"}, Cmd: []string{"x"},
	}, baseLayer(t)))
	hub.push(t, "org/numbers:v1", imageOf(t, v1.Config{User: "4321:1234"}, baseLayer(t)))
	c, err := b.backend.Create(t.Context(), garden.ContainerSpec{
		Handle: "h", Image: hub.image("org/app:v1"), Env: []garden.EnvVar{{Name: "BOTH", Value: "container"}, {Name: "ALL", Value: "container"}},
	})
	require.NoError(t, err)
	const show = "echo $IMAGE $BOTH $ALL $PATH $USER; id -u; id -g; pwd"
	for range 2 {
		spec := shell("p-"+rand.Text(), show)
		spec.Env = []garden.EnvVar{{Name: "ALL", Value: "process"}}
		require.Equal(t, "image container process /opt/bin:/bin vcap\n1000\n1000\n/work/here\n", run(t, c, spec))
		spec = shell("p-"+rand.Text(), show)
		spec.User, spec.Dir = "root", "/tmp"
		require.Equal(t, "image container container /opt/bin:/bin root\n0\n0\n/tmp\n", run(t, c, spec))
		c, err = b.reopen(t).Lookup(t.Context(), "h")
		require.NoError(t, err)
	}
	numbers, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "n", Image: hub.image("org/numbers:v1")})
	require.NoError(t, err)
	require.Equal(t, "4321\n1234\n/\n", run(t, numbers, shell("p", "id -u; id -g; pwd")))
}

func run(t *testing.T, c garden.Container, spec garden.ProcessSpec) string {
	t.Helper()
	var out bytes.Buffer
	p, err := c.Run(t.Context(), spec, garden.ProcessIO{Stdout: &out, Stderr: &out})
	require.NoError(t, err)
	_, err = p.Wait(t.Context())
	require.NoError(t, err)
	return out.String()
}

// TestLayersAreShared has two images with a layer in common: it is fetched and stored once, what the upper one deletes or
// replaces is so in the container, and what the archives leave out is made.
func TestLayersAreShared(t *testing.T) {
	t.Parallel()
	hub := newRegistryServer(t)
	b := newBench(t)
	b.trust(t, hub)
	base := baseLayer(t)
	hub.push(t, "org/one:v1", imageOf(t, v1.Config{}, base, fileLayer(t, 5,
		tar.Header{Name: "deep/down/file", Typeflag: tar.TypeReg, Mode: 0o644, Uid: 1000, Gid: 1000},
		tar.Header{Name: "etc/.wh.group", Typeflag: tar.TypeReg, Mode: 0o644},
	)))
	hub.push(t, "org/two:v1", imageOf(t, v1.Config{}, base, fileLayer(t, 5, tar.Header{Name: "two", Typeflag: tar.TypeReg, Mode: 0o4755})))
	c, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "one", Image: hub.image("org/one:v1")})
	require.NoError(t, err)
	require.Equal(t, "root 755 /deep/down\nvcap 644 /deep/down/file\n", run(t, c, shell("p", "stat -c '%U %a %n' /deep/down /deep/down/file; cat /etc/group 2>/dev/null")))
	hub.asked()
	_, err = b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "two", Image: hub.image("org/two:v1")})
	require.NoError(t, err)
	digest, err := base.Digest()
	require.NoError(t, err)
	require.False(t, slices.ContainsFunc(hub.asked(), func(path string) bool { return strings.Contains(path, digest.Hex) }), "the layer was there")
	require.Len(t, b.storedKeys(t), 3)

	c, err = b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "privileged", Image: hub.image("org/one:v1"), Privileged: true})
	require.NoError(t, err)
	require.Equal(t, "root 755 /deep/down\nvcap 644 /deep/down/file\n", run(t, c, shell("p", "stat -c '%U %a %n' /deep/down /deep/down/file")))
	require.Len(t, b.storedKeys(t), 5, "with other owners they are other layers")
}

func (b *bench) storedKeys(t *testing.T) []string {
	t.Helper()
	stored, _, err := b.backend.storedLayers(b.backend.within(t.Context()))
	require.NoError(t, err)
	var keys []string
	for _, l := range stored {
		keys = append(keys, l.key)
	}
	return keys
}

// TestLayerIsWhatItSays has an image that claims the layer of another one and brings its own content.
func TestLayerIsWhatItSays(t *testing.T) {
	t.Parallel()
	hub := newRegistryServer(t)
	b := newBench(t)
	b.trust(t, hub)
	honest := imageOf(t, v1.Config{}, baseLayer(t))
	config, err := honest.RawConfigFile()
	require.NoError(t, err)
	evil := fileLayer(t, 10, tar.Header{Name: "evil", Typeflag: tar.TypeReg, Mode: 0o644})
	hub.push(t, "org/evil:v1", &forged{Image: imageOf(t, v1.Config{}, evil), config: config})
	require.ErrorIs(t, b.try(t, hub.image("org/evil:v1")), garden.ErrImageDigest)
	require.Empty(t, b.storedKeys(t))
	hub.push(t, "org/honest:v1", honest)
	c, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "h", Image: hub.image("org/honest:v1")})
	require.NoError(t, err)
	require.Contains(t, run(t, c, shell("p", "ls /evil")), "No such file")
}

// forged is an image with the configuration of another.
type forged struct {
	v1.Image
	config []byte
}

func (f *forged) RawConfigFile() ([]byte, error) { return f.config, nil }

func (f *forged) RawManifest() ([]byte, error) {
	layers, err := f.Layers()
	if err != nil {
		return nil, err
	}
	digest, err := layers[0].Digest()
	if err != nil {
		return nil, err
	}
	size, err := layers[0].Size()
	if err != nil {
		return nil, err
	}
	config, _, err := v1.SHA256(bytes.NewReader(f.config))
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"size":%d,"digest":%q},"layers":[{"mediaType":%q,"size":%d,"digest":%q}]}`,
		types.DockerManifestSchema2, types.DockerConfigJSON, len(f.config), config, types.DockerLayer, size, digest), nil
}

func (f *forged) Digest() (v1.Hash, error) {
	manifest, err := f.RawManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	digest, _, err := v1.SHA256(bytes.NewReader(manifest))
	return digest, err
}

func (f *forged) ConfigName() (v1.Hash, error) {
	digest, _, err := v1.SHA256(bytes.NewReader(f.config))
	return digest, err
}

func (f *forged) ConfigLayer() (v1.Layer, error) {
	return static.NewLayer(f.config, types.DockerConfigJSON), nil
}

// TestImagesAreCollected bounds what is kept of images that nobody uses.
func TestImagesAreCollected(t *testing.T) {
	t.Parallel()
	hub := newRegistryServer(t)
	b := newBench(t, func(c *Config) { c.ImageCacheBytes = 6 << 20 })
	b.trust(t, hub)
	require.NoError(t, b.try(t, b.image()))
	preloaded := b.storedKeys(t)
	require.Len(t, preloaded, 1)
	base := baseLayer(t)
	for at := range 4 {
		hub.push(t, fmt.Sprintf("org/app:v%d", at), imageOf(t, v1.Config{}, base, fileLayer(t, 2<<20, tar.Header{Name: "big", Typeflag: tar.TypeReg, Mode: 0o644})))
	}
	_, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "used", Image: hub.image("org/app:v0")})
	require.NoError(t, err)
	inUse := b.storedKeys(t)
	require.Len(t, inUse, 3)
	for at := 1; at < 4; at++ {
		require.NoError(t, b.try(t, hub.image(fmt.Sprintf("org/app:v%d", at))))
	}
	bytesLeft := func() (total uint64) {
		stored, _, err := b.backend.storedLayers(b.backend.within(t.Context()))
		require.NoError(t, err)
		for _, l := range stored {
			total += l.bytes
		}
		return total
	}
	eventually(t, "the bound holds", func() bool {
		b.backend.layers.due()
		return bytesLeft() <= b.backend.cfg.ImageCacheBytes
	})
	require.Subset(t, b.storedKeys(t), inUse, "what a container uses and what is preloaded stays")
	require.NoError(t, b.try(t, hub.image("org/app:v1")), "what was collected can be had again")
}
