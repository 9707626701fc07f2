package containerd

import (
	"bufio"
	"cmp"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"diego.internal/executor/garden"
	"diego.internal/executor/garden/containerd/spawn"
)

// initPath is where the init is mounted: below /dev, which is a file system of the container's own, so that no trace
// of it is in the image.
const initPath = "/dev/garden-init"

// unprivilegedCapabilities are those that root in an unprivileged container has.
func unprivilegedCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// ociSpec is the specification of a container that runs the init.
func (b *Backend) ociSpec(ctx context.Context, c *container, spec garden.ContainerSpec) (*oci.Spec, error) {
	binds, err := b.bindMounts(c, spec.BindMounts)
	if err != nil {
		return nil, err
	}
	opts := []oci.SpecOpts{
		oci.WithDefaultUnixDevices,
		oci.WithoutRunMount,
		oci.WithProcessArgs(initPath),
		oci.WithProcessCwd("/"),
		withoutRlimits,
		oci.WithHostname(hostname(c.handle)),
		oci.WithCgroup(filepath.Join(b.cfg.cgroupParent(), c.id)),
		oci.WithMounts(append(b.ownMounts(c), binds...)),
		withUsers(c.record.Users),
		withLimits(spec.Limits),
		withPrivileges(spec.Privileged),
		withConfinement(spec.Privileged),
	}
	return oci.GenerateSpec(ctx, b.client, &containers.Container{ID: c.id}, opts...)
}

// ownMounts are those that every container has.
func (b *Backend) ownMounts(c *container) []specs.Mount {
	return []specs.Mount{
		bind(b.cfg.InitBinary, initPath, true),
		bind(filepath.Join(c.folder, "hosts"), "/etc/hosts", false),
		bind(filepath.Join(c.folder, "resolv.conf"), "/etc/resolv.conf", false),
	}
}

func bind(from, to string, readOnly bool) specs.Mount {
	access := "rw"
	if readOnly {
		access = "ro"
	}
	return specs.Mount{Type: "bind", Source: from, Destination: to, Options: []string{"rbind", "rprivate", access}}
}

func withLimits(limits garden.Limits) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		resources := s.Linux.Resources
		if limits.MemoryInBytes > 0 {
			memory := int64(min(limits.MemoryInBytes, 1<<62))
			resources.Memory = &specs.LinuxMemory{Limit: &memory}
			if machineCgroups().limitsSwap() {
				// The limit of memory and swap together: none of it is swap.
				resources.Memory.Swap = &memory
			}
		}
		if limits.Pids > 0 {
			// The container's own first task stands for the init, as it does where inits have one thread.
			pids := limits.Pids + spawn.Threads - 1
			resources.Pids = &specs.LinuxPids{Limit: &pids}
		}
		if limits.CPUShares > 0 {
			resources.CPU = &specs.LinuxCPU{Shares: &limits.CPUShares}
		}
		return nil
	}
}

// withoutRlimits takes the limits of the default specification away, which are lower than what processes may ask for: the
// init hands on what it has.
func withoutRlimits(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
	s.Process.Rlimits = nil
	return nil
}

// withPrivileges is what each process of a container has by itself.
func withPrivileges(privileged bool) oci.SpecOpts {
	if privileged {
		return oci.Compose(oci.WithAllCurrentCapabilities, oci.WithNewPrivileges)
	}
	return oci.Compose(oci.WithCapabilities(unprivilegedCapabilities()), oci.WithNoNewPrivileges)
}

// withConfinement is what a container imposes on all its processes.
func withConfinement(privileged bool) oci.SpecOpts {
	if privileged {
		return oci.Compose(oci.WithMaskedPaths(nil), oci.WithReadonlyPaths(nil), withFuse)
	}
	return withSeccomp
}

