package command

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"

	auctioneerv1 "diego.internal/proto/auctioneer/v1"
	bbsv1 "diego.internal/proto/bbs/v1"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
	"diego.internal/servicekit/mtls"
)

// troubled is a platform with one instance that runs, one without a place and one that is down.
func troubled(t *testing.T) *platform {
	t.Helper()
	p := whole(t)
	waiting, down := anInstance(1), anInstance(2)
	waiting.State, waiting.PlacementError, waiting.InstanceKey, waiting.NetInfo = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNCLAIMED, "insufficient resources: memory", nil, nil
	down.State, down.CrashCount, down.CrashReason, down.InstanceKey = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CRASHED, 4, "exit 3", nil
	p.bbs.actual = append(p.bbs.actual, waiting, down)
	p.bbs.infos[0].Instances = 4
	p.bbs.infos[0].MetricTags = map[string]*workloadv1.MetricTagValue{
		"app_name":   {Value: &workloadv1.MetricTagValue_Static{Static: "shop"}},
		"space_name": {Value: &workloadv1.MetricTagValue_Static{Static: "prod"}},
	}
	p.bbs.infos[0].Routes = map[string][]byte{"cf-router": []byte(`[{"hostnames":["shop.example"],"port":8080}]`)}
	return p
}

func TestDescribeLRP(t *testing.T) {
	t.Parallel()
	p := troubled(t)
	got := p.run("describe", "lrp", "p", "-o", "table")
	require.Equal(t, ExitOK, got.exit, got.errors)
	page := strings.Join(squeezed(got), "\n")
	for _, want := range []string{
		"Process: p", "Instances: 0 desired; 1 CRASHED, 1 RUNNING, 1 UNCLAIMED", "Why not placed", "1 2 memory, 1 disk, 1 evacuating insufficient resources: memory", "each cell: cfdot placement p 1 --cells",
		"2 CRASHED ordinary z1 10.0.0.1:61001 yes 4 3h12m exit 3", "Events of the last 1h0m", "crashed (0 in a row)",
	} {
		require.Contains(t, page, want)
	}

	var document struct {
		Instances  []map[string]any
		Placements []struct {
			Index         int
			CellsByReason map[string]int `json:"cells_by_reason"`
		}
		Events []struct {
			What        string
			First, Last int64
		}
		CompleteSince int64 `json:"events_complete_since"`
		Notes         []string
	}
	got = p.run("describe", "lrp", "p")
	require.NoError(t, json.Unmarshal([]byte(got.out), &document))
	require.Len(t, document.Instances, 3)
	require.Equal(t, map[string]int{"memory": 2, "disk": 1, "evacuating": 1}, document.Placements[0].CellsByReason)
	require.Equal(t, int64(9e9), document.Events[0].Last)
	require.NotZero(t, document.CompleteSince)
	require.Empty(t, document.Notes)
}

// TestDescribeSaysWhatIsNotKnown, and shows the rest.
func TestDescribeSaysWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	p := troubled(t)
	delete(p.env, "AUCTIONEER_LOCATION")
	p.bbs.watch = func(_ *bbsv1.WatchRequest, stream watchStream) error { // an earlier release takes it for a question about the future
		return stream.Send(bookmark(7))
	}
	got := p.run("describe", "lrp", "p", "-o", "table")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Contains(t, got.out, "not known: events: this BBS cannot tell what happened since a time")
	require.Contains(t, got.out, "not known: why cells were ruled out: there is no auctioneerLocation to ask")
	require.Contains(t, got.out, "insufficient resources: memory")

	p.addCell("cell-bad", brokenRep())
	got = p.run("describe", "cell", "cell-bad", "-o", "table")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Contains(t, got.out, "unreachable")
	require.Contains(t, got.out, "the engine is gone")
	require.Equal(t, ExitNotFound, p.run("describe", "cell", "nobody").exit)
}

