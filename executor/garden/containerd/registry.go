package containerd

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"diego.internal/executor/garden"
)

// Registry is what is particular to one registry.
type Registry struct {
	// CA is the path of a PEM file with certificates trusted for this registry beside those that the machine trusts. It is
	// read anew for each image.
	CA string `yaml:"ca"`
	// Username, and PasswordFile with the path of a file that holds the password alone, are for images that come without
	// credentials of their own.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
}

func (r Registry) validate(host string) error {
	var errs []error
	for key, path := range map[string]string{"ca": r.CA, "password_file": r.PasswordFile} {
		if path != "" && !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("registries %s: %s: want an absolute path, have %q", host, key, path))
		}
	}
	if (r.Username == "") != (r.PasswordFile == "") {
		errs = append(errs, fmt.Errorf("registries %s: username and password_file go together", host))
	}
	return errors.Join(errs...)
}

const (
	// registryTimeout bounds the questions about an image; its layers take the time they take, as long as they flow.
	registryTimeout = 30 * time.Second
	registryDial    = 10 * time.Second
	// registryRetry is the pause before the second of the tries that a question gets; it doubles with each.
	registryRetry = 200 * time.Millisecond
	registryTries = 3
	// rememberedImages bounds how many images are known without asking.
	rememberedImages = 1000
)

// registries asks registries for images. What a digest names cannot change, so that an image that was found once is not
// asked for again, by those whose credentials the registry has accepted for it.
type registries struct {
	settings map[string]Registry

	mu    sync.Mutex
	known map[pullKey]image
}

// pullKey is a repository with a digest, and whom it was shown to. Passwords are kept as digests only.
type pullKey struct {
	reference string
	caller    [sha256.Size]byte
}

func newRegistries(cfg Config) *registries {
	return &registries{settings: cfg.Registries, known: map[pullKey]image{}}
}

// image finds out what a reference means now. Layers are fetched when they are unpacked.
func (r *registries) image(ctx context.Context, reference string, wanted garden.Image) (image, error) {
	parsed, err := parseReference(reference)
	if err != nil {
		return image{}, fmt.Errorf("%w: parsing reference: %w", garden.ErrInvalidSpec, err)
	}
	registry := parsed.Context().RegistryStr()
	credentials, err := r.credentials(registry, wanted)
	if err != nil {
		return image{}, err
	}
	key := pullKey{reference: parsed.Name(), caller: sha256.Sum256([]byte(credentials.Username + "\x00" + credentials.Password))}
	if _, pinned := parsed.(name.Digest); pinned {
		if found, ok := r.recall(key); ok {
			return found, nil
		}
	}
	roundTripper, err := r.transport(registry)
	if err != nil {
		return image{}, err
	}
	found, err := ask(ctx, parsed, puller{auth: authn.FromConfig(credentials), transport: roundTripper})
	if err != nil {
		return image{}, fmt.Errorf("asking %s: %w", registry, registryError(err))
	}
	if _, pinned := parsed.(name.Digest); pinned {
		r.remember(key, found)
	}
	return found, nil
}

// parseReference reads Garden's form, with the tag or digest behind '#', and everybody else's.
func parseReference(reference string) (name.Reference, error) {
	repository, version, hashed := strings.Cut(strings.TrimPrefix(reference, "/"), "#")
	if hashed {
		separator := ":"
		if strings.Contains(version, ":") {
			separator = "@"
		}
		repository += separator + version
	}
	return name.ParseReference(repository)
}

func (r *registries) credentials(registry string, wanted garden.Image) (authn.AuthConfig, error) {
	settings := r.settings[registry]
	switch {
	case wanted.Username != "":
		return authn.AuthConfig{Username: wanted.Username, Password: wanted.Password}, nil
	case settings.Username == "":
		return authn.AuthConfig{}, nil
	}
	password, err := os.ReadFile(settings.PasswordFile)
	if err != nil {
		return authn.AuthConfig{}, fmt.Errorf("reading the password for %s: %w", registry, err)
	}
	return authn.AuthConfig{Username: settings.Username, Password: strings.TrimSpace(string(password))}, nil
}

