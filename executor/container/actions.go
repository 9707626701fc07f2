package container

import (
	"errors"
	"fmt"
	"time"
)

// Bounds of an action tree. The BBS refuses larger ones; they are repeated here because a tree is walked recursively.
const (
	MaxActionDepth = 32
	MaxActionNodes = 1000
)

// ErrEmptyAction says that an action names no variant.
var ErrEmptyAction = errors.New("container cannot have empty action")

// Action is one node of what a container does. Exactly one field is set.
type Action struct {
	Run          *RunAction          `json:"run,omitempty"`
	Download     *DownloadAction     `json:"download,omitempty"`
	Upload       *UploadAction       `json:"upload,omitempty"`
	EmitProgress *EmitProgressAction `json:"emit_progress,omitempty"`
	Timeout      *TimeoutAction      `json:"timeout,omitempty"`
	Try          *TryAction          `json:"try,omitempty"`
	Parallel     *ParallelAction     `json:"parallel,omitempty"`
	Serial       *SerialAction       `json:"serial,omitempty"`
	Codependent  *CodependentAction  `json:"codependent,omitempty"`
	NetCheck     *NetCheckAction     `json:"net_check,omitempty"`
}

// RunAction runs a process.
type RunAction struct {
	Path string   `json:"path"`
	Args []string `json:"args,omitempty"`
	// Dir defaults to the user's home.
	Dir  string   `json:"dir,omitempty"`
	Env  []EnvVar `json:"env,omitempty"`
	User string   `json:"user"`
	// Nofile limits open files; nil keeps the engine's default.
	Nofile *uint64 `json:"nofile,omitempty"`
	// LogSource overrides the container's source of log lines.
	LogSource string `json:"log_source,omitempty"`
	// SuppressLogOutput keeps the process's output and exit line out of the log.
	SuppressLogOutput bool `json:"suppress_log_output,omitempty"`
	// VolumeMountedFiles appear with those of the container; see RunInfo.Files.
	VolumeMountedFiles []File `json:"volume_mounted_files,omitempty"`
}

// DownloadAction fetches a tar, tgz or zip and unpacks it in the container.
type DownloadAction struct {
	// Artifact names it in log lines; without it nothing is logged but failures.
	Artifact string `json:"artifact,omitempty"`
	From     string `json:"from"`
	To       string `json:"to"`
	CacheKey string `json:"cache_key,omitempty"`
	User     string `json:"user"`
	// ChecksumAlgorithm is md5, sha1 or sha256 in any case, or empty.
	ChecksumAlgorithm string `json:"checksum_algorithm,omitempty"`
	ChecksumValue     string `json:"checksum_value,omitempty"`
	LogSource         string `json:"log_source,omitempty"`
}

// UploadAction posts one file of the container.
type UploadAction struct {
	Artifact  string `json:"artifact,omitempty"`
	From      string `json:"from"`
	To        string `json:"to"`
	User      string `json:"user"`
	LogSource string `json:"log_source,omitempty"`
}

// EmitProgressAction logs before and after its inner action.
type EmitProgressAction struct {
	Action               Action `json:"action"`
	StartMessage         string `json:"start_message,omitempty"`
	SuccessMessage       string `json:"success_message,omitempty"`
	FailureMessagePrefix string `json:"failure_message_prefix,omitempty"`
	LogSource            string `json:"log_source,omitempty"`
}

// TimeoutAction interrupts its inner action after a time.
type TimeoutAction struct {
	Action    Action        `json:"action"`
	Timeout   time.Duration `json:"timeout"`
	LogSource string        `json:"log_source,omitempty"`
}

// TryAction swallows the failure of its inner action.
type TryAction struct {
	Action    Action `json:"action"`
	LogSource string `json:"log_source,omitempty"`
}

// ParallelAction waits for all and fails if any failed.
type ParallelAction struct {
	Actions   []Action `json:"actions"`
	LogSource string   `json:"log_source,omitempty"`
}

// SerialAction runs one after the other and stops at the first failure.
type SerialAction struct {
	Actions   []Action `json:"actions"`
	LogSource string   `json:"log_source,omitempty"`
}

