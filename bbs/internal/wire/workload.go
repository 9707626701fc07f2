// Package wire owns the conversion between the BBS's own records and the messages of the contract,
// in both directions, and the encoded form of records that are sent often.
//
// It does not own rules or validation: what it converts from messages has been validated, or was
// written by the BBS itself.
package wire

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/workload"
	workloadv1 "diego.internal/proto/workload/v1"
)

// Timestamp converts nanoseconds since the Unix epoch. 0 is absent.
func Timestamp(ns int64) *timestamppb.Timestamp {
	if ns == 0 {
		return nil
	}
	return timestamppb.New(time.Unix(0, ns))
}

// Nanoseconds is the inverse of Timestamp.
func Nanoseconds(ts *timestamppb.Timestamp) int64 {
	if ts == nil {
		return 0
	}
	return ts.AsTime().UnixNano()
}

// Resources converts what a workload takes.
func Resources(r workload.Resources) *workloadv1.Resources {
	return &workloadv1.Resources{MemoryMb: r.MemoryMB, DiskMb: r.DiskMB, MaxPids: r.MaxPids}
}

// ResourcesFrom is the inverse of Resources; absent is all zero.
func ResourcesFrom(r *workloadv1.Resources) workload.Resources {
	return workload.Resources{MemoryMB: r.GetMemoryMb(), DiskMB: r.GetDiskMb(), MaxPids: r.GetMaxPids()}
}

// Placement converts where a workload may run.
func Placement(p workload.Placement) *workloadv1.PlacementConstraint {
	pc := &workloadv1.PlacementConstraint{
		RootFs: p.RootFS, VolumeDrivers: p.VolumeDrivers, PlacementTags: p.PlacementTags,
	}
	if p.Constraint != nil {
		pc.Constraint = &workloadv1.Constraint{Require: p.Constraint.Require}
	}
	return pc
}

// PlacementFrom is the inverse of Placement.
func PlacementFrom(p *workloadv1.PlacementConstraint) workload.Placement {
	placement := workload.Placement{
		RootFS: p.GetRootFs(), VolumeDrivers: p.GetVolumeDrivers(), PlacementTags: p.GetPlacementTags(),
	}
	if p.GetConstraint() != nil {
		placement.Constraint = &workload.Constraint{Require: p.GetConstraint().GetRequire()}
	}
	return placement
}

// PlacementOf extracts from a container what decides about its placement. Drivers appear once, in
// the order of the mounts.
func PlacementOf(c *workloadv1.ContainerSpec) workload.Placement {
	placement := workload.Placement{RootFS: c.GetRootFs(), PlacementTags: c.GetPlacementTags()}
	if c.GetConstraint() != nil {
		placement.Constraint = &workload.Constraint{Require: c.GetConstraint().GetRequire()}
	}
	seen := map[string]bool{}
	for _, mount := range c.GetVolumeMounts() {
		if driver := mount.GetDriver(); !seen[driver] {
			seen[driver] = true
			placement.VolumeDrivers = append(placement.VolumeDrivers, driver)
		}
	}
	return placement
}

// CrashPolicy converts a restart policy; nil stays nil.
func CrashPolicy(p *lrp.CrashPolicy) *workloadv1.CrashRestartPolicy {
	if p == nil {
		return nil
	}
	return &workloadv1.CrashRestartPolicy{
		NumberOfImmediateRestarts: p.ImmediateRestarts,
		MaxSecondsBetweenRestarts: p.MaxSecondsBetweenRestarts,
		MaxRestartAttempts:        p.MaxRestartAttempts,
	}
}

// CrashPolicyFrom is the inverse of CrashPolicy.
func CrashPolicyFrom(p *workloadv1.CrashRestartPolicy) *lrp.CrashPolicy {
	if p == nil {
		return nil
	}
	return &lrp.CrashPolicy{
		ImmediateRestarts:         p.NumberOfImmediateRestarts,
		MaxSecondsBetweenRestarts: p.MaxSecondsBetweenRestarts,
		MaxRestartAttempts:        p.MaxRestartAttempts,
	}
}

// Tag converts a modification tag.
func Tag(t lrp.ModificationTag) *workloadv1.ModificationTag {
	return &workloadv1.ModificationTag{Epoch: t.Epoch, Index: t.Index}
}

// TagFrom is the inverse of Tag.
func TagFrom(t *workloadv1.ModificationTag) lrp.ModificationTag {
	return lrp.ModificationTag{Epoch: t.GetEpoch(), Index: t.GetIndex()}
}
