package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"diego.internal/executor"
	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/rep/internal/translate"
)

// reserveMany makes running instances of LRPs "single-N" and "many-N", in an order in which singles are not first.
func (b *testbed) reserveMany(n int) {
	b.t.Helper()
	b.bbs.instances = map[string]int32{}
	for i := range n {
		for _, kind := range []string{"many", "single"} {
			process := fmt.Sprintf("%s-%d", kind, i)
			b.bbs.instances[process] = map[string]int32{"many": 3, "single": 1}[kind]
			guid := "instance-of-" + process
			key := &workloadv1.ActualLRPKey{ProcessGuid: process, Domain: "apps"}
			require.Empty(b.t, b.exec.AllocateContainers(b.t.Context(), []executor.AllocationRequest{{GUID: guid, Tags: translate.LRPTags(key, guid, "definition-1", nil)}}))
			info := executor.RunInfo{RootFS: testRootFS, Action: &executor.Action{Run: &executor.RunAction{Path: "/bin/app", User: "vcap"}}}
			require.NoError(b.t, b.exec.RunContainer(b.t.Context(), executor.RunRequest{GUID: guid, Info: info}))
		}
	}
	synctest.Wait()
}

// asked are the processes that the BBS was asked to replace, in the order of the calls.
func (b *testbed) asked() []string {
	b.bbs.mu.Lock()
	defer b.bbs.mu.Unlock()
	var out []string
	for _, c := range b.bbs.calls {
		if q, ok := c.request.(*bbsv1.EvacuateRunningActualLRPRequest); ok {
			out = append(out, q.GetKey().GetProcessGuid())
		}
	}
	return out
}

func TestReconcilerEvacuatesSinglesFirst(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveMany(10)
		b.bbs.evacuateRunning = func(*bbsv1.EvacuateRunningActualLRPRequest) (*bbsv1.EvacuateRunningActualLRPResponse, error) {
			time.Sleep(time.Millisecond) //nolint:forbidigo // the clock of the bubble: calls overlap
			return &bbsv1.EvacuateRunningActualLRPResponse{KeepContainer: true}, nil
		}
		b.evacuate()
		over, err := b.r.sync(t.Context())
		require.NoError(t, err)
		require.True(t, await(t.Context(), over))
		asked := b.asked()
		require.Len(t, asked, 20, "each is asked for once")
		for _, process := range asked[:10] {
			require.True(t, strings.HasPrefix(process, "single-"), "%s came before an instance that is the only one: %v", process, asked)
		}
		for i := range 10 {
			require.True(t, b.r.Told(fmt.Sprintf("instance-of-single-%d", i)))
		}

		// What was told once is not waited for again.
		b.bbs.took()
		over, err = b.r.sync(t.Context())
		require.NoError(t, err)
		require.True(t, await(t.Context(), over))
		require.Len(t, slices.Compact(slices.Sorted(slices.Values(b.asked()))), 20)
	})
}

// A BBS that answers slowly must not hold up the others for longer than order is worth.
func TestReconcilerDoesNotWaitLongForSingles(t *testing.T) {
	t.Parallel()
	inCell(t, func(b *testbed) {
		t := b.t
		b.reserveMany(1)
		stuck := make(chan struct{})
		b.bbs.evacuateRunning = func(q *bbsv1.EvacuateRunningActualLRPRequest) (*bbsv1.EvacuateRunningActualLRPResponse, error) {
			if strings.HasPrefix(q.GetKey().GetProcessGuid(), "single") {
				<-stuck
			}
			return &bbsv1.EvacuateRunningActualLRPResponse{KeepContainer: true}, nil
		}
		b.evacuate()
		start := time.Now()
		over, err := b.r.sync(t.Context())
		require.NoError(t, err)
		require.Equal(t, singlesTime, time.Since(start))
		synctest.Wait()
		require.True(t, b.r.Told("instance-of-many-0"))
		require.False(t, b.r.Told("instance-of-single-0"))
		close(stuck)
		require.True(t, await(t.Context(), over))
	})
}
