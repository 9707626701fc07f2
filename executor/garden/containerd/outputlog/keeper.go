package outputlog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"diego.internal/executor/garden/containerd/rights"
)

// A container whose processes are started by its init has one keeper for the output of all of them. It is told of each
// process by the rep, over a socket in the container's folder that only our user can reach, and needs the rep for nothing
// else: pipes that it has been given are its own.

// keeperSocket is the name of the socket in the folder of a container.
const keeperSocket = "keeper.sock"

// Names of the streams of a process.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

const (
	orderFollow = 'f' // with the reading ends of two pipes
	orderFinish = 'e'
	orderDone   = 'd' // the reply
)

// maxOrder bounds the name of a folder with its order.
const maxOrder = 1024

// ErrOrder says that an order is not understood.
var ErrOrder = errors.New("order is not understood")

// Keeper copies the output of many processes. It is safe for concurrent use.
type Keeper struct {
	folder    string
	listening *os.File

	mu     sync.Mutex
	copies map[string][]*Copier // by the folder of the process
	closed bool
	work   sync.WaitGroup // added to under mu, and not when closed
}

// NewKeeper begins to listen in the folder of a container. It fails if somebody did so before.
func NewKeeper(folder string) (*Keeper, error) {
	listening, err := rights.Listen(folder, keeperSocket)
	if err != nil {
		return nil, fmt.Errorf("keeping output: %w", err)
	}
	return &Keeper{folder: folder, listening: listening, copies: map[string][]*Copier{}}, nil
}

// Serve takes orders until Close.
func (k *Keeper) Serve() {
	for {
		from, err := rights.Accept(k.listening)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			// The caller is gone, or we have too many files open. Nobody is told; the rep does without us.
			timer := time.NewTimer(acceptAgain)
			<-timer.C
			continue
		}
		go func() {
			defer func() { _ = from.Close() }()
			k.obey(from)
		}()
	}
}

// acceptAgain is the pause after a connection that could not be had.
const acceptAgain = 50 * time.Millisecond

// obey takes the one order that a connection brings.
func (k *Keeper) obey(from *os.File) {
	order := make([]byte, maxOrder)
	n, files, err := rights.Receive(from, order)
	if err != nil || n < 2 || !filepath.IsLocal(string(order[1:n])) {
		rights.CloseAll(files)
		return
	}
	name := string(order[1:n])
	// The reply says that it is done: orders of one sender must not overtake each other.
	defer func() { _ = rights.Send(from, []byte{orderDone}) }()
	switch {
	case order[0] == orderFollow && len(files) == 2:
		k.follow(name, uintptr(files[0]), uintptr(files[1]))
	case order[0] == orderFinish:
		rights.CloseAll(files)
		k.finish(name)
	default:
		rights.CloseAll(files)
	}
}

func (k *Keeper) follow(name string, stdout, stderr uintptr) {
	folder := filepath.Join(k.folder, name)
	copiers := []*Copier{NewCopier(stdout, folder, Stdout), NewCopier(stderr, folder, Stderr)}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		for _, c := range copiers {
			_ = c.pipe.Close()
		}
		return
	}
	k.copies[name] = copiers
	k.work.Go(func() {
		var both sync.WaitGroup
		for _, c := range copiers {
			both.Go(func() { _ = c.Copy() }) // what is missing is counted by the reader
		}
		both.Wait()
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.copies, name)
	})
}

func (k *Keeper) finish(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.copies[name] {
		c.Finish()
	}
}

// Close takes no more orders, stores what is in the pipes and returns when all streams have ended.
func (k *Keeper) Close() {
	_ = k.listening.Close()
	k.mu.Lock()
	k.closed = true
	for _, copiers := range k.copies {
		for _, c := range copiers {
			c.Finish()
		}
	}
	k.mu.Unlock()
	k.work.Wait()
}

// Follow gives the reading ends of the pipes of a process to the keeper of a container. Name is the folder of its output,
// relative to that of the container. The pipes are the keeper's when this returns, whatever becomes of us; they may be closed
// here.
func Follow(ctx context.Context, folder, name string, stdout, stderr *os.File) error {
	return tell(ctx, folder, orderFollow, name, stdout, stderr)
}

// Finish ends the streams of a process that has ended: what is in the pipes is stored, what its children write later is not.
// A process that the keeper does not know is no error.
func Finish(ctx context.Context, folder, name string) error {
	return tell(ctx, folder, orderFinish, name)
}

func tell(ctx context.Context, folder string, order byte, name string, files ...*os.File) error {
	if len(name) >= maxOrder || !filepath.IsLocal(name) {
		return fmt.Errorf("telling the keeper of output: %w: folder %q", ErrOrder, name)
	}
	to, err := rights.Dial(ctx, folder, keeperSocket)
	if err != nil {
		return fmt.Errorf("telling the keeper of output: %w", err)
	}
	defer func() { _ = to.Close() }()
	if err := rights.Send(to, append([]byte{order}, name...), files...); err != nil {
		return fmt.Errorf("telling the keeper of output: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = to.Close() })
	defer stop()
	_, received, err := rights.Receive(to, make([]byte, 1))
	rights.CloseAll(received)
	if err != nil {
		return fmt.Errorf("telling the keeper of output: %w", errors.Join(err, context.Cause(ctx)))
	}
	return nil
}
