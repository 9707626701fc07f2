// Package cache keeps downloads of a cell on disk: archives for steps that copy them into a container, and unpacked
// folders that any number of containers show read-only at the same time. It asks the server each time whether a version
// is still right, and is bounded: what nobody uses goes first, oldest use first, and what is in use never goes.
//
// It knows owners, which are the handles of containers, and nothing else of them. Uses outlive the process: an owner that
// the next process answers for keeps its folders. It does not receive or unpack by itself, that is package transfer.
package cache

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"diego.internal/executor/keylock"
	"diego.internal/executor/transfer"
)

// Errors that callers tell apart.
var (
	// ErrNotFound says that the cache has no such entry.
	ErrNotFound = errors.New("Entry Not Found") //nolint:staticcheck // operators know the text
	// ErrReleased says that an owner gave a folder back twice.
	ErrReleased = errors.New("Already closed directory") //nolint:staticcheck // operators know the text
	// ErrFull says that an entry does not fit beside what is in use.
	ErrFull = errors.New("no room in the cache of downloads")

	errNoKey        = errors.New("Not cacheable directory: cache key is missing")                              //nolint:staticcheck // as above
	errNoValidators = errors.New("Not cacheable directory: ETag and Last-Modified were missing from response") //nolint:staticcheck // as above
)

// Config of a Cache.
type Config struct {
	// Dir is the cache's own folder; it makes it, and removes what it does not know below it.
	Dir string
	// Limit in bytes of all entries on disk. Archives under way are not counted: package transfer bounds their number
	// and size.
	Limit int64
	// Transfers receives. Its temporary folder must be on the file system of Dir.
	Transfers *transfer.Client
	// Memory says that nothing needs to be found again by another process: no index and no uses are written.
	Memory bool
	Log    *slog.Logger
}

// Cache of downloads. Its methods may be called concurrently.
type Cache struct {
	cfg   Config
	boot  string
	locks keylock.Locks[entry]

	mu       sync.Mutex
	versions map[string]*version // by name
	current  map[entry]*version
	used     int64 // bytes of all versions and of those being made
	removals sync.WaitGroup
}

// entry is what a key stands for: each form of a key is kept for itself, because hardly any key is asked for in both.
type entry struct {
	key  string // hashed
	form form
}

type form string

const (
	formArchive form = "archive"
	formFolder  form = "folder"
)

// version is one download of an entry. Those that are not current any more live until nobody uses them.
type version struct {
	name       string
	entry      entry
	size       int64
	validators transfer.Validators
	// checksum that the download was verified against, "algorithm:value", or "".
	checksum string
	lastUse  time.Time
	owners   map[string]bool
	// pins are uses that end with this process.
	pins int
}

func (v *version) idle() bool { return len(v.owners) == 0 && v.pins == 0 }

// Folder is an unpacked download.
type Folder struct {
	Path string
	// Size in bytes as downloaded; zero if the cache had it.
	Size   int64
	Cached bool
}

// Folder returns the unpacked download of a key for an owner, who has it until Release. The folder is shared and must not
// be written to. Calls with the same key wait for each other; then the second usually finds the folder of the first.
func (c *Cache) Folder(ctx context.Context, owner, key string, source transfer.Source) (Folder, error) {
	if key == "" {
		return Folder{}, errNoKey
	}
	e := entry{key: hashed(key), form: formFolder}
	unlock, err := c.locks.Lock(ctx, e)
	if err != nil {
		return Folder{}, err
	}
	defer unlock()
	archive, known, err := c.ask(ctx, e, source)
	if err != nil {
		return Folder{}, err
	}
	if known != nil {
		defer c.unpin(known)
		return Folder{Path: c.path(known.name), Cached: true}, c.use(known, owner)
	}
	made, err := c.unpack(e, source, archive)
	if removal := archive.Remove(); removal != nil {
		c.cfg.Log.Warn("removing-received-archive-failed", slog.Any("error", removal)) // the next start removes it
	}
	if err != nil {
		return Folder{}, err
	}
	c.commit(made)
	defer c.unpin(made)
	return Folder{Path: c.path(made.name), Size: archive.Size}, c.use(made, owner)
}

