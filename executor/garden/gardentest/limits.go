package gardentest

import (
	"archive/tar"
	"bytes"
	"strconv"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
)

// eatMemory fills a buffer of 100 MiB.
const eatMemory = "dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null"

func testOutOfMemory(s *suite) {
	c := s.create(func(spec *garden.ContainerSpec) { spec.Limits.MemoryInBytes = 32 << 20 })
	before := s.start(c, Program{Shell: "exit 1"}, garden.ProcessIO{})
	assert.Equal(s, garden.ExitStatus{Code: 1}, s.wait(before))
	_, status := s.output(c, eatMemory)
	assert.NotZero(s, status.Code)
	assert.True(s, status.OutOfMemory)
	_, status = s.output(c, "exit 2")
	assert.Equal(s, garden.ExitStatus{Code: 2}, status, "a later process is not to blame")
	s.reopen()
	_, status = s.output(s.lookup(c.Handle()), "exit 2")
	assert.Equal(s, garden.ExitStatus{Code: 2}, status, "nor one of a later client")

	roomy := s.create()
	_, status = s.output(roomy, eatMemory)
	assert.Equal(s, garden.ExitStatus{}, status)
}

func testPids(s *suite) {
	const fork = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 1000 & done; echo all"
	c := s.create(func(spec *garden.ContainerSpec) { spec.Limits.Pids = 16 })
	out, status := s.output(c, fork)
	assert.NotZero(s, status.Code, "%s", out)
	// The init is the one process that a limit of 1 allows: another one may be let in, but not multiply.
	single := s.create(func(spec *garden.ContainerSpec) { spec.Limits.Pids = 1 })
	if p, err := s.tryStart(single, Program{Shell: "sleep 0 & wait; true"}, garden.ProcessIO{}); err == nil {
		assert.NotZero(s, s.wait(p).Code)
	}
	out, _ = s.output(s.create(), fork)
	assert.Contains(s, out, "all")
}

// withDisk limits a container to 16 MiB.
func withDisk(spec *garden.ContainerSpec) { spec.Limits.DiskInBytes = diskLimit }

const diskLimit = 16 << 20

func testOutOfDisk(s *suite) {
	c := s.create(withDisk)
	out, status := s.output(c, "dd if=/dev/zero of=/kept bs=1M count=12")
	require.Equal(s, garden.ExitStatus{}, status, "what is within the limit is written: %s", out)
	metrics, err := c.Metrics(s.ctx())
	require.NoError(s, err)
	assert.InDelta(s, 12<<20, metrics.DiskInBytes, 1<<20)
	_, status = s.output(c, "exit 1")
	assert.Equal(s, garden.ExitStatus{Code: 1}, status, "a failure with room left is another's")

	// It goes on although it cannot write, and tries as fast as it can.
	bystander := s.start(c, Program{Shell: "sleep 1000", Lasts: true}, garden.ProcessIO{})
	greedy := s.start(c, Program{Shell: "while true; do dd if=/dev/zero of=/more bs=1M count=1000 oflag=append conv=notrunc; done", Lasts: true}, garden.ProcessIO{})
	assert.True(s, s.wait(greedy).OutOfDisk)
	assert.True(s, s.wait(bystander).OutOfDisk, "all processes of the container are stopped for it")
	metrics, err = c.Metrics(s.ctx())
	require.NoError(s, err)
	assert.Less(s, metrics.DiskInBytes, uint64(diskLimit+diskLimit/8), "the limit held")

	s.reopen()
	c = s.lookup(c.Handle())
	out, _ = s.output(c, "rm /more; stat -c %s /kept")
	assert.Equal(s, strconv.Itoa(12<<20)+"\n", out)
	_, status = s.output(c, "dd if=/dev/zero of=/again bs=1M count=2")
	assert.Equal(s, garden.ExitStatus{}, status, "what was deleted can be written again")

	roomy := s.create()
	_, status = s.output(roomy, "dd if=/dev/zero of=/big bs=1M count=40")
	assert.Equal(s, garden.ExitStatus{}, status)
}

func testOutOfFiles(s *suite) {
	c := s.create(withDisk, func(spec *garden.ContainerSpec) { spec.Limits.Inodes = 1024 })
	many := s.start(c, Program{Shell: "mkdir /many && cd /many && i=0 && while true; do i=$((i+1)); : > $i; done", Lasts: true}, garden.ProcessIO{})
	assert.True(s, s.wait(many).OutOfDisk)
}

func testStreamOutOfDisk(s *suite) {
	c := s.create(withDisk)
	var packed bytes.Buffer
	writer := tar.NewWriter(&packed)
	content := bytes.Repeat([]byte("x"), 2*diskLimit)
	require.NoError(s, writer.WriteHeader(&tar.Header{Name: "big", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}))
	_, err := writer.Write(content)
	require.NoError(s, err)
	require.NoError(s, writer.Close())
	err = c.StreamIn(s.ctx(), garden.StreamInSpec{Path: "/folder", Tar: &packed})
	require.ErrorIs(s, err, garden.ErrOutOfDisk)
}

func testDiskScope(s *suite) {
	_, err := s.Client.Create(s.ctx(), garden.ContainerSpec{
		Handle: "small", Image: s.Image, Limits: garden.Limits{DiskInBytes: 64 << 10, DiskScope: garden.DiskScopeTotal},
	})
	require.ErrorIs(s, err, garden.ErrImageTooLarge)
	c := s.create(func(spec *garden.ContainerSpec) {
		spec.Limits = garden.Limits{DiskInBytes: 2 * diskLimit, DiskScope: garden.DiskScopeTotal}
	})
	before, err := c.Metrics(s.ctx())
	require.NoError(s, err)
	assert.Positive(s, before.DiskInBytes, "the image counts")
	_, status := s.output(c, "dd if=/dev/zero of=/big bs=1M count=40")
	assert.True(s, status.OutOfDisk)
}

func testUsers(s *suite) {
	out, _ := s.output(s.create(), "cat /proc/self/uid_map /proc/self/gid_map")
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		require.Len(s, fields, 3)
		assert.Equal(s, "0", fields[0])
		assert.NotEqual(s, "0", fields[1], "root of the container is %s on the machine", fields[1])
	}
	assert.Equal(s, 2, strings.Count(out, "\n"))
	privileged := s.create(func(spec *garden.ContainerSpec) { spec.Privileged = true })
	out, _ = s.output(privileged, "cat /proc/self/uid_map")
	assert.Equal(s, []string{"0", "0", "4294967295"}, strings.Fields(out))
	out, _ = s.output(privileged, "stat -c '%U %G' / /bin/busybox /home/vcap")
	assert.Equal(s, "root root\nroot root\nvcap vcap\n", out)
	out, _ = s.output(s.create(), "stat -c '%U %G' / /bin/busybox /home/vcap")
	assert.Equal(s, "root root\nroot root\nvcap vcap\n", out, "files of the image belong to whom the image says")
}
