package volume

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"diego.internal/executor/volume/volumetest"
)

func data(options string) Request { return Request{Driver: "local", Volume: "data", Options: options} }

func TestVolumeIsMountedOnceAndUnmountedAfterItsLastUser(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v := b.open()
	require.Equal(t, []string{"local"}, v.Drivers())
	first, err := v.Mount(t.Context(), "a", data(`{"size":1}`))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(first, "file"), []byte("kept"), 0o600))
	second, err := v.Mount(t.Context(), "b", data(`{"size":1}`))
	require.NoError(t, err)
	require.Equal(t, first, second)
	again, err := v.Mount(t.Context(), "b", data(`{"size":1}`))
	require.NoError(t, err)
	require.Equal(t, first, again, "two folders of a container may show one volume")
	require.Equal(t, 1, b.plugin.Mounted("data"))
	require.Equal(t, map[string]any{"size": 1.0}, b.plugin.Options("data"))

	require.NoError(t, v.Release(t.Context(), "a"))
	require.Equal(t, 1, b.plugin.Mounted("data"), "the end of one container does not break the other")
	require.NoError(t, v.Release(t.Context(), "b"))
	require.Zero(t, b.plugin.Mounted("data"))
	require.NoError(t, v.Release(t.Context(), "b"), "may be repeated")
	require.NoError(t, v.Release(t.Context(), "nobody"))
	require.Empty(t, b.uses())
	require.Zero(t, v.locks.Len())
	stats := v.Stats()["local"]
	require.Equal(t, int64(3), stats.Mounts.Load())
	require.Equal(t, int64(1), stats.Unmounts.Load())
	require.Zero(t, stats.MountsFailed.Load()+stats.UnmountsFailed.Load())
}

func TestVolumeWithOtherOptionsIsRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v := b.open()
	_, err := v.Mount(t.Context(), "a", data(`{"size":1}`))
	require.NoError(t, err)
	_, err = v.Mount(t.Context(), "b", data(`{"size":2}`))
	text, safe := SafeText(err)
	require.True(t, safe)
	require.Equal(t, `volume "data" is in use on this cell with other options`, text)
	require.NoError(t, v.Release(t.Context(), "b"))
	require.Equal(t, 1, b.plugin.Mounted("data"))
}

// A driver may ask for a volume of its own for each container.
func TestVolumeIDsMadeUnique(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.plugin.Describe(b.cfg.Folders[0], "own.json", `{"Name":"own","Addr":"http://%s","UniqueVolumeIds":true}`)
	v := b.open()
	require.Equal(t, []string{"local", "own"}, v.Drivers())
	for _, owner := range []string{"a", "b"} {
		_, err := v.Mount(t.Context(), owner, Request{Driver: "own", Volume: "my_data", Options: `{"uid":"` + owner + `"}`})
		require.NoError(t, err)
	}
	require.Equal(t, 1, b.plugin.Mounted("my_data_a-7"))
	require.Equal(t, 1, b.plugin.Mounted("my_data_b-7"))
	require.NoError(t, v.Release(t.Context(), "a"))
	require.Zero(t, b.plugin.Mounted("my_data_a-7"))
	require.Equal(t, 1, b.plugin.Mounted("my_data_b-7"))
}

