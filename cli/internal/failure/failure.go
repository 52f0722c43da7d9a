// Package failure is what lqctl says when something fails: a message, a reason for programs, what to do, and the exit code for its kind.
package failure

import (
	"errors"
	"fmt"

	"github.com/limiquantix/limiquantix/proto/fault"
)

// Reasons of failures that lqctl itself finds. What a controller answers carries a reason of meta.v1.Reason.
const (
	ReasonUsage       = "USAGE"
	ReasonUnreachable = "CONTROLLER_UNREACHABLE"
	ReasonTimeout     = "TIMEOUT"
	ReasonInterrupted = "INTERRUPTED"
	ReasonDetached    = "DETACHED"
	ReasonFile        = "FILE"
	ReasonContext     = "CONTEXT"
	ReasonManifest    = "MANIFEST"
	ReasonUnknown     = "UNKNOWN"
)

// Error is a failure to show. The zero value is not useful; use New or Usage.
type Error struct {
	Exit       int
	Reason     string            // for programs
	Message    string            // what failed, on what
	Fix        string            // what to do about it
	Violations []fault.Violation // wrong fields
	Metadata   map[string]string // facts for programs
	Operation  string            // id of an operation that goes on regardless
	Silent     bool              // say nothing: the user asked for the end of an endless command
	cause      error
}

// New makes a failure.
func New(exit int, reason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Exit: exit, Reason: reason, Message: err.Error(), cause: errors.Unwrap(err)}
}

// Usage makes a failure of wrong usage.
func Usage(format string, args ...any) *Error { return New(ExitUsage, ReasonUsage, format, args...) }

// WithFix says what to do about it.
func (e *Error) WithFix(format string, args ...any) *Error {
	e.Fix = fmt.Sprintf(format, args...)
	return e
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause given with %w.
func (e *Error) Unwrap() error { return e.cause }
