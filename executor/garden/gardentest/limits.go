package gardentest

import (
	"github.com/stretchr/testify/assert"

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
