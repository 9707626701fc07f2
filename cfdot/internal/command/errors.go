package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"diego.internal/cfdot/internal/output"
	"diego.internal/servicekit/fault"
)

// Exit codes.
const (
	ExitOK          = 0
	ExitFound       = 1   // a check found something: diff, doctor
	ExitUsage       = 3   // arguments, flags, environment or file are wrong
	ExitAPI         = 4   // a server refused
	ExitOther       = 5   // anything else
	ExitNotFound    = 6   // there is no such thing
	ExitUnreachable = 7   // no server answered in time
	ExitPartial     = 8   // some of several cells did not answer
	ExitInterrupted = 130 // Ctrl-C
)

// usageError is the user's mistake.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// serverError says whose answer an error is, or whose is missing.
type serverError struct {
	server string
	error
}

func (e serverError) Unwrap() error { return e.error }

// Names of servers in messages, as scripts know them.
const (
	serverBBS        = "BBS"
	serverLocket     = "Locket"
	serverAuctioneer = "Auctioneer"
	serverRep        = "Rep"
)

// of says which server an error came from; nil stays nil.
func of(server string, err error) error {
	if err == nil {
		return nil
	}
	return serverError{server: server, error: err}
}

var (
	// errPartial says that what was printed is not all.
	errPartial = errors.New("some cells did not answer")
	// errSomeSilent is the same for servers.
	errSomeSilent = errors.New("some servers did not answer")
	// errInterrupted is the cause of a context that Ctrl-C ended.
	errInterrupted = errors.New("interrupted")
	// errSilent says that a server stopped sending in the middle of a list.
	errSilent = fault.New(codes.DeadlineExceeded, "Timeout", "the server sent nothing more in time")
)

// conclusion is an end of a command that did its work and has something to say by its exit code.
type conclusion struct {
	exit int
	name string
	text string
}

func (c conclusion) Error() string { return c.text }

// found says that a check found something; the output says what.
func found(format string, args ...any) error {
	return conclusion{exit: ExitFound, name: "Findings", text: fmt.Sprintf(format, args...)}
}

// late says that what the command waited for did not happen in time.
func late(format string, args ...any) error {
	return conclusion{exit: ExitUnreachable, name: "Timeout", text: fmt.Sprintf(format, args...)}
}

// Interrupted is the cause to cancel the context of Run with.
func Interrupted() error { return errInterrupted }

// report prints an error in the form of its class and returns the exit code of the class.
func (a *app) report(ctx context.Context, command *cobra.Command, err error) int {
	if errors.Is(err, output.ErrClosed) {
		return ExitOK
	}
	if ctx.Err() != nil {
		return ExitInterrupted
	}
	if errors.Is(err, errPartial) || errors.Is(err, errSomeSilent) {
		a.complain(err)
		return ExitPartial
	}
	if end, ok := errors.AsType[conclusion](err); ok {
		if a.jsonErrors() {
			a.reportJSON(end, codes.Unknown.String(), end.name, end.text)
		} else {
			a.complain(end)
		}
		return end.exit
	}
	if mistake, ok := errors.AsType[usageError](err); ok {
		if a.jsonErrors() {
			a.reportJSON(mistake, "InvalidArgument", "Usage", mistake.Error())
			return ExitUsage
		}
		a.complain(mistake)
		_, _ = fmt.Fprintf(a.Stderr, "\n%s", command.UsageString())
		return ExitUsage
	}
	exit := exitOf(err)
	switch {
	case a.jsonErrors() && exit == ExitOther:
		a.reportJSON(err, "Unknown", "Other", err.Error())
	case a.jsonErrors():
		a.reportJSON(err, fault.Code(err).String(), nameOf(err), message(err))
	case exit == ExitOther:
		a.complain(err)
	default:
		a.reportServer(err)
	}
	return exit
}

// jsonErrors says whether the user asked for documents in words: then errors are documents too.
func (a *app) jsonErrors() bool { return a.flags.outputName == "json" || a.flags.outputName == "jsonl" }

// complain prints to standard error; there is nowhere to tell that this failed.
func (a *app) complain(err error) { _, _ = fmt.Fprintln(a.Stderr, err) }

