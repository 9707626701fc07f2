package gardentest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
)

func testLifecycle(s *suite) {
	require.NoError(s, s.Client.Ping(s.ctx()))
	capacity, err := s.Client.Capacity(s.ctx())
	require.NoError(s, err)
	assert.Positive(s, capacity.MemoryInBytes)
	assert.Positive(s, capacity.DiskInBytes)
	assert.Positive(s, capacity.MaxContainers)

	c := s.create()
	assert.Equal(s, c.Handle(), s.lookup(c.Handle()).Handle())
	listed, err := s.Client.Containers(s.ctx(), nil)
	require.NoError(s, err)
	require.Len(s, listed, 1)
	assert.Equal(s, c.Handle(), listed[0].Handle())
	info, err := c.Info(s.ctx())
	require.NoError(s, err)
	assert.NotEmpty(s, info.ContainerIP)
	assert.NotEmpty(s, info.ExternalIP)
	assert.False(s, info.CreatedAt.IsZero())

	require.NoError(s, s.Client.Destroy(s.ctx(), c.Handle()))
	require.ErrorIs(s, s.Client.Destroy(s.ctx(), c.Handle()), garden.ErrUnknownHandle)
	_, err = s.Client.Lookup(s.ctx(), c.Handle())
	require.ErrorIs(s, err, garden.ErrUnknownHandle)
	_, err = s.tryStart(c, Program{Shell: "true"}, garden.ProcessIO{})
	require.ErrorIs(s, err, garden.ErrUnknownHandle, "a container kept by somebody is of no use any more")
}

func testDuplicateHandle(s *suite) {
	c := s.create()
	_, err := s.Client.Create(s.ctx(), garden.ContainerSpec{Handle: c.Handle(), Image: s.Image})
	require.ErrorIs(s, err, garden.ErrHandleInUse)
	_, status := s.output(c, "true")
	assert.Zero(s, status.Code, "the first one is unharmed")

	require.NoError(s, s.Client.Destroy(s.ctx(), c.Handle()))
	again, err := s.Client.Create(s.ctx(), garden.ContainerSpec{Handle: c.Handle(), Image: s.Image})
	require.NoError(s, err)
	_, status = s.output(again, "true")
	assert.Zero(s, status.Code)
}

func testProperties(s *suite) {
	mine := s.create(func(spec *garden.ContainerSpec) { spec.Properties = garden.Properties{"owner": "me", "size": "big"} })
	s.create(func(spec *garden.ContainerSpec) { spec.Properties = garden.Properties{"owner": "you", "size": "big"} })
	require.NoError(s, mine.SetProperty(s.ctx(), "colour", "red"))
	for range 2 {
		listed, err := s.Client.Containers(s.ctx(), garden.Properties{"owner": "me", "colour": "red"})
		require.NoError(s, err)
		require.Len(s, listed, 1)
		assert.Equal(s, mine.Handle(), listed[0].Handle())
		listed, err = s.Client.Containers(s.ctx(), garden.Properties{"size": "big", garden.PropertyStateAll: "all"})
		require.NoError(s, err)
		assert.Len(s, listed, 2)
		info, err := s.lookup(mine.Handle()).Info(s.ctx())
		require.NoError(s, err)
		assert.Equal(s, garden.Properties{"owner": "me", "size": "big", "colour": "red"}, info.Properties)
		s.reopen()
	}
}

func testBadSpecification(s *suite) {
	for sentence, spec := range map[string]garden.ContainerSpec{
		"no handle":              {Image: s.Image},
		"a handle with a slash":  {Handle: "../x", Image: s.Image},
		"a handle of two dots":   {Handle: "..", Image: s.Image},
		"a handle too long":      {Handle: strings.Repeat("x", 64), Image: s.Image},
		"a port that is none":    {Handle: "h", Image: s.Image, NetIn: []garden.NetIn{{ContainerPort: 70000}}},
		"ports without protocol": {Handle: "h", Image: s.Image, NetOut: []garden.NetOutRule{{Protocol: garden.ProtocolICMP, Ports: []garden.PortRange{{Start: 1, End: 2}}}}},
	} {
		_, err := s.Client.Create(s.ctx(), spec)
		require.ErrorIs(s, err, garden.ErrInvalidSpec, sentence)
	}
	// What looks odd but is allowed.
	for _, handle := range []string{"a--b", "-", "_x.", strings.Repeat("x", 63)} {
		c := s.create(func(spec *garden.ContainerSpec) { spec.Handle = handle })
		assert.Equal(s, handle, c.Handle())
		_, status := s.output(c, "true", func(spec *garden.ProcessSpec) { spec.ID = "-" + handle[:1] + "-" })
		assert.Zero(s, status.Code)
	}
}

