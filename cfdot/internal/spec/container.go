// Package spec is the JSON that operators write and read, in the flat form that Diego's tools have always used, and its
// conversion to and from the messages of the contract. Reading is strict: a name that it does not know is an error, so that a
// typing mistake does not become a default.
package spec

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	workloadv1 "diego.internal/proto/workload/v1"
)

// Container holds the members that tasks and LRPs share.
type Container struct {
	RootFS                        string                 `json:"rootfs"`
	ImageUsername                 string                 `json:"image_username,omitempty"`
	ImagePassword                 string                 `json:"image_password,omitempty"`
	Env                           []EnvironmentVariable  `json:"env,omitempty"`
	MemoryMB                      int32                  `json:"memory_mb"`
	DiskMB                        int32                  `json:"disk_mb"`
	MaxPids                       int32                  `json:"max_pids,omitempty"`
	CPUWeight                     uint32                 `json:"cpu_weight,omitempty"`
	Privileged                    bool                   `json:"privileged"`
	LogGUID                       string                 `json:"log_guid,omitempty"`
	LogSource                     string                 `json:"log_source,omitempty"`
	LogRateLimit                  *LogRateLimit          `json:"log_rate_limit,omitempty"`
	EgressRules                   []SecurityGroupRule    `json:"egress_rules,omitempty"`
	CachedDependencies            []CachedDependency     `json:"cached_dependencies,omitempty"`
	ImageLayers                   []ImageLayer           `json:"image_layers,omitempty"`
	LegacyDownloadUser            string                 `json:"legacy_download_user,omitempty"`
	TrustedSystemCertificatesPath string                 `json:"trusted_system_certificates_path,omitempty"`
	VolumeMounts                  []VolumeMount          `json:"volume_mounts,omitempty"`
	VolumeMountedFiles            []File                 `json:"volume_mounted_files,omitempty"`
	Network                       *Network               `json:"network,omitempty"`
	PlacementTags                 []string               `json:"placement_tags,omitempty"`
	Constraint                    *Constraint            `json:"constraint,omitempty"`
	CertificateProperties         *CertificateProperties `json:"certificate_properties,omitempty"`
	// MetricsGUID is an older way to give the metric tag source_id.
	MetricsGUID string               `json:"metrics_guid,omitempty"`
	MetricTags  map[string]MetricTag `json:"metric_tags,omitempty"`
}

// EnvironmentVariable of a process.
type EnvironmentVariable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// LogRateLimit of an instance; -1 is unlimited.
type LogRateLimit struct {
	BytesPerSecond int64 `json:"bytes_per_second"`
}

// Network properties of a container.
type Network struct {
	Properties map[string]string `json:"properties,omitempty"`
}

// Constraint asks for cells with all of these tags.
type Constraint struct {
	Require []string `json:"require"`
}

// CertificateProperties of the identity of an instance.
type CertificateProperties struct {
	OrganizationalUnit []string `json:"organizational_unit,omitempty"`
}

// MetricTag has exactly one member.
type MetricTag struct {
	Static  string `json:"static,omitempty"`
	Dynamic string `json:"dynamic,omitempty"`
}

// SecurityGroupRule allows traffic out of a container.
type SecurityGroupRule struct {
	Protocol     string     `json:"protocol"`
	Destinations []string   `json:"destinations"`
	Ports        []uint32   `json:"ports,omitempty"`
	PortRange    *PortRange `json:"port_range,omitempty"`
	ICMPInfo     *ICMPInfo  `json:"icmp_info,omitempty"`
	Log          bool       `json:"log"`
	Annotations  []string   `json:"annotations,omitempty"`
}

// PortRange is inclusive at both ends.
type PortRange struct {
	Start uint32 `json:"start"`
	End   uint32 `json:"end"`
}

// ICMPInfo selects messages.
type ICMPInfo struct {
	Type int32 `json:"type"`
	Code int32 `json:"code"`
}

// CachedDependency is fetched once per cell.
type CachedDependency struct {
	Name              string `json:"name"`
	From              string `json:"from"`
	To                string `json:"to"`
	CacheKey          string `json:"cache_key"`
	LogSource         string `json:"log_source"`
	ChecksumAlgorithm string `json:"checksum_algorithm,omitempty"`
	ChecksumValue     string `json:"checksum_value,omitempty"`
}

// ImageLayer adds files to a container.
type ImageLayer struct {
	Name            string `json:"name,omitempty"`
	URL             string `json:"url"`
	DestinationPath string `json:"destination_path"`
	LayerType       string `json:"layer_type"`
	MediaType       string `json:"media_type"`
	DigestAlgorithm string `json:"digest_algorithm,omitempty"`
	DigestValue     string `json:"digest_value,omitempty"`
}

