package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
)

const (
	preloadedScheme = "preloaded:"
	dockerScheme    = "docker://"
)

// errUnknownRootFS is the spec's text for a name that the configuration does not have.
var errUnknownRootFS = errors.New("preloaded rootfs path not found")

// imageConfig is what an image says about the processes that run in it.
type imageConfig struct {
	Env  []garden.EnvVar `json:"env,omitempty"`
	User string          `json:"user,omitempty"`
	Dir  string          `json:"dir,omitempty"`
}

// layer is one part of an image: what has to be put over the parts before it.
type layer struct {
	digest string // of the content, or of what tells it from other content
	// hashed says that digest is the SHA-256 of the uncompressed archive. It is compared: who offers an image says which
	// layers it shares with others, and must not be able to put his own content in their place.
	hashed bool
	open   func(context.Context) (io.ReadCloser, error)
}

// image is what a container can be made of, lowest layer first.
type image struct {
	layers []layer
	config imageConfig
	keep   bool // the operator's own, not to be collected
}

func (b *Backend) findImage(ctx context.Context, wanted garden.Image) (image, error) {
	if reference, ok := strings.CutPrefix(wanted.URI, dockerScheme); ok {
		return b.registries.image(ctx, reference, wanted)
	}
	path := wanted.URI
	stack, preloaded := strings.CutPrefix(wanted.URI, preloadedScheme)
	if preloaded {
		if path = b.cfg.RootFS[stack]; path == "" {
			return image{}, fmt.Errorf("%w: %q", errUnknownRootFS, stack)
		}
	}
	if !filepath.IsAbs(path) {
		return image{}, fmt.Errorf("%w: unknown form of image", garden.ErrInvalidSpec)
	}
	only, err := b.folders.layer(path)
	return image{layers: []layer{only}, keep: preloaded}, err
}

// folderMemory is how long a folder is taken for unchanged: to look at each file of a large root filesystem for every
// container would take longer than the container.
const folderMemory = 10 * time.Second

// folders remembers what folders were like.
type folders struct {
	mu   sync.Mutex
	seen map[string]seenFolder
}

type seenFolder struct {
	layer layer
	at    time.Time
}

func (f *folders) layer(path string) (layer, error) {
	f.mu.Lock()
	defer f.mu.Unlock() // also while one looks: the others would look at the same
	if seen, ok := f.seen[path]; ok && time.Since(seen.at) < folderMemory {
		return seen.layer, nil
	}
	found, err := localLayer(path)
	if info, statErr := os.Stat(path); err == nil && statErr == nil && info.IsDir() {
		f.seen[path] = seenFolder{layer: found, at: time.Now()}
	}
	return found, err
}

// localLayer is a folder or a tarball. Its digest covers names, sizes, owners and times, not content: reading a
// gigabyte for each container would cost more than the rest of its creation.
func localLayer(path string) (layer, error) {
	info, err := os.Stat(path)
	if err != nil {
		return layer{}, fmt.Errorf("looking at image: %w", err)
	}
	if !info.IsDir() {
		sum := sha256.Sum256(fmt.Append(nil, describe(path, info)))
		return layer{digest: hex.EncodeToString(sum[:]), open: func(context.Context) (io.ReadCloser, error) {
			file, err := os.Open(path) //nolint:gosec // the operator named it
			if err != nil {
				return nil, fmt.Errorf("opening image: %w", err)
			}
			return file, nil
		}}, nil
	}
	hash := sha256.New()
	err = filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return fmt.Errorf("looking at %s: %w", name, err)
		}
		_, _ = io.WriteString(hash, describe(name, info))
		return nil
	})
	if err != nil {
		return layer{}, fmt.Errorf("walking image: %w", err)
	}
	return layer{digest: hex.EncodeToString(hash.Sum(nil)), open: func(ctx context.Context) (io.ReadCloser, error) {
		// The difference to nothing is everything.
		return archive.Diff(ctx, "", path), nil
	}}, nil
}

func describe(name string, info fs.FileInfo) string {
	owner := ""
	if stat, ok := info.Sys().(*unix.Stat_t); ok {
		owner = fmt.Sprint(stat.Uid, ":", stat.Gid, ":", stat.Ino)
	}
	return fmt.Sprintln(name, info.Mode(), info.Size(), info.ModTime().UnixNano(), owner)
}
