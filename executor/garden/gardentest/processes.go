package gardentest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
)

func testExitCodes(s *suite) {
	c := s.create()
	for _, program := range []Program{
		{Shell: "true"},
		{Shell: "exit 3", Code: 3},
		{Shell: "echo out; echo err >&2; exit 1", Stdout: "out\n", Stderr: "err\n", Code: 1},
		{Shell: "printf 'no newline'", Stdout: "no newline"},
	} {
		var out, errs buffer
		p := s.start(c, program, garden.ProcessIO{Stdout: &out, Stderr: &errs})
		for range 2 {
			assert.Equal(s, garden.ExitStatus{Code: program.Code}, s.wait(p), program.Shell)
			assert.Equal(s, program.Stdout, out.String(), program.Shell)
			assert.Equal(s, program.Stderr, errs.String(), program.Shell)
		}
		require.NoError(s, p.Signal(s.ctx(), garden.SignalKill), "a process that has ended is no error")
	}
	p := s.start(c, Program{Shell: "echo unread", Stdout: "unread\n"}, garden.ProcessIO{})
	assert.Zero(s, s.wait(p).Code, "writers may be nil")
}

func testRunErrors(s *suite) {
	c := s.create()
	_, err := s.tryStart(c, Program{Shell: "true"}, garden.ProcessIO{}, func(spec *garden.ProcessSpec) { spec.User = "nobody-knows" })
	require.ErrorIs(s, err, garden.ErrUnknownUser)
	for _, path := range []string{"/no/such/program", "no-such-program"} {
		_, err = s.tryStart(c, Program{Shell: path, Missing: true}, garden.ProcessIO{}, func(spec *garden.ProcessSpec) { spec.ID = "missing" })
		missing, ok := errors.AsType[*garden.ExecutableNotFoundError](err)
		require.True(s, ok, "%v", err)
		assert.Equal(s, path, missing.Path)
	}
	_, err = c.Attach(s.ctx(), "missing", garden.ProcessIO{})
	require.ErrorIs(s, err, garden.ErrUnknownProcess)
	_, err = s.tryStart(c, Program{Shell: "true"}, garden.ProcessIO{}, func(spec *garden.ProcessSpec) { spec.ID = "a/b" })
	require.ErrorIs(s, err, garden.ErrInvalidSpec)
}

func testDuplicateProcess(s *suite) {
	c := s.create()
	named := func(spec *garden.ProcessSpec) { spec.ID = "same" }
	p := s.start(c, Program{Shell: "exit 4", Code: 4}, garden.ProcessIO{}, named)
	_, err := s.tryStart(c, Program{Shell: "true"}, garden.ProcessIO{}, named)
	require.ErrorIs(s, err, garden.ErrInvalidSpec)
	assert.Equal(s, 4, s.wait(p).Code)
	_, err = s.tryStart(c, Program{Shell: "true"}, garden.ProcessIO{}, named)
	require.ErrorIs(s, err, garden.ErrInvalidSpec)
}

func testSurroundings(s *suite) {
	c := s.create(func(spec *garden.ContainerSpec) {
		spec.Env = []garden.EnvVar{{Name: "A", Value: "container"}, {Name: "B", Value: "container"}}
	})
	vcap := func(spec *garden.ProcessSpec) { spec.User = "vcap" }
	show := "echo $(id -u) $(id -g) $PWD $HOME $USER $PATH $A $B"
	out, _ := s.output(c, show, vcap, func(spec *garden.ProcessSpec) {
		spec.Env = []garden.EnvVar{{Name: "B", Value: "first"}, {Name: "B", Value: "process"}}
	})
	assert.Equal(s, "1000 1000 /home/vcap /home/vcap vcap /usr/local/bin:/usr/bin:/bin container process\n", out)
	out, _ = s.output(c, show)
	assert.Equal(s, "0 0 /root /root root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container container\n", out)
	out, _ = s.output(c, "pwd; stat -c %U .", vcap, func(spec *garden.ProcessSpec) { spec.Dir = "/new/folder" })
	assert.Equal(s, "/new/folder\nvcap\n", out, "a missing folder is made for the user")
	out, _ = s.output(c, "pwd", vcap, func(spec *garden.ProcessSpec) { spec.Dir = "app" })
	assert.Equal(s, "/home/vcap/app\n", out)
	limit := uint64(77)
	out, _ = s.output(c, "ulimit -n", func(spec *garden.ProcessSpec) { spec.Nofile = &limit })
	assert.Equal(s, "77\n", out)
}

func testSignals(s *suite) {
	c := s.create()
	for sentence, test := range map[string]struct {
		program Program
		signal  garden.Signal
		want    int
	}{
		"terminate ends a process":              {Program{Shell: "sleep 1000", Lasts: true}, garden.SignalTerminate, 143},
		"terminate reaches children":            {Program{Shell: "sleep 1000; true", Lasts: true}, garden.SignalTerminate, 143},
		"kill ends what terminate does not end": {Program{Shell: "trap '' TERM; while true; do sleep 1; done", Lasts: true, IgnoresTerminate: true}, garden.SignalKill, 137},
	} {
		p := s.start(c, test.program, garden.ProcessIO{})
		require.NoError(s, p.Signal(s.ctx(), test.signal))
		assert.Equal(s, test.want, s.wait(p).Code, sentence)
	}
}

