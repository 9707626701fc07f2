package spec

import (
	workloadv1 "diego.internal/proto/workload/v1"
)

// Action has exactly one member.
type Action struct {
	Download     *DownloadAction     `json:"download,omitempty"`
	Upload       *UploadAction       `json:"upload,omitempty"`
	Run          *RunAction          `json:"run,omitempty"`
	Timeout      *TimeoutAction      `json:"timeout,omitempty"`
	EmitProgress *EmitProgressAction `json:"emit_progress,omitempty"`
	Try          *TryAction          `json:"try,omitempty"`
	Parallel     *ActionList         `json:"parallel,omitempty"`
	Serial       *ActionList         `json:"serial,omitempty"`
	Codependent  *ActionList         `json:"codependent,omitempty"`
	NetCheck     *NetCheckAction     `json:"net_check,omitempty"`
}

// DownloadAction fetches an archive.
type DownloadAction struct {
	Artifact          string `json:"artifact,omitempty"`
	From              string `json:"from"`
	To                string `json:"to"`
	CacheKey          string `json:"cache_key,omitempty"`
	User              string `json:"user"`
	ChecksumAlgorithm string `json:"checksum_algorithm,omitempty"`
	ChecksumValue     string `json:"checksum_value,omitempty"`
	LogSource         string `json:"log_source,omitempty"`
}

// UploadAction posts a file.
type UploadAction struct {
	Artifact  string `json:"artifact,omitempty"`
	From      string `json:"from"`
	To        string `json:"to"`
	User      string `json:"user"`
	LogSource string `json:"log_source,omitempty"`
}

// RunAction runs a process.
type RunAction struct {
	Path               string                `json:"path"`
	Args               []string              `json:"args,omitempty"`
	Dir                string                `json:"dir,omitempty"`
	Env                []EnvironmentVariable `json:"env,omitempty"`
	ResourceLimits     *ResourceLimits       `json:"resource_limits,omitempty"`
	User               string                `json:"user"`
	LogSource          string                `json:"log_source,omitempty"`
	SuppressLogOutput  bool                  `json:"suppress_log_output"`
	VolumeMountedFiles []File                `json:"volume_mounted_files,omitempty"`
}

// ResourceLimits of a process; nproc is accepted and ignored, as it always was.
type ResourceLimits struct {
	Nofile *uint64 `json:"nofile,omitempty"`
	Nproc  *uint64 `json:"nproc,omitempty"`
}

// TimeoutAction limits its child.
type TimeoutAction struct {
	Action    *Action `json:"action"`
	TimeoutMS int64   `json:"timeout_ms"`
	LogSource string  `json:"log_source,omitempty"`
}

// EmitProgressAction logs around its child.
type EmitProgressAction struct {
	Action               *Action `json:"action"`
	StartMessage         string  `json:"start_message,omitempty"`
	SuccessMessage       string  `json:"success_message,omitempty"`
	FailureMessagePrefix string  `json:"failure_message_prefix,omitempty"`
	LogSource            string  `json:"log_source,omitempty"`
}

// TryAction swallows the error of its child.
type TryAction struct {
	Action    *Action `json:"action"`
	LogSource string  `json:"log_source,omitempty"`
}

// ActionList is the content of parallel, serial and codependent.
type ActionList struct {
	Actions   []*Action `json:"actions"`
	LogSource string    `json:"log_source,omitempty"`
}

// NetCheckAction is a check that the cell makes itself.
type NetCheckAction struct {
	Port           uint32  `json:"port"`
	Endpoint       string  `json:"endpoint,omitempty"`
	TimeoutMS      int64   `json:"timeout_in_milliseconds,omitempty"`
	FallbackAction *Action `json:"fallback_action,omitempty"`
	LogSource      string  `json:"log_source,omitempty"`
}

