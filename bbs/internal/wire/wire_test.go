package wire

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"diego.internal/bbs/internal/lrp"
	"diego.internal/bbs/internal/task"
	"diego.internal/bbs/internal/workload"
	workloadv1 "diego.internal/proto/workload/v1"
)

func actual() *lrp.Actual {
	return &lrp.Actual{
		Key:         lrp.Key{ProcessGUID: "app", Index: 7},
		InstanceKey: lrp.InstanceKey{InstanceGUID: "instance", CellID: "cell"},
		Domain:      "cf-apps", Zone: "z1", DefinitionID: "def",
		NetInfo: &lrp.NetInfo{
			Address: "10.0.0.1", InstanceAddress: "10.255.0.1", InstanceIPv6Address: "fd00::1", Preferred: lrp.PreferHost,
			Ports: []lrp.PortMapping{{ContainerPort: 8080, HostPort: 61000, ContainerTLSProxyPort: 61001, HostTLSProxyPort: 61002}, {ContainerPort: 1}},
		},
		InternalRoutes: []string{"a.internal", "b.internal"},
		MetricTags:     []lrp.TagValue{{Name: "a", Value: "1"}, {Name: "b", Value: ""}},
		CrashReason:    "exited", PlacementError: "no room",
		Tag:   lrp.ModificationTag{Epoch: "epoch", Index: 9},
		Since: 1700000000123456789, Revision: math.MaxUint64, CrashCount: 3,
		Presence: lrp.Suspect, State: lrp.Running, Routable: true,
	}
}

func desired() *lrp.Desired {
	return &lrp.Desired{
		ProcessGUID: "app", Domain: "cf-apps", LogGUID: "log", Annotation: "note",
		Routes:     []lrp.Route{{Router: "cf-router", Value: []byte("[]")}, {Router: SecretRouter, Value: []byte(`{"k":1}`)}},
		MetricTags: []lrp.MetricTag{{Name: "a", Dynamic: lrp.DynamicIndex}, {Name: "b", Dynamic: lrp.DynamicInstanceGUID}, {Name: "c", Static: "s"}},
		Resources:  workload.Resources{MemoryMB: 1, DiskMB: 2, MaxPids: 3},
		Placement: workload.Placement{
			RootFS: "preloaded:x", VolumeDrivers: []string{"nfs"}, PlacementTags: []string{"t"}, Constraint: &workload.Constraint{Require: []string{"r"}},
		},
		CrashPolicy:        &lrp.CrashPolicy{ImmediateRestarts: new(uint32(1)), MaxSecondsBetweenRestarts: new(uint32(40)), MaxRestartAttempts: new(uint32(0))},
		ActiveDefinitionID: "active", HealthyDefinitionID: "healthy", PreviousDefinitionID: "previous",
		Tag: lrp.ModificationTag{Epoch: "e", Index: 2}, CreatedAt: 1, UpdatedAt: 2, Revision: 3, Instances: 4, UpdateStrategy: lrp.Recreate,
	}
}

func taskOf() *task.Task {
	return &task.Task{
		GUID: "task", Domain: "cf-tasks", CellID: "cell", InstanceGUID: "run", CreatedAt: 1, UpdatedAt: 2, FirstCompletedAt: 3,
		FailureReason: "why", Result: "result", RejectionReason: "full", RejectionCount: 2,
		Resources: workload.Resources{MemoryMB: 1, DiskMB: 2, MaxPids: 3}, Placement: workload.Placement{RootFS: "preloaded:x"},
		Revision: 5, State: task.Resolving, Failed: true,
	}
}

// requireFilled fails unless every field of a struct that a test calls complete is set, so that a new
// field cannot be forgotten in a conversion.
func requireFilled(t *testing.T, v any, except ...string) {
	t.Helper()
	value := reflect.Indirect(reflect.ValueOf(v))
	for i := range value.NumField() {
		field := value.Type().Field(i)
		skip := false
		for _, name := range except {
			skip = skip || name == field.Name
		}
		require.True(t, skip || !value.Field(i).IsZero(), "%T.%s is not set by the test", v, field.Name)
	}
}

