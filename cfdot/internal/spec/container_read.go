package spec

import (
	"strings"

	workloadv1 "diego.internal/proto/workload/v1"
)

// containerOf is the reverse of Container.message.
func containerOf(c *workloadv1.ContainerSpec, tags map[string]*workloadv1.MetricTagValue) Container {
	out := Container{
		RootFS: c.GetRootFs(), ImageUsername: c.GetImageCredentials().GetUsername(), ImagePassword: c.GetImageCredentials().GetPassword(),
		Env: environmentOf(c.GetEnv()), MemoryMB: c.GetResources().GetMemoryMb(), DiskMB: c.GetResources().GetDiskMb(),
		MaxPids: c.GetResources().GetMaxPids(), CPUWeight: c.GetCpuWeight(), Privileged: c.GetPrivileged(),
		LogGUID: c.GetLog().GetGuid(), LogSource: c.GetLog().GetSource(), LegacyDownloadUser: c.GetLegacyDownloadUser(),
		TrustedSystemCertificatesPath: c.GetTrustedSystemCertificatesPath(), PlacementTags: c.GetPlacementTags(), MetricTags: tagsOf(tags),
	}
	if log := c.GetLog(); log != nil && log.RateLimitBytesPerSecond != nil {
		out.LogRateLimit = &LogRateLimit{BytesPerSecond: log.GetRateLimitBytesPerSecond()}
	}
	if properties := c.GetNetworkProperties(); len(properties) > 0 {
		out.Network = &Network{Properties: properties}
	}
	if c.GetConstraint() != nil {
		out.Constraint = &Constraint{Require: c.GetConstraint().GetRequire()}
	}
	if c.GetCertificateProperties() != nil {
		out.CertificateProperties = &CertificateProperties{OrganizationalUnit: c.GetCertificateProperties().GetOrganizationalUnit()}
	}
	for _, rule := range c.GetEgressRules() {
		out.EgressRules = append(out.EgressRules, ruleOf(rule))
	}
	for _, d := range c.GetCachedDependencies() {
		algorithm, value := checksumOf(d.GetChecksum())
		out.CachedDependencies = append(out.CachedDependencies, CachedDependency{
			Name: d.GetName(), From: d.GetFrom(), To: d.GetTo(), CacheKey: d.GetCacheKey(), LogSource: d.GetLogSource(),
			ChecksumAlgorithm: algorithm, ChecksumValue: value,
		})
	}
	for _, l := range c.GetImageLayers() {
		out.ImageLayers = append(out.ImageLayers, layerOf(l))
	}
	for _, m := range c.GetVolumeMounts() {
		out.VolumeMounts = append(out.VolumeMounts, mountOf(m))
	}
	for _, f := range c.GetVolumeMountedFiles() {
		out.VolumeMountedFiles = append(out.VolumeMountedFiles, File{Path: f.GetPath(), Content: f.GetContent()})
	}
	return out
}

func ruleOf(r *workloadv1.SecurityGroupRule) SecurityGroupRule {
	out := SecurityGroupRule{
		Protocol: strings.ToLower(short(r.GetProtocol().String(), "PROTOCOL_")), Destinations: r.GetDestinations(), Ports: r.GetPorts(),
		Log: r.GetLog(), Annotations: r.GetAnnotations(),
	}
	if r.GetPortRange() != nil {
		out.PortRange = &PortRange{Start: r.GetPortRange().GetStart(), End: r.GetPortRange().GetEnd()}
	}
	if r.GetIcmpInfo() != nil {
		out.ICMPInfo = &ICMPInfo{Type: r.GetIcmpInfo().GetType(), Code: r.GetIcmpInfo().GetCode()}
	}
	return out
}

func layerOf(l *workloadv1.ImageLayer) ImageLayer {
	return ImageLayer{
		Name: l.GetName(), URL: l.GetUrl(), DestinationPath: l.GetDestinationPath(), DigestValue: l.GetDigestValue(),
		LayerType: short(l.GetLayerType().String(), "LAYER_TYPE_"), MediaType: short(l.GetMediaType().String(), "MEDIA_TYPE_"),
		DigestAlgorithm: short(l.GetDigestAlgorithm().String(), "DIGEST_ALGORITHM_"),
	}
}

func mountOf(m *workloadv1.VolumeMount) VolumeMount {
	out := VolumeMount{Driver: m.GetDriver(), ContainerDir: m.GetContainerDir(), Mode: "r"}
	if m.GetMode() == workloadv1.VolumeMount_MOUNT_MODE_READ_WRITE {
		out.Mode = "rw"
	}
	if s := m.GetShared(); s != nil {
		out.Shared = &SharedDevice{VolumeID: s.GetVolumeId(), MountConfig: s.GetMountConfig()}
	}
	if d := m.GetDedicated(); d != nil {
		out.Dedicated = &DedicatedDevice{MounterID: d.GetMounterId(), MountConfig: d.GetMountConfig(), DeviceConfig: d.GetDeviceConfig()}
	}
	return out
}

func environmentOf(in []*workloadv1.EnvironmentVariable) []EnvironmentVariable {
	var out []EnvironmentVariable
	for _, v := range in {
		out = append(out, EnvironmentVariable{Name: v.GetName(), Value: v.GetValue()})
	}
	return out
}

func checksumOf(c *workloadv1.Checksum) (algorithm, value string) {
	if c == nil {
		return "", ""
	}
	return strings.ToLower(short(c.GetAlgorithm().String(), "CHECKSUM_ALGORITHM_")), c.GetValue()
}

func tagsOf(in map[string]*workloadv1.MetricTagValue) map[string]MetricTag {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]MetricTag, len(in))
	for name, tag := range in {
		switch value := tag.GetValue().(type) {
		case *workloadv1.MetricTagValue_Static:
			out[name] = MetricTag{Static: value.Static}
		case *workloadv1.MetricTagValue_Dynamic:
			out[name] = MetricTag{Dynamic: short(value.Dynamic.String(), "DYNAMIC_TAG_")}
		}
	}
	return out
}

// short is the name of a value of an enum as operators know it; the unspecified one is empty.
func short(name, prefix string) string {
	name = strings.TrimPrefix(name, prefix)
	if name == "UNSPECIFIED" {
		return ""
	}
	return name
}