// Archive returns the download of a key, which the caller removes as any archive; meanwhile it stays in the cache.
// Without a key, and if the server names no version of what it sends, the archive is received and not kept.
func (c *Cache) Archive(ctx context.Context, key string, source transfer.Source) (*transfer.Archive, error) {
	if key == "" {
		return c.cfg.Transfers.Download(ctx, source)
	}
	e := entry{key: hashed(key), form: formArchive}
	unlock, err := c.locks.Lock(ctx, e)
	if err != nil {
		return nil, err
	}
	defer unlock()
	archive, known, err := c.ask(ctx, e, source)
	if err != nil {
		return nil, err
	}
	if known != nil {
		return c.reopen(known)
	}
	if archive.Validators == (transfer.Validators{}) {
		c.retire(e)
		return archive, nil
	}
	if err := c.keep(e, source, archive); err != nil {
		return nil, errors.Join(err, archive.Remove())
	}
	return archive, nil
}

// ask makes the conditional request. It returns a new archive, or the version that is still right, pinned.
func (c *Cache) ask(ctx context.Context, e entry, source transfer.Source) (*transfer.Archive, *version, error) {
	known := c.pinCurrent(e)
	// What was verified against something else, or not at all, is received again for who names a checksum.
	if known != nil && (checksumOf(source) == "" || checksumOf(source) == known.checksum) {
		source.Known = known.validators
	}
	archive, err := c.cfg.Transfers.Download(ctx, source)
	if errors.Is(err, transfer.ErrNotModified) {
		c.touch(known)
		return nil, known, nil
	}
	if known != nil {
		c.unpin(known)
	}
	return archive, nil, err
}

func (c *Cache) reopen(v *version) (*transfer.Archive, error) {
	unpin := sync.OnceFunc(func() { c.unpin(v) })
	archive, err := c.cfg.Transfers.Reopen(c.path(v.name), func() error { unpin(); return nil })
	if err != nil {
		unpin()
	}
	return archive, err
}

// keep moves a received archive into the cache and pins it until the archive is removed.
func (c *Cache) keep(e entry, source transfer.Source, archive *transfer.Archive) error {
	made := newVersion(e, source, archive)
	if err := c.reserve(made, archive.Size); err != nil {
		return err
	}
	unpin := sync.OnceFunc(func() { c.unpin(made) })
	if err := archive.MoveTo(c.path(made.name), func() error { unpin(); return nil }); err != nil {
		c.giveBack(made)
		return err
	}
	c.commit(made)
	return nil
}

// unpack makes the folder of an archive aside and moves it to its place when it is whole, so that a half-written one is
// never found there.
func (c *Cache) unpack(e entry, source transfer.Source, archive *transfer.Archive) (*version, error) {
	if archive.Validators == (transfer.Validators{}) {
		return nil, errNoValidators
	}
	made := newVersion(e, source, archive)
	aside := filepath.Join(c.cfg.Dir, asideDir, made.name)
	err := c.unpackAside(made, aside, archive)
	if err == nil {
		err = os.Rename(aside, c.path(made.name))
	}
	if err != nil {
		c.giveBack(made)
		return nil, errors.Join(fmt.Errorf("unpacking into the cache: %w", err), os.RemoveAll(aside))
	}
	return made, nil
}

func (c *Cache) unpackAside(made *version, aside string, archive *transfer.Archive) error {
	// Users of containers read it, whatever the umask.
	if err := errors.Join(os.Mkdir(aside, 0o755), os.Chmod(aside, 0o755)); err != nil { //nolint:gosec // see above
		return err
	}
	stream, err := archive.Tar()
	if err != nil {
		return err
	}
	_, err = transfer.Extract(aside, stream, func(bytes int64) error { return c.reserve(made, bytes) })
	return errors.Join(err, stream.Close())
}

func newVersion(e entry, source transfer.Source, archive *transfer.Archive) *version {
	return &version{
		name:       e.key[:16] + "-" + strings.ToLower(rand.Text()[:13]),
		entry:      e,
		validators: archive.Validators,
		checksum:   checksumOf(source),
		lastUse:    time.Now(),
		owners:     make(map[string]bool),
		pins:       1, // its maker's
	}
}

func checksumOf(source transfer.Source) string {
	if source.ChecksumValue == "" {
		return ""
	}
	return strings.ToLower(source.ChecksumAlgorithm + ":" + source.ChecksumValue)
}

func hashed(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

func (c *Cache) path(name string) string { return filepath.Join(c.cfg.Dir, entriesDir, name) }
