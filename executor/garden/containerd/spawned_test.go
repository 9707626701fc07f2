package containerd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/containerd/spawn"
)

// own are the lines of /proc/self/status that differ between any two processes.
var own = regexp.MustCompile(`(?m)^(Pid|PPid|Tgid|NSpid|NStgid|NSpgid|NSsid|Vm\w+|Rss\w+|HugetlbPages|SigQ|\w*voluntary_ctxt_switches|Cpus_allowed\w*):.*\n`) //nolint:gochecknoglobals // constant

// TestSpawnedLikeExec compares a process that the init started with one that runc started, in everything that says what a
// process may do: users, groups, capabilities, filters, limits, namespaces, control groups, signals, files.
func TestSpawnedLikeExec(t *testing.T) {
	t.Parallel()
	limit := uint64(77)
	for sentence, test := range map[string]struct {
		privileged bool
		user       string
		change     func(*garden.ProcessSpec)
	}{
		"root":                   {user: "root"},
		"a user":                 {user: "vcap"},
		"a user with a group":    {user: "vcap:root"},
		"privileged root":        {user: "root", privileged: true},
		"privileged user":        {user: "vcap", privileged: true},
		"a limit of files":       {user: "vcap", change: func(s *garden.ProcessSpec) { s.Nofile = &limit }},
		"a folder and variables": {user: "vcap", change: func(s *garden.ProcessSpec) { s.Dir, s.Env = "/tmp", []garden.EnvVar{{Name: "A", Value: "b c\nd"}} }},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			made, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "h", Image: b.image(), Privileged: test.privileged, Limits: garden.Limits{Pids: 50, MemoryInBytes: 64 * mebi}})
			require.NoError(t, err)
			c := made.(*container)
			look := func(id string, args ...string) string {
				spec := garden.ProcessSpec{ID: id, Path: args[0], Args: args[1:], User: test.user}
				if test.change != nil {
					test.change(&spec)
				}
				return own.ReplaceAllString(run(t, c, spec), "")
			}
			all := func(prefix string) string {
				return strings.Join([]string{
					look(prefix+"-files", "/bin/cat", "/proc/self/status", "/proc/self/limits", "/proc/self/cgroup", "/proc/self/oom_score_adj", "/proc/self/uid_map"),
					look(prefix+"-environment", "env"),
					look(prefix+"-place", "sh", "-c", "umask; pwd; id; for ns in /proc/self/ns/*; do readlink $ns; done; ls /proc/self/fd; readlink /proc/self/fd/0; ulimit -a; cut -d' ' -f6-8 /proc/$$/stat | grep -c \"^$$ \""),
				}, "\n--\n")
			}
			spawned := all("spawned")
			c.unreachable = true // as on a machine that does not let us have files of the init
			c.letGo()
			executed := all("executed")
			require.Contains(t, executed, "NoNewPrivs:")
			require.Empty(t, cmp.Diff(executed, spawned), "runc, and ours")
			require.Contains(t, spawned, "Seccomp:\t"+strconv.Itoa(map[bool]int{false: 2, true: 0}[test.privileged]))
		})
	}
}

// TestInitIsOutOfReach has root of a container try what would let it speak to the init or become it.
func TestInitIsOutOfReach(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.create(t, "h").(*container)
	require.Equal(t, "works\n", run(t, c, shell("first", "echo works")))
	said := run(t, c, shell("p", `
		for f in /proc/1/fd/60 /proc/1/environ /proc/1/mem /proc/1/root/ /proc/1/ns/pid; do
			if ls $f/ >/dev/null 2>&1 || head -c1 $f >/dev/null 2>&1; then echo open $f; fi
		done
		for s in TERM INT HUP QUIT ABRT ALRM USR1 PIPE SEGV SYS TRAP XCPU CHLD KILL STOP; do kill -$s 1; done
		echo tried
		cat /proc/net/unix | grep -c '@' `))
	require.Equal(t, "tried\n0\n", said)
	require.Equal(t, "works\n", run(t, c, shell("last", "echo works")), "and its signals change nothing")
}