// TestDescribeCellTellsDifferences between what the cell holds and what the BBS believes.
func TestDescribeCellTellsDifferences(t *testing.T) {
	t.Parallel()
	p := whole(t)
	rep := workingRep("cell-2")
	rep.state = func(context.Context) (*repv1.StateResponse, error) {
		return &repv1.StateResponse{CellId: "cell-2", Healthy: true, Restrictions: []string{"no user namespaces"}, Lrps: []*repv1.LRP{
			{InstanceGuid: "unknown", Key: &workloadv1.ActualLRPKey{ProcessGuid: "q", Index: 3}, State: repv1.ContainerState_CONTAINER_STATE_RUNNING},
		}}, nil
	}
	p.addCell("cell-2", rep)
	got := p.run("describe", "cell", "cell-2", "-o", "table")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Contains(t, got.out, "only on the cell: q/3 (RUNNING), instance unknown")
	require.Contains(t, got.out, "only in the BBS:  p/0 (RUNNING), instance p-0")
	require.Contains(t, got.out, "no user namespaces")
}

func TestSummary(t *testing.T) {
	t.Parallel()
	p := troubled(t)
	p.bbs.status.BrakeEngaged = true
	got := p.run("summary", "-o", "table")
	require.Equal(t, ExitOK, got.exit, got.errors)
	page := strings.Join(squeezed(got), "\n")
	for _, want := range []string{
		"Instances 6 desired of 2 processes, 1 running: 5 not running", "1 CRASHED, 1 RUNNING, 1 UNCLAIMED", "1 instance has crashed lately", "1 without a place: insufficient resources: memory",
		"Tasks 1 Running", "Domains fresh: apps (for ever)", "Cells 1 cell with 1 GiB of memory; by zone: 1 z1", "Locks bbs held by bbs-1 for 1h0m",
		"BBS bbs-1, revision 9, epoch 2", "last convergence 0s ago, took 12.0ms", "the brake is on",
	} {
		require.Contains(t, page, want)
	}
	delete(p.env, "LOCKET_API_LOCATION")
	require.Contains(t, p.run("summary", "-o", "table").out, "not known: locks: there is no locketAPILocation to ask")
}

