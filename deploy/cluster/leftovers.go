package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// tailBytes is how much of a log is shown with a failure.
const tailBytes = 3000

func tail(file string) string {
	text, err := os.ReadFile(file) //nolint:gosec // a log of ours
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-tailBytes):])
}

// Machine is what can be left behind on it: processes, mounts, network interfaces and namespaces, and tables of rules.
type Machine map[string]bool

// Look lists what is there now of everything that a cluster in folder could leave behind. Comparing a look before the start
// with one after the stop shows what was left.
func Look(ctx context.Context, folder string) (Machine, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, fmt.Errorf("looking at the machine: %w", err)
	}
	m := Machine{}
	if err := m.processes(folder); err != nil {
		return nil, err
	}
	if err := m.mounts(folder); err != nil {
		return nil, err
	}
	for _, list := range [][]string{{"ip", "-oneline", "link", "show"}, {"ip", "netns", "list"}, {"nft", "list", "tables"}} {
		out, err := output(ctx, list)
		if err != nil {
			return nil, fmt.Errorf("looking at the machine with %s: %w", list[0], err)
		}
		for line := range strings.Lines(string(out)) {
			m[list[0]+" "+name(line)] = true
		}
	}
	return m, nil
}

// output runs a command again when it fails: nft aborts when tables come and go under it.
func output(ctx context.Context, list []string) (out []byte, err error) {
	const attempts = 5
	for range attempts {
		out, err = exec.CommandContext(ctx, list[0], list[1:]...).Output() //nolint:gosec // fixed commands
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return out, err
}

// name keeps of a line what names the thing: counters, ids of namespaces and states change.
func name(line string) string {
	fields := strings.Fields(line)
	if len(fields) > 3 {
		fields = fields[:2]
	}
	return strings.Join(fields, " ")
}

func (m Machine) processes(folder string) error {
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return fmt.Errorf("listing processes: %w", err)
	}
	for _, file := range commands {
		command, err := os.ReadFile(file) //nolint:gosec // of the kernel
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || pid == os.Getpid() || !bytes.Contains(command, []byte(folder)) {
			continue
		}
		m[fmt.Sprintf("process %d %s", pid, bytes.ReplaceAll(bytes.TrimRight(command, "\x00"), []byte{0}, []byte{' '}))] = true
	}
	return nil
}

func (m Machine) mounts(folder string) error {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, folder) {
			m["mount "+strings.Fields(line)[1]] = true
		}
	}
	return nil
}

// Since returns what is there that was not there before, sorted by nothing.
func (m Machine) Since(before Machine) []string {
	var out []string
	for thing := range m {
		if !before[thing] {
			out = append(out, thing)
		}
	}
	return out
}
