package translate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"diego.internal/executor"
	repv1 "diego.internal/proto/rep/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

func aRunningContainer() executor.Container {
	return executor.Container{
		GUID: "i", State: executor.StateRunning, Routable: true, Tags: map[string]string{TagDefinitionID: "d"},
		Net: executor.NetInfo{ExternalIP: "10.0.0.1", InternalIP: "10.255.0.1", Ports: []executor.PortMapping{{ContainerPort: 8080, HostPort: 61001}}},
		RunInfo: &executor.RunInfo{
			LogConfig: executor.LogConfig{Tags: map[string]string{"source_id": "s"}}, InternalRoutes: []executor.InternalRoute{{Hostname: "a.internal"}},
		},
	}
}

// recorded is what the BBS holds after it was told.
func recorded(r Running) *workloadv1.ActualLRP {
	return &workloadv1.ActualLRP{
		State: workloadv1.ActualLRPState_ACTUAL_LRP_STATE_RUNNING, Presence: workloadv1.Presence_PRESENCE_ORDINARY,
		NetInfo: r.NetInfo, InternalRoutes: r.InternalRoutes, MetricTags: r.MetricTags, Routable: r.Routable, AvailabilityZone: r.Zone,
	}
}

// TestRunningMatches changes one thing at a time of a record that says it all.
func TestRunningMatches(t *testing.T) {
	t.Parallel()
	report := RunningOf(aRunningContainer(), "z1")
	require.Equal(t, "d", report.DefinitionID)
	require.True(t, report.Matches(recorded(report)))
	for name, change := range map[string]func(*workloadv1.ActualLRP){
		"state":            func(l *workloadv1.ActualLRP) { l.State = workloadv1.ActualLRPState_ACTUAL_LRP_STATE_CLAIMED },
		"presence":         func(l *workloadv1.ActualLRP) { l.Presence = workloadv1.Presence_PRESENCE_EVACUATING },
		"routable":         func(l *workloadv1.ActualLRP) { l.Routable = false },
		"zone":             func(l *workloadv1.ActualLRP) { l.AvailabilityZone = "z2" },
		"routes":           func(l *workloadv1.ActualLRP) { l.InternalRoutes = nil },
		"tags":             func(l *workloadv1.ActualLRP) { l.MetricTags["x"] = "y" },
		"address":          func(l *workloadv1.ActualLRP) { l.NetInfo.Address = "" },
		"instance address": func(l *workloadv1.ActualLRP) { l.NetInfo.InstanceAddress = "" },
		"ipv6 address":     func(l *workloadv1.ActualLRP) { l.NetInfo.InstanceIpv6Address = "::1" },
		"preferred address": func(l *workloadv1.ActualLRP) {
			l.NetInfo.PreferredAddress = workloadv1.PreferredAddress_PREFERRED_ADDRESS_INSTANCE
		},
		"ports":          func(l *workloadv1.ActualLRP) { l.NetInfo.Ports = nil },
		"container port": func(l *workloadv1.ActualLRP) { l.NetInfo.Ports[0].ContainerPort++ },
		"host port":      func(l *workloadv1.ActualLRP) { l.NetInfo.Ports[0].HostPort++ },
		"container tls":  func(l *workloadv1.ActualLRP) { l.NetInfo.Ports[0].ContainerTlsProxyPort++ },
		"host tls":       func(l *workloadv1.ActualLRP) { l.NetInfo.Ports[0].HostTlsProxyPort++ },
	} {
		record := recorded(RunningOf(aRunningContainer(), "z1"))
		change(record)
		require.False(t, report.Matches(record), name)
	}
	require.False(t, report.Matches(nil))
	require.False(t, report.MatchesEvacuating(recorded(report)))
	evacuating := recorded(report)
	evacuating.Presence = workloadv1.Presence_PRESENCE_EVACUATING
	require.True(t, report.MatchesEvacuating(evacuating))
	evacuating.Routable = !evacuating.GetRoutable()
	require.False(t, report.MatchesEvacuating(evacuating))
	suspect := recorded(report)
	suspect.Presence = workloadv1.Presence_PRESENCE_SUSPECT
	require.True(t, report.Matches(suspect), "a report changes no suspect record")
}