func testStop(s *suite) {
	c := s.create()
	first := s.start(c, Program{Shell: "sleep 1000", Lasts: true}, garden.ProcessIO{})
	second := s.start(c, Program{Shell: "sleep 1000 & sleep 1000", Lasts: true}, garden.ProcessIO{})
	require.NoError(s, c.Stop(s.ctx(), false))
	assert.Equal(s, 143, s.wait(first).Code)
	assert.Equal(s, 143, s.wait(second).Code)
	stubborn := s.start(c, Program{Shell: "trap '' TERM; while true; do sleep 1; done", Lasts: true, IgnoresTerminate: true}, garden.ProcessIO{})
	require.NoError(s, c.Stop(s.ctx(), true))
	assert.Equal(s, 137, s.wait(stubborn).Code)
	_, status := s.output(c, "true")
	assert.Zero(s, status.Code, "the container goes on")
}

func testAttachMissedOutput(s *suite) {
	c := s.create()
	program := Program{Shell: "echo before; sleep 1000", Stdout: "before\n", Lasts: true}
	var out buffer
	p := s.start(c, program, garden.ProcessIO{Stdout: &out})
	s.eventually("the output is there", func() bool { return out.String() == "before\n" })
	s.reopen()
	var more buffer
	again, err := s.lookup(c.Handle()).Attach(s.ctx(), p.ID(), garden.ProcessIO{Stdout: &more})
	require.NoError(s, err)
	require.NoError(s, again.Signal(s.ctx(), garden.SignalTerminate))
	assert.Equal(s, 143, s.wait(again).Code)
	assert.Empty(s, more.String(), "nothing is delivered twice")
	assert.Equal(s, p.ID(), again.ID())
}

func testAttachExited(s *suite) {
	c := s.create()
	program := Program{Shell: "sleep 0.3; echo late; exit 9", Stdout: "late\n", Code: 9}
	p := s.start(c, program, garden.ProcessIO{})
	s.reopen()
	if s.Capabilities.Programs {
		// Long enough for the process to end while nobody is attached.
		_, status := s.output(s.lookup(c.Handle()), "sleep 1")
		require.Zero(s, status.Code)
	}
	var out buffer
	again, err := s.lookup(c.Handle()).Attach(s.ctx(), p.ID(), garden.ProcessIO{Stdout: &out})
	require.NoError(s, err)
	assert.Equal(s, 9, s.wait(again).Code)
	if s.Capabilities.Programs {
		assert.Equal(s, "late\n", out.String())
	}
	s.reopen()
	again, err = s.lookup(c.Handle()).Attach(s.ctx(), p.ID(), garden.ProcessIO{})
	require.NoError(s, err, "also when its end was told to an earlier client")
	assert.Equal(s, 9, s.wait(again).Code)
	_, err = s.lookup(c.Handle()).Attach(s.ctx(), "never-ran", garden.ProcessIO{})
	require.ErrorIs(s, err, garden.ErrUnknownProcess)
}

func testOutputOnce(s *suite) {
	c := s.create()
	const lines = 200
	var out buffer
	p := s.start(c, Program{Shell: fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; sleep 0.01; done", lines)}, garden.ProcessIO{Stdout: &out})
	for range 3 {
		seen := len(out.String())
		s.eventually("more output comes", func() bool { return len(out.String()) > seen })
		s.reopen()
		again, err := s.lookup(c.Handle()).Attach(s.ctx(), p.ID(), garden.ProcessIO{Stdout: &out})
		require.NoError(s, err)
		p = again
	}
	assert.Zero(s, s.wait(p).Code)
	var want strings.Builder
	for i := range lines {
		_, _ = fmt.Fprintln(&want, i+1)
	}
	assert.Equal(s, want.String(), out.String())
}

func testMuchOutput(s *suite) {
	c := s.create()
	out, status := s.output(c, "dd if=/dev/zero bs=1M count=6 2>/dev/null | tr '\\0' x")
	assert.Zero(s, status.Code)
	assert.Len(s, out, 6<<20)
}

func testLingeringChild(s *suite) {
	c := s.create()
	out, status := s.output(c, "echo begun; sleep 1000 & exit 5")
	assert.Equal(s, 5, status.Code)
	assert.Equal(s, "begun\n", out)
}

func testDestroyEndsWait(s *suite) {
	c := s.create()
	p := s.start(c, Program{Shell: "sleep 1000", Lasts: true}, garden.ProcessIO{})
	require.NoError(s, s.Client.Destroy(s.ctx(), c.Handle()))
	assert.Equal(s, 137, s.wait(p).Code)
}

func testContextLost(s *suite) {
	c := s.create()
	ctx, cancel := context.WithCancel(s.ctx())
	spec := garden.ProcessSpec{ID: "p", Path: "/bin/sleep", Args: []string{"1000"}}
	if s.Script != nil {
		s.Script(spec.ID, Program{Lasts: true})
	}
	p, err := c.Run(ctx, spec, garden.ProcessIO{})
	require.NoError(s, err)
	cancel()
	_, err = p.Wait(ctx)
	require.ErrorIs(s, err, context.Canceled)
	short, cancel := context.WithTimeout(s.ctx(), 50*time.Millisecond)
	defer cancel()
	_, err = p.Wait(short)
	require.ErrorIs(s, err, context.DeadlineExceeded, "the process goes on")
	require.NoError(s, p.Signal(s.ctx(), garden.SignalKill))
	assert.Equal(s, 137, s.wait(p).Code)
}
