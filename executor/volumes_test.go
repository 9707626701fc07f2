package executor

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/simulated"
	"diego.internal/executor/volume/volumetest"
)

// withVolumes gives a cell the driver "local", which is looked at often.
func withVolumes(t *testing.T, cfg *Config, driver *volumetest.Driver) {
	t.Helper()
	cfg.Volumes.DriverFolders = []string{t.TempDir()}
	cfg.Volumes.Interval = 10 * time.Millisecond
	driver.Describe(cfg.Volumes.DriverFolders[0], "local.spec", "tcp://%s")
}

func dataAt(path string) VolumeMount {
	return VolumeMount{Driver: "local", VolumeID: "data", Config: `{"size":1}`, Path: path}
}

// shown remembers the bind mounts that the engine was asked for.
type shown struct {
	mu    sync.Mutex
	binds map[string][]garden.BindMount // guarded by mu; by handle
}

func (s *shown) of(handle string) []garden.BindMount {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.binds[handle]
}

// volumeCell is open, with a driver and a memory of what containers are shown.
func volumeCell(t *testing.T) (*cell, *volumetest.Driver, *shown) {
	t.Helper()
	driver, seen := volumetest.New(t, false), &shown{binds: map[string][]garden.BindMount{}}
	c := newCell(t, nil, func(cfg *simulated.Config) {
		cfg.OnCreate = func(spec garden.ContainerSpec) (time.Duration, error) {
			seen.mu.Lock()
			defer seen.mu.Unlock()
			seen.binds[spec.Handle] = spec.BindMounts
			return 0, nil
		}
	})
	withVolumes(t, &c.cfg, driver)
	c.open()
	t.Cleanup(func() { c.stop() })
	return c, driver, seen
}

func (c *cell) awaitState(guid string, state State) Container {
	c.t.Helper()
	await(c.t, guid+" to be "+string(state), func() bool { return c.get(guid).State == state })
	return c.get(guid)
}

func TestVolumesAreShownAndGivenBack(t *testing.T) {
	t.Parallel()
	c, driver, seen := volumeCell(t)
	require.Equal(t, []string{"local"}, c.client.VolumeDrivers())
	app := process("/app", "APP")
	readOnly := dataAt("/more")
	readOnly.ReadOnly = true
	c.run("a", RunInfo{Action: &app, VolumeMounts: []VolumeMount{dataAt("/data"), readOnly}})
	c.run("b", RunInfo{Action: &app, VolumeMounts: []VolumeMount{dataAt("/data")}})
	c.run("none", RunInfo{Action: &app})
	for _, guid := range []string{"a", "b", "none"} {
		c.awaitState(guid, StateRunning)
	}
	require.Equal(t, []garden.BindMount{
		{SrcPath: driver.Folder("data"), DstPath: "/data"}, {SrcPath: driver.Folder("data"), DstPath: "/more", ReadOnly: true},
	}, seen.of("a"))
	require.Empty(t, seen.of("none"))
	require.Equal(t, 1, driver.Mounted("data"))
	require.Equal(t, map[string]any{"size": 1.0}, driver.Options("data"))

	// The process goes as a kill would; the next one knows whose volume it is.
	c.restart()
	require.NoError(t, c.client.DeleteContainer(t.Context(), "a"))
	require.Equal(t, 1, driver.Mounted("data"), "b uses it still")
	require.NoError(t, c.client.DeleteContainer(t.Context(), "b"))
	require.Zero(t, driver.Mounted("data"))
}

// A process that is killed while it builds a container leaves its volume to the next one.
func TestVolumeOfAHalfBuiltContainerIsUnmounted(t *testing.T) {
	t.Parallel()
	c, driver, _ := volumeCell(t)
	app := process("/app", "APP")
	c.run("a", RunInfo{Action: &app, VolumeMounts: []VolumeMount{dataAt("/data")}})
	record := c.awaitState("a", StateRunning)
	c.stop()
	c.engine.Detach()
	record.State = StateInitializing
	require.NoError(t, journal{dir: filepath.Join(c.cfg.StateDir, "containers", "a")}.save(record))
	c.open()
	require.Equal(t, interruptedCreation, c.get("a").Result.FailureReason)
	await(t, "the volume to be unmounted", func() bool { return driver.Mounted("data") == 0 })
}

