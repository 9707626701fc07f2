package spec

import (
	"bytes"
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	workloadv1 "diego.internal/proto/workload/v1"
)

// DesiredLRP in the flat form. Members that the BBS sets are only read.
type DesiredLRP struct {
	ProcessGUID        string                     `json:"process_guid"`
	Domain             string                     `json:"domain"`
	Instances          int32                      `json:"instances"`
	Annotation         string                     `json:"annotation,omitempty"`
	Routes             map[string]json.RawMessage `json:"routes,omitempty"`
	UpdateStrategy     string                     `json:"update_strategy,omitempty"`
	CrashRestartPolicy *CrashRestartPolicy        `json:"crash_restart_policy,omitempty"`

	LRPDefinition

	ModificationTag *ModificationTag `json:"modification_tag,omitempty"`
	CreatedAt       int64            `json:"created_at,omitempty"`
	UpdatedAt       int64            `json:"updated_at,omitempty"`
}

// LRPDefinition is what an instance is made from.
type LRPDefinition struct {
	Container
	DefinitionID       string           `json:"definition_id,omitempty"`
	Setup              *Action          `json:"setup,omitempty"`
	Action             *Action          `json:"action,omitempty"`
	Monitor            *Action          `json:"monitor,omitempty"`
	CheckDefinition    *CheckDefinition `json:"check_definition,omitempty"`
	StartTimeoutMS     int64            `json:"start_timeout_ms,omitempty"`
	GracefulShutdownMS int64            `json:"graceful_shutdown_interval_ms,omitempty"`
	MonitorDelayMS     *int64           `json:"monitor_initial_delay_ms,omitempty"`
	UnhealthyMS        *int64           `json:"unhealthy_check_interval_ms,omitempty"`
	HealthyMS          *int64           `json:"healthy_check_interval_ms,omitempty"`
	Ports              []uint32         `json:"ports,omitempty"`
	Sidecars           []Sidecar        `json:"sidecars,omitempty"`
}

// CrashRestartPolicy overrides that of the domain.
type CrashRestartPolicy struct {
	NumberOfImmediateRestarts *uint32 `json:"number_of_immediate_restarts,omitempty"`
	MaxSecondsBetweenRestarts *uint32 `json:"max_seconds_between_restarts,omitempty"`
	MaxRestartAttempts        *uint32 `json:"max_restart_attempts,omitempty"`
}

// ModificationTag orders versions of one record.
type ModificationTag struct {
	Epoch string `json:"epoch"`
	Index uint32 `json:"index"`
}

// CheckDefinition lists checks.
type CheckDefinition struct {
	Checks          []Check `json:"checks,omitempty"`
	ReadinessChecks []Check `json:"readiness_checks,omitempty"`
	LogSource       string  `json:"log_source,omitempty"`
}

// Check has exactly one member.
type Check struct {
	TCPCheck  *TCPCheck  `json:"tcp_check,omitempty"`
	HTTPCheck *HTTPCheck `json:"http_check,omitempty"`
}

// TCPCheck passes when the port takes a connection.
type TCPCheck struct {
	Port             uint32 `json:"port"`
	ConnectTimeoutMS int64  `json:"connect_timeout_ms,omitempty"`
	IntervalMS       int64  `json:"interval_ms,omitempty"`
}

// HTTPCheck passes on status 200.
type HTTPCheck struct {
	Port             uint32 `json:"port"`
	RequestTimeoutMS int64  `json:"request_timeout_ms,omitempty"`
	IntervalMS       int64  `json:"interval_ms,omitempty"`
	Path             string `json:"path,omitempty"`
}

// Sidecar runs beside the action.
type Sidecar struct {
	Action   *Action `json:"action"`
	MemoryMB int32   `json:"memory_mb,omitempty"`
	DiskMB   int32   `json:"disk_mb,omitempty"`
}

