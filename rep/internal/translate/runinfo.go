package translate

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"diego.internal/executor"
	workloadv1 "diego.internal/proto/workload/v1"
)

// RunInfoForLRP is what the executor needs to run one instance of an LRP. The LRP must carry its definition.
func RunInfoForLRP(lrp *workloadv1.DesiredLRP, key *workloadv1.ActualLRPKey, instanceGUID string) (executor.RunInfo, error) {
	definition := lrp.GetDefinition()
	info, err := containerInfo(definition.GetContainer())
	if err != nil {
		return executor.RunInfo{}, fmt.Errorf("translating definition %q of %q: %w", definition.GetDefinitionId(), key.GetProcessGuid(), err)
	}
	index := int(key.GetIndex())
	info.LogConfig.Index = index
	info.LogConfig.Tags = MetricTags(lrp.GetMetricTags(), index, instanceGUID)
	info.CPUWeight = max(info.CPUWeight, 1)
	info.Ports = definition.GetPorts()
	info.Proxied = len(info.Ports) > 0
	info.Env = append(instanceEnvironment(index, instanceGUID), info.Env...)
	info.StartTimeout = definition.GetStartTimeout().AsDuration()
	info.CheckDefinition = checkDefinition(definition.GetCheckDefinition())
	info.HealthTiming = healthTiming(definition.GetHealthTiming())
	info.GraceTime = optional(definition.GetGracefulShutdownInterval())
	routes, err := InternalRoutes(lrp.GetRoutes())
	if err != nil {
		return executor.RunInfo{}, err
	}
	info.InternalRoutes = routes
	if err := lrpActions(&info, definition); err != nil {
		return executor.RunInfo{}, fmt.Errorf("translating the actions of %q: %w", key.GetProcessGuid(), err)
	}
	return info, nil
}

func lrpActions(info *executor.RunInfo, definition *workloadv1.LRPDefinition) error {
	setup, err1 := Action(definition.GetSetup())
	main, err2 := Action(definition.GetAction())
	monitor, err3 := Action(definition.GetMonitor())
	info.Setup, info.Action, info.Monitor = withLayers(definition.GetContainer(), setup), main, monitor
	problems := []error{err1, err2, err3}
	for _, sidecar := range definition.GetSidecars() {
		converted, err := action(sidecar.GetAction())
		if err != nil {
			problems = append(problems, err)
			continue
		}
		info.Sidecars = append(info.Sidecars, executor.Sidecar{
			Action: converted, MemoryMB: int(sidecar.GetMemoryMb()), DiskMB: int(sidecar.GetDiskMb()),
		})
	}
	return errors.Join(problems...)
}

// RunInfoForTask is what the executor needs to run a task. The task must carry its definition.
func RunInfoForTask(task *workloadv1.Task) (executor.RunInfo, error) {
	definition := task.GetDefinition()
	info, err := containerInfo(definition.GetContainer())
	if err != nil {
		return executor.RunInfo{}, fmt.Errorf("translating task %q: %w", task.GetTaskGuid(), err)
	}
	info.LogConfig.Index = -1
	info.LogConfig.Tags = MetricTags(definition.GetMetricTags(), -1, task.GetInstanceGuid())
	main, err := Action(definition.GetAction())
	if err != nil {
		return executor.RunInfo{}, fmt.Errorf("translating the action of task %q: %w", task.GetTaskGuid(), err)
	}
	info.Action, info.Setup = main, withLayers(definition.GetContainer(), nil)
	return info, nil
}

