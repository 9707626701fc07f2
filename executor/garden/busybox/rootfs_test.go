package busybox

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBuild needs root, because files belong to the users of the container.
func TestBuild(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "rootfs")
	require.NoError(t, Build(t.Context(), folder))
	for path, mode := range map[string]os.FileMode{
		"":           os.ModeDir | 0o755,
		"bin":        os.ModeDir | 0o755,
		"tmp":        os.ModeDir | os.ModeSticky | 0o777,
		"etc/passwd": 0o644,
		"home/vcap":  os.ModeDir | 0o755,
	} {
		info, err := os.Stat(filepath.Join(folder, path))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), path)
	}
	info, err := os.Stat(filepath.Join(folder, "home/vcap"))
	require.NoError(t, err)
	require.EqualValues(t, VcapID, info.Sys().(*syscall.Stat_t).Uid)

	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "id -un; nc 2>/dev/null || echo has nc")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: folder, Credential: &syscall.Credential{Uid: VcapID, Gid: VcapID}}
	cmd.Dir = "/"
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "vcap\nhas nc\n", string(out))
}
