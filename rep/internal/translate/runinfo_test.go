package translate

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	"diego.internal/executor"
	workloadv1 "diego.internal/proto/workload/v1"
)

func ms(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }

// run is an action with a path by which it is known again.
func run(path string) *workloadv1.Action {
	return &workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{
		Path: path, User: "vcap", VolumeMountedFiles: []*workloadv1.File{{Path: "service/" + path, Content: path}},
	}}}
}

func ran(path string) executor.Action {
	return executor.Action{Run: &executor.RunAction{
		Path: path, User: "vcap", Env: []executor.EnvVar{}, VolumeMountedFiles: []executor.File{{Path: "service/" + path, Content: path}},
	}}
}

// fullContainer has every field.
func fullContainer() *workloadv1.ContainerSpec {
	limit := int64(2048)
	return &workloadv1.ContainerSpec{
		RootFs: "preloaded:cflinuxfs4", ImageCredentials: &workloadv1.ImageCredentials{Username: "u", Password: "p"},
		Env:       []*workloadv1.EnvironmentVariable{{Name: "LANG", Value: "C"}},
		Resources: &workloadv1.Resources{MemoryMb: 1, DiskMb: 2, MaxPids: 3}, CpuWeight: 50, Privileged: true,
		Log:                &workloadv1.LogConfig{Guid: "log-guid", Source: "APP", RateLimitBytesPerSecond: &limit},
		LegacyDownloadUser: "root", TrustedSystemCertificatesPath: "/certs",
		NetworkProperties:     map[string]string{"app_id": "a"},
		CertificateProperties: &workloadv1.CertificateProperties{OrganizationalUnit: []string{"app:a"}},
		EgressRules: []*workloadv1.SecurityGroupRule{
			{Protocol: workloadv1.Protocol_PROTOCOL_TCP, Destinations: []string{"10.0.0.0/8"}, Ports: []uint32{80}, Log: true},
			{Protocol: workloadv1.Protocol_PROTOCOL_UDP, Destinations: []string{"1.1.1.1"}, PortRange: &workloadv1.PortRange{Start: 1, End: 2}},
			{Protocol: workloadv1.Protocol_PROTOCOL_ICMP, Destinations: []string{"::/0"}, IcmpInfo: &workloadv1.ICMPInfo{Type: -1, Code: 3}},
			{Protocol: workloadv1.Protocol_PROTOCOL_ICMPV6, Destinations: []string{"::/0"}},
			{Protocol: workloadv1.Protocol_PROTOCOL_ALL, Destinations: []string{"::/0"}},
		},
		CachedDependencies: []*workloadv1.CachedDependency{{
			Name: "n", From: "https://a", To: "/a", CacheKey: "k", LogSource: "S",
			Checksum: &workloadv1.Checksum{Algorithm: workloadv1.ChecksumAlgorithm_CHECKSUM_ALGORITHM_SHA1, Value: "00"},
		}},
		ImageLayers: []*workloadv1.ImageLayer{
			{
				Name: "shared", Url: "https://b", DestinationPath: "/b", LayerType: workloadv1.ImageLayer_LAYER_TYPE_SHARED,
				DigestAlgorithm: workloadv1.ImageLayer_DIGEST_ALGORITHM_SHA256, DigestValue: "11",
			},
			{Name: "keyless", Url: "https://c", DestinationPath: "/c", LayerType: workloadv1.ImageLayer_LAYER_TYPE_SHARED},
			{
				Name: "own", Url: "https://d", DestinationPath: "/d", LayerType: workloadv1.ImageLayer_LAYER_TYPE_EXCLUSIVE,
				DigestAlgorithm: workloadv1.ImageLayer_DIGEST_ALGORITHM_SHA256, DigestValue: "22",
			},
		},
		VolumeMounts: []*workloadv1.VolumeMount{
			{Driver: "nfs", ContainerDir: "/data", Mode: workloadv1.VolumeMount_MOUNT_MODE_READ_WRITE, Device: &workloadv1.VolumeMount_Shared{Shared: &workloadv1.SharedDevice{VolumeId: "v1", MountConfig: `{"a":1}`}}},
			{Driver: "smb", ContainerDir: "/more", Mode: workloadv1.VolumeMount_MOUNT_MODE_READ_ONLY, Device: &workloadv1.VolumeMount_Shared{Shared: &workloadv1.SharedDevice{VolumeId: "v2"}}},
		},
		VolumeMountedFiles: []*workloadv1.File{{Path: "service/file", Content: "text"}},
	}
}

