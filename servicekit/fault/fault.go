// Package fault owns the errors that cross a process border: sentinels with a gRPC code and a
// machine-readable reason (Diego's error type), the violations of a bad request, and the rule that
// the status of a peer is never passed on as our own.
//
// It does not own the sentinels themselves; each package declares those of its domain.
package fault

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Domain is the domain of every ErrorInfo that the product sends.
const Domain = "diego.internal"

// ReasonInvalidRequest is the reason of a request that names bad fields.
const ReasonInvalidRequest = "InvalidRequest"

// Error is a sentinel: compare with errors.Is, add context with With or with %w. It is immutable
// and safe for concurrent use.
type Error struct {
	code    codes.Code
	reason  string
	message string
}

// New makes a sentinel. The reason is what clients decide by, for example "ResourceNotFound"; the
// message is for people.
func New(code codes.Code, reason, message string) *Error {
	return &Error{code: code, reason: reason, message: message}
}

// Error returns the message for people.
func (e *Error) Error() string { return e.message }

// Code returns the gRPC code that a caller sees.
func (e *Error) Code() codes.Code { return e.code }

// Reason returns the machine-readable reason that a caller sees.
func (e *Error) Reason() string { return e.reason }

// GRPCStatus lets grpc-go find code and details through any wrapping.
func (e *Error) GRPCStatus() *status.Status { return newStatus(e.class(), e.message) }

func (e *Error) class() class { return class{code: e.code, reason: e.reason, known: true} }

// With returns an error for which errors.Is(err, e) holds and whose text is the message of e, a
// colon and the formatted text. %w works as in fmt.Errorf, and what it wraps keeps its identity; its
// code does not matter any more, so With is also how an error of a peer is reclassified.
func (e *Error) With(format string, args ...any) error {
	return &specific{sentinel: e, detail: fmt.Errorf(format, args...)}
}

// WithMetadata is With for an error that tells a program more than its reason, for example the owner
// of a lock; see Metadata.
func (e *Error) WithMetadata(metadata map[string]string, format string, args ...any) error {
	return &specific{sentinel: e, detail: fmt.Errorf(format, args...), metadata: metadata}
}

// specific is a sentinel with the text, and perhaps the cause, of one case.
type specific struct {
	sentinel *Error
	detail   error
	metadata map[string]string
}

func (s *specific) Error() string              { return s.sentinel.message + ": " + s.detail.Error() }
func (s *specific) Unwrap() []error            { return []error{s.sentinel, s.detail} }
func (s *specific) GRPCStatus() *status.Status { return newStatus(s.class(), s.Error()) }

func (s *specific) class() class {
	c := s.sentinel.class()
	c.metadata = s.metadata
	return c
}

// newStatus builds a status with ErrorInfo and, if there are violations, BadRequest.
func newStatus(c class, message string) *status.Status {
	st := status.New(c.code, message)
	if c.reason == "" {
		return st
	}
	info := &errdetails.ErrorInfo{Reason: c.reason, Domain: Domain, Metadata: c.metadata}
	var with *status.Status
	var err error
	if len(c.violations) == 0 {
		with, err = st.WithDetails(info)
	} else {
		with, err = st.WithDetails(info, badRequest(c.violations))
	}
	if err != nil { // only for code OK, which is no error
		return st
	}
	return with
}

// Code returns the code by which the outermost classified error of err's tree is known: of a
// sentinel, of a peer's status, of a context error. It is OK for nil and Unknown for all else.
func Code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	c := classify(err)
	return c.code
}

// Reason returns the machine-readable reason of err, own or of a peer, or "" if it has none.
func Reason(err error) string {
	if err == nil {
		return ""
	}
	c := classify(err)
	return c.reason
}

// Metadata returns what err tells programs besides its reason, own or of a peer, or nil.
func Metadata(err error) map[string]string {
	if err == nil {
		return nil
	}
	c := classify(err)
	return c.metadata
}

// Remote reports whether err is the status of a peer that nobody has reclassified.
func Remote(err error) bool {
	if err == nil {
		return false
	}
	c := classify(err)
	return c.remote
}

// class is what is known of an error tree from its outermost classified node.
type class struct {
	code       codes.Code
	reason     string
	metadata   map[string]string
	violations []Violation
	remote     bool
	known      bool
	// status is what a handler built itself, with details that are not ours to understand.
	status *status.Status
}

// classify walks the tree of err in the order of errors.Is; the first node that has a class of its
// own decides, so wrapping with a sentinel reclassifies all that is inside.
func classify(err error) class {
	if c, ok := classOf(err); ok {
		return c
	}
	switch wrapped := err.(type) { //nolint:errorlint // this is the walk itself
	case interface{ Unwrap() error }:
		if inner := wrapped.Unwrap(); inner != nil {
			return classify(inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range wrapped.Unwrap() {
			if c := classify(inner); c.known {
				return c
			}
		}
	}
	return class{code: codes.Unknown}
}

// classOf classifies one node without looking inside it.
func classOf(err error) (class, bool) {
	switch e := err.(type) { //nolint:errorlint // one node at a time, see classify
	case *Error:
		return e.class(), true
	case *specific:
		return e.class(), true
	case *invalid:
		return e.class(), true
	case *remote:
		return e.class(), true
	case interface{ GRPCStatus() *status.Status }:
		c := classOfStatus(e.GRPCStatus())
		c.status = e.GRPCStatus()
		return c, true
	}
	switch {
	case sameError(err, context.Canceled):
		return class{code: codes.Canceled, known: true}, true
	case sameError(err, context.DeadlineExceeded):
		return class{code: codes.DeadlineExceeded, known: true}, true
	}
	return class{}, false
}

// sameError compares one node by identity; a plain == would panic on an uncomparable error type.
func sameError(err, target error) bool {
	return errors.Is(shallow{err}, target)
}

// shallow hides what an error wraps, so that errors.Is looks at one node only.
type shallow struct{ err error }

func (s shallow) Error() string { return s.err.Error() }
func (s shallow) Is(target error) bool {
	if _, wraps := s.err.(interface{ Unwrap() error }); wraps {
		return false
	}
	if _, wraps := s.err.(interface{ Unwrap() []error }); wraps {
		return false
	}
	return errors.Is(s.err, target)
}

// classOfStatus reads the class out of a status and its details.
func classOfStatus(st *status.Status) class {
	c := class{code: st.Code(), known: true}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			c.reason, c.metadata = d.GetReason(), d.GetMetadata()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				c.violations = append(c.violations, Violation{Field: v.GetField(), Description: v.GetDescription()})
			}
		}
	}
	return c
}