// ParseDesiredLRP reads what create-desired-lrp takes. The error is an *Error with all problems of form; what the BBS refuses
// comes from the BBS.
func ParseDesiredLRP(text []byte) (*workloadv1.DesiredLRP, error) {
	var in DesiredLRP
	if err := decode(text, &in); err != nil {
		return nil, err
	}
	var p problems
	out := &workloadv1.DesiredLRP{
		ProcessGuid: in.ProcessGUID, Domain: in.Domain, Instances: in.Instances, Annotation: in.Annotation, Routes: routes(in.Routes),
		MetricTags:     metricTags(&p, in.MetricTags, in.MetricsGUID),
		UpdateStrategy: workloadv1.UpdateStrategy(p.enum("update_strategy", "UPDATE_STRATEGY_", in.UpdateStrategy, workloadv1.UpdateStrategy_value)),
		Definition:     in.definition(&p, ""), CrashRestartPolicy: in.CrashRestartPolicy.message(),
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return out, nil
}

// definition converts; path is where the document has it, with a dot behind, or empty.
func (l *LRPDefinition) definition(p *problems, path string) *workloadv1.LRPDefinition {
	container, err := l.message()
	p.take(path, err)
	out := &workloadv1.LRPDefinition{
		DefinitionId: l.DefinitionID, Container: container, StartTimeout: milliseconds(l.StartTimeoutMS), Ports: l.Ports,
		Setup: l.Setup.message(p, path+"setup"), Action: l.Action.message(p, path+"action"), Monitor: l.Monitor.message(p, path+"monitor"),
		GracefulShutdownInterval: milliseconds(l.GracefulShutdownMS), CheckDefinition: l.CheckDefinition.message(p, path+"check_definition"),
	}
	if l.MonitorDelayMS != nil || l.UnhealthyMS != nil || l.HealthyMS != nil {
		out.HealthTiming = &workloadv1.HealthTiming{
			MonitorInitialDelay: optionalMilliseconds(l.MonitorDelayMS), UnhealthyCheckInterval: optionalMilliseconds(l.UnhealthyMS),
			HealthyCheckInterval: optionalMilliseconds(l.HealthyMS),
		}
	}
	for i, s := range l.Sidecars {
		out.Sidecars = append(out.Sidecars, &workloadv1.Sidecar{Action: s.Action.message(p, at(path+"sidecars", i)+".action"), MemoryMb: s.MemoryMB, DiskMb: s.DiskMB})
	}
	return out
}

func (c *CheckDefinition) message(p *problems, path string) *workloadv1.CheckDefinition {
	if c == nil {
		return nil
	}
	return &workloadv1.CheckDefinition{
		Checks: checks(p, path+".checks", c.Checks), ReadinessChecks: checks(p, path+".readiness_checks", c.ReadinessChecks), LogSource: c.LogSource,
	}
}

func checks(p *problems, path string, in []Check) []*workloadv1.Check {
	var out []*workloadv1.Check
	for i, c := range in {
		switch {
		case (c.TCPCheck == nil) == (c.HTTPCheck == nil):
			p.add(at(path, i), "needs either tcp_check or http_check")
		case c.TCPCheck != nil:
			out = append(out, &workloadv1.Check{Check: &workloadv1.Check_TcpCheck{TcpCheck: &workloadv1.TCPCheck{
				Port: c.TCPCheck.Port, ConnectTimeout: milliseconds(c.TCPCheck.ConnectTimeoutMS), Interval: milliseconds(c.TCPCheck.IntervalMS),
			}}})
		default:
			out = append(out, &workloadv1.Check{Check: &workloadv1.Check_HttpCheck{HttpCheck: &workloadv1.HTTPCheck{
				Port: c.HTTPCheck.Port, RequestTimeout: milliseconds(c.HTTPCheck.RequestTimeoutMS), Interval: milliseconds(c.HTTPCheck.IntervalMS), Path: c.HTTPCheck.Path,
			}}})
		}
	}
	return out
}

func (c *CrashRestartPolicy) message() *workloadv1.CrashRestartPolicy {
	if c == nil {
		return nil
	}
	return &workloadv1.CrashRestartPolicy{
		NumberOfImmediateRestarts: c.NumberOfImmediateRestarts, MaxSecondsBetweenRestarts: c.MaxSecondsBetweenRestarts, MaxRestartAttempts: c.MaxRestartAttempts,
	}
}

func policyOf(c *workloadv1.CrashRestartPolicy) *CrashRestartPolicy {
	if c == nil {
		return nil
	}
	return &CrashRestartPolicy{
		NumberOfImmediateRestarts: c.NumberOfImmediateRestarts, MaxSecondsBetweenRestarts: c.MaxSecondsBetweenRestarts, MaxRestartAttempts: c.MaxRestartAttempts,
	}
}

// routes without the layout of the document that they came in, which each router would have to read past.
func routes(in map[string]json.RawMessage) map[string][]byte {
	if in == nil {
		return nil
	}
	out := make(map[string][]byte, len(in))
	for name, value := range in {
		var compact bytes.Buffer
		_ = json.Compact(&compact, value) // it was read as JSON before
		out[name] = compact.Bytes()
	}
	return out
}

// routesOf shows values as the JSON that they are; one that is not is shown as a string.
func routesOf(in map[string][]byte) map[string]json.RawMessage {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]json.RawMessage, len(in))
	for name, value := range in {
		if !json.Valid(value) {
			value, _ = json.Marshal(string(value)) // a string can always be encoded
		}
		out[name] = value
	}
	return out
}