func fullLRP() *workloadv1.DesiredLRP {
	return &workloadv1.DesiredLRP{
		ProcessGuid: "p", Domain: "apps", Routes: map[string][]byte{
			"internal-router": []byte(`[{"hostname":"a.internal"},{"hostname":"b.internal"}]`), "cf-router": []byte(`nothing of ours`),
		},
		MetricTags: map[string]*workloadv1.MetricTagValue{
			"static":   {Value: &workloadv1.MetricTagValue_Static{Static: "s"}},
			"index":    {Value: &workloadv1.MetricTagValue_Dynamic{Dynamic: workloadv1.DynamicTag_DYNAMIC_TAG_INDEX}},
			"instance": {Value: &workloadv1.MetricTagValue_Dynamic{Dynamic: workloadv1.DynamicTag_DYNAMIC_TAG_INSTANCE_GUID}},
		},
		Definition: &workloadv1.LRPDefinition{
			DefinitionId: "d", Container: fullContainer(), Setup: run("setup"), Action: run("main"), Monitor: run("monitor"),
			CheckDefinition: &workloadv1.CheckDefinition{
				Checks:          []*workloadv1.Check{{Check: &workloadv1.Check_TcpCheck{TcpCheck: &workloadv1.TCPCheck{Port: 1, ConnectTimeout: ms(2), Interval: ms(3)}}}},
				ReadinessChecks: []*workloadv1.Check{{Check: &workloadv1.Check_HttpCheck{HttpCheck: &workloadv1.HTTPCheck{Port: 4, Path: "/", RequestTimeout: ms(5), Interval: ms(6)}}}},
				LogSource:       "HEALTH",
			},
			StartTimeout: ms(7), GracefulShutdownInterval: ms(12), Ports: []uint32{8080, 2222},
			Sidecars:     []*workloadv1.Sidecar{{Action: run("sidecar"), MemoryMb: 8, DiskMb: 9}},
			HealthTiming: &workloadv1.HealthTiming{MonitorInitialDelay: ms(10), UnhealthyCheckInterval: ms(11), HealthyCheckInterval: ms(0)},
		},
	}
}

