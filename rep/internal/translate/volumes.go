package translate

import (
	"errors"
	"fmt"

	"diego.internal/executor"
	workloadv1 "diego.internal/proto/workload/v1"
)

// errMountMode says that a mount is neither for reading nor for writing.
var errMountMode = errors.New("unrecognized volume mount mode")

// volumeMounts turns the volumes of a workload. Cells have shared devices only: a dedicated one would have to be made for
// the instance and kept apart from all others, which no driver that we know of does.
func volumeMounts(in []*workloadv1.VolumeMount) ([]executor.VolumeMount, error) {
	var out []executor.VolumeMount
	for i, m := range in {
		shared := m.GetShared()
		if shared == nil {
			return nil, fmt.Errorf("volume mount %d of driver %q: this cell mounts shared devices only", i, m.GetDriver())
		}
		mount := executor.VolumeMount{Driver: m.GetDriver(), VolumeID: shared.GetVolumeId(), Config: shared.GetMountConfig(), Path: m.GetContainerDir()}
		switch m.GetMode() {
		case workloadv1.VolumeMount_MOUNT_MODE_READ_ONLY:
			mount.ReadOnly = true
		case workloadv1.VolumeMount_MOUNT_MODE_READ_WRITE:
		case workloadv1.VolumeMount_MOUNT_MODE_UNSPECIFIED:
			return nil, fmt.Errorf("volume mount %d: %w", i, errMountMode)
		default:
			return nil, fmt.Errorf("volume mount %d: %w %v", i, errMountMode, m.GetMode())
		}
		out = append(out, mount)
	}
	return out, nil
}