// requireFilledMessage is requireFilled for what was made of it.
func requireFilledMessage(t *testing.T, m proto.Message, except ...string) {
	t.Helper()
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		skip := false
		for _, name := range except {
			skip = skip || protoreflect.Name(name) == fd.Name()
		}
		require.True(t, skip || m.ProtoReflect().Has(fd), "%s.%s is not filled by the conversion", m.ProtoReflect().Descriptor().Name(), fd.Name())
	}
}

func TestActualRoundTrip(t *testing.T) {
	t.Parallel()
	a := actual()
	requireFilled(t, a, "StopRequested") // which is not for readers
	m := Actual(a)
	requireFilledMessage(t, m)
	require.Empty(t, cmp.Diff(a, ActualFrom(m)))
}

func TestAppendActualIsTheEncodingOfActual(t *testing.T) {
	t.Parallel()
	long := actual()
	long.ProcessGUID, long.InternalRoutes = strings.Repeat("g", 300), []string{"", strings.Repeat("r", 200)}
	long.MetricTags = []lrp.TagValue{{Name: strings.Repeat("n", 200), Value: strings.Repeat("v", 20000)}}
	for range 50 {
		long.NetInfo.Ports = append(long.NetInfo.Ports, lrp.PortMapping{ContainerPort: 65535, HostPort: 65535})
	}
	bare := &lrp.Actual{Key: lrp.Key{ProcessGUID: "app"}, Domain: "d", State: lrp.Unclaimed, Since: -1}
	for name, a := range map[string]*lrp.Actual{
		"all fields": actual(), "long fields": long, "few fields": bare, "no field": {},
		"empty net info": {NetInfo: &lrp.NetInfo{}}, "a second before the epoch": {Since: -1_000_000_001},
	} {
		var m workloadv1.ActualLRP
		prefix := []byte("before")
		require.NoError(t, proto.Unmarshal(AppendActual(prefix, a)[len(prefix):], &m), name)
		require.Empty(t, cmp.Diff(Actual(a), &m, protocmp.Transform()), name)
	}
}

func TestReportedRoundTrip(t *testing.T) {
	t.Parallel()
	a := actual()
	got := *a
	got.NetInfo, got.InternalRoutes, got.MetricTags = nil, nil, nil
	require.True(t, Reported(a))
	require.NoError(t, DecodeReported(&got, AppendReported(nil, a)))
	require.Empty(t, cmp.Diff(a, &got))
	require.False(t, Reported(&lrp.Actual{}))
	require.Error(t, DecodeReported(&got, []byte{0xff}))
}

func TestDesiredRoundTrip(t *testing.T) {
	t.Parallel()
	d := desired()
	requireFilled(t, d, "InternalHostnames", "Encoded") // which follow from the rest
	m := Desired(d, true)
	requireFilledMessage(t, m, "definition")
	fromDefinition := cmpopts.IgnoreFields(lrp.Desired{}, "LogGUID", "Resources", "Placement")
	require.Empty(t, cmp.Diff(d, DesiredFrom(m), fromDefinition))

	require.NotContains(t, Desired(d, false).GetRoutes(), SecretRouter)
	require.Contains(t, Desired(d, false).GetRoutes(), "cf-router")
}

func TestDesiredFromTakesTheSchedulingPartOfTheDefinition(t *testing.T) {
	t.Parallel()
	got := DesiredFrom(&workloadv1.DesiredLRP{Definition: &workloadv1.LRPDefinition{Container: &workloadv1.ContainerSpec{
		RootFs: "preloaded:x", Resources: &workloadv1.Resources{MemoryMb: 1, DiskMb: 2, MaxPids: 3},
		Log: &workloadv1.LogConfig{Guid: "log"}, PlacementTags: []string{"t"},
		VolumeMounts: []*workloadv1.VolumeMount{{Driver: "nfs"}, {Driver: "smb"}, {Driver: "nfs"}},
		Constraint:   &workloadv1.Constraint{Require: []string{"r"}},
	}}})
	require.Equal(t, workload.Resources{MemoryMB: 1, DiskMB: 2, MaxPids: 3}, got.Resources)
	require.Equal(t, "log", got.LogGUID)
	require.Equal(t, workload.Placement{
		RootFS: "preloaded:x", VolumeDrivers: []string{"nfs", "smb"}, PlacementTags: []string{"t"}, Constraint: &workload.Constraint{Require: []string{"r"}},
	}, got.Placement)
}