// DesiredLRPUpdate is what update-desired-lrp takes. What is absent stays as it is.
type DesiredLRPUpdate struct {
	Instances          *int32                     `json:"instances,omitempty"`
	Routes             map[string]json.RawMessage `json:"routes,omitempty"`
	Annotation         *string                    `json:"annotation,omitempty"`
	MetricTags         map[string]MetricTag       `json:"metric_tags,omitempty"`
	ImageUsername      *string                    `json:"image_username,omitempty"`
	ImagePassword      *string                    `json:"image_password,omitempty"`
	CrashRestartPolicy json.RawMessage            `json:"crash_restart_policy,omitempty"`
	// Definition is rolled out one instance at a time; with Supersede also when another one is on its way.
	Definition *LRPDefinition `json:"definition,omitempty"`
	Supersede  bool           `json:"supersede,omitempty"`
}

// ParseDesiredLRPUpdate reads an update. A crash_restart_policy of null goes back to the policy of the domain.
func ParseDesiredLRPUpdate(text []byte) (*workloadv1.DesiredLRPUpdate, error) {
	var in DesiredLRPUpdate
	if err := decode(text, &in); err != nil {
		return nil, err
	}
	var p problems
	out := &workloadv1.DesiredLRPUpdate{Instances: in.Instances, Annotation: in.Annotation, Supersede: in.Supersede}
	if in.Definition != nil {
		out.Definition = in.Definition.definition(&p, "definition.")
		if in.Definition.MetricTags != nil || in.Definition.MetricsGUID != "" {
			p.add("definition.metric_tags", "belong to the update itself, not to its definition")
		}
	}
	if in.Routes != nil {
		out.Routes = &workloadv1.DesiredLRPUpdate_Routes{Routes: routes(in.Routes)}
	}
	if in.MetricTags != nil {
		out.MetricTags = &workloadv1.DesiredLRPUpdate_MetricTags{MetricTags: metricTags(&p, in.MetricTags, "")}
	}
	if (in.ImageUsername == nil) != (in.ImagePassword == nil) {
		p.add("image_username", "must be given together with image_password")
	} else if in.ImageUsername != nil {
		out.ImageCredentials = &workloadv1.ImageCredentials{Username: *in.ImageUsername, Password: *in.ImagePassword}
	}
	switch strings.TrimSpace(string(in.CrashRestartPolicy)) {
	case "":
	case "null":
		out.CrashRestartPolicyChange = &workloadv1.DesiredLRPUpdate_ClearCrashRestartPolicy{ClearCrashRestartPolicy: true}
	default:
		policy := &CrashRestartPolicy{}
		if err := decode(in.CrashRestartPolicy, policy); err != nil {
			p.take("crash_restart_policy.", err)
		}
		out.CrashRestartPolicyChange = &workloadv1.DesiredLRPUpdate_CrashRestartPolicy{CrashRestartPolicy: policy.message()}
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return out, nil
}

// DesiredLRPOf shows a record in the flat form.
func DesiredLRPOf(l *workloadv1.DesiredLRP) DesiredLRP {
	out := DesiredLRP{
		ProcessGUID: l.GetProcessGuid(), Domain: l.GetDomain(), Instances: l.GetInstances(), Annotation: l.GetAnnotation(), Routes: routesOf(l.GetRoutes()),
		UpdateStrategy: short(l.GetUpdateStrategy().String(), "UPDATE_STRATEGY_"), CrashRestartPolicy: policyOf(l.GetCrashRestartPolicy()),
		LRPDefinition: definitionOf(l.GetDefinition(), l.GetMetricTags()), ModificationTag: tagOf(l.GetModificationTag()),
		CreatedAt: nanoseconds(l.GetCreatedAt()), UpdatedAt: nanoseconds(l.GetUpdatedAt()),
	}
	out.DefinitionID = l.GetActiveDefinitionId()
	return out
}

// definitionOf shows a definition; the flat form has the metric tags of the LRP among its members.
func definitionOf(d *workloadv1.LRPDefinition, tags map[string]*workloadv1.MetricTagValue) LRPDefinition {
	out := LRPDefinition{
		Container: containerOf(d.GetContainer(), tags), DefinitionID: d.GetDefinitionId(),
		Setup: actionOf(d.GetSetup()), Action: actionOf(d.GetAction()), Monitor: actionOf(d.GetMonitor()),
		CheckDefinition: checkDefinitionOf(d.GetCheckDefinition()), StartTimeoutMS: inMilliseconds(d.GetStartTimeout()),
		GracefulShutdownMS: inMilliseconds(d.GetGracefulShutdownInterval()), Ports: d.GetPorts(),
	}
	if timing := d.GetHealthTiming(); timing != nil {
		out.MonitorDelayMS = optionalInMilliseconds(timing.GetMonitorInitialDelay())
		out.UnhealthyMS = optionalInMilliseconds(timing.GetUnhealthyCheckInterval())
		out.HealthyMS = optionalInMilliseconds(timing.GetHealthyCheckInterval())
	}
	for _, s := range d.GetSidecars() {
		out.Sidecars = append(out.Sidecars, Sidecar{Action: actionOf(s.GetAction()), MemoryMB: s.GetMemoryMb(), DiskMB: s.GetDiskMb()})
	}
	return out
}

func checkDefinitionOf(c *workloadv1.CheckDefinition) *CheckDefinition {
	if c == nil {
		return nil
	}
	return &CheckDefinition{Checks: checksOf(c.GetChecks()), ReadinessChecks: checksOf(c.GetReadinessChecks()), LogSource: c.GetLogSource()}
}

func checksOf(in []*workloadv1.Check) []Check {
	var out []Check
	for _, c := range in {
		if t := c.GetTcpCheck(); t != nil {
			out = append(out, Check{TCPCheck: &TCPCheck{Port: t.GetPort(), ConnectTimeoutMS: inMilliseconds(t.GetConnectTimeout()), IntervalMS: inMilliseconds(t.GetInterval())}})
		}
		if h := c.GetHttpCheck(); h != nil {
			out = append(out, Check{HTTPCheck: &HTTPCheck{
				Port: h.GetPort(), RequestTimeoutMS: inMilliseconds(h.GetRequestTimeout()), IntervalMS: inMilliseconds(h.GetInterval()), Path: h.GetPath(),
			}})
		}
	}
	return out
}

func tagOf(t *workloadv1.ModificationTag) *ModificationTag {
	if t == nil {
		return nil
	}
	return &ModificationTag{Epoch: t.GetEpoch(), Index: t.GetIndex()}
}

// nanoseconds since 1970; an absent time is 0.
func nanoseconds(t *timestamppb.Timestamp) int64 {
	if t == nil {
		return 0
	}
	return t.AsTime().UnixNano()
}

// SchedulingInfo is the part of a desired LRP that schedulers need.
type SchedulingInfo struct {
	ProcessGUID        string                     `json:"process_guid"`
	Domain             string                     `json:"domain"`
	LogGUID            string                     `json:"log_guid"`
	Annotation         string                     `json:"annotation,omitempty"`
	Instances          int32                      `json:"instances"`
	MemoryMB           int32                      `json:"memory_mb"`
	DiskMB             int32                      `json:"disk_mb"`
	MaxPids            int32                      `json:"max_pids,omitempty"`
	RootFS             string                     `json:"rootfs"`
	Routes             map[string]json.RawMessage `json:"routes,omitempty"`
	VolumePlacement    *VolumePlacement           `json:"volume_placement,omitempty"`
	PlacementTags      []string                   `json:"placement_tags,omitempty"`
	Constraint         *Constraint                `json:"constraint,omitempty"`
	MetricTags         map[string]MetricTag       `json:"metric_tags,omitempty"`
	UpdateStrategy     string                     `json:"update_strategy,omitempty"`
	CrashRestartPolicy *CrashRestartPolicy        `json:"crash_restart_policy,omitempty"`
	DefinitionID       string                     `json:"definition_id,omitempty"`
	ModificationTag    *ModificationTag           `json:"modification_tag,omitempty"`
}

// VolumePlacement names the drivers that a cell must have.
type VolumePlacement struct {
	DriverNames []string `json:"driver_names"`
}

// SchedulingInfoOf shows a scheduling info.
func SchedulingInfoOf(i *workloadv1.SchedulingInfo) SchedulingInfo {
	out := SchedulingInfo{
		ProcessGUID: i.GetProcessGuid(), Domain: i.GetDomain(), LogGUID: i.GetLogGuid(), Annotation: i.GetAnnotation(), Instances: i.GetInstances(),
		MemoryMB: i.GetResources().GetMemoryMb(), DiskMB: i.GetResources().GetDiskMb(), MaxPids: i.GetResources().GetMaxPids(),
		RootFS: i.GetPlacement().GetRootFs(), Routes: routesOf(i.GetRoutes()), PlacementTags: i.GetPlacement().GetPlacementTags(),
		MetricTags: tagsOf(i.GetMetricTags()), UpdateStrategy: short(i.GetUpdateStrategy().String(), "UPDATE_STRATEGY_"),
		CrashRestartPolicy: policyOf(i.GetCrashRestartPolicy()), DefinitionID: i.GetActiveDefinitionId(), ModificationTag: tagOf(i.GetModificationTag()),
	}
	if drivers := i.GetPlacement().GetVolumeDrivers(); len(drivers) > 0 {
		out.VolumePlacement = &VolumePlacement{DriverNames: drivers}
	}
	out.Constraint = constraintOf(i.GetPlacement())
	return out
}
