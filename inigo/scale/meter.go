package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"diego.internal/deploy/cluster"
)

// ticksPerSecond of the times in /proc/PID/stat; the kernel shows all users 100.
const ticksPerSecond = 100

// use of a process between two looks.
type use struct {
	// cpu seconds since the last look; MiB that are resident now.
	cpu, mib float64
}

// meter reads from /proc what processes use.
type meter struct {
	cluster *cluster.Cluster

	mu   sync.Mutex
	last map[int]float64 // guarded by mu; CPU seconds by process number
}

func newMeter(c *cluster.Cluster) *meter { return &meter{cluster: c, last: map[int]float64{}} }

// tick returns what each process used since the last tick, by name; cells is all that host cells, postgres all of its processes,
// scale this one. CPU time of
// a process that was killed between two ticks is not seen.
func (m *meter) tick() map[string]use {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]use{"scale": m.look(os.Getpid(), false)}
	for _, p := range m.cluster.Processes() {
		if pid := p.PID(); pid != 0 {
			name := p.Name
			if strings.HasPrefix(name, cellsPrefix) {
				name = "cells"
			}
			one := m.look(pid, false)
			out[name] = use{cpu: out[name].cpu + one.cpu, mib: out[name].mib + one.mib}
		}
	}
	main := m.cluster.PostgresPID()
	total := m.look(main, true) // with its connections that have ended
	for _, child := range children(main) {
		one := m.look(child, true)
		total.cpu, total.mib = total.cpu+one.cpu, total.mib+one.mib
	}
	out["postgres"] = total
	return out
}

// look at one process. Those of Postgres share memory, which must not count for each of them, and their parent's time has
// that of those that ended.
func (m *meter) look(pid int, postgres bool) use {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return use{} // it has just ended
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const user, childrenUser, end = 11, 13, 15 // after the name, which may hold blanks
	last := childrenUser
	if postgres {
		last = end
	}
	cpu := 0.0
	for _, field := range fields[user:last] {
		ticks, _ := strconv.ParseFloat(field, 64) // the kernel writes numbers
		cpu += ticks / ticksPerSecond
	}
	u := use{cpu: max(0, cpu-m.last[pid]), mib: resident(pid, postgres)}
	m.last[pid] = cpu
	return u
}

// resident memory of a process in MiB.
func resident(pid int, ownOnly bool) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	key := "VmRSS:"
	if ownOnly {
		key = "RssAnon:"
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == key {
			kib, _ := strconv.ParseFloat(fields[1], 64) // the kernel writes numbers
			return kib / 1024
		}
	}
	return 0
}

func children(pid int) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var out []int
	for field := range strings.FieldsSeq(string(text)) {
		if child, err := strconv.Atoi(field); err == nil {
			out = append(out, child)
		}
	}
	return slices.Clip(out)
}