func testMissingImage(s *suite) {
	for _, uri := range []string{"preloaded:no-such-stack", filepath.Join(s.TempDir(), "missing"), "ftp://x"} {
		_, err := s.Client.Create(s.ctx(), garden.ContainerSpec{Handle: "h", Image: garden.Image{URI: uri}})
		_, ok := errors.AsType[*garden.RootFSError](err)
		require.True(s, ok, "%s: %v", uri, err)
	}
	listed, err := s.Client.Containers(s.ctx(), garden.Properties{garden.PropertyStateAll: "all"})
	require.NoError(s, err)
	assert.Empty(s, listed, "a creation that fails undoes everything")
}

func testConcurrentCreates(s *suite) {
	const count = 8
	handles := make([]string, count)
	addresses := make([]string, count)
	var wait sync.WaitGroup
	for at := range count {
		handles[at] = "test-" + unique()
		wait.Go(func() {
			c, err := s.Client.Create(s.ctx(), garden.ContainerSpec{Handle: handles[at], Image: s.Image})
			if err != nil {
				s.Errorf("creating %s: %v", handles[at], err)
				return
			}
			if info, err := c.Info(s.ctx()); assert.NoError(s, err) {
				addresses[at] = info.ContainerIP
			}
			p, err := s.tryStart(c, Program{Shell: "exit 7", Code: 7}, garden.ProcessIO{})
			if assert.NoError(s, err) {
				status, err := p.Wait(s.ctx())
				assert.NoError(s, err)
				assert.Equal(s, 7, status.Code)
			}
		})
	}
	wait.Wait()
	seen := map[string]bool{}
	for _, address := range addresses {
		assert.False(s, seen[address], "address %s given twice", address)
		seen[address] = true
	}
	for _, handle := range handles {
		wait.Go(func() { assert.NoError(s, s.Client.Destroy(s.ctx(), handle)) })
	}
	wait.Wait()
	listed, err := s.Client.Containers(s.ctx(), garden.Properties{garden.PropertyStateAll: "all"})
	require.NoError(s, err)
	assert.Empty(s, listed)
}

func testPortsKept(s *suite) {
	ports := func(c garden.Container) []garden.NetIn {
		info, err := c.Info(s.ctx())
		require.NoError(s, err)
		return info.MappedPorts
	}
	withPorts := func(spec *garden.ContainerSpec) {
		spec.NetIn = []garden.NetIn{{ContainerPort: 8080}, {ContainerPort: 2222}}
	}
	first := s.create(withPorts)
	before := ports(first)
	require.Len(s, before, 2)
	assert.EqualValues(s, 8080, before[0].ContainerPort)
	assert.NotZero(s, before[0].HostPort)
	s.reopen()
	assert.Equal(s, before, ports(s.lookup(first.Handle())))
	second := ports(s.create(withPorts))
	seen := map[uint32]bool{}
	for _, in := range append(before, second...) {
		assert.False(s, seen[in.HostPort], "host port %d given twice", in.HostPort)
		seen[in.HostPort] = true
	}
}

func testMetrics(s *suite) {
	c := s.create(func(spec *garden.ContainerSpec) { spec.Limits.MemoryInBytes = 64 << 20 })
	s.start(c, Program{Shell: "sleep 1000", Lasts: true}, garden.ProcessIO{})
	metrics, err := c.Metrics(s.ctx())
	require.NoError(s, err)
	assert.EqualValues(s, 64<<20, metrics.MemoryLimit)
	assert.Positive(s, metrics.Age)
	if s.Capabilities.Programs {
		assert.Positive(s, metrics.CPUUsage)
		assert.Positive(s, metrics.MemoryInBytes)
		assert.GreaterOrEqual(s, metrics.PidCount, uint64(2))
		_, status := s.output(c, "dd if=/dev/zero of=/tmp/big bs=1M count=5")
		require.Zero(s, status.Code)
		metrics, err = c.Metrics(s.ctx())
		require.NoError(s, err)
		assert.GreaterOrEqual(s, metrics.DiskInBytes, uint64(5<<20))
	}
	bulk, err := s.Client.BulkMetrics(s.ctx(), []string{c.Handle(), "gone"})
	require.NoError(s, err)
	assert.Len(s, bulk, 1)
	assert.Contains(s, bulk, c.Handle())
}

func testBindMounts(s *suite) {
	folder := s.TempDir()
	require.NoError(s, os.WriteFile(filepath.Join(folder, "file"), []byte("from the machine"), 0o600))
	c := s.create(func(spec *garden.ContainerSpec) {
		spec.BindMounts = []garden.BindMount{
			{SrcPath: folder, DstPath: "/mnt/ro", ReadOnly: true},
			{SrcPath: folder, DstPath: "/mnt/rw"},
		}
	})
	out, _ := s.output(c, "cat /mnt/ro/file")
	assert.Equal(s, "from the machine", out)
	_, status := s.output(c, "touch /mnt/ro/new")
	assert.NotZero(s, status.Code)
	_, status = s.output(c, "touch /mnt/rw/new")
	assert.Zero(s, status.Code)
	assert.FileExists(s, filepath.Join(folder, "new"))
}