func fullRunInfo() executor.RunInfo {
	delay, unhealthy, healthy, grace := 10*time.Millisecond, 11*time.Millisecond, time.Duration(0), 12*time.Millisecond
	setup, main, monitor := ran("setup"), ran("main"), ran("monitor")
	layers := executor.Action{Parallel: &executor.ParallelAction{Actions: []executor.Action{{Download: &executor.DownloadAction{
		Artifact: "own", From: "https://d", To: "/d", User: "root", ChecksumAlgorithm: "sha256", ChecksumValue: "22",
	}}}}}
	return executor.RunInfo{
		RootFS: "preloaded:cflinuxfs4", ImageUsername: "u", ImagePassword: "p", Privileged: true, CPUWeight: 50, Ports: []uint32{8080, 2222}, Proxied: true,
		Env: []executor.EnvVar{
			{Name: "INSTANCE_GUID", Value: "i"},
			{Name: "INSTANCE_INDEX", Value: "2"},
			{Name: "CF_INSTANCE_GUID", Value: "i"},
			{Name: "CF_INSTANCE_INDEX", Value: "2"},
			{Name: "LANG", Value: "C"},
		},
		LogConfig:    executor.LogConfig{GUID: "log-guid", Index: 2, SourceName: "APP", Tags: map[string]string{"static": "s", "index": "2", "instance": "i"}},
		LogRateLimit: 2048,
		Setup:        &executor.Action{Serial: &executor.SerialAction{Actions: []executor.Action{layers, setup}}},
		Action:       &main, Monitor: &monitor,
		Sidecars: []executor.Sidecar{{Action: ran("sidecar"), MemoryMB: 8, DiskMB: 9}},
		CheckDefinition: &executor.CheckDefinition{
			Checks:          []executor.Check{{TCP: &executor.TCPCheck{Port: 1, ConnectTimeout: 2 * time.Millisecond, Interval: 3 * time.Millisecond}}},
			ReadinessChecks: []executor.Check{{HTTP: &executor.HTTPCheck{Port: 4, Path: "/", RequestTimeout: 5 * time.Millisecond, Interval: 6 * time.Millisecond}}},
			LogSource:       "HEALTH",
		},
		StartTimeout: 7 * time.Millisecond,
		GraceTime:    &grace,
		HealthTiming: executor.HealthTiming{InitialDelay: &delay, UnhealthyInterval: &unhealthy, HealthyInterval: &healthy},
		EgressRules: []executor.EgressRule{
			{Protocol: "tcp", Destinations: []string{"10.0.0.0/8"}, Ports: []uint32{80}, Log: true},
			{Protocol: "udp", Destinations: []string{"1.1.1.1"}, PortRange: &executor.PortRange{Start: 1, End: 2}},
			{Protocol: "icmp", Destinations: []string{"::/0"}, ICMP: &executor.ICMPInfo{Type: -1, Code: 3}},
			{Protocol: "icmpv6", Destinations: []string{"::/0"}},
			{Protocol: "all", Destinations: []string{"::/0"}},
		},
		NetworkProperties:     map[string]string{"app_id": "a"},
		CertificateProperties: executor.CertificateProperties{OrganizationalUnit: []string{"app:a"}},
		CachedDependencies: []executor.CachedDependency{
			{Name: "n", From: "https://a", To: "/a", CacheKey: "k", LogSource: "S", ChecksumAlgorithm: "sha1", ChecksumValue: "00"},
			{Name: "shared", From: "https://b", To: "/b", CacheKey: "sha256:11", ChecksumAlgorithm: "sha256", ChecksumValue: "11"},
			{Name: "keyless", From: "https://c", To: "/c", CacheKey: "https://c"},
		},
		VolumeMounts: []executor.VolumeMount{
			{Driver: "nfs", VolumeID: "v1", Config: `{"a":1}`, Path: "/data"}, {Driver: "smb", VolumeID: "v2", Path: "/more", ReadOnly: true},
		},
		VolumeMountedFiles:            []executor.File{{Path: "service/file", Content: "text"}},
		TrustedSystemCertificatesPath: "/certs",
		InternalRoutes:                []executor.InternalRoute{{Hostname: "a.internal"}, {Hostname: "b.internal"}},
	}
}

// TestRunInfoForLRP also fails when the executor learns of something that nobody translates.
func TestRunInfoForLRP(t *testing.T) {
	t.Parallel()
	got, err := RunInfoForLRP(fullLRP(), &workloadv1.ActualLRPKey{ProcessGuid: "p", Index: 2}, "i")
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(fullRunInfo(), got))
	require.NoError(t, got.Validate(), "the executor takes it")
	value := reflect.ValueOf(got)
	for field, content := range value.Fields() {
		require.False(t, content.IsZero(), "nothing fills RunInfo.%s", field.Name)
	}
}

func TestRunInfoForLRPOfLittle(t *testing.T) {
	t.Parallel()
	lrp := &workloadv1.DesiredLRP{Definition: &workloadv1.LRPDefinition{Container: &workloadv1.ContainerSpec{RootFs: "r"}, Action: run("main")}}
	got, err := RunInfoForLRP(lrp, &workloadv1.ActualLRPKey{ProcessGuid: "p"}, "i")
	require.NoError(t, err)
	require.Equal(t, int64(-1), got.LogRateLimit, "no limit is unlimited, and not nothing at all")
	require.Equal(t, uint32(1), got.CPUWeight, "an lrp has some weight")
	require.Nil(t, got.Setup)
	require.Nil(t, got.Monitor)
	require.Nil(t, got.CheckDefinition)
	require.Nil(t, got.HealthTiming.HealthyInterval)
	require.Nil(t, got.InternalRoutes)
	require.NoError(t, got.Validate())
}