func (a *Action) message(p *problems, path string) *workloadv1.Action {
	if a == nil {
		return nil
	}
	out, found := &workloadv1.Action{}, 0
	set := func(name string, present bool, fill func(path string)) {
		if present {
			found++
			fill(path + "." + name)
		}
	}
	set("download", a.Download != nil, func(path string) {
		d := a.Download
		out.Action = &workloadv1.Action_Download{Download: &workloadv1.DownloadAction{
			Artifact: d.Artifact, From: d.From, To: d.To, CacheKey: d.CacheKey, User: d.User, LogSource: d.LogSource,
			Checksum: checksum(p, path, d.ChecksumAlgorithm, d.ChecksumValue),
		}}
	})
	set("upload", a.Upload != nil, func(string) {
		u := a.Upload
		out.Action = &workloadv1.Action_Upload{Upload: &workloadv1.UploadAction{Artifact: u.Artifact, From: u.From, To: u.To, User: u.User, LogSource: u.LogSource}}
	})
	set("run", a.Run != nil, func(string) { out.Action = &workloadv1.Action_Run{Run: a.Run.message()} })
	set("timeout", a.Timeout != nil, func(path string) {
		out.Action = &workloadv1.Action_Timeout{Timeout: &workloadv1.TimeoutAction{
			Action: a.Timeout.Action.message(p, path+".action"), Timeout: milliseconds(a.Timeout.TimeoutMS), LogSource: a.Timeout.LogSource,
		}}
	})
	set("emit_progress", a.EmitProgress != nil, func(path string) {
		e := a.EmitProgress
		out.Action = &workloadv1.Action_EmitProgress{EmitProgress: &workloadv1.EmitProgressAction{
			Action: e.Action.message(p, path+".action"), StartMessage: e.StartMessage, SuccessMessage: e.SuccessMessage,
			FailureMessagePrefix: e.FailureMessagePrefix, LogSource: e.LogSource,
		}}
	})
	set("try", a.Try != nil, func(path string) {
		out.Action = &workloadv1.Action_Try{Try: &workloadv1.TryAction{Action: a.Try.Action.message(p, path+".action"), LogSource: a.Try.LogSource}}
	})
	set("parallel", a.Parallel != nil, func(path string) {
		out.Action = &workloadv1.Action_Parallel{Parallel: &workloadv1.ParallelAction{Actions: a.Parallel.messages(p, path), LogSource: a.Parallel.LogSource}}
	})
	set("serial", a.Serial != nil, func(path string) {
		out.Action = &workloadv1.Action_Serial{Serial: &workloadv1.SerialAction{Actions: a.Serial.messages(p, path), LogSource: a.Serial.LogSource}}
	})
	set("codependent", a.Codependent != nil, func(path string) {
		out.Action = &workloadv1.Action_Codependent{Codependent: &workloadv1.CodependentAction{Actions: a.Codependent.messages(p, path), LogSource: a.Codependent.LogSource}}
	})
	set("net_check", a.NetCheck != nil, func(path string) {
		n := a.NetCheck
		out.Action = &workloadv1.Action_NetCheck{NetCheck: &workloadv1.NetCheckAction{
			Port: n.Port, Endpoint: n.Endpoint, Timeout: milliseconds(n.TimeoutMS), FallbackAction: n.FallbackAction.message(p, path+".fallback_action"), LogSource: n.LogSource,
		}}
	})
	if found != 1 {
		p.add(path, "must have exactly one kind of action, has %d", found)
	}
	return out
}

func (l *ActionList) messages(p *problems, path string) []*workloadv1.Action {
	var out []*workloadv1.Action
	for i, action := range l.Actions {
		if action == nil {
			p.add(at(path+".actions", i), "must not be null")
			continue
		}
		out = append(out, action.message(p, at(path+".actions", i)))
	}
	return out
}

func (r *RunAction) message() *workloadv1.RunAction {
	out := &workloadv1.RunAction{
		Path: r.Path, Args: r.Args, Dir: r.Dir, Env: environment(r.Env), User: r.User, LogSource: r.LogSource, SuppressLogOutput: r.SuppressLogOutput,
	}
	if r.ResourceLimits != nil && r.ResourceLimits.Nofile != nil {
		out.ResourceLimits = &workloadv1.ResourceLimits{Nofile: r.ResourceLimits.Nofile}
	}
	for _, f := range r.VolumeMountedFiles {
		out.VolumeMountedFiles = append(out.VolumeMountedFiles, &workloadv1.File{Path: f.Path, Content: f.Content})
	}
	return out
}

