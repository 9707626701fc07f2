// Package gardentest is the suite that every implementation of the garden interfaces passes. It owns what the
// interfaces promise, as tests; each implementation says which promises it can keep (Capabilities) and brings an image
// and a way to start anew (Harness).
package gardentest

import (
	"bytes"
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden"
)

// Timeout bounds every wait of the suite; a healthy implementation needs a fraction of it.
const Timeout = 60 * time.Second

// Capabilities are what an implementation really does.
type Capabilities struct {
	// Programs are run: what a process prints and returns is its own doing, not a script's.
	Programs bool
	// Network: mapped ports can be reached, egress is filtered.
	Network bool
	// Limits of memory, disk and processes are enforced.
	Limits bool
	// Users of unprivileged containers are not those of the machine.
	Users bool
}

// Harness is one implementation under test, with a cell of its own.
type Harness struct {
	// Client is the implementation.
	Client garden.Client
	// Capabilities it has.
	Capabilities Capabilities
	// Image holds a shell, the users root and vcap (uid 1000, home /home/vcap) and the usual small tools.
	Image garden.Image
	// Reopen ends Client as if its program had ended and returns another one over the same containers.
	Reopen func(t *testing.T) garden.Client
	// Script tells an implementation without Programs what a process will do; it is called before Run.
	Script func(processID string, program Program)
	// Leftovers lists what is left on the machine besides containers and their images; it is called when none exists.
	Leftovers func(t *testing.T) []string
}

// Program is a shell script together with what comes of it.
type Program struct {
	Shell          string
	Stdout, Stderr string
	Code           int
	// Lasts says that it runs until a signal ends it, IgnoresTerminate that SIGTERM does not.
	Lasts            bool
	IgnoresTerminate bool
	// Missing says that its executable does not exist; Shell is then its path.
	Missing bool
}

// Run runs the suite. Each test calls open for a harness of its own; open registers its own clean-up.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	t.Helper()
	for name, test := range tests() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &suite{T: t, Harness: open(t)}
			if test.needs(s.Capabilities) {
				test.run(s)
			}
		})
	}
}

type testCase struct {
	needs func(Capabilities) bool
	run   func(*suite)
}

func always(Capabilities) bool     { return true }
func programs(c Capabilities) bool { return c.Programs }
func networks(c Capabilities) bool { return c.Network }
func limits(c Capabilities) bool   { return c.Limits }
func users(c Capabilities) bool    { return c.Users }

func tests() map[string]testCase {
	return map[string]testCase{
		"a container is found until it is destroyed":             {always, testLifecycle},
		"a handle is used once":                                  {always, testDuplicateHandle},
		"properties filter lists and survive a new client":       {always, testProperties},
		"a bad specification is refused":                         {always, testBadSpecification},
		"a missing image is a rootfs error":                      {programs, testMissingImage},
		"exit codes and output come back":                        {always, testExitCodes},
		"an unknown user and a missing program are told apart":   {always, testRunErrors},
		"a process id is used once":                              {always, testDuplicateProcess},
		"environment, user and folder are as asked":              {programs, testSurroundings},
		"terminate and kill end a process":                       {always, testSignals},
		"stop ends all processes and leaves the container":       {always, testStop},
		"attach after a new client delivers what was missed":     {always, testAttachMissedOutput},
		"attach after a new client learns of an exit meanwhile":  {always, testAttachExited},
		"output is delivered once and in order over new clients": {programs, testOutputOnce},
		"much output is delivered whole":                         {programs, testMuchOutput},
		"a child that keeps the output open does not hold wait":  {programs, testLingeringChild},
		"destroy ends waiting":                                   {always, testDestroyEndsWait},
		"a lost context does not end the process":                {always, testContextLost},
		"streams go in and out":                                  {always, testStreams},
		"streams cannot leave the folder":                        {always, testStreamEscape},
		"streams belong to the user":                             {programs, testStreamOwner},
		"many containers are created at the same time":           {always, testConcurrentCreates},
		"mapped ports are distinct and kept over a new client":   {always, testPortsKept},
		"a mapped port answers":                                  {networks, testPortReached},
		"egress is refused until allowed":                        {networks, testEgress},
		"containers cannot reach each other or the machine":      {networks, testIsolation},
		"too much memory is the end and is told":                 {limits, testOutOfMemory},
		"processes are limited":                                  {limits, testPids},
		"too much disk is the end and is told":                   {limits, testOutOfDisk},
		"too many files are the end and are told":                {limits, testOutOfFiles},
		"a stream that fills the disk fails":                     {limits, testStreamOutOfDisk},
		"the image counts against a limit of the total":          {limits, testDiskScope},
		"root of a container is nobody on the machine":           {users, testUsers},
		"bind mounts keep their owners in a container":           {users, testBindMountOwners},
		"an unprivileged root has few rights":                    {programs, testUnprivileged},
		"bind mounts show files of the machine":                  {programs, testBindMounts},
		"hostname, hosts and resolver are set up":                {programs, testNames},
		"metrics are read, gone handles left out":                {always, testMetrics},
		"destroying leaves nothing":                              {always, testNothingLeft},
	}
}

