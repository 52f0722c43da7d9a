// Package fault is the one error type of limiquantix's APIs, drivers included: a gRPC code, a reason from the registry
// (limiquantix.meta.v1.Reason), the fields at fault and what to do. It survives the trip over gRPC in both directions:
//
//	return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached to %s", id, vm)   // server
//	if fault.Is(err, metav1.Reason_REASON_VOLUME_IN_USE) { ... }                                  // client
package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Domain is the ErrorInfo domain of reasons in the registry.
const Domain = "limiquantix"

// Violation is one wrong field and what would be right.
type Violation struct{ Field, Description string }

// Error is a failure that a caller can act on. The zero value is not useful; use New.
type Error struct {
	Code       codes.Code
	Reason     metav1.Reason
	Message    string            // what failed, on what
	Remedy     string            // what to do about it; may be empty
	Violations []Violation       // wrong fields, for INVALID_FIELD
	Metadata   map[string]string // facts for programs, for example "plugin", "leader"
	cause      error
}

// New makes an error of a reason; the code follows from the reason.
func New(reason metav1.Reason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: CodeOf(reason), Reason: reason, Message: err.Error(), cause: errors.Unwrap(err)}
}

// Invalid makes an INVALID_FIELD error of violations; its message lists them all.
func Invalid(violations ...Violation) *Error {
	parts := make([]string, len(violations))
	for i, v := range violations {
		parts[i] = v.Field + ": " + v.Description
	}
	e := New(metav1.Reason_REASON_INVALID_FIELD, "%s", strings.Join(parts, "; "))
	e.Violations = violations
	return e
}

// WithRemedy says what to do about it.
func (e *Error) WithRemedy(format string, args ...any) *Error {
	e.Remedy = fmt.Sprintf(format, args...)
	return e
}

// WithMetadata adds a fact for programs.
func (e *Error) WithMetadata(key, value string) *Error {
	if e.Metadata == nil {
		e.Metadata = map[string]string{}
	}
	e.Metadata[key] = value
	return e
}

// Error returns the message and, if there is one, the remedy.
func (e *Error) Error() string {
	if e.Remedy == "" {
		return e.Message
	}
	return e.Message + ": " + e.Remedy
}

// Unwrap returns the cause given with %w.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is an *Error of the same reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason
}

// GRPCStatus carries the error over gRPC; grpc-go calls it.
func (e *Error) GRPCStatus() *status.Status {
	st := status.New(e.Code, e.Message)
	info := &errdetails.ErrorInfo{Domain: Domain, Reason: ReasonName(e.Reason), Metadata: e.Metadata}
	out, err := st.WithDetails(info)
	if err != nil {
		return st
	}
	if len(e.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range e.Violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
		}
		if o, err := out.WithDetails(bad); err == nil {
			out = o
		}
	}
	if e.Remedy != "" {
		if o, err := out.WithDetails(&errdetails.Help{Links: []*errdetails.Help_Link{{Description: e.Remedy}}}); err == nil {
			out = o
		}
	}
	return out
}

// From reads any error as an *Error: one of ours as it is, a gRPC status with its details, a context's end, anything else as INTERNAL. nil stays nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if st, ok := status.FromError(err); ok {
		return FromStatus(st)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: codes.DeadlineExceeded, Reason: metav1.Reason_REASON_BACKEND_TIMEOUT, Message: err.Error(), cause: err}
	case errors.Is(err, context.Canceled):
		return &Error{Code: codes.Canceled, Reason: metav1.Reason_REASON_CANCELLED, Message: err.Error(), cause: err}
	}
	return &Error{Code: codes.Internal, Reason: metav1.Reason_REASON_INTERNAL, Message: err.Error(), cause: err}
}

// FromStatus reads a gRPC status with its details.
func FromStatus(st *status.Status) *Error {
	e := &Error{Code: st.Code(), Message: st.Message()}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == Domain {
				e.Reason = metav1.Reason(metav1.Reason_value["REASON_"+d.GetReason()])
			}
			e.Metadata = d.GetMetadata()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{Field: v.GetField(), Description: v.GetDescription()})
			}
		case *errdetails.Help:
			if len(d.GetLinks()) > 0 {
				e.Remedy = d.GetLinks()[0].GetDescription()
			}
		}
	}
	return e
}

// Is reports whether err has the reason, on either side of gRPC.
func Is(err error, reason metav1.Reason) bool { return err != nil && From(err).Reason == reason }

// ReasonName is a reason as it stands in ErrorInfo: without the REASON_ prefix.
func ReasonName(r metav1.Reason) string { return strings.TrimPrefix(r.String(), "REASON_") }