func TestRunInfoForTask(t *testing.T) {
	t.Parallel()
	task := &workloadv1.Task{TaskGuid: "t", InstanceGuid: "run", Definition: &workloadv1.TaskDefinition{
		Container: fullContainer(), Action: run("main"), ResultFile: "/result", MetricTags: fullLRP().GetMetricTags(),
	}}
	got, err := RunInfoForTask(task)
	require.NoError(t, err)
	want := fullRunInfo()
	want.Env = want.Env[4:] // an instance has its own variables, a task only those of the user
	want.LogConfig.Index, want.LogConfig.Tags = -1, map[string]string{"static": "s", "instance": "run"}
	want.Setup = &want.Setup.Serial.Actions[0] // only the layers
	want.Monitor, want.CheckDefinition, want.Sidecars, want.Ports, want.InternalRoutes, want.Proxied = nil, nil, nil, nil, nil, false
	want.StartTimeout, want.HealthTiming, want.GraceTime = 0, executor.HealthTiming{}, nil
	require.Empty(t, cmp.Diff(want, got))
}

func TestRunInfoRefusesWhatThisCellCannotDo(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*workloadv1.DesiredLRP){
		`driver "nfs": this cell mounts shared devices only`: func(l *workloadv1.DesiredLRP) {
			l.Definition.Container.VolumeMounts = []*workloadv1.VolumeMount{{Driver: "nfs", Device: &workloadv1.VolumeMount_Dedicated{Dedicated: &workloadv1.DedicatedDevice{MounterId: "m"}}}}
		},
		"unrecognized volume mount mode": func(l *workloadv1.DesiredLRP) {
			l.Definition.Container.VolumeMounts = []*workloadv1.VolumeMount{{Driver: "nfs", Device: &workloadv1.VolumeMount_Shared{Shared: &workloadv1.SharedDevice{VolumeId: "v"}}}}
		},
		"reading the internal-router routes": func(l *workloadv1.DesiredLRP) { l.Routes["internal-router"] = []byte(`{`) },
		"this cell does not know":            func(l *workloadv1.DesiredLRP) { l.Definition.Action = &workloadv1.Action{} },
		"translating the actions":            func(l *workloadv1.DesiredLRP) { l.Definition.Sidecars = []*workloadv1.Sidecar{{}} },
		`translating the actions of "p"`: func(l *workloadv1.DesiredLRP) {
			l.Definition.Setup = &workloadv1.Action{Action: &workloadv1.Action_Serial{Serial: &workloadv1.SerialAction{Actions: []*workloadv1.Action{{}}}}}
		},
	} {
		lrp := fullLRP()
		change(lrp)
		_, err := RunInfoForLRP(lrp, &workloadv1.ActualLRPKey{ProcessGuid: "p"}, "i")
		require.ErrorContains(t, err, name)
	}
	_, err := RunInfoForTask(&workloadv1.Task{TaskGuid: "t", Definition: &workloadv1.TaskDefinition{Container: &workloadv1.ContainerSpec{VolumeMounts: []*workloadv1.VolumeMount{{}}}}})
	require.ErrorContains(t, err, `translating task "t"`)
}