// suite is one test with its harness and the words that tests are made of.
type suite struct {
	*testing.T
	Harness
}

func (s *suite) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.Context(), Timeout)
	s.Cleanup(cancel)
	return ctx
}

func unique() string { return strings.ToLower(rand.Text()) }

// create makes a container that the end of the test destroys.
func (s *suite) create(change ...func(*garden.ContainerSpec)) garden.Container {
	s.Helper()
	spec := garden.ContainerSpec{Handle: "test-" + unique(), Image: s.Image}
	for _, c := range change {
		c(&spec)
	}
	container, err := s.Client.Create(s.ctx(), spec)
	require.NoError(s, err)
	return container
}

// start runs a program by the shell.
func (s *suite) start(c garden.Container, program Program, out garden.ProcessIO, change ...func(*garden.ProcessSpec)) garden.Process {
	s.Helper()
	p, err := s.tryStart(c, program, out, change...)
	require.NoError(s, err)
	return p
}

func (s *suite) tryStart(c garden.Container, program Program, out garden.ProcessIO, change ...func(*garden.ProcessSpec)) (garden.Process, error) {
	spec := garden.ProcessSpec{ID: "p-" + unique(), Path: "/bin/sh", Args: []string{"-c", program.Shell}}
	if program.Missing {
		spec.Path, spec.Args = program.Shell, nil
	}
	for _, ch := range change {
		ch(&spec)
	}
	if s.Script != nil {
		s.Script(spec.ID, program)
	}
	return c.Run(s.ctx(), spec, out)
}

func (s *suite) wait(p garden.Process) garden.ExitStatus {
	s.Helper()
	status, err := p.Wait(s.ctx())
	require.NoError(s, err)
	return status
}

// output runs a program to its end and returns what it printed on both streams.
func (s *suite) output(c garden.Container, shell string, change ...func(*garden.ProcessSpec)) (string, garden.ExitStatus) {
	s.Helper()
	var out buffer
	p := s.start(c, Program{Shell: shell}, garden.ProcessIO{Stdout: &out, Stderr: &out}, change...)
	status := s.wait(p)
	return out.String(), status
}

// eventually polls until the condition holds.
func (s *suite) eventually(what string, condition func() bool) {
	s.Helper()
	ctx := s.ctx()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			s.Fatalf("timed out waiting until %s", what)
		}
	}
}

// reopen replaces the client.
func (s *suite) reopen() {
	s.Helper()
	s.Client = s.Reopen(s.T)
}

func (s *suite) lookup(handle string) garden.Container {
	s.Helper()
	c, err := s.Client.Lookup(s.ctx(), handle)
	require.NoError(s, err)
	return c
}

// buffer is a bytes.Buffer that the deliverer and the test may use at the same time.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

var _ testing.TB = (*suite)(nil)