// actionOf is the reverse of Action.message.
func actionOf(in *workloadv1.Action) *Action {
	switch a := in.GetAction().(type) {
	case *workloadv1.Action_Download:
		d := a.Download
		algorithm, value := checksumOf(d.GetChecksum())
		return &Action{Download: &DownloadAction{
			Artifact: d.GetArtifact(), From: d.GetFrom(), To: d.GetTo(), CacheKey: d.GetCacheKey(), User: d.GetUser(), LogSource: d.GetLogSource(),
			ChecksumAlgorithm: algorithm, ChecksumValue: value,
		}}
	case *workloadv1.Action_Upload:
		u := a.Upload
		return &Action{Upload: &UploadAction{Artifact: u.GetArtifact(), From: u.GetFrom(), To: u.GetTo(), User: u.GetUser(), LogSource: u.GetLogSource()}}
	case *workloadv1.Action_Run:
		return &Action{Run: runOf(a.Run)}
	case *workloadv1.Action_Timeout:
		return &Action{Timeout: &TimeoutAction{Action: actionOf(a.Timeout.GetAction()), TimeoutMS: inMilliseconds(a.Timeout.GetTimeout()), LogSource: a.Timeout.GetLogSource()}}
	case *workloadv1.Action_EmitProgress:
		e := a.EmitProgress
		return &Action{EmitProgress: &EmitProgressAction{
			Action: actionOf(e.GetAction()), StartMessage: e.GetStartMessage(), SuccessMessage: e.GetSuccessMessage(),
			FailureMessagePrefix: e.GetFailureMessagePrefix(), LogSource: e.GetLogSource(),
		}}
	case *workloadv1.Action_Try:
		return &Action{Try: &TryAction{Action: actionOf(a.Try.GetAction()), LogSource: a.Try.GetLogSource()}}
	case *workloadv1.Action_Parallel:
		return &Action{Parallel: listOf(a.Parallel.GetActions(), a.Parallel.GetLogSource())}
	case *workloadv1.Action_Serial:
		return &Action{Serial: listOf(a.Serial.GetActions(), a.Serial.GetLogSource())}
	case *workloadv1.Action_Codependent:
		return &Action{Codependent: listOf(a.Codependent.GetActions(), a.Codependent.GetLogSource())}
	case *workloadv1.Action_NetCheck:
		n := a.NetCheck
		return &Action{NetCheck: &NetCheckAction{
			Port: n.GetPort(), Endpoint: n.GetEndpoint(), TimeoutMS: inMilliseconds(n.GetTimeout()), FallbackAction: actionOf(n.GetFallbackAction()), LogSource: n.GetLogSource(),
		}}
	default:
		return nil
	}
}

func listOf(in []*workloadv1.Action, source string) *ActionList {
	out := &ActionList{LogSource: source}
	for _, action := range in {
		out.Actions = append(out.Actions, actionOf(action))
	}
	return out
}

func runOf(r *workloadv1.RunAction) *RunAction {
	out := &RunAction{
		Path: r.GetPath(), Args: r.GetArgs(), Dir: r.GetDir(), Env: environmentOf(r.GetEnv()), User: r.GetUser(),
		LogSource: r.GetLogSource(), SuppressLogOutput: r.GetSuppressLogOutput(),
	}
	if limits := r.GetResourceLimits(); limits != nil && limits.Nofile != nil {
		nofile := limits.GetNofile()
		out.ResourceLimits = &ResourceLimits{Nofile: &nofile}
	}
	for _, f := range r.GetVolumeMountedFiles() {
		out.VolumeMountedFiles = append(out.VolumeMountedFiles, File{Path: f.GetPath(), Content: f.GetContent()})
	}
	return out
}
