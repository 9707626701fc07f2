// Package volumetest is a real little volume driver for tests: it speaks the protocol of Docker's volume plug-ins over HTTP,
// keeps a folder for each volume, and counts who has it mounted, as drivers do that a second unmount would break.
package volumetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Paths of the protocol.
const (
	Create  = "/VolumeDriver.Create"
	Mount   = "/VolumeDriver.Mount"
	Unmount = "/VolumeDriver.Unmount"
	Get     = "/VolumeDriver.Get"
)

// Driver listens on a port of this machine until the end of the test. Its methods may be called concurrently.
type Driver struct {
	t      testing.TB
	server *httptest.Server
	// volumes hold the data; mounts are where they are mounted.
	volumes, mounts string
	bind            bool

	mu      sync.Mutex
	refuse  map[string]string
	hold    chan struct{}
	at      string
	options map[string]map[string]any
	users   map[string]int
	calls   []string
}

// New starts a driver. With bind it makes bind mounts, which needs root; else a mount point is the folder of the volume.
func New(tb testing.TB, bind bool) *Driver {
	tb.Helper()
	root := tb.TempDir()
	d := &Driver{
		t: tb, volumes: filepath.Join(root, "volumes"), mounts: filepath.Join(root, "mounts"), bind: bind,
		refuse: map[string]string{}, options: map[string]map[string]any{}, users: map[string]int{},
	}
	tb.Cleanup(d.unmountAll) // before the folder is removed
	d.Start("")
	return d
}

// Start listens at an address that the driver has listened at before, or anywhere if it is "".
func (d *Driver) Start(address string) {
	d.t.Helper()
	d.server = httptest.NewUnstartedServer(d)
	if address != "" {
		listener, err := (&net.ListenConfig{}).Listen(d.t.Context(), "tcp", address)
		if err != nil {
			d.t.Fatalf("listening at %s again: %v", address, err)
		}
		_ = d.server.Listener.Close() // nobody knows it yet
		d.server.Listener = listener
	}
	d.server.Start()
	d.t.Cleanup(d.server.Close)
}

// Stop listens no longer. What is mounted stays.
func (d *Driver) Stop() { d.server.Close() }

// Address is host:port.
func (d *Driver) Address() string { return d.server.Listener.Addr().String() }

// Describe puts a file that tells of this driver into a folder; "%s" in content becomes the address.
func (d *Driver) Describe(folder, file, content string) {
	d.t.Helper()
	err := os.MkdirAll(folder, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, file), fmt.Appendf(nil, content, d.Address()), 0o600)
	}
	if err != nil {
		d.t.Fatalf("describing a volume driver: %v", err)
	}
}

// Refuse makes calls of a path fail with the text; "" lets them succeed again.
func (d *Driver) Refuse(path, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse[path] = text
}

// Hold makes mounts wait until the returned function is called.
func (d *Driver) Hold() (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hold := make(chan struct{})
	d.hold = hold
	release = sync.OnceFunc(func() { close(hold) })
	d.t.Cleanup(release) // the server does not close before its calls end
	return release
}

// MountAt makes the driver say that volumes are mounted at a path, whatever is there; "" lets it tell the truth.
func (d *Driver) MountAt(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = path
}

// Forget makes the driver lose what it knows, as a restart does with some.
func (d *Driver) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.options)
	clear(d.users)
}

// Mounted is how often the driver believes that a volume is mounted.
func (d *Driver) Mounted(volume string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.users[volume]
}

// Options that a volume was created with last.
func (d *Driver) Options(volume string) map[string]any {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.options[volume])
}

// Called says whether a path has been asked for.
func (d *Driver) Called(path string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.calls, path)
}

// Folder is where the data of a volume is, mounted or not.
func (d *Driver) Folder(volume string) string { return filepath.Join(d.volumes, volume) }

// request of any call.
type request struct {
	Name string
	Opts map[string]any
}

// ServeHTTP serves the protocol.
func (d *Driver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q request
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		d.t.Errorf("request of %s: %v", r.URL.Path, err)
	}
	d.mu.Lock()
	d.calls = append(d.calls, r.URL.Path)
	hold := d.hold
	d.mu.Unlock()
	if hold != nil && r.URL.Path == Mount {
		<-hold
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := json.NewEncoder(w).Encode(d.answerLocked(r.URL.Path, q)); err != nil {
		d.t.Errorf("answer to %s: %v", r.URL.Path, err)
	}
}

func (d *Driver) answerLocked(path string, q request) map[string]any {
	if text := d.refuse[path]; text != "" {
		return map[string]any{"Err": text}
	}
	switch path {
	case "/Plugin.Activate":
		return map[string]any{"Implements": []string{"VolumeDriver"}}
	case Create:
		d.options[q.Name] = q.Opts
		if err := os.MkdirAll(d.Folder(q.Name), 0o755); err != nil {
			return failure(err)
		}
		return failure(os.Chmod(d.Folder(q.Name), 0o777))
	case Mount:
		return d.mountLocked(q.Name)
	case Unmount:
		return failure(d.unmountLocked(q.Name))
	case Get:
		if d.options[q.Name] == nil {
			return map[string]any{"Err": "no such volume"}
		}
		at := ""
		if d.users[q.Name] > 0 {
			at = d.mountPoint(q.Name)
		}
		return map[string]any{"Volume": map[string]any{"Name": q.Name, "Mountpoint": at}}
	default:
		return map[string]any{"Err": "no such call: " + path}
	}
}

func failure(err error) map[string]any {
	if err != nil {
		return map[string]any{"Err": err.Error()}
	}
	return map[string]any{}
}

// mountPoint is called with the lock held, save by the end of the test.
func (d *Driver) mountPoint(volume string) string {
	if d.at != "" {
		return d.at
	}
	if d.bind {
		return filepath.Join(d.mounts, volume)
	}
	return d.Folder(volume)
}

func (d *Driver) mountLocked(volume string) map[string]any {
	if d.options[volume] == nil {
		return map[string]any{"Err": "no such volume"}
	}
	at := d.mountPoint(volume)
	if d.bind && d.users[volume] == 0 {
		err := os.MkdirAll(at, 0o755)
		if err == nil {
			err = unix.Mount(d.Folder(volume), at, "", unix.MS_BIND, "")
		}
		if err != nil {
			return failure(err)
		}
	}
	d.users[volume]++
	return map[string]any{"Mountpoint": at}
}

func (d *Driver) unmountLocked(volume string) error {
	if d.users[volume] == 0 {
		return errors.New("not mounted")
	}
	if d.bind && d.users[volume] == 1 {
		if err := unix.Unmount(d.mountPoint(volume), 0); err != nil {
			return err
		}
	}
	d.users[volume]--
	return nil
}

func (d *Driver) unmountAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for volume := range d.users {
		for d.bind && unix.Unmount(d.mountPoint(volume), unix.MNT_DETACH) == nil { //nolint:revive // until nothing is mounted there
		}
	}
}
