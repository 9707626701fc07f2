package spawn

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"diego.internal/executor/garden/containerd/rights"
)

// server is the init's part. Reaping and starting exclude each other, so that no child ends before it is known.
type server struct {
	socket *os.File // our end; requests are taken from it by one goroutine

	mu       sync.Mutex
	children map[string]*child // by id, until they are forgotten
	running  map[int]*child    // by process id
	wake     chan struct{}     // there are exits to tell
}

// child is a process that was started on request. The server's lock guards it.
type child struct {
	id     string
	start  uint64 // the request
	pid    int
	exited bool
	code   uint32
	told   bool // its exit was sent, or need not be
}

// Serve is the life of the first process of a container: it starts, signals and remembers processes on request and reaps
// whatever ends in the container. It ignores all signals that can be ignored. It returns only when it cannot begin.
func Serve() error {
	// Handled and not ignored: what is ignored would be ignored by every process that is started here.
	signal.Notify(make(chan os.Signal, 1))
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	socket, err := makePair()
	if err != nil {
		return err
	}
	stockThreads()
	s := newServer(socket)
	go s.tell()
	go func() {
		for {
			s.reap()
			<-ended
		}
	}()
	for {
		s.handle()
	}
}

func newServer(socket *os.File) *server {
	return &server{socket: socket, children: map[string]*child{}, running: map[int]*child{}, wake: make(chan struct{}, 1)}
}

// spareThreads is more than the runtime ever uses at a time for what is done here.
const spareThreads = 4

// Threads is how many threads the init has, give or take one that the runtime was quicker to make than to find. They count
// against the limit of processes of its container.
const Threads = spareThreads + 5

// stockThreads makes all threads that the runtime may want later. It keeps those that nothing runs on, and a container that
// has used up its limit cannot have another one: the runtime would end the init, and the container with it.
func stockThreads() {
	var here sync.WaitGroup
	release := make(chan struct{})
	for range spareThreads {
		here.Add(1)
		go func() {
			runtime.LockOSThread() // one thread each for as long as all of them wait
			defer runtime.UnlockOSThread()
			here.Done()
			<-release
		}()
	}
	here.Wait()
	close(release)
}

// makePair makes the connection, of which we keep both ends, and forbids others of our user to look into us.
func makePair() (*os.File, error) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("forbidding traces: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making sockets: %w", err)
	}
	// Ours is for the poller: a thread that waits in the kernel is one that the container lacks.
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return nil, fmt.Errorf("preparing our socket: %w", err)
	}
	if err := unix.Dup3(pair[1], engineDescriptor, unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("placing the engine's socket: %w", err)
	}
	return os.NewFile(uintptr(pair[0]), "engine"), unix.Close(pair[1])
}

// reap collects every child that has ended by now. One that ends later sends another signal.
func (s *server) reap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if c := s.running[pid]; c != nil {
			delete(s.running, pid)
			c.exited, c.code = true, exitCode(status)
			s.wakeLocked()
		}
	}
}

func exitCode(status syscall.WaitStatus) uint32 {
	if status.Signaled() {
		return 128 + uint32(status.Signal()) //nolint:gosec // at most 64
	}
	return uint32(status.ExitStatus()) //nolint:gosec // at most 255
}

func (s *server) wakeLocked() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// tell sends exits. When nobody reads, the kernel holds it up, and nothing is lost: states can be asked for.
func (s *server) tell() {
	for range s.wake {
		for {
			exit, ok := s.nextExit()
			if !ok {
				break
			}
			s.send(&exit)
		}
	}
}

func (s *server) nextExit() (message, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.children {
		if c.exited && !c.told {
			c.told = true
			return message{kind: tellExit, number: c.start, exited: true, code: c.code}, true
		}
	}
	return message{}, false
}

// send waits for room. Both ends are ours, so that it cannot fail for want of a receiver.
func (s *server) send(m *message) { _ = rights.Send(s.socket, m.encode()) }