// containerInfo turns what tasks and LRPs have in common.
func containerInfo(c *workloadv1.ContainerSpec) (executor.RunInfo, error) {
	volumes, err := volumeMounts(c.GetVolumeMounts())
	if err != nil {
		return executor.RunInfo{}, err
	}
	info := executor.RunInfo{
		RootFS:                        c.GetRootFs(),
		ImageUsername:                 c.GetImageCredentials().GetUsername(),
		ImagePassword:                 c.GetImageCredentials().GetPassword(),
		Privileged:                    c.GetPrivileged(),
		CPUWeight:                     c.GetCpuWeight(),
		Env:                           environment(c.GetEnv()),
		LogConfig:                     executor.LogConfig{GUID: c.GetLog().GetGuid(), SourceName: c.GetLog().GetSource()},
		LogRateLimit:                  -1,
		NetworkProperties:             c.GetNetworkProperties(),
		TrustedSystemCertificatesPath: c.GetTrustedSystemCertificatesPath(),
		CachedDependencies:            cachedDependencies(c),
		VolumeMounts:                  volumes,
		CertificateProperties:         executor.CertificateProperties{OrganizationalUnit: c.GetCertificateProperties().GetOrganizationalUnit()},
	}
	if log := c.GetLog(); log != nil && log.RateLimitBytesPerSecond != nil {
		info.LogRateLimit = log.GetRateLimitBytesPerSecond()
	}
	info.VolumeMountedFiles = files(c.GetVolumeMountedFiles())
	for _, rule := range c.GetEgressRules() {
		info.EgressRules = append(info.EgressRules, egressRule(rule))
	}
	return info, nil
}

func files(in []*workloadv1.File) []executor.File {
	var out []executor.File
	for _, file := range in {
		out = append(out, executor.File{Path: file.GetPath(), Content: file.GetContent()})
	}
	return out
}

func instanceEnvironment(index int, instanceGUID string) []executor.EnvVar {
	number := strconv.Itoa(index)
	return []executor.EnvVar{
		{Name: "INSTANCE_GUID", Value: instanceGUID},
		{Name: "INSTANCE_INDEX", Value: number},
		{Name: "CF_INSTANCE_GUID", Value: instanceGUID},
		{Name: "CF_INSTANCE_INDEX", Value: number},
	}
}

func egressRule(in *workloadv1.SecurityGroupRule) executor.EgressRule {
	out := executor.EgressRule{
		Protocol:     strings.ToLower(strings.TrimPrefix(in.GetProtocol().String(), "PROTOCOL_")),
		Destinations: in.GetDestinations(),
		Ports:        in.GetPorts(),
		Log:          in.GetLog(),
	}
	if r := in.GetPortRange(); r != nil {
		out.PortRange = &executor.PortRange{Start: r.GetStart(), End: r.GetEnd()}
	}
	if icmp := in.GetIcmpInfo(); icmp != nil {
		out.ICMP = &executor.ICMPInfo{Type: icmp.GetType(), Code: icmp.GetCode()}
	}
	return out
}

// cachedDependencies adds the shared image layers, which are the same thing under a newer name.
func cachedDependencies(c *workloadv1.ContainerSpec) []executor.CachedDependency {
	var out []executor.CachedDependency
	for _, dependency := range c.GetCachedDependencies() {
		algorithm, value := checksum(dependency.GetChecksum())
		out = append(out, executor.CachedDependency{
			Name: dependency.GetName(), From: dependency.GetFrom(), To: dependency.GetTo(), CacheKey: dependency.GetCacheKey(),
			LogSource: dependency.GetLogSource(), ChecksumAlgorithm: algorithm, ChecksumValue: value,
		})
	}
	for _, layer := range c.GetImageLayers() {
		if layer.GetLayerType() != workloadv1.ImageLayer_LAYER_TYPE_SHARED {
			continue
		}
		algorithm, key := digest(layer), layer.GetUrl()
		if layer.GetDigestValue() != "" {
			key = algorithm + ":" + layer.GetDigestValue()
		}
		out = append(out, executor.CachedDependency{
			Name: layer.GetName(), From: layer.GetUrl(), To: layer.GetDestinationPath(), CacheKey: key,
			ChecksumAlgorithm: algorithm, ChecksumValue: layer.GetDigestValue(),
		})
	}
	return out
}