func TestFind(t *testing.T) {
	t.Parallel()
	p := troubled(t)
	p.bbs.actual[0].InstanceKey.InstanceGuid = "0123456789abcdef"
	for text, want := range map[string]string{
		"p":                "process p 4 instances guid",
		"shop":             "process p prod/shop 4 instances tag app_name",
		"prod":             "process p prod/shop 4 instances tag space_name",
		"shop.example":     "process p prod/shop 4 instances host name of a route",
		"0123456789abcdef": "instance p 0 RUNNING cell-1 10.0.0.1:61001 instance guid",
		"01234567":         "instance p 0 RUNNING cell-1 10.0.0.1:61001 instance beginning of the guid",
		"10.0.0.1:61001":   "instance p 0 RUNNING cell-1 10.0.0.1:61001 address on the cell",
		"10.255.0.1:8080":  "instance p 0 RUNNING cell-1 10.255.0.1:8080 address of the container",
		"10.255.0.1":       "instance p 0 RUNNING cell-1 10.0.0.1:61001 address of the container",
		"t":                "task t Running guid",
		"cell-1":           "cell cell-1 cell-1",
	} {
		got := p.run("find", text, "-o", "table", "--no-headers")
		require.Equal(t, ExitOK, got.exit, "%s: %s", text, got.errors)
		first := strings.Replace(squeezed(got)[0], "process p 4", "process p prod/shop 4", 1)
		require.True(t, strings.HasPrefix(first, strings.Replace(want, "process p 4", "process p prod/shop 4", 1)), "%s found %q", text, first)
	}
	for _, text := range []string{"nobody", "0123", "10.0.0.1:1"} {
		got := p.run("find", text)
		require.Equal(t, ExitNotFound, got.exit, text)
		require.Contains(t, got.errors, "nothing is called that")
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	p := troubled(t)
	got := p.run("diff", "-o", "table", "--no-headers")
	require.Equal(t, ExitFound, got.exit)
	require.Equal(t, "5 differences; 1 of 6 desired instances run\n", got.errors)
	require.Equal(t, []string{
		"a 0 missing", "a 1 missing", "p 1 no place UNCLAIMED 3h12m insufficient resources: memory", "p 2 crashed CRASHED 3h12m exit 3", "p 3 missing",
	}, squeezed(got))
	got = p.run("diff", "p")
	require.Equal(t, ExitFound, got.exit)
	require.Len(t, got.lines(), 3)
	require.Equal(t, ExitNotFound, p.run("diff", "nobody").exit)

	p.bbs.infos, p.bbs.actual = []*workloadv1.SchedulingInfo{{ProcessGuid: "p", Instances: 1}}, p.bbs.actual[:1]
	got = p.run("diff", "p", "-o", "table")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Equal(t, "no differences: 1 of 1 desired instances run\n", got.out)
}

// TestDiffLooksTwice, since an LRP may be made between the reading of the two sides.
func TestDiffLooksTwice(t *testing.T) {
	t.Parallel()
	p := whole(t)
	made := anInstance(0)
	made.Key.ProcessGuid = "q"
	p.bbs.actual = []*workloadv1.ActualLRP{made}
	reads := 0
	p.bbs.listed = func() { // between the two sides
		if reads++; reads == 1 {
			p.bbs.infos = append(p.bbs.infos, &workloadv1.SchedulingInfo{ProcessGuid: "q", Instances: 1})
		}
	}
	got := p.run("diff", "q", "-o", "table")
	require.Equal(t, ExitOK, got.exit, got.out+got.errors)
}

// checks are the results of doctor by name.
func checks(t *testing.T, o outcome) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, line := range o.lines() {
		var r struct{ Check, Status, Detail, Advice string }
		require.NoError(t, json.Unmarshal([]byte(line), &r), line)
		name, _, _ := strings.Cut(r.Check, " 127.")
		if out[name] == "" {
			out[name] = r.Status + ": " + r.Detail
		}
	}
	return out
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	p := whole(t)
	p.bbs.infos[0].Domain = "nobody-cares"
	standby := p.serve(mtls.Identity{Role: mtls.RoleBBS}, "bbs.v1.not", (&fakeBBS{}).register)
	p.env["BBS_URL"] += "," + standby
	p.bbs.status.LastConvergence = timestamppb.New(time.Now().Add(-time.Hour))
	p.bbs.status.QuarantinedRecords, p.bbs.status.StandbyWaitsFor, p.bbs.status.Schema = 2, "a key", &bbsv1.SchemaStatus{BuiltFor: 4, Version: 3}
	p.bbs.status.Keys = &bbsv1.KeyStatus{Left: map[string]uint64{"old": 7, "older": 0}, Unreadable: map[string]uint64{"lost": 1}, RemovableLabels: []string{"older"}}
	p.addCell("cell-bad", brokenRep())
	p.bbs.addCell("cell-gone", "127.0.0.1:1")
	got := p.run("doctor")
	require.Equal(t, ExitFound, got.exit, got.out)
	result := checks(t, got)
	require.Regexp(t, `^warning: spiffe://.*/operator/olive, valid until`, result["own certificate"], "a certificate for a test is a short one")
	require.Regexp(t, "^warning: (standby|serving), answered in", result["bbs"])
	require.Regexp(t, "^failed: 1h0m ago", result["convergence"])
	require.Equal(t, "failed: not fresh, although LRPs are desired in it: nobody-cares", result["domains"])
	require.Regexp(t, "^ok: held by bbs-1 for 1h0m", result["lock bbs"])
	require.Equal(t, "failed: connection refused", result["cell cell-gone"])
	for _, want := range []string{
		"the engine is gone", "2 records cannot be read", "standby waits for a key", "is built for schema 4, the tables have 3", "7 values are still sealed under key old",
		"1 values under key lost cannot be opened", "keys that may be removed from the configuration: older",
	} {
		require.Contains(t, got.out, want)
	}
	require.Regexp(t, "^ok: .* servers agree", result["clocks"])
	require.Regexp(t, "^ok: .* on all .* servers", result["versions"])
	require.NotContains(t, result, "bbs active", "one of two is active")
	require.Regexp(t, "checks failed\n$", got.errors)
}

func TestDoctorWithoutServers(t *testing.T) {
	t.Parallel()
	p := whole(t)
	p.env["BBS_URL"], p.env["LOCKET_API_LOCATION"] = "127.0.0.1:1", ""
	got := p.run("doctor", "--timeout", "1")
	require.Equal(t, ExitFound, got.exit)
	result := checks(t, got)
	require.Equal(t, "failed: connection refused", result["bbs"])
	require.Equal(t, "failed: 0 of 1 are active, not 1", result["bbs active"])
	require.Equal(t, "warning: not asked: there is no locketAPILocation", result["locket"])
}