// testBindMountOwners has files that only root of the machine may read, as the keys of an instance are.
func testBindMountOwners(s *suite) {
	folder := s.TempDir()
	require.NoError(s, os.WriteFile(filepath.Join(folder, "roots"), []byte("secret"), 0o600))
	require.NoError(s, os.WriteFile(filepath.Join(folder, "users"), []byte("own"), 0o600))
	require.NoError(s, os.Chown(filepath.Join(folder, "users"), 1000, 1000))
	c := s.create(func(spec *garden.ContainerSpec) {
		spec.BindMounts = []garden.BindMount{
			{SrcPath: folder, DstPath: "/mnt/rw"},
			{SrcPath: filepath.Join(folder, "roots"), DstPath: "/mnt/file", ReadOnly: true},
		}
	})
	out, _ := s.output(c, "cat /mnt/rw/roots /mnt/file; stat -c '%u %g' /mnt/rw/users; echo made > /mnt/rw/made; mkdir -p /mnt/rw/below")
	assert.Equal(s, "secretsecret1000 1000\n", out)
	out, _ = s.output(c, "cat /mnt/rw/users /mnt/rw/roots 2>/dev/null", func(spec *garden.ProcessSpec) { spec.User = "vcap" })
	assert.Equal(s, "own", out)
	for _, name := range []string{"made", "below"} {
		info, err := os.Stat(filepath.Join(folder, name))
		require.NoError(s, err)
		assert.Zero(s, info.Sys().(*syscall.Stat_t).Uid, "what root of the container made is root's")
	}
	require.NoError(s, c.StreamIn(s.ctx(), garden.StreamInSpec{Path: "/mnt/rw/streamed", User: "vcap", Tar: pack(s, file("one"))}))
	info, err := os.Stat(filepath.Join(folder, "streamed", "one"))
	require.NoError(s, err)
	assert.EqualValues(s, 1000, info.Sys().(*syscall.Stat_t).Uid)
	require.NoError(s, s.Client.Destroy(s.ctx(), c.Handle()))
	assert.FileExists(s, filepath.Join(folder, "roots"), "what was shown is not removed")
}

func testNames(s *suite) {
	handle := "first-part-that-is-cut-off-" + strings.Repeat("h", 36)
	c := s.create(func(spec *garden.ContainerSpec) { spec.Handle = handle })
	out, _ := s.output(c, "hostname")
	assert.Equal(s, handle[len(handle)-49:]+"\n", out)
	info, err := c.Info(s.ctx())
	require.NoError(s, err)
	out, _ = s.output(c, "cat /etc/hosts")
	assert.Contains(s, out, info.ContainerIP+" "+handle[len(handle)-49:])
	_, status := s.output(c, "test -f /etc/resolv.conf")
	assert.Zero(s, status.Code)
}

func testUnprivileged(s *suite) {
	c := s.create()
	out, _ := s.output(c, "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status")
	// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD,
	// AUDIT_WRITE, SETFCAP
	assert.Contains(s, out, "CapEff:\t00000000a80425fb")
	assert.Contains(s, out, "CapBnd:\t00000000a80425fb")
	assert.Contains(s, out, "NoNewPrivs:\t1")
	assert.Contains(s, out, "Seccomp:\t2")
	out, _ = s.output(c, "grep CapEff /proc/self/status", func(spec *garden.ProcessSpec) { spec.User = "vcap" })
	assert.Contains(s, out, "0000000000000000")
	_, status := s.output(c, "mount -t tmpfs none /mnt")
	assert.NotZero(s, status.Code)
	out, _ = s.output(c, "kill -TERM 1; kill -KILL 1; sleep 0.1; echo alive")
	assert.Equal(s, "alive\n", out, "the init cannot be ended from inside")
}

func testNothingLeft(s *suite) {
	for range 2 {
		c := s.create(func(spec *garden.ContainerSpec) {
			spec.NetIn = []garden.NetIn{{ContainerPort: 8080}}
			spec.NetOut = []garden.NetOutRule{{Protocol: garden.ProtocolAll}}
		})
		s.start(c, Program{Shell: "trap '' TERM; sleep 1000 & sleep 1000", Lasts: true}, garden.ProcessIO{})
		s.reopen()
	}
	listed, err := s.Client.Containers(s.ctx(), garden.Properties{garden.PropertyStateAll: "all"})
	require.NoError(s, err)
	require.Len(s, listed, 2)
	for _, c := range listed {
		require.NoError(s, s.Client.Destroy(s.ctx(), c.Handle()))
	}
	if s.Leftovers != nil {
		assert.Empty(s, s.Leftovers(s.T))
	}
}
