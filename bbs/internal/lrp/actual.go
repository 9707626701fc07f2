package lrp

import (
	"fmt"
	"slices"
	"time"
)

// Presence says what a record means for its index, and is part of its identity: an index has at most
// one record of each.
type Presence uint8

// The presences. The numbers are stored.
const (
	// Ordinary is the record that counts: what runs, or waits to run, at the index.
	Ordinary Presence = iota
	// Evacuating is an instance on a cell that is being emptied. It is always Running.
	Evacuating
	// Suspect is an instance on a cell that is lost. It is Claimed or Running.
	Suspect
)

func (p Presence) String() string {
	switch p {
	case Ordinary:
		return "ORDINARY"
	case Evacuating:
		return "EVACUATING"
	case Suspect:
		return "SUSPECT"
	default:
		return fmt.Sprintf("Presence(%d)", uint8(p))
	}
}

// State is the place of an instance in its life.
type State uint8

// The states. The numbers are stored; 0 is none of them.
const (
	// Unclaimed waits for a cell.
	Unclaimed State = iota + 1
	// Claimed has a cell that makes its container.
	Claimed
	// Running runs.
	Running
	// Crashed waits for its restart to be due, or stays down.
	Crashed
)

func (s State) String() string {
	switch s {
	case Unclaimed:
		return "UNCLAIMED"
	case Claimed:
		return "CLAIMED"
	case Running:
		return "RUNNING"
	case Crashed:
		return "CRASHED"
	default:
		return fmt.Sprintf("State(%d)", uint8(s))
	}
}

// Key names an index of an LRP.
type Key struct {
	ProcessGUID string
	Index       int32
}

func (k Key) String() string { return fmt.Sprintf("%s/%d", k.ProcessGUID, k.Index) }

// InstanceKey names one container life. The zero value is the empty instance key of records that no
// cell holds.
type InstanceKey struct {
	InstanceGUID string
	CellID       string
}

// IsZero reports whether no cell is named.
func (k InstanceKey) IsZero() bool { return k == InstanceKey{} }

// ModificationTag orders the versions of one record that a client has seen.
type ModificationTag struct {
	Epoch string // random, made with the record
	Index uint32 // 0 at first, one more with each visible change
}

// next is the tag after one more change.
func (t ModificationTag) next() ModificationTag {
	return ModificationTag{Epoch: t.Epoch, Index: t.Index + 1}
}

// NetInfo says where an instance is reached.
type NetInfo struct {
	Address             string // of the host
	Ports               []PortMapping
	InstanceAddress     string
	InstanceIPv6Address string
	Preferred           PreferredAddress
}

// PortMapping of one container port. 0 means none.
type PortMapping struct {
	ContainerPort         uint16
	HostPort              uint16
	ContainerTLSProxyPort uint16
	HostTLSProxyPort      uint16
}

// PreferredAddress says by which address routers should reach an instance. The numbers are stored.
type PreferredAddress uint8

// The preferred addresses.
const (
	PreferUnknown PreferredAddress = iota
	PreferInstance
	PreferHost
)

// equal treats nil as the empty net info.
func (n *NetInfo) equal(o *NetInfo) bool {
	if n == nil || o == nil {
		return n == o
	}
	return n.Address == o.Address && n.InstanceAddress == o.InstanceAddress &&
		n.InstanceIPv6Address == o.InstanceIPv6Address && n.Preferred == o.Preferred &&
		slices.Equal(n.Ports, o.Ports)
}

// TagValue is a metric tag as an instance reports it.
type TagValue struct {
	Name  string
	Value string
}

// Actual is one record about one index: what the BBS knows of an instance, or of the need for one.
//
// A record is immutable once it is stored; a transition returns a new one. There are hundreds of
// thousands of them in memory, so what is rarely set is a pointer or an empty slice.
type Actual struct {
	Key
	InstanceKey

	Domain       string
	Zone         string // availability zone, from the cell
	DefinitionID string // the definition that it was, or is to be, started from

	// NetInfo is nil unless Running.
	NetInfo *NetInfo
	// InternalRoutes are the host names that the cell reported, in its order.
	InternalRoutes []string
	// MetricTags are what the cell reported, in order of name.
	MetricTags []TagValue

	CrashReason    string
	PlacementError string
	Tag            ModificationTag

	// Since is the time of the last change of state, in nanoseconds since the Unix epoch; a refused
	// placement counts as one.
	Since int64
	// Revision of the store that last changed the record. The store sets it, nothing here reads it.
	Revision   uint64
	CrashCount int32

	Presence Presence
	State    State
	// Routable is false unless Running.
	Routable bool
	// StopRequested is the durable order to stop the instance: its cell is told until the record is
	// gone. It is no part of what clients see, so it moves neither tag nor Since.
	StopRequested bool
}

// SinceTime is Since as a time in UTC.
func (a *Actual) SinceTime() time.Time { return time.Unix(0, a.Since).UTC() }

// Held reports whether a cell holds the instance, that is, it is Claimed or Running.
func (a *Actual) Held() bool { return a.State == Claimed || a.State == Running }

// Compare orders records by process guid, index and presence.
func (a *Actual) Compare(b *Actual) int { return compareRows(a, b) }

// Instance gathers the records of one index; those that do not exist are nil.
type Instance struct {
	Ordinary   *Actual
	Evacuating *Actual
	Suspect    *Actual
}

// IsZero reports whether the index has no record.
func (i Instance) IsZero() bool { return i == Instance{} }

// Any returns a record of the index, or nil.
func (i Instance) Any() *Actual {
	switch {
	case i.Ordinary != nil:
		return i.Ordinary
	case i.Suspect != nil:
		return i.Suspect
	default:
		return i.Evacuating
	}
}

// Set puts a record where its presence says.
func (i *Instance) Set(a *Actual) {
	switch a.Presence {
	case Ordinary:
		i.Ordinary = a
	case Evacuating:
		i.Evacuating = a
	case Suspect:
		i.Suspect = a
	}
}

// held returns the record that the instance key names, or nil.
func (i Instance) held(by InstanceKey) *Actual {
	for _, a := range [...]*Actual{i.Ordinary, i.Suspect, i.Evacuating} {
		if a != nil && !by.IsZero() && a.InstanceKey == by {
			return a
		}
	}
	return nil
}

// Group gathers records, which must be in the order of Compare, into instances in order of key.
func Group(rows []*Actual) []Instance {
	var grouped []Instance
	var last Key
	for _, row := range rows {
		if len(grouped) == 0 || last != row.Key {
			grouped = append(grouped, Instance{})
			last = row.Key
		}
		grouped[len(grouped)-1].Set(row)
	}
	return grouped
}