// TestThreadsOfTheInit counts them, because they count against the limit of the container, and tries whether the init does
// with those it has when there are no more.
func TestThreadsOfTheInit(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	made, err := b.backend.Create(t.Context(), garden.ContainerSpec{Handle: "h", Image: b.image(), Limits: garden.Limits{Pids: 20}})
	require.NoError(t, err)
	c := made.(*container)
	threads := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", c.pid()))
		require.NoError(t, err)
		return len(entries)
	}
	require.Equal(t, "works\n", run(t, c, shell("first", "echo works")))
	before := threads()
	require.InDelta(t, spawn.Threads, before, 2)
	p, err := c.Run(t.Context(), shell("many", "while true; do sleep 1000 & done 2>/dev/null"), garden.ProcessIO{})
	require.NoError(t, err)
	failed := 0
	for n := range 20 {
		another, err := c.Run(t.Context(), shell("another-"+strconv.Itoa(n), "sleep 0.01"), garden.ProcessIO{})
		if err != nil {
			failed++
			continue
		}
		status, err := another.Wait(t.Context())
		require.NoError(t, err)
		require.Zero(t, status.Code, "what could not start is not taken for started")
	}
	t.Log(threads(), "threads;", failed, "of 20 could not be started in a full container")
	require.NoError(t, c.Stop(t.Context(), true))
	status, err := p.Wait(t.Context())
	require.NoError(t, err)
	require.NotZero(t, status.Code)
	require.Equal(t, "works\n", run(t, c, shell("last", "echo works")), "the init goes on")
	require.LessOrEqual(t, threads(), before, "it has had no need of more")
}

// TestManySpawned is weeks of checks in a moment: the memory of the init does not grow with them.
func TestManySpawned(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.create(t, "h").(*container)
	resident := func() int {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", c.pid()))
		require.NoError(t, err)
		pages, err := strconv.Atoi(strings.Fields(string(content))[1])
		require.NoError(t, err)
		return pages * os.Getpagesize() / 1024
	}
	for n := range 20 {
		run(t, c, shell("warm-"+strconv.Itoa(n), "true"))
	}
	before := resident()
	for n := range 150 {
		run(t, c, shell("p-"+strconv.Itoa(n), "true"))
	}
	t.Logf("%d KiB, then %d KiB", before, resident())
	require.Less(t, resident(), before+8<<10)
}

// TestSpawnSurvives has processes that end, and a start that fails, while no engine is there.
func TestSpawnSurvives(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	c := b.create(t, "h")
	var ids []string
	for code := range 5 {
		p, err := c.Run(t.Context(), shell("p-"+strconv.Itoa(code), fmt.Sprintf("sleep 0.2; echo %d; exit %d", code, code)), garden.ProcessIO{})
		require.NoError(t, err)
		ids = append(ids, p.ID())
	}
	killed, err := c.Run(t.Context(), shell("killed", "sleep 0.2; kill -9 $$"), garden.ProcessIO{})
	require.NoError(t, err)
	_, isChild := killed.(*process).source.(childSource)
	require.True(t, isChild)
	init, group := c.(*container).pid(), c.(*container).cgroup()
	require.NoError(t, b.backend.Close())
	eventually(t, "all have ended", func() bool {
		content, err := os.ReadFile(filepath.Join(machineCgroups().folders(group)[0], "cgroup.procs"))
		return err == nil && strings.TrimSpace(string(content)) == strconv.Itoa(init)
	})
	b.open(t)
	again, err := b.backend.Lookup(t.Context(), "h")
	require.NoError(t, err)
	for code, id := range ids {
		var out output
		p, err := again.Attach(t.Context(), id, garden.ProcessIO{Stdout: &out})
		require.NoError(t, err)
		status, err := p.Wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, garden.ExitStatus{Code: code}, status)
		require.Equal(t, strconv.Itoa(code)+"\n", out.String())
	}
	p, err := again.Attach(t.Context(), "killed", garden.ProcessIO{})
	require.NoError(t, err)
	status, err := p.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, 128+int(unix.SIGKILL), status.Code)
}

// TestFilterWithout32Bit looks up what was left out of the filter in the tables of calls of both architectures.
func TestFilterWithout32Bit(t *testing.T) {
	t.Parallel()
	ctx := namespaces.WithNamespace(t.Context(), "test")
	spec, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "x"}, withPrivileges(false))
	require.NoError(t, err)
	full := seccomp.DefaultProfile(spec)
	require.NoError(t, withSeccomp(ctx, nil, nil, spec))
	kept := map[string]bool{}
	for _, rule := range spec.Linux.Seccomp.Syscalls {
		for _, name := range rule.Names {
			kept[name] = true
		}
	}
	var left []string
	for _, rule := range full.Syscalls {
		for _, name := range rule.Names {
			if !kept[name] {
				left = append(left, name)
			}
		}
	}
	require.NotEmpty(t, left)
	folder, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	require.NoError(t, err)
	for _, architecture := range []string{"amd64", "arm64"} {
		table, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(folder)), "unix", "zsysnum_linux_"+architecture+".go"))
		require.NoError(t, err)
		require.Contains(t, string(table), "\tSYS_OPENAT ")
		for _, name := range left {
			require.NotContains(t, string(table), "\tSYS_"+strings.ToUpper(name)+" ", architecture)
		}
	}
	require.True(t, kept["openat"] && kept["fstat"] && kept["sendfile"] && kept["futex"] && kept["setuid"])
}
