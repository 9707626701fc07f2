package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	bbsv1 "diego.internal/proto/bbs/v1"
	workloadv1 "diego.internal/proto/workload/v1"
)

// guid is the process guid of LRP i, of the length that Cloud Foundry gives them.
func guid(i int) string { return pseudoUUID("app", i) + "-" + pseudoUUID("version", i) }

// pseudoUUID looks like a random UUID and is the same in every run.
func pseudoUUID(kind string, i int) string {
	h := digest(kind, i)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:32]}, "-")
}

func digest(kind string, i int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", kind, i))
	return hex.EncodeToString(sum[:])
}

// noise is n characters that do not compress.
func noise(kind string, i, n int) string {
	var b strings.Builder
	for part := 0; b.Len() < n; part++ {
		b.WriteString(digest(fmt.Sprint(kind, part), i))
	}
	return b.String()[:n]
}

// desiredLRP is LRP i as a web application with a buildpack: some 4.4 KiB as a message.
func desiredLRP(i int) *workloadv1.DesiredLRP {
	app := pseudoUUID("app", i)
	return &workloadv1.DesiredLRP{
		ProcessGuid: guid(i), Domain: "cf-apps", Instances: 1, Annotation: "1700000042.42",
		Routes: map[string][]byte{
			"cf-router":       fmt.Appendf(nil, `[{"hostnames":["app-%06d.apps.example.com","app-%06d-blue.apps.example.com"],"port":8080,"protocol":"http1"},{"hostnames":["www.customer-%d.example.org/path/0"],"port":8080,"protocol":"http1"}]`, i, i, i),
			"diego-ssh":       fmt.Appendf(nil, `{"container_port":2222,"host_fingerprint":"%s","private_key":"%s"}`, noise("fingerprint", i, 47), noise("key", i, 640)),
			"internal-router": fmt.Appendf(nil, `[{"hostname":"app-%06d.apps.internal"}]`, i),
		},
		MetricTags: map[string]*workloadv1.MetricTagValue{
			"app_id": static(app), "app_name": static(fmt.Sprintf("app-%06d", i)), "source_id": static(app), "process_type": static("web"),
			"space_id": static(pseudoUUID("space", i%1000)), "organization_id": static(pseudoUUID("org", i%100)),
			"instance_id":         {Value: &workloadv1.MetricTagValue_Dynamic{Dynamic: workloadv1.DynamicTag_DYNAMIC_TAG_INDEX}},
			"process_instance_id": {Value: &workloadv1.MetricTagValue_Dynamic{Dynamic: workloadv1.DynamicTag_DYNAMIC_TAG_INSTANCE_GUID}},
		},
		Definition: definition(i, app),
	}
}

func static(s string) *workloadv1.MetricTagValue {
	return &workloadv1.MetricTagValue{Value: &workloadv1.MetricTagValue_Static{Static: s}}
}