func TestPing(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	standby := p.serve(mtls.Identity{Role: mtls.RoleBBS}, "bbs.v1.not", (&fakeBBS{}).register)
	p.env["BBS_URL"] += "," + standby
	got := p.run("ping", "-o", "table", "--no-headers")
	require.Equal(t, ExitOK, got.exit, got.errors)
	require.Regexp(t, `bbs +127.0.0.1:\d+ +active`, got.out)
	require.Regexp(t, `bbs +127.0.0.1:\d+ +standby`, got.out)
	require.Regexp(t, `locket +127.0.0.1:\d+ +serving`, got.out)
	p.env["AUCTIONEER_LOCATION"] = "127.0.0.1:1"
	got = p.run("ping", "-o", "table")
	require.Equal(t, ExitPartial, got.exit)
	require.Regexp(t, `auctioneer +127.0.0.1:1 +unreachable +connection refused`, got.out)
	p.env["BBS_URL"], p.env["LOCKET_API_LOCATION"] = "127.0.0.1:1", "127.0.0.1:1"
	require.Equal(t, ExitUnreachable, p.run("ping", "--timeout", "1").exit)
	delete(p.env, "BBS_URL")
	delete(p.env, "LOCKET_API_LOCATION")
	delete(p.env, "AUCTIONEER_LOCATION")
	require.Equal(t, ExitUsage, p.run("ping").exit)
}

func TestEvacuationProgress(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	rep, looks := workingRep("cell-1"), 0
	lrp := func(index int32) *repv1.LRP {
		return &repv1.LRP{Key: &workloadv1.ActualLRPKey{ProcessGuid: "p", Index: index}}
	}
	rep.state = func(context.Context) (*repv1.StateResponse, error) {
		looks++
		switch looks {
		case 1:
			return &repv1.StateResponse{CellId: "cell-1", Evacuating: true, Lrps: []*repv1.LRP{lrp(0), lrp(1)}, Evacuation: &repv1.EvacuationProgress{
				ReplacingLrps: 2, Deadline: timestamppb.New(time.Now().Add(5*time.Minute + time.Second/2)),
			}}, nil
		case 2:
			return &repv1.StateResponse{CellId: "cell-1", Evacuating: true, Lrps: []*repv1.LRP{lrp(1)}, Tasks: []*repv1.Task{{}}, Evacuation: &repv1.EvacuationProgress{StoppingLrps: 1}}, nil
		default:
			return &repv1.StateResponse{CellId: "cell-1"}, nil
		}
	}
	p.addCell("cell-1", rep)
	waiting := anInstance(1)
	waiting.State, waiting.PlacementError = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_UNCLAIMED, "insufficient resources: memory"
	p.bbs.actual = []*workloadv1.ActualLRP{waiting}
	got := p.run("evacuation", "cell-1", "--watch", "--interval", "500ms", "-o", "table")
	require.Equal(t, ExitOK, got.exit, got.errors)
	lines := got.lines()
	require.Regexp(t, `^cell-1: 2 instances and 0 tasks left, 2 serve until replaced; deadline in \dm\d+s$`, lines[0])
	require.Equal(t, []string{
		"  1 replacement without a place: insufficient resources: memory",
		"cell-1: 1 instance and 1 task left, 1 stopping", "  1 replacement without a place: insufficient resources: memory",
		"cell-1: not evacuating; 0 instances and 0 tasks on it",
	}, untimed(lines[1:]))
}

// untimed leaves out how fast it went, which depends on the machine.
func untimed(lines []string) (out []string) {
	for _, line := range lines {
		text, _, _ := strings.Cut(line, "; 0.")
		out = append(out, text)
	}
	return out
}

// TestExplainIsAskedOfTheAuctioneer under the name that other schedulers' users look for.
func TestExplainIsAskedOfTheAuctioneer(t *testing.T) {
	t.Parallel()
	p := whole(t)
	p.auction.explain = func(*auctioneerv1.ExplainPlacementRequest) (*auctioneerv1.ExplainPlacementResponse, error) {
		return nil, errors.New("asked")
	}
	require.Equal(t, ExitAPI, p.run("explain-placement", "p", "0").exit)
}
