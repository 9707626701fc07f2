// Package workload owns the values that tasks and LRPs share: what they take of a cell, which cells
// may run them, and how free texts about them are cut. It holds no rules of either life cycle.
package workload

import "unicode/utf8"

// Resources that a workload takes of a cell. 0 means no limit, and takes nothing of that dimension.
type Resources struct {
	MemoryMB int32 // mebibytes
	DiskMB   int32 // mebibytes
	MaxPids  int32
}

// Placement says which cells may run a workload. The BBS stores it and hands it to the auctioneer,
// which judges it.
type Placement struct {
	RootFS        string // a URL with a scheme
	VolumeDrivers []string
	PlacementTags []string
	// Constraint, if not nil, decides instead of PlacementTags.
	Constraint *Constraint
}

// Constraint asks for cells that have all the tags of Require.
type Constraint struct {
	Require []string
}

// MaxReasonBytes bounds every free text that the system writes into a record: crash, placement,
// failure and rejection reasons.
const MaxReasonBytes = 1024

const truncated = "(truncated)"

// Reason returns s, or, if it is longer than MaxReasonBytes, as many whole runes of it as fit
// together with the marker "(truncated)".
func Reason(s string) string {
	if len(s) <= MaxReasonBytes {
		return s
	}
	end := MaxReasonBytes - len(truncated)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + truncated
}
