package privateserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Kill ends all processes of the server in the middle of whatever they do, and waits for that. It
// loses what the server had not given to the kernel, as a crash of the server does; Start in the same
// folder recovers the rest. A server that has ended already is no error.
func (s *Server) Kill() error {
	// A server that is stopped starts no more processes and does not notice that its own die.
	_ = s.cmd.Process.Signal(syscall.SIGSTOP) // it fails only if the server has ended
	children, err := childrenOf(s.PID())
	_ = s.cmd.Process.Kill()
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
	}
	<-s.done
	if err != nil {
		return fmt.Errorf("killing postgres in %s: %w", s.cfg.Folder, err)
	}
	return nil
}

// childrenOf returns the processes that a process has started and that have not ended.
func childrenOf(parent int) ([]int, error) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err // a bad pattern
	}
	var children []int
	for _, file := range all {
		line, err := os.ReadFile(file) //nolint:gosec // a file of the kernel
		if err != nil {
			continue // it has ended meanwhile
		}
		// "pid (name) state parent …"; the name may hold anything.
		fields := strings.Fields(string(line[strings.LastIndexByte(string(line), ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		children = append(children, pid)
	}
	return children, nil
}
