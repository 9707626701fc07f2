package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	"diego.internal/cfdot/internal/output"
	"diego.internal/servicekit/fault"
)

// typeNumbers are the numbers that the types of errors have always had; new types have none.
var typeNumbers = map[string]int{ //nolint:gochecknoglobals // a constant in all but type
	"UnknownError": 0, "InvalidRecord": 3, "InvalidRequest": 4, "InvalidStateTransition": 9, "ResourceConflict": 11, "ResourceExists": 12,
	"ResourceNotFound": 13, "ActualLRPCannotBeClaimed": 15, "ActualLRPCannotBeStarted": 16, "ActualLRPCannotBeCrashed": 17,
	"ActualLRPCannotBeFailed": 18, "ActualLRPCannotBeRemoved": 19, "ActualLRPCannotBeUnclaimed": 21, "RunningOnDifferentCell": 24,
	"Deadlock": 28, "Unrecoverable": 29, "LockCollision": 30, "Timeout": 31,
}

// reportAPI prints what a server said and returns the code of its class.
func (a *app) reportAPI(err error) int {
	name := fault.Reason(err)
	code := fault.Code(err)
	exit := ExitAPI
	switch code { //nolint:exhaustive // the others are refusals
	case codes.NotFound:
		exit = ExitNotFound
	case codes.Unavailable, codes.DeadlineExceeded:
		exit = ExitUnreachable
	case codes.Unknown, codes.OK:
		if name == "" && !errors.Is(err, context.DeadlineExceeded) {
			fmt.Fprintln(a.Stderr, err)
			return ExitOther
		}
	}
	if name == "" {
		name = code.String()
	}
	if a.flags.format == output.JSON && a.flags.outputName != "" {
		a.reportJSON(name, err)
		return exit
	}
	if number, ok := typeNumbers[name]; ok {
		fmt.Fprintf(a.Stderr, "BBS error\nType %d: %s\nMessage: %v\n", number, name, err)
	} else {
		fmt.Fprintf(a.Stderr, "BBS error\nType: %s\nMessage: %v\n", name, err)
	}
	for _, violation := range fault.Violations(err) {
		fmt.Fprintf(a.Stderr, "  %s: %s\n", violation.Field, violation.Description)
	}
	return exit
}

func (a *app) reportJSON(name string, err error) {
	type violation struct {
		Field       string `json:"field"`
		Description string `json:"description"`
	}
	report := struct {
		Error struct {
			Code       string      `json:"code"`
			Name       string      `json:"name"`
			Message    string      `json:"message"`
			Violations []violation `json:"violations,omitempty"`
		} `json:"error"`
	}{}
	report.Error.Code, report.Error.Name, report.Error.Message = fault.Code(err).String(), name, err.Error()
	for _, v := range fault.Violations(err) {
		report.Error.Violations = append(report.Error.Violations, violation(v))
	}
	_ = json.NewEncoder(a.Stderr).Encode(report) // there is nowhere to tell that telling failed
}