// VolumeMount shows a volume of a driver.
type VolumeMount struct {
	Driver       string           `json:"driver"`
	ContainerDir string           `json:"container_dir"`
	Mode         string           `json:"mode"`
	Shared       *SharedDevice    `json:"shared,omitempty"`
	Dedicated    *DedicatedDevice `json:"dedicated,omitempty"`
}

// SharedDevice of a volume mount.
type SharedDevice struct {
	VolumeID    string `json:"volume_id"`
	MountConfig string `json:"mount_config,omitempty"`
}

// DedicatedDevice of a volume mount.
type DedicatedDevice struct {
	MounterID    string `json:"mounter_id"`
	MountConfig  string `json:"mount_config,omitempty"`
	DeviceConfig string `json:"device_config,omitempty"`
}

// File that appears in a container.
type File struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

func (c *Container) message() (*workloadv1.ContainerSpec, error) {
	var p problems
	out := &workloadv1.ContainerSpec{
		RootFs: c.RootFS, Env: environment(c.Env), CpuWeight: c.CPUWeight, Privileged: c.Privileged,
		Resources:                     &workloadv1.Resources{MemoryMb: c.MemoryMB, DiskMb: c.DiskMB, MaxPids: c.MaxPids},
		Log:                           &workloadv1.LogConfig{Guid: c.LogGUID, Source: c.LogSource},
		LegacyDownloadUser:            c.LegacyDownloadUser,
		TrustedSystemCertificatesPath: c.TrustedSystemCertificatesPath, PlacementTags: c.PlacementTags,
	}
	if c.ImageUsername != "" || c.ImagePassword != "" {
		out.ImageCredentials = &workloadv1.ImageCredentials{Username: c.ImageUsername, Password: c.ImagePassword}
	}
	if c.LogRateLimit != nil {
		out.Log.RateLimitBytesPerSecond = &c.LogRateLimit.BytesPerSecond
	}
	if c.Network != nil {
		out.NetworkProperties = c.Network.Properties
	}
	if c.Constraint != nil {
		out.Constraint = &workloadv1.Constraint{Require: c.Constraint.Require}
	}
	if c.CertificateProperties != nil {
		out.CertificateProperties = &workloadv1.CertificateProperties{OrganizationalUnit: c.CertificateProperties.OrganizationalUnit}
	}
	for i, rule := range c.EgressRules {
		out.EgressRules = append(out.EgressRules, rule.message(&p, at("egress_rules", i)))
	}
	for i, d := range c.CachedDependencies {
		out.CachedDependencies = append(out.CachedDependencies, &workloadv1.CachedDependency{
			Name: d.Name, From: d.From, To: d.To, CacheKey: d.CacheKey, LogSource: d.LogSource,
			Checksum: checksum(&p, at("cached_dependencies", i), d.ChecksumAlgorithm, d.ChecksumValue),
		})
	}
	for i, l := range c.ImageLayers {
		out.ImageLayers = append(out.ImageLayers, l.message(&p, at("image_layers", i)))
	}
	for i, m := range c.VolumeMounts {
		out.VolumeMounts = append(out.VolumeMounts, m.message(&p, at("volume_mounts", i)))
	}
	for _, f := range c.VolumeMountedFiles {
		out.VolumeMountedFiles = append(out.VolumeMountedFiles, &workloadv1.File{Path: f.Path, Content: f.Content})
	}
	return out, p.err()
}

func (r SecurityGroupRule) message(p *problems, path string) *workloadv1.SecurityGroupRule {
	out := &workloadv1.SecurityGroupRule{
		Protocol:     workloadv1.Protocol(p.enum(path+".protocol", "PROTOCOL_", r.Protocol, workloadv1.Protocol_value)),
		Destinations: r.Destinations, Ports: r.Ports, Log: r.Log, Annotations: r.Annotations,
	}
	if r.PortRange != nil {
		out.PortRange = &workloadv1.PortRange{Start: r.PortRange.Start, End: r.PortRange.End}
	}
	if r.ICMPInfo != nil {
		out.IcmpInfo = &workloadv1.ICMPInfo{Type: r.ICMPInfo.Type, Code: r.ICMPInfo.Code}
	}
	return out
}