// withLayers puts the download of exclusive image layers in front of the other set-up.
func withLayers(c *workloadv1.ContainerSpec, setup *executor.Action) *executor.Action {
	var downloads []executor.Action
	for _, layer := range c.GetImageLayers() {
		if layer.GetLayerType() != workloadv1.ImageLayer_LAYER_TYPE_EXCLUSIVE {
			continue
		}
		downloads = append(downloads, executor.Action{Download: &executor.DownloadAction{
			Artifact: layer.GetName(), From: layer.GetUrl(), To: layer.GetDestinationPath(), User: c.GetLegacyDownloadUser(),
			ChecksumAlgorithm: digest(layer), ChecksumValue: layer.GetDigestValue(),
		}})
	}
	if len(downloads) == 0 {
		return setup
	}
	layers := executor.Action{Parallel: &executor.ParallelAction{Actions: downloads}}
	if setup == nil {
		return &layers
	}
	return &executor.Action{Serial: &executor.SerialAction{Actions: []executor.Action{layers, *setup}}}
}

func digest(layer *workloadv1.ImageLayer) string {
	if layer.GetDigestAlgorithm() == workloadv1.ImageLayer_DIGEST_ALGORITHM_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(layer.GetDigestAlgorithm().String(), "DIGEST_ALGORITHM_"))
}

func checkDefinition(in *workloadv1.CheckDefinition) *executor.CheckDefinition {
	if in == nil {
		return nil
	}
	return &executor.CheckDefinition{
		Checks:          checks(in.GetChecks()),
		ReadinessChecks: checks(in.GetReadinessChecks()),
		LogSource:       in.GetLogSource(),
	}
}

func checks(in []*workloadv1.Check) []executor.Check {
	out := make([]executor.Check, 0, len(in))
	for _, check := range in {
		if tcp := check.GetTcpCheck(); tcp != nil {
			out = append(out, executor.Check{TCP: &executor.TCPCheck{
				Port: tcp.GetPort(), ConnectTimeout: tcp.GetConnectTimeout().AsDuration(), Interval: tcp.GetInterval().AsDuration(),
			}})
		}
		if http := check.GetHttpCheck(); http != nil {
			out = append(out, executor.Check{HTTP: &executor.HTTPCheck{
				Port: http.GetPort(), Path: http.GetPath(), RequestTimeout: http.GetRequestTimeout().AsDuration(), Interval: http.GetInterval().AsDuration(),
			}})
		}
	}
	return out
}

func healthTiming(in *workloadv1.HealthTiming) executor.HealthTiming {
	return executor.HealthTiming{
		InitialDelay:      optional(in.GetMonitorInitialDelay()),
		UnhealthyInterval: optional(in.GetUnhealthyCheckInterval()),
		HealthyInterval:   optional(in.GetHealthyCheckInterval()),
	}
}

// optional is nil for a duration that is absent: the cell's own counts then, and zero is something else.
func optional(d *durationpb.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	value := d.AsDuration()
	return &value
}

// MetricTags resolves the values that only an instance has. Tasks have no index: -1 leaves tags of it empty.
func MetricTags(in map[string]*workloadv1.MetricTagValue, index int, instanceGUID string) map[string]string {
	out := make(map[string]string, len(in))
	for name, tag := range in {
		switch value := tag.GetValue().(type) {
		case *workloadv1.MetricTagValue_Static:
			out[name] = value.Static
		case *workloadv1.MetricTagValue_Dynamic:
			switch value.Dynamic {
			case workloadv1.DynamicTag_DYNAMIC_TAG_INDEX:
				if index >= 0 {
					out[name] = strconv.Itoa(index)
				}
			case workloadv1.DynamicTag_DYNAMIC_TAG_INSTANCE_GUID:
				out[name] = instanceGUID
			case workloadv1.DynamicTag_DYNAMIC_TAG_UNSPECIFIED:
			}
		}
	}
	return out
}

// InternalRoutes reads the host names of the internal-router entry; none if there is no such entry.
func InternalRoutes(routes map[string][]byte) ([]executor.InternalRoute, error) {
	value, ok := routes["internal-router"]
	if !ok {
		return nil, nil
	}
	var entries []struct {
		Hostname string `json:"hostname"`
	}
	if err := json.Unmarshal(value, &entries); err != nil {
		return nil, fmt.Errorf("reading the internal-router routes: %w", err)
	}
	out := make([]executor.InternalRoute, 0, len(entries))
	for _, entry := range entries {
		out = append(out, executor.InternalRoute{Hostname: entry.Hostname})
	}
	return out, nil
}