func TestNetInfo(t *testing.T) {
	t.Parallel()
	got := netInfo(executor.NetInfo{
		ExternalIP: "10.0.0.1", InternalIP: "10.255.0.1", PreferInternal: true,
		Ports: []executor.PortMapping{{ContainerPort: 8080, HostPort: 1, ContainerTLSPort: 61001, HostTLSPort: 2}, {ContainerPort: 8080, HostPort: 1, ContainerTLSPort: 61443}},
	})
	want := &workloadv1.ActualLRPNetInfo{
		Address: "10.0.0.1", InstanceAddress: "10.255.0.1", PreferredAddress: workloadv1.PreferredAddress_PREFERRED_ADDRESS_INSTANCE,
		Ports: []*workloadv1.PortMapping{
			{ContainerPort: 8080, HostPort: 1, ContainerTlsProxyPort: 61001, HostTlsProxyPort: 2}, {ContainerPort: 8080, HostPort: 1, ContainerTlsProxyPort: 61443},
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("net info (-want +got):\n%s", diff)
	}
	require.Equal(t, workloadv1.PreferredAddress_PREFERRED_ADDRESS_HOST, netInfo(executor.NetInfo{}).GetPreferredAddress())
}

func TestCrashReason(t *testing.T) {
	t.Parallel()
	sourced := func(source string) executor.Action {
		return executor.Action{Run: &executor.RunAction{LogSource: source}}
	}
	for name, test := range map[string]struct {
		result executor.Result
		info   *executor.RunInfo
		want   string
	}{
		"a failure keeps its words": {
			executor.Result{Failed: true, FailureReason: "APP: Exited with status 3"}, &executor.RunInfo{}, "APP: Exited with status 3",
		},
		"the action's own source": {
			executor.Result{}, &executor.RunInfo{Action: new(sourced("WEB")), LogConfig: executor.LogConfig{SourceName: "APP"}}, "WEB: Exited with status 0",
		},
		"the container's source": {
			executor.Result{}, &executor.RunInfo{Action: new(sourced("")), LogConfig: executor.LogConfig{SourceName: "APP"}}, "APP: Exited with status 0",
		},
		"no source at all": {executor.Result{}, &executor.RunInfo{Action: new(sourced(""))}, "LOG: Exited with status 0"},
		"the source of the last of several": {
			executor.Result{}, &executor.RunInfo{Action: &executor.Action{Timeout: &executor.TimeoutAction{Action: executor.Action{Serial: &executor.SerialAction{
				Actions: []executor.Action{sourced("FIRST"), {Try: &executor.TryAction{Action: sourced("LAST")}}}, LogSource: "OUTER",
			}}}}}, "LAST: Exited with status 0",
		},
		"nothing was to be run": {executor.Result{}, nil, "LOG: Exited with status 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, CrashReason(executor.Container{Result: test.result, RunInfo: test.info}))
		})
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	for state, want := range map[executor.State]repv1.ContainerState{
		executor.StateReserved: repv1.ContainerState_CONTAINER_STATE_RESERVED, executor.StateInitializing: repv1.ContainerState_CONTAINER_STATE_INITIALIZING,
		executor.StateCreated: repv1.ContainerState_CONTAINER_STATE_CREATED, executor.StateRunning: repv1.ContainerState_CONTAINER_STATE_RUNNING,
		executor.StateCompleted: repv1.ContainerState_CONTAINER_STATE_SHUTDOWN, "other": repv1.ContainerState_CONTAINER_STATE_UNSPECIFIED,
	} {
		require.Equal(t, want, State(executor.Container{State: state}))
	}
	require.Equal(t, repv1.ContainerState_CONTAINER_STATE_CRASHED, State(executor.Container{State: executor.StateCompleted, Result: executor.Result{Failed: true}}))
}

// TestTagsRoundTrip reads back from the tags of a container whose it is and under what it was placed.
func TestTagsRoundTrip(t *testing.T) {
	t.Parallel()
	text := rapid.StringMatching(`[a-zA-Z0-9 <>"é_-]{0,12}`)
	rapid.Check(t, func(t *rapid.T) {
		key := &workloadv1.ActualLRPKey{ProcessGuid: text.Draw(t, "process"), Index: rapid.Int32Min(0).Draw(t, "index"), Domain: text.Draw(t, "domain")}
		placement := &workloadv1.PlacementConstraint{
			RootFs: text.Draw(t, "rootfs"), PlacementTags: rapid.SliceOf(text).Draw(t, "tags"), VolumeDrivers: rapid.SliceOf(text).Draw(t, "drivers"),
			Constraint: &workloadv1.Constraint{Require: rapid.SliceOf(text).Draw(t, "require")},
		}
		tags := LRPTags(key, "instance", "definition", placement)
		got, instance, err := LRPOf(executor.Container{Tags: tags}, "cell")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(key, got, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
		if instance.GetInstanceGuid() != "instance" || instance.GetCellId() != "cell" || tags[TagDefinitionID] != "definition" {
			t.Fatalf("instance %v, tags %v", instance, tags)
		}
		for _, tags := range []map[string]string{tags, TaskTags("t", "d", placement)} {
			if diff := cmp.Diff(placement, Placement(executor.Container{Tags: tags}), protocmp.Transform()); diff != "" {
				t.Fatal(diff)
			}
		}
		if again := LRPTags(key, "instance", "definition", placement); !cmp.Equal(again, tags) {
			t.Fatal("tags are compared, so they must be worded the same way each time")
		}
	})
}

func TestPlacementOfOtherReleases(t *testing.T) {
	t.Parallel()
	require.Nil(t, Placement(executor.Container{}))
	require.Nil(t, Placement(executor.Container{Tags: map[string]string{TagPlacement: "{"}}))
	require.Equal(t, "r", Placement(executor.Container{Tags: map[string]string{TagPlacement: `{"rootFs":"r","later":1}`}}).GetRootFs())
	require.Empty(t, LRPTags(&workloadv1.ActualLRPKey{}, "", "", nil)[TagPlacement])
	_, _, err := LRPOf(executor.Container{GUID: "g", Tags: map[string]string{TagProcessIndex: "2147483648"}}, "cell")
	require.ErrorContains(t, err, `"g"`)
}

func TestResources(t *testing.T) {
	t.Parallel()
	want := &workloadv1.Resources{MemoryMb: 1, DiskMb: 2, MaxPids: 3}
	require.Empty(t, cmp.Diff(want, ResourcesMessage(Resources(want)), protocmp.Transform()))
	got := Capacity(executor.Resources{MemoryMB: -5, DiskMB: 1 << 40, Containers: 7})
	require.Empty(t, cmp.Diff(&workloadv1.CellCapacity{MemoryMb: 0, DiskMb: 1<<31 - 1, Containers: 7}, got, protocmp.Transform()),
		"a cell that was made smaller than what it holds has nothing left, not less")
}

func TestMetricTags(t *testing.T) {
	t.Parallel()
	tags := map[string]*workloadv1.MetricTagValue{
		"unknown": {Value: &workloadv1.MetricTagValue_Dynamic{}}, "none": {},
		"index": {Value: &workloadv1.MetricTagValue_Dynamic{Dynamic: workloadv1.DynamicTag_DYNAMIC_TAG_INDEX}},
	}
	require.Equal(t, map[string]string{"index": "0"}, MetricTags(tags, 0, "i"))
	require.Empty(t, MetricTags(tags, -1, "i"))
}
