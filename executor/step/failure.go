package step

import (
	"context"
	"errors"
	"strings"
)

// Errors that callers tell apart.
var (
	// ErrCancelled is the result of a step that was interrupted. It is not shown.
	ErrCancelled = errors.New("cancelled")
	// ErrGraceExceeded is the result of an interrupted process that had to be killed. It is not shown beside others.
	ErrGraceExceeded = errors.New("exceeded graceful shutdown interval")
	// ErrNotExited says that a process outlived SIGKILL.
	ErrNotExited = errors.New("process did not exit")
	// ErrCodependentExited ends a group that must live and die together.
	ErrCodependentExited error = &ShownError{Text: "Codependent step exited"}
	// ErrMissingContainer says that the engine does not know the container any more.
	ErrMissingContainer error = &ShownError{Text: "missing garden container"}
	// ErrDetached is the cause to cancel a context with when processes are to go on without us, and then the result.
	ErrDetached = errors.New("detached")
)

// ShownError has a text that is made for users.
type ShownError struct {
	Text string
	Err  error
}

func (e *ShownError) Error() string { return e.Text }

func (e *ShownError) Unwrap() error { return e.Err }

// Shown returns the text for users, if the error has one.
func Shown(err error) (string, bool) {
	if shown, ok := errors.AsType[*ShownError](err); ok {
		if failures, many := errors.AsType[JoinedError](err); many {
			return failures.Error(), true
		}
		return shown.Text, true
	}
	return "", false
}

// Hidden says that an error only tells of an interruption.
func Hidden(err error) bool {
	if failures, ok := errors.AsType[JoinedError](err); ok {
		for _, inner := range failures {
			if !Hidden(inner) {
				return false
			}
		}
		return true
	}
	if _, shown := errors.AsType[*ShownError](err); shown {
		return false
	}
	return errors.Is(err, ErrCancelled) || errors.Is(err, ErrGraceExceeded) || errors.Is(err, ErrDetached) || errors.Is(err, context.Canceled)
}

// JoinedError are the errors of several steps.
type JoinedError []error

// Error joins the texts with "; " and leaves out interruptions, unless there is nothing else.
func (f JoinedError) Error() string {
	var texts []string
	for _, err := range f {
		if !Hidden(err) {
			texts = append(texts, err.Error())
		}
	}
	if len(texts) == 0 && len(f) > 0 {
		return f[0].Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap gives the single errors.
func (f JoinedError) Unwrap() []error { return f }

// join drops nils, and the list itself when it has one member.
func (f JoinedError) join() error {
	var kept JoinedError
	for _, err := range f {
		if err != nil {
			kept = append(kept, err)
		}
	}
	switch len(kept) {
	case 0:
		return nil
	case 1:
		return kept[0]
	default:
		return kept
	}
}

// interrupted is the result of a leaf whose context has ended.
func interrupted(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), ErrDetached) {
		return ErrDetached
	}
	return ErrCancelled
}
