package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settleTimeout bounds the wait for a creation that containerd still carries out for a client that was killed.
const settleTimeout = 15 * time.Second

// settle returns when no shim of a container is left. A client that is killed cuts its request off, but containerd
// needs a moment to notice and to remove the shim that it had started; destroying must not overtake that.
func settle(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, settleTimeout, errors.New("shim does not end"))
	defer cancel()
	for {
		shims, err := shimsOf(func(other string) bool { return other == id })
		if err != nil || len(shims) == 0 {
			return err
		}
		timer := time.NewTimer(stopPoll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("waiting for shim of %s: %w", id, context.Cause(ctx))
		}
	}
}

// killShims kills the shims of a container; what runs below them is killed with its control group.
func killShims(id string) error {
	shims, err := shimsOf(func(other string) bool { return other == id })
	if err != nil {
		return err
	}
	for _, pid := range shims {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("killing shim %d: %w", pid, err)
		}
	}
	return nil
}

// shimsOf finds the shims of containers, chosen by id.
func shimsOf(wanted func(id string) bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		content, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil {
			continue // it has ended
		}
		arguments := bytes.Split(content, []byte{0})
		if !strings.HasPrefix(filepath.Base(string(arguments[0])), "containerd-shim") {
			continue
		}
		for at, argument := range arguments[:len(arguments)-1] {
			if string(argument) == "-id" && wanted(string(arguments[at+1])) {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}