func definition(i int, app string) *workloadv1.LRPDefinition {
	run := func(path string, args ...string) *workloadv1.Action {
		return &workloadv1.Action{Action: &workloadv1.Action_Run{Run: &workloadv1.RunAction{Path: path, Args: args, User: "vcap", LogSource: "APP/PROC/WEB"}}}
	}
	download := &workloadv1.DownloadAction{
		Artifact: "droplet", From: "https://cloud-controller.service.internal:9023/internal/v4/droplets/" + guid(i) + "/download", To: ".", User: "vcap",
		CacheKey: "droplets-" + guid(i), Checksum: &workloadv1.Checksum{Algorithm: workloadv1.ChecksumAlgorithm_CHECKSUM_ALGORITHM_SHA256, Value: digest("droplet", i)},
	}
	port := func(first, last uint32) *workloadv1.PortRange { return &workloadv1.PortRange{Start: first, End: last} }
	tcp, udp := workloadv1.Protocol_PROTOCOL_TCP, workloadv1.Protocol_PROTOCOL_UDP
	return &workloadv1.LRPDefinition{
		Container: &workloadv1.ContainerSpec{
			RootFs: "preloaded:cflinuxfs4", Resources: &workloadv1.Resources{MemoryMb: 256, DiskMb: 1024, MaxPids: 1024}, CpuWeight: 3,
			Env: []*workloadv1.EnvironmentVariable{
				{Name: "VCAP_APPLICATION", Value: noise("application", i, 600)},
				{Name: "VCAP_SERVICES", Value: noise("services", i, 160)},
				{Name: "MEMORY_LIMIT", Value: "256m"},
				{Name: "LANG", Value: "en_US.UTF-8"},
			},
			Log: &workloadv1.LogConfig{Guid: app, Source: "CELL"},
			EgressRules: []*workloadv1.SecurityGroupRule{
				{Protocol: tcp, Destinations: []string{"0.0.0.0-9.255.255.255"}, PortRange: port(1, 65535)},
				{Protocol: tcp, Destinations: []string{"11.0.0.0-169.253.255.255"}, PortRange: port(1, 65535)},
				{Protocol: udp, Destinations: []string{"0.0.0.0/0"}, Ports: []uint32{53}},
				{Protocol: workloadv1.Protocol_PROTOCOL_ALL, Destinations: []string{fmt.Sprintf("10.20.%d.0/24", i%250)}},
			},
			LegacyDownloadUser: "vcap", TrustedSystemCertificatesPath: "/etc/cf-system-certificates",
			NetworkProperties: map[string]string{"app_id": app, "space_id": pseudoUUID("space", i%1000), "ports": "8080"},
		},
		Setup: &workloadv1.Action{Action: &workloadv1.Action_Serial{Serial: &workloadv1.SerialAction{Actions: []*workloadv1.Action{
			{Action: &workloadv1.Action_Download{Download: download}},
		}}}},
		Action: &workloadv1.Action{Action: &workloadv1.Action_Codependent{Codependent: &workloadv1.CodependentAction{Actions: []*workloadv1.Action{
			run("/tmp/lifecycle/launcher", "app", "bin/start --server.port=$PORT"),
			run("/tmp/lifecycle/diego-sshd", "-address=0.0.0.0:2222", "-hostKey="+noise("host", i, 160), "-authorizedKey="+noise("authorized", i, 128)),
		}}}},
		Monitor: &workloadv1.Action{Action: &workloadv1.Action_Timeout{Timeout: &workloadv1.TimeoutAction{
			Action: run("/tmp/lifecycle/healthcheck", "-port=8080", "-timeout=1s"), Timeout: durationpb.New(10 * time.Minute),
		}}},
		StartTimeout: durationpb.New(time.Minute), Ports: []uint32{8080, 2222},
	}
}

// cellOf is the cell of LRP i.
func cellOf(i int) int { return i % cells }

func cellName(i int) string { return fmt.Sprintf("cell-%04d", i) }

func instanceKey(i int) *workloadv1.ActualLRPInstanceKey {
	return &workloadv1.ActualLRPInstanceKey{InstanceGuid: pseudoUUID("instance", i), CellId: cellName(cellOf(i))}
}

func claimRequest(i int) *bbsv1.ClaimActualLRPRequest {
	return &bbsv1.ClaimActualLRPRequest{ProcessGuid: guid(i), InstanceKey: instanceKey(i)}
}

// startRequest reports instance i as running. Another generation reports another port.
func startRequest(i, generation int) *bbsv1.StartActualLRPRequest {
	host := uint32(61000 + generation%1000)
	return &bbsv1.StartActualLRPRequest{
		Key: &workloadv1.ActualLRPKey{ProcessGuid: guid(i), Domain: "cf-apps"}, InstanceKey: instanceKey(i),
		NetInfo: &workloadv1.ActualLRPNetInfo{
			Address: fmt.Sprintf("10.0.%d.%d", i/250%250, i%250), InstanceAddress: fmt.Sprintf("10.255.%d.%d", i/250%250, i%250),
			Ports: []*workloadv1.PortMapping{{ContainerPort: 8080, HostPort: host}, {ContainerPort: 2222, HostPort: host + 1}},
		},
		InternalRoutes: []string{fmt.Sprintf("app-%06d.apps.internal", i)},
		MetricTags: map[string]string{
			"app_id": pseudoUUID("app", i), "source_id": pseudoUUID("app", i), "instance_id": "0", "process_instance_id": pseudoUUID("instance", i),
			"process_type": "web", "app_name": fmt.Sprintf("app-%06d", i), "space_id": pseudoUUID("space", i%1000), "organization_id": pseudoUUID("org", i%100),
		},
		AvailabilityZone: "z1",
	}
}