func TestProjectionsHoldNoSecretRoute(t *testing.T) {
	t.Parallel()
	d := desired()
	info, routing := SchedulingInfo(d), RoutingInfo(d)
	requireFilledMessage(t, info)
	requireFilledMessage(t, routing)
	require.NotContains(t, info.GetRoutes(), SecretRouter)
	require.NotContains(t, routing.GetRoutes(), SecretRouter)
	require.Empty(t, cmp.Diff(d.Placement, PlacementFrom(info.GetPlacement())))
	require.Equal(t, d.Resources, ResourcesFrom(info.GetResources()))
}

func TestAppendedInfosAreTheEncodingsOfTheMessages(t *testing.T) {
	t.Parallel()
	long := desired()
	long.Routes[0].Value = []byte(strings.Repeat("r", 40000))
	long.MetricTags = append(long.MetricTags, lrp.MetricTag{Name: "long", Static: strings.Repeat("x", 300)}, lrp.MetricTag{Name: "empty"})
	long.Placement.PlacementTags = []string{strings.Repeat("t", 200), ""}
	for name, d := range map[string]*lrp.Desired{"all fields": desired(), "no field": {}, "long fields": long} {
		var info workloadv1.SchedulingInfo
		encoded := AppendSchedulingInfo([]byte{}, d)
		require.NoError(t, proto.Unmarshal(encoded, &info), name)
		require.Empty(t, cmp.Diff(SchedulingInfo(d), &info, protocmp.Transform()), name)
		var routing workloadv1.RoutingInfo
		prefix := []byte("before")
		appended := AppendRoutingInfo(prefix, d)
		require.NoError(t, proto.Unmarshal(appended[len(prefix):], &routing), name)
		require.Empty(t, cmp.Diff(RoutingInfo(d), &routing, protocmp.Transform()), name)
	}
}

func TestTaskRoundTrip(t *testing.T) {
	t.Parallel()
	row := taskOf()
	requireFilled(t, row, "DefinitionDigest", "HasCallback")
	m := Task(row)
	requireFilledMessage(t, m, "definition")
	require.Empty(t, cmp.Diff(row, TaskFrom(m)))
}

func TestStatesHaveTheirCounterparts(t *testing.T) {
	t.Parallel()
	for s := lrp.Unclaimed; s <= lrp.Crashed; s++ {
		require.Equal(t, s, ActualStateFrom(ActualState(s)))
		require.Contains(t, ActualState(s).String(), s.String())
	}
	for p := lrp.Ordinary; p <= lrp.Suspect; p++ {
		require.Equal(t, p, PresenceFrom(Presence(p)))
		require.Contains(t, Presence(p).String(), p.String())
	}
	for s := task.Pending; s <= task.Resolving; s++ {
		require.Equal(t, s, TaskStateFrom(TaskState(s)))
	}
}

func TestDomainFreshness(t *testing.T) {
	t.Parallel()
	require.Nil(t, Domain(&lrp.Domain{Name: "d", FreshUntil: lrp.FreshForever}).GetFreshUntil())
	require.Equal(t, int64(5), Nanoseconds(Domain(&lrp.Domain{Name: "d", FreshUntil: 5}).GetFreshUntil()))
}

func FuzzDecodeActual(f *testing.F) {
	f.Add(AppendActual(nil, actual()))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := DecodeActual(data)
		if err != nil {
			return
		}
		again, err := DecodeActual(AppendActual(nil, a))
		if err != nil || !reflect.DeepEqual(a, again) {
			t.Fatal(fmt.Sprint("what was decoded does not survive: ", cmp.Diff(a, again)))
		}
	})
}
