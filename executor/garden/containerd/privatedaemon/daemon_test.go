package privatedaemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	"github.com/stretchr/testify/require"

	"diego.internal/executor/garden/busybox"
)

// shortFolder is a temporary folder whose path leaves room for the name of a unix socket.
func shortFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "pd") //nolint:usetesting // see above
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	return folder
}

// TestStopSweeps leaves a container running and nobody to end it: Stop does, and nothing of it remains.
func TestStopSweeps(t *testing.T) {
	t.Parallel()
	folder := shortFolder(t)
	d, err := Start(t.Context(), filepath.Join(folder, "d"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Stop()) })
	group := "/privatedaemon-" + filepath.Base(folder)
	runContainer(t, d, folder, group)

	shims, err := processesOf(filepath.Join(folder, "d"))
	require.NoError(t, err)
	require.Len(t, shims, 3, "the daemon, the shim and its container")
	var traces []string
	for _, shim := range shims {
		traces = append(traces, shim.traces...)
	}
	require.Contains(t, traces[len(traces)-1], group)

	require.NoError(t, d.Stop())
	require.NoError(t, d.Stop(), "it may be repeated")
	left, err := processesOf(filepath.Join(folder, "d"))
	require.NoError(t, err)
	require.Empty(t, left)
	for _, path := range traces {
		require.NoDirExists(t, path)
		require.NoFileExists(t, path)
	}
}

func runContainer(t *testing.T, d *Daemon, folder, group string) {
	t.Helper()
	rootfs := filepath.Join(folder, "rootfs")
	require.NoError(t, busybox.Build(t.Context(), rootfs))
	ctx := namespaces.WithNamespace(t.Context(), "test")
	c, err := client.New(d.Address())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	spec, err := oci.GenerateSpec(ctx, c, &containers.Container{ID: "c"}, oci.WithRootFSPath(rootfs), oci.WithProcessArgs("/bin/sleep", "1000"), oci.WithCgroup(group))
	require.NoError(t, err)
	encoded, err := typeurl.MarshalAny(spec)
	require.NoError(t, err)
	_, err = c.ContainerService().Create(ctx, containers.Container{ID: "c", Runtime: containers.RuntimeInfo{Name: "io.containerd.runc.v2"}, Spec: encoded})
	require.NoError(t, err)
	runc, err := typeurl.MarshalAnyToProto(&options.Options{Root: filepath.Join(folder, "runc")})
	require.NoError(t, err)
	_, err = c.TaskService().Create(ctx, &tasks.CreateTaskRequest{ContainerID: "c", Options: runc})
	require.NoError(t, err)
	_, err = c.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: "c"})
	require.NoError(t, err)
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	folder := shortFolder(t)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "root"), nil, 0o600), "a file where containerd wants a folder")
	_, err := Start(t.Context(), folder)
	require.ErrorContains(t, err, "containerd ended at once")
	out, err := exec.CommandContext(t.Context(), "ls", folder).Output()
	require.NoError(t, err)
	require.NotContains(t, string(out), ".sock\n")
}