func TestUniqueNamesDiffer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a_1-]{0,4}`)
		v1, o1, v2, o2 := text.Draw(t, "v1"), text.Draw(t, "o1"), text.Draw(t, "v2"), text.Draw(t, "o2")
		if (v1 != v2 || o1 != o2) && uniqueName(v1, o1) == uniqueName(v2, o2) {
			t.Fatalf("%q %q and %q %q are both %q", v1, o1, v2, o2, uniqueName(v1, o1))
		}
	})
}

// Each case leaves a process behind that ends without a word, and opens the next one.
func TestVolumesAfterAKill(t *testing.T) {
	t.Parallel()
	t.Run("what nobody uses any more is unmounted", func(t *testing.T) {
		t.Parallel()
		b := newBed(t)
		v := b.open()
		for _, owner := range []string{"a", "b"} {
			_, err := v.Mount(t.Context(), owner, data(""))
			require.NoError(t, err)
		}
		next := b.open("a")
		b.run(next)
		b.eventually("the use of b is forgotten", func() bool { return len(b.uses()) == 1 })
		require.Equal(t, []string{"a.json"}, b.uses())
		require.Equal(t, 1, b.plugin.Mounted("data"), "a has been adopted and uses it still")
		require.NoError(t, next.Release(t.Context(), "a"))
		require.Zero(t, b.plugin.Mounted("data"))
	})
	t.Run("a mount that was under way is found", func(t *testing.T) {
		t.Parallel()
		b := newBed(t)
		release := b.plugin.Hold()
		ctx, kill := context.WithCancel(t.Context())
		v := b.open()
		ended := make(chan error, 1)
		go func() {
			_, err := v.Mount(ctx, "a", data(""))
			ended <- err
		}()
		b.eventually("the driver is asked", func() bool { return b.plugin.Called(volumetest.Mount) })
		kill()
		require.Error(t, <-ended)
		require.Equal(t, []string{"a.json"}, b.uses(), "noted before the driver was asked")
		release() // the driver goes on with what it was asked
		b.eventually("the driver has mounted it", func() bool { return b.plugin.Mounted("data") == 1 })
		b.run(b.open())
		b.eventually("it is unmounted", func() bool { return b.plugin.Mounted("data") == 0 && len(b.uses()) == 0 })
	})
	t.Run("a mount that was under way is counted once by the next", func(t *testing.T) {
		t.Parallel()
		b := newBed(t)
		v := b.open()
		_, err := v.Mount(t.Context(), "a", data(""))
		require.NoError(t, err)
		// As a kill between the driver's answer and our note leaves it.
		require.NoError(t, v.note("a", key{"local", "data"}, use{Digest: v.owners["a"].uses[key{"local", "data"}].Digest}))
		next := b.open()
		_, err = next.Mount(t.Context(), "b", data(""))
		require.NoError(t, err)
		require.Equal(t, 1, b.plugin.Mounted("data"))
		require.NoError(t, next.Release(t.Context(), "a"))
		require.Equal(t, 1, b.plugin.Mounted("data"))
		require.NoError(t, next.Release(t.Context(), "b"))
		require.Zero(t, b.plugin.Mounted("data"))
	})
	t.Run("a damaged note is dropped", func(t *testing.T) {
		t.Parallel()
		b := newBed(t)
		require.NoError(t, os.MkdirAll(b.cfg.Dir, 0o700))
		for name, content := range map[string]string{"a.json": "{", "b.json": `[{"driver":""}]`, "c.json.new": "[]"} {
			require.NoError(t, os.WriteFile(filepath.Join(b.cfg.Dir, name), []byte(content), 0o600))
		}
		b.open("a", "b")
		require.Empty(t, b.uses())
	})
}

// A driver that cannot unmount now is asked again until it can, and the container is not held up.
func TestUnmountIsRepeated(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v := b.open()
	_, err := v.Mount(t.Context(), "a", data(""))
	require.NoError(t, err)
	b.plugin.Refuse(volumetest.Unmount, "target is busy")
	require.ErrorContains(t, v.Release(t.Context(), "a"), "target is busy")
	require.Equal(t, int64(1), v.Stats()["local"].UnmountsFailed.Load())
	b.run(v)
	b.eventually("it is tried again", func() bool { return v.Stats()["local"].UnmountsFailed.Load() > 2 })
	b.plugin.Refuse(volumetest.Unmount, "")
	b.eventually("it is unmounted", func() bool { return b.plugin.Mounted("data") == 0 && len(b.uses()) == 0 })
}

// A driver that was restarted has forgotten what it had; those that come later must see the volume all the same.
func TestVolumeIsMountedAgainForADriverThatLostIt(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v := b.open()
	_, err := v.Mount(t.Context(), "a", data(""))
	require.NoError(t, err)
	b.plugin.Forget()
	_, err = v.Mount(t.Context(), "b", data(""))
	require.NoError(t, err)
	require.Equal(t, 1, b.plugin.Mounted("data"))
	b.plugin.Forget()
	require.NoError(t, v.Release(t.Context(), "a"))
	require.NoError(t, v.Release(t.Context(), "b"), "what the driver does not know is not mounted")
}

func TestMountFailures(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		request Request
		refuse  map[string]string
		want    string
		safe    string
	}{
		"an unknown driver":     {request: Request{Driver: "smb", Volume: "v"}, want: `no such volume driver on this cell: "smb"`},
		"options without form":  {request: data("["), want: "not a JSON object"},
		"create is refused":     {request: data(""), refuse: map[string]string{volumetest.Create: "no"}, want: `volume driver "local": no`},
		"mount is refused":      {request: data(""), refuse: map[string]string{volumetest.Mount: "secret: no"}, want: "secret: no"},
		"a text made for users": {request: data(""), refuse: map[string]string{volumetest.Mount: `{"SafeDescription":"wrong password"}`}, want: "wrong password", safe: "wrong password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t)
			v := b.open()
			for path, text := range test.refuse {
				b.plugin.Refuse(path, text)
			}
			_, err := v.Mount(t.Context(), "a", test.request)
			require.ErrorContains(t, err, test.want)
			text, safe := SafeText(err)
			require.Equal(t, test.safe != "", safe)
			require.Equal(t, test.safe, text)
			for path := range test.refuse {
				b.plugin.Refuse(path, "")
			}
			require.NoError(t, v.Release(t.Context(), "a"))
			require.Empty(t, b.uses())
			require.Zero(t, b.plugin.Mounted("data"))
		})
	}
}

// What a driver says is believed only if there is a folder.
func TestMountPointsAreLookedAt(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for at, want := range map[string]string{"/nowhere/at/all": "looking at the mount point", file: "is not a folder", "relative": `mounted volume "data" at "relative"`} {
		b := newBed(t)
		v := b.open()
		b.plugin.MountAt(at)
		_, err := v.Mount(t.Context(), "a", data(""))
		require.ErrorContains(t, err, want)
		require.NoError(t, v.Release(t.Context(), "a"))
		require.Zero(t, b.plugin.Mounted("data"), "what the driver has mounted is given back")
		require.Empty(t, b.uses())
	}
}

// Only drivers that answer are offered; a driver that comes back is.
func TestDriversAreLookedAtAgain(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v := b.open()
	b.run(v)
	require.Empty(t, v.Problems())
	address := b.plugin.Address()
	b.plugin.Stop()
	b.eventually("the driver is not offered", func() bool { return len(v.Drivers()) == 0 })
	require.Len(t, v.Problems(), 1)
	require.Contains(t, v.Problems()[0], `volume driver "local" does not work: asking volume driver "local"`)
	b.plugin.Start(address)
	b.eventually("the driver is offered again", func() bool { return len(v.Drivers()) == 1 && len(v.Problems()) == 0 })
	require.NoError(t, os.Remove(filepath.Join(b.cfg.Folders[0], "local.spec")))
	b.eventually("a driver that is described no longer is not offered", func() bool { return len(v.Drivers()) == 0 })
	require.Empty(t, v.Problems())
}

func TestDriverThatIsBeingRestartedIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v := b.open()
	address := b.plugin.Address()
	b.plugin.Stop()
	ended := make(chan error, 1)
	go func() {
		_, err := v.Mount(t.Context(), "a", data(""))
		ended <- err
	}()
	b.eventually("the mount is under way", func() bool { return len(b.uses()) == 1 })
	b.plugin.Start(address)
	require.NoError(t, <-ended)
	require.Equal(t, 1, b.plugin.Mounted("data"))
}

func TestDriverThatIsNotThereIsGivenUp(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.cfg.Timeout = 300 * time.Millisecond
	v := b.open()
	b.plugin.Stop()
	_, err := v.Mount(t.Context(), "a", data(""))
	require.ErrorContains(t, err, `volume driver "local" took longer than 300ms`)
}

// Whatever containers do at the same time, the driver counts one mount while there is a user and none afterwards.
func TestVolumesInParallel(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v := b.open()
	var group sync.WaitGroup
	for i := range 8 {
		owner := string(rune('a' + i))
		group.Go(func() {
			for range 20 {
				path, err := v.Mount(t.Context(), owner, data(""))
				if err != nil {
					t.Errorf("mounting for %s: %v", owner, err)
					return
				}
				if got := b.plugin.Mounted("data"); got != 1 {
					t.Errorf("%s has %q, mounted %d times", owner, path, got)
				}
				if err := v.Release(t.Context(), owner); err != nil {
					t.Errorf("releasing for %s: %v", owner, err)
				}
			}
		})
	}
	group.Wait()
	require.Zero(t, b.plugin.Mounted("data"))
	require.Empty(t, b.uses())
	require.Zero(t, v.locks.Len())
}

func TestReleaseAll(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v := b.open()
	for _, owner := range []string{"a", "b"} {
		_, err := v.Mount(t.Context(), owner, data(""))
		require.NoError(t, err)
	}
	require.NoError(t, b.open().ReleaseAll(t.Context()))
	require.Zero(t, b.plugin.Mounted("data"))
	require.Empty(t, b.uses())
}
