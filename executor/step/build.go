package step

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"strconv"
	"time"

	"diego.internal/executor/container"
	"diego.internal/executor/logs"
)

// maxProcessID is the engine's bound, less what a monitor's attempt adds.
const maxProcessID = 63 - 15

// Build turns an action into a step. The place is the name of the action's root; the names of processes and the keys of
// progress follow from it and the position in the tree alone, which is what lets a later process find them again. The
// action must be valid.
func (e *Env) Build(action container.Action, place string) Step {
	switch {
	case action.Run != nil:
		return e.run(*action.Run, processID(place))
	case action.Download != nil:
		return e.download(*action.Download, place)
	case action.Upload != nil:
		return e.upload(*action.Upload, place)
	case action.NetCheck != nil:
		return e.netCheck(*action.NetCheck)
	}
	_, children := action.Children()
	steps := make([]Step, len(children))
	for i, child := range children {
		steps[i] = e.Build(child, place+"."+strconv.Itoa(i))
	}
	switch {
	case action.EmitProgress != nil:
		return e.emitProgress(*action.EmitProgress, steps[0], place)
	case action.Timeout != nil:
		start := func() time.Time { return e.Progress.Since(place, time.Now()) }
		if e.probing {
			start = time.Now
		}
		return Timeout(steps[0], action.Timeout.Timeout, start)
	case action.Try != nil:
		return Try(steps[0], func(err error) {
			e.Slog.Debug("tried-step-failed", slog.String("handle", e.Container.Handle()), slog.String("place", place), slog.Any("error", err))
		})
	case action.Parallel != nil:
		return Parallel(steps...)
	case action.Codependent != nil:
		return Codependent(Group{FailOnExit: true, CancelOnExit: true}, steps...)
	default:
		return Serial(steps...)
	}
}

func (e *Env) emitProgress(action container.EmitProgressAction, inner Step, place string) Step {
	messages := Messages{
		Start:         action.StartMessage,
		Success:       action.SuccessMessage,
		FailurePrefix: action.FailureMessagePrefix,
		Source:        e.source(action.LogSource),
	}
	return EmitProgress(inner, messages, e.Log, func() bool {
		if e.probing {
			return false
		}
		again := e.Progress.Done(place)
		if !again {
			e.Progress.SetDone(place)
		}
		return again
	})
}

// BuildProbe turns a monitor action into a step that may be run many times, one at a time. What it and its processes
// write replaces the text of its failure and goes nowhere else.
func (e *Env) BuildProbe(action container.Action, place string) Step {
	attempt := *e
	attempt.probing = true
	output := &capture{}
	attempt.Log = output
	return Captured(attempt.Build(action, place), output.take)
}

// processID makes a name that the engine takes from a place of any depth.
func processID(place string) string {
	if len(place) <= maxProcessID {
		return place
	}
	sum := sha256.Sum256([]byte(place))
	return place[:maxProcessID-17] + "-" + hex.EncodeToString(sum[:8])
}

// attemptID makes a name that no earlier attempt had, also not in an earlier process.
func attemptID(id string, now time.Time) string {
	return id + "-" + strconv.FormatInt(now.UnixNano(), 36)
}

var _ Log = (*logs.Sink)(nil)