// CodependentAction runs all together; the end of one ends all, and is always a failure.
type CodependentAction struct {
	Actions   []Action `json:"actions"`
	LogSource string   `json:"log_source,omitempty"`
}

// NetCheckAction asks whether a port of the container answers. The executor does it itself, no process is started.
type NetCheckAction struct {
	// Port is the container's own, 1 to 65535.
	Port uint32 `json:"port"`
	// Endpoint, when set, is the path of an HTTP GET that must answer 200; without it a TCP connection is enough.
	Endpoint string `json:"endpoint,omitempty"`
	// Timeout of one attempt; zero means the configured default (1 s).
	Timeout   time.Duration `json:"timeout,omitempty"`
	LogSource string        `json:"log_source,omitempty"`
}

// Empty says whether no variant is set.
func (a Action) Empty() bool { return a == (Action{}) }

// Validate checks the tree: one variant per node, required fields, depth and size. All problems are joined.
func (a Action) Validate() error {
	nodes := 0
	return a.validate("action", 1, &nodes)
}

func (a Action) validate(path string, depth int, nodes *int) error {
	*nodes++
	if depth > MaxActionDepth {
		return fmt.Errorf("%s: nested deeper than %d", path, MaxActionDepth)
	}
	if *nodes > MaxActionNodes {
		return fmt.Errorf("%s: more than %d actions", path, MaxActionNodes)
	}
	if n := a.variants(); n == 0 {
		return fmt.Errorf("%s: %w", path, ErrEmptyAction)
	} else if n > 1 {
		return fmt.Errorf("%s: %d variants set, want one", path, n)
	}
	switch {
	case a.Run != nil:
		return required(path+".run", field{"path", a.Run.Path}, field{"user", a.Run.User})
	case a.Download != nil:
		return required(path+".download", field{"from", a.Download.From}, field{"to", a.Download.To}, field{"user", a.Download.User})
	case a.Upload != nil:
		return required(path+".upload", field{"from", a.Upload.From}, field{"to", a.Upload.To}, field{"user", a.Upload.User})
	case a.Timeout != nil && a.Timeout.Timeout <= 0:
		return fmt.Errorf("%s.timeout: limit %v is not positive", path, a.Timeout.Timeout)
	case a.NetCheck != nil && (a.NetCheck.Port == 0 || a.NetCheck.Port > 65535):
		return fmt.Errorf("%s.net_check: port %d is not in 1 to 65535", path, a.NetCheck.Port)
	}
	kind, children := a.Children()
	if len(children) == 0 && (a.Parallel != nil || a.Serial != nil || a.Codependent != nil) {
		return fmt.Errorf("%s.%s: no actions", path, kind)
	}
	var problems []error
	for i, child := range children {
		problems = append(problems, child.validate(fmt.Sprintf("%s.%s[%d]", path, kind, i), depth+1, nodes))
	}
	return errors.Join(problems...)
}

func (a Action) variants() int {
	n := 0
	for _, set := range []bool{
		a.Run != nil, a.Download != nil, a.Upload != nil, a.EmitProgress != nil, a.Timeout != nil,
		a.Try != nil, a.Parallel != nil, a.Serial != nil, a.Codependent != nil, a.NetCheck != nil,
	} {
		if set {
			n++
		}
	}
	return n
}

// Children returns the inner actions with the name of the variant that holds them; a leaf has none.
func (a Action) Children() (kind string, children []Action) {
	switch {
	case a.EmitProgress != nil:
		return "emit_progress", []Action{a.EmitProgress.Action}
	case a.Timeout != nil:
		return "timeout", []Action{a.Timeout.Action}
	case a.Try != nil:
		return "try", []Action{a.Try.Action}
	case a.Parallel != nil:
		return "parallel", a.Parallel.Actions
	case a.Serial != nil:
		return "serial", a.Serial.Actions
	case a.Codependent != nil:
		return "codependent", a.Codependent.Actions
	default:
		return "", nil
	}
}

type field struct{ name, value string }

func required(path string, fields ...field) error {
	var problems []error
	for _, f := range fields {
		if f.value == "" {
			problems = append(problems, fmt.Errorf("%s: %s is missing", path, f.name))
		}
	}
	return errors.Join(problems...)
}