func TestAction(t *testing.T) {
	t.Parallel()
	nofile := uint64(16)
	for name, test := range map[string]struct {
		in   *workloadv1.Action
		want executor.Action
	}{
		"run": {
			&workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{
				Path: "p", Args: []string{"a"}, Dir: "d", Env: []*workloadv1.EnvironmentVariable{{Name: "n", Value: "v"}}, User: "u",
				ResourceLimits: &workloadv1.ResourceLimits{Nofile: &nofile}, LogSource: "s", SuppressLogOutput: true,
				VolumeMountedFiles: []*workloadv1.File{{Path: "f", Content: "c"}},
			}}},
			executor.Action{Run: &executor.RunAction{
				Path: "p", Args: []string{"a"}, Dir: "d", Env: []executor.EnvVar{{Name: "n", Value: "v"}}, User: "u", Nofile: &nofile, LogSource: "s", SuppressLogOutput: true,
				VolumeMountedFiles: []executor.File{{Path: "f", Content: "c"}},
			}},
		},
		"download": {
			&workloadv1.Action{Action: &workloadv1.Action_Download{Download: &workloadv1.DownloadAction{
				Artifact: "a", From: "f", To: "t", CacheKey: "k", User: "u", LogSource: "s",
				Checksum: &workloadv1.Checksum{Algorithm: workloadv1.ChecksumAlgorithm_CHECKSUM_ALGORITHM_MD5, Value: "v"},
			}}},
			executor.Action{Download: &executor.DownloadAction{
				Artifact: "a", From: "f", To: "t", CacheKey: "k", User: "u", LogSource: "s", ChecksumAlgorithm: "md5", ChecksumValue: "v",
			}},
		},
		"upload": {
			&workloadv1.Action{Action: &workloadv1.Action_Upload{Upload: &workloadv1.UploadAction{Artifact: "a", From: "f", To: "t", User: "u", LogSource: "s"}}},
			executor.Action{Upload: &executor.UploadAction{Artifact: "a", From: "f", To: "t", User: "u", LogSource: "s"}},
		},
		"net check": {
			&workloadv1.Action{Action: &workloadv1.Action_NetCheck{NetCheck: &workloadv1.NetCheckAction{Port: 1, Endpoint: "/e", Timeout: ms(2), LogSource: "s", FallbackAction: run("unused")}}},
			executor.Action{NetCheck: &executor.NetCheckAction{Port: 1, Endpoint: "/e", Timeout: 2 * time.Millisecond, LogSource: "s"}},
		},
		"timeout": {
			&workloadv1.Action{Action: &workloadv1.Action_Timeout{Timeout: &workloadv1.TimeoutAction{Action: run("p"), Timeout: ms(2), LogSource: "s"}}},
			executor.Action{Timeout: &executor.TimeoutAction{Action: ran("p"), Timeout: 2 * time.Millisecond, LogSource: "s"}},
		},
		"emit progress": {
			&workloadv1.Action{Action: &workloadv1.Action_EmitProgress{EmitProgress: &workloadv1.EmitProgressAction{
				Action: run("p"), StartMessage: "a", SuccessMessage: "b", FailureMessagePrefix: "c", LogSource: "s",
			}}},
			executor.Action{EmitProgress: &executor.EmitProgressAction{Action: ran("p"), StartMessage: "a", SuccessMessage: "b", FailureMessagePrefix: "c", LogSource: "s"}},
		},
		"try": {
			&workloadv1.Action{Action: &workloadv1.Action_Try{Try: &workloadv1.TryAction{Action: run("p"), LogSource: "s"}}},
			executor.Action{Try: &executor.TryAction{Action: ran("p"), LogSource: "s"}},
		},
		"parallel": {
			&workloadv1.Action{Action: &workloadv1.Action_Parallel{Parallel: &workloadv1.ParallelAction{Actions: []*workloadv1.Action{run("p"), run("q")}, LogSource: "s"}}},
			executor.Action{Parallel: &executor.ParallelAction{Actions: []executor.Action{ran("p"), ran("q")}, LogSource: "s"}},
		},
		"serial": {
			&workloadv1.Action{Action: &workloadv1.Action_Serial{Serial: &workloadv1.SerialAction{Actions: []*workloadv1.Action{run("p"), run("q")}, LogSource: "s"}}},
			executor.Action{Serial: &executor.SerialAction{Actions: []executor.Action{ran("p"), ran("q")}, LogSource: "s"}},
		},
		"codependent": {
			&workloadv1.Action{Action: &workloadv1.Action_Codependent{Codependent: &workloadv1.CodependentAction{Actions: []*workloadv1.Action{run("p"), run("q")}, LogSource: "s"}}},
			executor.Action{Codependent: &executor.CodependentAction{Actions: []executor.Action{ran("p"), ran("q")}, LogSource: "s"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Action(test.in)
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(&test.want, got))
			for field, content := range reflect.Indirect(reflect.ValueOf(got)).Fields() {
				if content.IsNil() {
					continue
				}
				for inner, value := range content.Elem().Fields() {
					require.False(t, value.IsZero(), "nothing fills %s.%s", field.Name, inner.Name)
				}
			}
		})
	}
	none, err := Action(nil)
	require.NoError(t, err)
	require.Nil(t, none)
	all := (&workloadv1.Action{}).ProtoReflect().Descriptor().Oneofs().Get(0).Fields().Len()
	require.Equal(t, reflect.TypeFor[executor.Action]().NumField(), all, "both sides have the same variants")
}