// exitOf is the exit code of an error that is neither the user's nor a partial answer's.
func exitOf(err error) int {
	switch fault.Code(err) { //nolint:exhaustive // the others are refusals
	case codes.NotFound:
		return ExitNotFound
	case codes.Unavailable, codes.DeadlineExceeded:
		return ExitUnreachable
	case codes.Unknown, codes.OK:
		if fault.Reason(err) == "" && !fault.Remote(err) {
			return ExitOther
		}
		return ExitAPI
	default:
		return ExitAPI
	}
}

// nameOf is Diego's type of an error, or else the gRPC code.
func nameOf(err error) string {
	if name := fault.Reason(err); name != "" {
		return name
	}
	return fault.Code(err).String()
}

// message is what the server said, without our own account of the call.
func message(err error) string {
	type answer interface {
		error
		GRPCStatus() *status.Status
	}
	if errors.Is(err, context.DeadlineExceeded) && fault.Reason(err) == "" {
		return "nobody answered in time"
	}
	if said, ok := errors.AsType[answer](err); ok && said.GRPCStatus().Message() != "" {
		return said.GRPCStatus().Message()
	}
	return err.Error()
}

// reportServer prints the lines that scripts look for.
func (a *app) reportServer(err error) {
	server := serverBBS
	if from, ok := errors.AsType[serverError](err); ok {
		server = from.server
	}
	if server == serverRep {
		a.complain(err) // one line, which names the cell
		return
	}
	name := nameOf(err)
	kind := "Type: " + name
	if number, ok := typeNumber(name); ok {
		kind = fmt.Sprintf("Type %d: %s", number, name)
	}
	said := message(err)
	if server == serverLocket {
		said = fault.Code(err).String() + ": " + said // scripts know a collision by AlreadyExists
	}
	_, _ = fmt.Fprintf(a.Stderr, "%s error\n%s\nMessage: %s\n", server, kind, said)
	for _, violation := range fault.Violations(err) {
		_, _ = fmt.Fprintf(a.Stderr, "  %s: %s\n", violation.Field, violation.Description)
	}
	if exitOf(err) == ExitUnreachable {
		for _, line := range a.explainUnreachable(server) {
			_, _ = fmt.Fprintf(a.Stderr, "  %s\n", output.Printable(line))
		}
	}
	_, _ = fmt.Fprintf(a.Stderr, "Request: %s\n", a.requestID)
}

// typeNumber is the number that a type of error has always had; new types have none.
func typeNumber(name string) (number int, known bool) {
	numbers := map[string]int{
		"UnknownError": 0, "InvalidRecord": 3, "InvalidRequest": 4, "InvalidStateTransition": 9, "ResourceConflict": 11, "ResourceExists": 12,
		"ResourceNotFound": 13, "ActualLRPCannotBeClaimed": 15, "ActualLRPCannotBeStarted": 16, "ActualLRPCannotBeCrashed": 17,
		"ActualLRPCannotBeFailed": 18, "ActualLRPCannotBeRemoved": 19, "ActualLRPCannotBeUnclaimed": 21, "RunningOnDifferentCell": 24,
		"Deadlock": 28, "Unrecoverable": 29, "LockCollision": 30, "Timeout": 31,
	}
	number, known = numbers[name]
	return number, known
}

// reportJSON is for programs that asked for JSON: one document on standard error.
func (a *app) reportJSON(err error, code, name, text string) {
	type violation struct {
		Field       string `json:"field"`
		Description string `json:"description"`
	}
	report := struct {
		Error struct {
			Code       string      `json:"code"`
			Name       string      `json:"name"`
			Message    string      `json:"message"`
			RequestID  string      `json:"request_id"`
			Violations []violation `json:"violations,omitempty"`
		} `json:"error"`
	}{}
	report.Error.Code, report.Error.Name, report.Error.Message, report.Error.RequestID = code, name, text, a.requestID
	for _, v := range fault.Violations(err) {
		report.Error.Violations = append(report.Error.Violations, violation(v))
	}
	_ = json.NewEncoder(a.Stderr).Encode(report) // there is nowhere to tell that telling failed
}