// withSeccomp filters system calls of the machine's own architecture and refuses those of others. runc compiles the
// filter anew for each container; the tables of 32-bit programs would add 15 ms to each, and the names of calls that only those
// have, 4 ms of processor time.
func withSeccomp(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
	profile := seccomp.DefaultProfile(s)
	if len(profile.Architectures) > 0 {
		profile.Architectures = profile.Architectures[:1]
	}
	if runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64" {
		for at := range profile.Syscalls {
			profile.Syscalls[at].Names = slices.DeleteFunc(profile.Syscalls[at].Names, only32Bit)
		}
		profile.Syscalls = slices.DeleteFunc(profile.Syscalls, func(rule specs.LinuxSyscall) bool { return len(rule.Names) == 0 })
	}
	s.Linux.Seccomp = profile
	return nil
}

// only32Bit tells that a system call exists on neither amd64 nor arm64. A rule for one has no effect on them.
func only32Bit(name string) bool {
	switch name {
	case "_llseek", "_newselect", "clock_adjtime64", "clock_gettime64", "fadvise64_64", "fcntl64", "fstat64", "fstatat64", "fstatfs64",
		"ftruncate64", "ipc", "lstat64", "mmap2", "recv", "send", "sendfile64", "sigprocmask", "sigreturn", "socketcall", "stat64",
		"statfs64", "timer_gettime64", "timer_settime64", "timerfd_gettime64", "timerfd_settime64", "truncate64", "ugetrlimit", "waitpid":
		return true
	}
	return strings.HasSuffix(name, "_time64") || strings.HasSuffix(name, "id32") || name == "chown32" || name == "fchown32" ||
		name == "lchown32" || name == "getgroups32" || name == "setgroups32"
}

// withFuse gives a privileged container /dev/fuse where the machine has it.
func withFuse(ctx context.Context, client oci.Client, c *containers.Container, s *oci.Spec) error {
	const device = "/dev/fuse"
	if _, err := os.Stat(device); err != nil {
		return nil //nolint:nilerr // a machine without FUSE
	}
	return oci.WithLinuxDevice(device, "rwm")(ctx, client, c, s)
}

// ociProcess is a process in a container: like its init in all that is not its own.
func (c *container) ociProcess(ctx context.Context, spec garden.ProcessSpec, as identity) (*specs.Process, error) {
	s := &oci.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{}}, Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}}
	if err := withPrivileges(c.record.Privileged)(ctx, nil, nil, s); err != nil {
		return nil, err
	}
	process := s.Process
	process.Args = append([]string{spec.Path}, spec.Args...)
	process.Cwd = workingFolder(cmp.Or(spec.Dir, c.record.Image.Dir), as)
	process.Env = environment(as, c.record.Image.Env, c.record.Env, spec.Env)
	process.User = specs.User{UID: as.uid, GID: as.gid, AdditionalGids: as.groups}
	if limit := openFiles(spec.Nofile); limit > 0 {
		process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: limit, Soft: limit}}
	}
	return process, nil
}

// environment joins defaults and the variables of image, container and process; of two with one name the later wins.
func environment(as identity, given ...[]garden.EnvVar) []string {
	path := "/usr/local/bin:/usr/bin:/bin"
	if as.uid == 0 {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	merged := []garden.EnvVar{{Name: "PATH", Value: path}, {Name: "HOME", Value: as.home}, {Name: "USER", Value: as.name}}
	for _, variable := range slices.Concat(given...) {
		at := slices.IndexFunc(merged, func(other garden.EnvVar) bool { return other.Name == variable.Name })
		if at < 0 {
			merged = append(merged, variable)
			continue
		}
		merged[at].Value = variable.Value
	}
	var env []string
	for _, variable := range merged {
		env = append(env, variable.Name+"="+variable.Value)
	}
	return env
}

// hostResolvers are the name servers of the machine that a container can reach: not those on its loopback.
func hostResolvers() []netip.Addr {
	file, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }()
	var servers []netip.Addr
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil && addr.Is4() && !addr.IsLoopback() {
			servers = append(servers, addr)
		}
	}
	return servers
}