func (l ImageLayer) message(p *problems, path string) *workloadv1.ImageLayer {
	return &workloadv1.ImageLayer{
		Name: l.Name, Url: l.URL, DestinationPath: l.DestinationPath, DigestValue: l.DigestValue,
		LayerType:       workloadv1.ImageLayer_LayerType(p.enum(path+".layer_type", "LAYER_TYPE_", l.LayerType, workloadv1.ImageLayer_LayerType_value)),
		MediaType:       workloadv1.ImageLayer_MediaType(p.enum(path+".media_type", "MEDIA_TYPE_", l.MediaType, workloadv1.ImageLayer_MediaType_value)),
		DigestAlgorithm: workloadv1.ImageLayer_DigestAlgorithm(p.enum(path+".digest_algorithm", "DIGEST_ALGORITHM_", l.DigestAlgorithm, workloadv1.ImageLayer_DigestAlgorithm_value)),
	}
}

func (m VolumeMount) message(p *problems, path string) *workloadv1.VolumeMount {
	out := &workloadv1.VolumeMount{Driver: m.Driver, ContainerDir: m.ContainerDir}
	switch m.Mode {
	case "r":
		out.Mode = workloadv1.VolumeMount_MOUNT_MODE_READ_ONLY
	case "rw":
		out.Mode = workloadv1.VolumeMount_MOUNT_MODE_READ_WRITE
	default:
		p.add(path+".mode", "must be r or rw, is %q", m.Mode)
	}
	if m.Shared != nil {
		out.Device = &workloadv1.VolumeMount_Shared{Shared: &workloadv1.SharedDevice{VolumeId: m.Shared.VolumeID, MountConfig: m.Shared.MountConfig}}
	}
	if m.Dedicated != nil {
		if m.Shared != nil {
			p.add(path, "shared and dedicated exclude each other")
		}
		out.Device = &workloadv1.VolumeMount_Dedicated{Dedicated: &workloadv1.DedicatedDevice{
			MounterId: m.Dedicated.MounterID, MountConfig: m.Dedicated.MountConfig, DeviceConfig: m.Dedicated.DeviceConfig,
		}}
	}
	return out
}

func environment(in []EnvironmentVariable) []*workloadv1.EnvironmentVariable {
	var out []*workloadv1.EnvironmentVariable
	for _, v := range in {
		out = append(out, &workloadv1.EnvironmentVariable{Name: v.Name, Value: v.Value})
	}
	return out
}

func checksum(p *problems, path, algorithm, value string) *workloadv1.Checksum {
	if algorithm == "" && value == "" {
		return nil
	}
	return &workloadv1.Checksum{
		Algorithm: workloadv1.ChecksumAlgorithm(p.enum(path+".checksum_algorithm", "CHECKSUM_ALGORITHM_", algorithm, workloadv1.ChecksumAlgorithm_value)),
		Value:     value,
	}
}

// metricTags adds the tag source_id that the older metrics_guid stands for.
func metricTags(p *problems, in map[string]MetricTag, metricsGUID string) map[string]*workloadv1.MetricTagValue {
	out := map[string]*workloadv1.MetricTagValue{}
	for name, tag := range in {
		switch {
		case (tag.Static == "") == (tag.Dynamic == ""):
			p.add("metric_tags."+name, "needs either static or dynamic")
		case tag.Static != "":
			out[name] = &workloadv1.MetricTagValue{Value: &workloadv1.MetricTagValue_Static{Static: tag.Static}}
		default:
			value := p.enum("metric_tags."+name+".dynamic", "DYNAMIC_TAG_", tag.Dynamic, workloadv1.DynamicTag_value)
			out[name] = &workloadv1.MetricTagValue{Value: &workloadv1.MetricTagValue_Dynamic{Dynamic: workloadv1.DynamicTag(value)}}
		}
	}
	if metricsGUID != "" {
		if source, ok := out["source_id"]; ok && source.GetStatic() != metricsGUID {
			p.add("metrics_guid", "must equal the metric tag source_id")
		}
		out["source_id"] = &workloadv1.MetricTagValue{Value: &workloadv1.MetricTagValue_Static{Static: metricsGUID}}
	}
	return out
}

func milliseconds(ms int64) *durationpb.Duration {
	if ms == 0 {
		return nil
	}
	return durationpb.New(time.Duration(ms) * time.Millisecond)
}

func inMilliseconds(d *durationpb.Duration) int64 { return d.AsDuration().Milliseconds() }

func optionalMilliseconds(ms *int64) *durationpb.Duration {
	if ms == nil {
		return nil
	}
	return durationpb.New(time.Duration(*ms) * time.Millisecond)
}

func optionalInMilliseconds(d *durationpb.Duration) *int64 {
	if d == nil {
		return nil
	}
	ms := inMilliseconds(d)
	return &ms
}