// transport trusts the machine's certificates and those of the configuration.
func (r *registries) transport(registry string) (http.RoundTripper, error) {
	made := http.DefaultTransport.(*http.Transport).Clone()
	made.DialContext = (&net.Dialer{Timeout: registryDial, KeepAlive: registryTimeout}).DialContext
	made.TLSHandshakeTimeout = registryDial
	made.ResponseHeaderTimeout = registryTimeout
	path := r.settings[registry].CA
	if path == "" {
		return onlyEncrypted{made}, nil
	}
	certificates, err := os.ReadFile(path) //nolint:gosec // a path of the configuration
	if err != nil {
		return nil, fmt.Errorf("reading certificates for %s: %w", registry, err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(certificates) {
		return nil, fmt.Errorf("reading certificates for %s: none in %s", registry, path)
	}
	made.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return onlyEncrypted{made}, nil
}

// errPlaintext is for registries without TLS.
var errPlaintext = errors.New("registries are asked over HTTPS only")

// onlyEncrypted keeps the library from trying without TLS what fails with it, as it does for addresses of private networks.
type onlyEncrypted struct{ http.RoundTripper }

func (o onlyEncrypted) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" {
		return nil, errPlaintext
	}
	return o.RoundTripper.RoundTrip(request)
}

func (r *registries) recall(key pullKey) (image, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found, ok := r.known[key]
	return found, ok
}

func (r *registries) remember(key pullKey, found image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= rememberedImages {
		clear(r.known) // all are asked for once more
	}
	r.known[key] = found
}

// puller is how one caller talks to one registry.
type puller struct {
	auth      authn.Authenticator
	transport http.RoundTripper
}

func (p puller) options(ctx context.Context) []remote.Option {
	return []remote.Option{
		remote.WithContext(ctx), remote.WithAuth(p.auth), remote.WithTransport(p.transport),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
		remote.WithRetryBackoff(remote.Backoff{Duration: registryRetry, Factor: 2, Jitter: 0.2, Steps: registryTries}),
	}
}

// ask reads manifest and configuration; both are compared with their digests.
func ask(ctx context.Context, reference name.Reference, by puller) (image, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, registryTimeout, errors.New("the registry takes too long"))
	defer cancel()
	remoteImage, err := remote.Image(reference, by.options(ctx)...)
	if err != nil {
		return image{}, err
	}
	manifest, err := remoteImage.Manifest()
	if err != nil {
		return image{}, fmt.Errorf("reading manifest: %w", err)
	}
	config, err := remoteImage.ConfigFile()
	if err != nil {
		return image{}, fmt.Errorf("reading configuration: %w", err)
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) || len(manifest.Layers) == 0 {
		return image{}, fmt.Errorf("%w: %d layers, %d in its configuration", garden.ErrImageDigest, len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	found := image{config: readConfig(config.Config)}
	for at, descriptor := range manifest.Layers {
		found.layers = append(found.layers, layer{
			digest: config.RootFS.DiffIDs[at].Hex,
			hashed: true,
			open: func(ctx context.Context) (io.ReadCloser, error) {
				return by.open(ctx, reference.Context().Digest(descriptor.Digest.String()))
			},
		})
	}
	return found, nil
}

// open streams a layer as it is stored. The stream ends in an error if it is not what its digest says.
func (p puller) open(ctx context.Context, reference name.Digest) (io.ReadCloser, error) {
	blob, err := remote.Layer(reference, p.options(ctx)...)
	if err != nil {
		return nil, fmt.Errorf("asking for layer %s: %w", reference.DigestStr(), registryError(err))
	}
	stream, err := blob.Compressed()
	if err != nil {
		return nil, fmt.Errorf("asking for layer %s: %w", reference.DigestStr(), registryError(err))
	}
	return blobStream{stream}, nil
}

// blobStream names the errors of a layer that is on its way.
type blobStream struct{ io.ReadCloser }

func (s blobStream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = registryError(err)
	}
	return n, err
}

func readConfig(config v1.Config) imageConfig {
	found := imageConfig{User: config.User, Dir: config.WorkingDir}
	for _, line := range config.Env {
		if key, value, ok := strings.Cut(line, "="); ok {
			found.Env = append(found.Env, garden.EnvVar{Name: key, Value: value})
		}
	}
	return found
}

// registryError says in our words what a registry's answer means for whoever wanted the image.
func registryError(err error) error {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch {
		case answer.StatusCode == http.StatusNotFound:
			return fmt.Errorf("%w: %w", garden.ErrImageNotFound, err)
		case answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
			return fmt.Errorf("%w: %w", garden.ErrRegistryUnauthorized, err)
		case answer.StatusCode >= http.StatusInternalServerError, answer.StatusCode == http.StatusTooManyRequests, answer.StatusCode == http.StatusRequestTimeout:
			return fmt.Errorf("%w: %w", garden.ErrRegistryUnavailable, err)
		}
		return err
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w: its certificate is not trusted: %w", garden.ErrRegistryUnavailable, err)
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", garden.ErrRegistryUnavailable, err)
	}
	// The library has no types for what follows.
	for _, mismatch := range []string{"does not match requested digest", "does not match expected size", "error verifying"} {
		if strings.Contains(err.Error(), mismatch) {
			return fmt.Errorf("%w: %w", garden.ErrImageDigest, err)
		}
	}
	return err
}
