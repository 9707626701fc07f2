package translate

import (
	"fmt"
	"strings"

	"diego.internal/executor"
	workloadv1 "diego.internal/proto/workload/v1"
)

// Action turns a tree of actions into the executor's. A nil action gives nil. It fails for a variant that this release
// does not know, so that a newer client's work is refused rather than run without a part of it.
func Action(in *workloadv1.Action) (*executor.Action, error) {
	if in == nil {
		return nil, nil //nolint:nilnil // an optional action that is absent stays absent
	}
	out, err := action(in)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

func action(in *workloadv1.Action) (executor.Action, error) {
	switch variant := in.GetAction().(type) {
	case *workloadv1.Action_Run:
		return executor.Action{Run: runAction(variant.Run)}, nil
	case *workloadv1.Action_Download:
		return executor.Action{Download: downloadAction(variant.Download)}, nil
	case *workloadv1.Action_Upload:
		up := variant.Upload
		return executor.Action{Upload: &executor.UploadAction{
			Artifact: up.GetArtifact(), From: up.GetFrom(), To: up.GetTo(), User: up.GetUser(), LogSource: up.GetLogSource(),
		}}, nil
	case *workloadv1.Action_NetCheck:
		check := variant.NetCheck
		return executor.Action{NetCheck: &executor.NetCheckAction{
			Port: check.GetPort(), Endpoint: check.GetEndpoint(), Timeout: check.GetTimeout().AsDuration(), LogSource: check.GetLogSource(),
		}}, nil
	default:
		return wrapper(in)
	}
}

// wrapper turns the variants that hold other actions.
func wrapper(in *workloadv1.Action) (executor.Action, error) {
	switch variant := in.GetAction().(type) {
	case *workloadv1.Action_Timeout:
		child, err := action(variant.Timeout.GetAction())
		return executor.Action{Timeout: &executor.TimeoutAction{
			Action: child, Timeout: variant.Timeout.GetTimeout().AsDuration(), LogSource: variant.Timeout.GetLogSource(),
		}}, err
	case *workloadv1.Action_EmitProgress:
		emit := variant.EmitProgress
		child, err := action(emit.GetAction())
		return executor.Action{EmitProgress: &executor.EmitProgressAction{
			Action: child, StartMessage: emit.GetStartMessage(), SuccessMessage: emit.GetSuccessMessage(),
			FailureMessagePrefix: emit.GetFailureMessagePrefix(), LogSource: emit.GetLogSource(),
		}}, err
	case *workloadv1.Action_Try:
		child, err := action(variant.Try.GetAction())
		return executor.Action{Try: &executor.TryAction{Action: child, LogSource: variant.Try.GetLogSource()}}, err
	case *workloadv1.Action_Parallel:
		children, err := actions(variant.Parallel.GetActions())
		return executor.Action{Parallel: &executor.ParallelAction{Actions: children, LogSource: variant.Parallel.GetLogSource()}}, err
	case *workloadv1.Action_Serial:
		children, err := actions(variant.Serial.GetActions())
		return executor.Action{Serial: &executor.SerialAction{Actions: children, LogSource: variant.Serial.GetLogSource()}}, err
	case *workloadv1.Action_Codependent:
		children, err := actions(variant.Codependent.GetActions())
		return executor.Action{Codependent: &executor.CodependentAction{Actions: children, LogSource: variant.Codependent.GetLogSource()}}, err
	default:
		return executor.Action{}, fmt.Errorf("translating an action: this cell does not know %T", variant)
	}
}

func actions(in []*workloadv1.Action) ([]executor.Action, error) {
	out := make([]executor.Action, 0, len(in))
	for _, child := range in {
		converted, err := action(child)
		if err != nil {
			return nil, err
		}
		out = append(out, converted)
	}
	return out, nil
}

func runAction(in *workloadv1.RunAction) *executor.RunAction {
	return &executor.RunAction{
		Path:               in.GetPath(),
		Args:               in.GetArgs(),
		Dir:                in.GetDir(),
		Env:                environment(in.GetEnv()),
		User:               in.GetUser(),
		Nofile:             nofile(in.GetResourceLimits()),
		LogSource:          in.GetLogSource(),
		SuppressLogOutput:  in.GetSuppressLogOutput(),
		VolumeMountedFiles: files(in.GetVolumeMountedFiles()),
	}
}

func nofile(limits *workloadv1.ResourceLimits) *uint64 {
	if limits == nil || limits.Nofile == nil {
		return nil
	}
	n := limits.GetNofile()
	return &n
}

func downloadAction(in *workloadv1.DownloadAction) *executor.DownloadAction {
	algorithm, value := checksum(in.GetChecksum())
	return &executor.DownloadAction{
		Artifact:          in.GetArtifact(),
		From:              in.GetFrom(),
		To:                in.GetTo(),
		CacheKey:          in.GetCacheKey(),
		User:              in.GetUser(),
		ChecksumAlgorithm: algorithm,
		ChecksumValue:     value,
		LogSource:         in.GetLogSource(),
	}
}

func checksum(in *workloadv1.Checksum) (algorithm, value string) {
	if in == nil {
		return "", ""
	}
	name := strings.TrimPrefix(in.GetAlgorithm().String(), "CHECKSUM_ALGORITHM_")
	return strings.ToLower(name), in.GetValue()
}

func environment(in []*workloadv1.EnvironmentVariable) []executor.EnvVar {
	out := make([]executor.EnvVar, 0, len(in))
	for _, variable := range in {
		out = append(out, executor.EnvVar{Name: variable.GetName(), Value: variable.GetValue()})
	}
	return out
}