func TestVolumeFailuresAreToldInTheirWords(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mount  VolumeMount
		refuse string
		want   string
	}{
		"a driver that is not here":            {mount: VolumeMount{Driver: "nfs", VolumeID: "v", Path: "/v"}, want: "failed to mount volume"},
		"a text that may hold secrets":         {mount: dataAt("/v"), refuse: "mount -o password=x: exit status 32", want: "failed to mount volume"},
		"a text that the driver made for this": {mount: dataAt("/v"), refuse: `{"SafeDescription":"wrong password"}`, want: "failed to mount volume, errors: wrong password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, driver, _ := volumeCell(t)
			driver.Refuse(volumetest.Mount, test.refuse)
			app := process("/app", "APP")
			c.run("a", RunInfo{Action: &app, VolumeMounts: []VolumeMount{test.mount}})
			record := c.awaitState("a", StateCompleted)
			require.Equal(t, Result{Failed: true, Retryable: true, FailureReason: test.want}, record.Result)
			require.NoError(t, c.client.DeleteContainer(t.Context(), "a"))
			require.Zero(t, driver.Mounted("data"))
			left, err := filepath.Glob(filepath.Join(c.cfg.StateDir, volumesFolder, "*"))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

// A driver that cannot unmount holds up nobody: the container goes, and the volume later.
func TestContainerGoesBeforeItsVolume(t *testing.T) {
	t.Parallel()
	c, driver, _ := volumeCell(t)
	app := process("/app", "APP")
	c.run("a", RunInfo{Action: &app, VolumeMounts: []VolumeMount{dataAt("/data")}})
	c.awaitState("a", StateRunning)
	driver.Refuse(volumetest.Unmount, "busy")
	require.NoError(t, c.client.DeleteContainer(t.Context(), "a"))
	require.Equal(t, c.client.TotalResources(), c.client.RemainingResources())
	require.Equal(t, 1, driver.Mounted("data"))
	driver.Refuse(volumetest.Unmount, "")
	await(t, "the volume to be unmounted", func() bool { return driver.Mounted("data") == 0 })
}

func TestCleanUnmountsVolumes(t *testing.T) {
	t.Parallel()
	c, driver, _ := volumeCell(t)
	app := process("/app", "APP")
	c.run("a", RunInfo{Action: &app, VolumeMounts: []VolumeMount{dataAt("/data")}})
	c.awaitState("a", StateRunning)
	c.stop()
	driver.Refuse(volumetest.Unmount, "busy")
	require.ErrorContains(t, Clean(t.Context(), c.cfg), "busy")
	require.DirExists(t, filepath.Join(c.cfg.StateDir, volumesFolder), "what tells of the volume stays")
	driver.Refuse(volumetest.Unmount, "")
	require.NoError(t, Clean(t.Context(), c.cfg))
	require.Zero(t, driver.Mounted("data"))
	require.NoDirExists(t, filepath.Join(c.cfg.StateDir, volumesFolder))
}

// Real containers write to a volume that a driver has bind mounted, and the machine is as before when they are gone. It does not
// run beside other tests, as TestRealCertificates does not.
func TestRealVolumes(t *testing.T) {
	m := newMachine(t)
	driver := volumetest.New(t, true)
	for folder := driver.Folder("data"); folder != os.TempDir(); folder = filepath.Dir(folder) {
		if os.Chmod(folder, 0o711) == nil { // users of containers pass
			continue
		}
	}
	m.stop()
	withVolumes(t, &m.cfg, driver)
	m.start()
	mount := []VolumeMount{dataAt("/data")}
	m.run("writer", RunInfo{VolumeMounts: mount, Action: new(shell("APP", "echo hello > /data/file && sleep 1000"))})
	m.await("writer", StateRunning)
	readOnly := dataAt("/data")
	readOnly.ReadOnly = true
	m.run("reader", RunInfo{VolumeMounts: []VolumeMount{readOnly}, Action: new(shell("APP", "until cat /data/file; do sleep 0.1; done; echo more > /data/file2 || exit 3"))})
	require.Equal(t, "APP: Exited with status 3", m.await("reader", StateCompleted).Result.FailureReason, "it may only read: %q", m.lines("reader"))
	require.Contains(t, m.lines("reader"), "APP OUT hello")
	require.NoError(t, m.client.DeleteContainer(t.Context(), "reader"))
	mounted := func() bool {
		found, err := mountinfo.Mounted(filepath.Join(filepath.Dir(filepath.Dir(driver.Folder("data"))), "mounts", "data"))
		require.NoError(t, err)
		return found
	}
	require.True(t, mounted(), "the writer has it still")

	m.stop()
	m.start()
	m.await("writer", StateRunning)
	require.NoError(t, m.client.DeleteContainer(t.Context(), "writer"))
	require.False(t, mounted())
	content, err := os.ReadFile(filepath.Join(driver.Folder("data"), "file"))
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(content), "the data outlive the containers")
}
