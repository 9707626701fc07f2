package cells

import (
	"cmp"

	"diego.internal/auctioneer/internal/auction"
	"diego.internal/auctioneer/internal/work"
	repv1 "diego.internal/proto/rep/v1"
)

// held is what is known of one container of a cell.
type held struct {
	key work.Key
	// live says that it has not ended. What has ended keeps its room until it is deleted, but drives nobody away.
	live bool
	// reserved says that it is only room yet.
	reserved bool
}

// inventory is what a cell holds, as it told the last time.
type inventory struct {
	// version is the cell's name for it; 0 if the cell gave none.
	version    uint64
	containers map[string]held // by guid
}

// take brings the inventory up to date with an answer. An answer that tells differences tells those to the version that the
// question named; it returns false, and changes nothing, if that is not this one.
func (i *inventory) take(s *repv1.StateResponse, asked uint64) bool {
	switch {
	case !s.GetPartial():
		i.containers = make(map[string]held, len(s.GetLrps())+len(s.GetTasks()))
	case asked != i.version || i.containers == nil:
		return false
	}
	for _, l := range s.GetLrps() {
		key := work.Key{Kind: auction.LRP, GUID: l.GetKey().GetProcessGuid(), Index: int(l.GetKey().GetIndex())}
		i.containers[cmp.Or(l.GetInstanceGuid(), key.String())] = heldAs(key, l.GetState())
	}
	for _, t := range s.GetTasks() {
		key := work.Key{Kind: auction.Task, GUID: t.GetTaskGuid()}
		i.containers[cmp.Or(t.GetContainerGuid(), key.String())] = heldAs(key, t.GetState())
	}
	for _, guid := range s.GetGone() {
		delete(i.containers, guid)
	}
	i.version = s.GetContainersVersion()
	return true
}

func heldAs(key work.Key, s repv1.ContainerState) held {
	return held{key: key, live: live(s), reserved: s == repv1.ContainerState_CONTAINER_STATE_RESERVED}
}

// count returns the live instances by process, the number of live tasks, and what has room and no container yet.
func (i *inventory) count() (instances map[string]int, tasks int, reserved []work.Key) {
	instances = map[string]int{}
	for _, h := range i.containers {
		switch {
		case !h.live:
		case h.key.Kind == auction.Task:
			tasks++
		default:
			instances[h.key.GUID]++
		}
		if h.reserved {
			reserved = append(reserved, h.key)
		}
	}
	return instances, tasks, reserved
}

// live is the work that has not ended.
func (i *inventory) live() map[work.Key]bool {
	out := map[work.Key]bool{}
	for _, h := range i.containers {
		if h.live {
			out[h.key] = true
		}
	}
	return out
}

func live(s repv1.ContainerState) bool {
	switch s {
	case repv1.ContainerState_CONTAINER_STATE_SHUTDOWN, repv1.ContainerState_CONTAINER_STATE_CRASHED:
		return false
	case repv1.ContainerState_CONTAINER_STATE_UNSPECIFIED, repv1.ContainerState_CONTAINER_STATE_RESERVED,
		repv1.ContainerState_CONTAINER_STATE_INITIALIZING, repv1.ContainerState_CONTAINER_STATE_CREATED,
		repv1.ContainerState_CONTAINER_STATE_RUNNING:
	}
	return true
}
