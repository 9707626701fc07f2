package reconcile

import (
	"context"
	"fmt"
	"time"

	"diego.internal/executor"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/translate"
)

// Pauses between attempts to follow the records of the cell.
const (
	firstFollowPause = 100 * time.Millisecond
	maxFollowPause   = 5 * time.Second
)

// followRecords looks at an instance of a cell that is being emptied as soon as the BBS drops its record, which is how
// one learns that the replacement serves. Rounds would find it too, but only at their interval. It returns when ctx ends.
func (r *Reconciler) followRecords(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-r.EvacuationStarted:
	}
	pause := firstFollowPause
	for {
		err := r.watchRecords(ctx, func() { pause = firstFollowPause })
		if ctx.Err() != nil {
			return
		}
		r.Log.DebugContext(ctx, "records-not-followed", "error", err) // rounds go on, and say so if the BBS is away
		timer := time.NewTimer(pause)
		pause = min(2*pause, maxFollowPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// watchRecords follows one stream to its end. working is called when the BBS speaks.
func (r *Reconciler) watchRecords(ctx context.Context, working func()) error {
	stream, err := r.BBS.Watch.Watch(ctx, &bbsv1.WatchRequest{CellId: r.CellID, Kinds: []bbsv1.WatchKind{bbsv1.WatchKind_WATCH_KIND_ACTUAL_LRP}})
	if err != nil {
		return fmt.Errorf("following the records of the cell: %w", err)
	}
	for first := true; ; first = false {
		message, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("following the records of the cell: %w", err)
		}
		working()
		if first {
			r.askRound() // what happened before the stream began is seen by a round
		}
		for _, event := range message.GetChanges().GetEvents() {
			record := event.GetActualLrpInstanceRemoved().GetActualLrp()
			if record.GetPresence() == workloadv1.Presence_PRESENCE_EVACUATING && record.GetInstanceKey().GetCellId() == r.CellID {
				r.submitContainer(ctx, record.GetInstanceKey().GetInstanceGuid(), nil)
			}
		}
	}
}

// Told says whether the BBS has acknowledged that an instance is to be replaced.
func (r *Reconciler) Told(guid string) bool { return r.replacements.acknowledged(guid) }

// Untold counts the running instances of which the BBS has not acknowledged that they are to be replaced. Until it has,
// stopping them would take an application down that nobody is starting elsewhere.
func (r *Reconciler) Untold() int {
	count := 0
	for c := range r.Executor.Containers() {
		if c.State == executor.StateRunning && c.Tags[translate.TagLifecycle] == translate.LifecycleLRP && !r.replacements.acknowledged(c.GUID) {
			count++
		}
	}
	return count
}