// handle takes one request. Those that take long are answered later.
func (s *server) handle() {
	request, files, err := receive(s.socket)
	if err != nil {
		rights.CloseAll(files)
		s.send(&message{kind: tellReply, outcome: outcomeBad})
		return
	}
	reply := message{kind: tellReply, number: request.number, outcome: outcomeBad}
	switch request.kind {
	case askStart:
		if len(files) == 4 {
			report, refused := s.start(request, files)
			if report != nil {
				go s.finishStart(request, report)
				rights.CloseAll(files)
				return
			}
			reply = refused
		}
	case askSignal:
		reply.outcome = s.signal(request)
	case askState:
		s.state(request.id, &reply)
	case askForget:
		reply.outcome = s.forget(request.id)
	case tellReply, tellExit:
	}
	rights.CloseAll(files)
	s.send(&reply)
}

// start forks. It returns where the process will report that it failed, or the reply if there is none.
func (s *server) start(request message, files []int) (*os.File, message) {
	refused := message{kind: tellReply, number: request.number}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.children[request.id] != nil {
		refused.outcome = outcomeTaken
		return nil, refused
	}
	report, writer, err := os.Pipe()
	if err == nil {
		var pid int
		pid, err = syscall.ForkExec("/proc/self/exe", //nolint:gosec // our own program
			[]string{"garden-init", LaunchArgument}, &syscall.ProcAttr{
				Files: []uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2]), uintptr(files[3]), writer.Fd()},
				Sys:   &syscall.SysProcAttr{Setsid: true},
			})
		_ = writer.Close()
		if err == nil {
			c := &child{id: request.id, start: request.number, pid: pid}
			s.children[c.id], s.running[pid] = c, c
			return report, refused
		}
		_ = report.Close()
	}
	refused.fail(failed(StageFork, err))
	return nil, refused
}

// finishStart waits until the process has become its program, or has failed to, and replies.
func (s *server) finishStart(request message, report *os.File) {
	said, _ := io.ReadAll(io.LimitReader(report, 4))
	_ = report.Close()
	reply := message{kind: tellReply, number: request.number, start: request.number}
	if failure := failureIn(said); failure != nil {
		reply.fail(failure)
		s.disown(request.id, request.number)
	}
	s.send(&reply)
}

// failureIn is what a process said about a start that failed; nil if it runs its program.
func failureIn(said []byte) *StartError {
	if len(said) > 0 && said[0] == launched {
		if said = said[1:]; len(said) == 0 {
			return nil
		}
	}
	if len(said) < 3 {
		return &StartError{Stage: StageFork, Errno: unix.EAGAIN} // it was killed, or could not even begin
	}
	return &StartError{Stage: Stage(said[0]), Errno: unix.Errno(binary.LittleEndian.Uint16(said[1:]))}
}

// disown makes nothing of a start that failed; the reaper sees to the rest.
func (s *server) disown(id string, start uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.children[id]; c != nil && c.start == start {
		c.told = true
		delete(s.children, id)
	}
}

// signal reaches the process and those of its children that did not leave its group. The number cannot be another's as
// long as we have not reaped it.
func (s *server) signal(request message) outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.children[request.id]
	if c == nil {
		return outcomeUnknown
	}
	if !c.exited {
		_ = syscall.Kill(-c.pid, syscall.Signal(request.signal)) // one that has ended is what was wanted
	}
	return outcomeDone
}

func (s *server) state(id string, reply *message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.children[id]
	if c == nil {
		reply.outcome = outcomeUnknown
		return
	}
	reply.outcome, reply.start, reply.exited, reply.code = outcomeDone, c.start, c.exited, c.code
}

// forget is refused for a process that runs: its exit would be lost.
func (s *server) forget(id string) outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.children[id]
	if c == nil {
		return outcomeUnknown
	}
	if !c.exited {
		return outcomeTaken
	}
	delete(s.children, id)
	return outcomeDone
}
