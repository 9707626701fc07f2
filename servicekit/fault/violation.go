package fault

import (
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Violation names one bad field of a request, by its path in the message ("lrp.ports[2]").
type Violation struct{ Field, Description string }

// InvalidRequest returns an InvalidArgument error with reason "InvalidRequest" that names every bad
// field.
func InvalidRequest(violations ...Violation) error { return &invalid{violations: violations} }

// Violations returns the bad fields that err names, own or of a peer, or nil.
func Violations(err error) []Violation {
	if err == nil {
		return nil
	}
	c := classify(err)
	return c.violations
}

type invalid struct{ violations []Violation }

func (e *invalid) Error() string {
	var b strings.Builder
	b.WriteString("the request is invalid")
	for i, v := range e.violations {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		if v.Field != "" {
			b.WriteString(v.Field + ": ")
		}
		b.WriteString(v.Description)
	}
	return b.String()
}

func (e *invalid) GRPCStatus() *status.Status { return newStatus(e.class(), e.Error()) }

func (e *invalid) class() class {
	return class{code: codes.InvalidArgument, reason: ReasonInvalidRequest, violations: e.violations, known: true}
}

func badRequest(violations []Violation) *errdetails.BadRequest {
	bad := &errdetails.BadRequest{}
	for _, v := range violations {
		bad.FieldViolations = append(bad.FieldViolations,
			&errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
	}
	return bad
}
