package reconcile

import (
	"context"
	"maps"
	"slices"
	"time"

	"diego.internal/executor"
	bbsv1 "diego.internal/proto/bbs/v1"
	"diego.internal/rep/internal/translate"
)

// singlesTime is how long the others wait for the instances that go first. Order is worth that much and no more: an
// evacuation has a deadline.
const singlesTime = 5 * time.Second

// tellOfSingles asks the BBS to replace the running instances that are the only ones of their LRP before any other, so that
// those applications that have nothing else are the first to be placed. It returns when they have been asked for, after
// singlesTime, or when ctx ends, with those that the rest of the round need not deal with.
func (r *Reconciler) tellOfSingles(ctx context.Context, containers []executor.Container, records *records) map[string]<-chan struct{} {
	patient, cancel := context.WithTimeout(ctx, singlesTime)
	defer cancel()
	waiting := map[string][]string{} // containers by process guid
	for _, c := range containers {
		if c.State == executor.StateRunning && c.Tags[translate.TagLifecycle] == translate.LifecycleLRP && !r.Told(c.GUID) {
			process := c.Tags[translate.TagProcessGUID]
			waiting[process] = append(waiting[process], c.GUID)
		}
	}
	if len(waiting) < 2 {
		return nil // nobody is in front of anybody
	}
	filter := &bbsv1.DesiredLRPFilter{}
	for process := range waiting {
		filter.ProcessGuids = append(filter.ProcessGuids, process)
	}
	singles := map[string]<-chan struct{}{}
	stream, err := r.BBS.DesiredLRPs.ListSchedulingInfos(patient, &bbsv1.ListSchedulingInfosRequest{Filter: filter})
	err = collect(stream, err, func(chunk *bbsv1.ListSchedulingInfosResponse) {
		for _, info := range chunk.GetSchedulingInfos() {
			if info.GetInstances() != 1 {
				continue
			}
			for _, guid := range waiting[info.GetProcessGuid()] {
				singles[guid] = r.submitContainer(ctx, guid, records)
			}
		}
	})
	if err != nil {
		r.Log.DebugContext(ctx, "instances-not-counted", "error", err) // all are asked for at the same time then
	}
	await(patient, slices.Collect(maps.Values(singles)))
	return singles
}
