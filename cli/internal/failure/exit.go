package failure

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Exit codes, one for each kind of failure.
const (
	ExitOK          = 0
	ExitGeneral     = 1
	ExitUsage       = 2
	ExitNotFound    = 3
	ExitConflict    = 4
	ExitState       = 5
	ExitUnavailable = 6
	ExitForbidden   = 7
	ExitOperation   = 8
	ExitExhausted   = 9
	ExitInterrupted = 130
)

// ExitCodes describes every exit code, in order.
var ExitCodes = []struct {
	Code    int
	Meaning string
}{
	{ExitOK, "done"},
	{ExitGeneral, "another failure: a defect, an unreadable file, lost data"},
	{ExitUsage, "wrong usage: unknown verb or flag, a value that is not valid, a field the controller refuses"},
	{ExitNotFound, "no such object"},
	{ExitConflict, "conflict: the name is taken, the object changed meanwhile, another call is under way"},
	{ExitState, "the object's state does not allow this"},
	{ExitUnavailable, "the controller or a node cannot be reached, or the time was over"},
	{ExitForbidden, "no token, an unknown token, or not allowed"},
	{ExitOperation, "the operation was accepted, and then failed, was cancelled or was superseded"},
	{ExitExhausted, "no room: nothing fits, or a limit or a disk is full"},
	{ExitInterrupted, "interrupted by Ctrl-C; an operation under way goes on"},
}

// ExitHelp is the help topic on exit codes.
func ExitHelp() string {
	var b strings.Builder
	b.WriteString("lqctl ends with a code that tells the kind of failure:\n\n")
	for _, e := range ExitCodes {
		fmt.Fprintf(&b, "  %3d  %s\n", e.Code, e.Meaning)
	}
	b.WriteString("\nEvery failure prints three lines to stderr: what failed (error), a word for programs\n(reason), and what to do about it (fix). With -o json they are one JSON object.\n")
	return b.String()
}

// exitOf is the exit code for what a server answered.
func exitOf(f *fault.Error) int {
	if f.Reason == metav1.Reason_REASON_UNSCHEDULABLE {
		return ExitExhausted
	}
	switch f.Code {
	case codes.OK:
		return ExitOK
	case codes.InvalidArgument, codes.OutOfRange:
		return ExitUsage
	case codes.NotFound:
		return ExitNotFound
	case codes.AlreadyExists, codes.Aborted:
		return ExitConflict
	case codes.FailedPrecondition:
		return ExitState
	case codes.Unavailable, codes.DeadlineExceeded:
		return ExitUnavailable
	case codes.Unauthenticated, codes.PermissionDenied:
		return ExitForbidden
	case codes.ResourceExhausted:
		return ExitExhausted
	case codes.Canceled:
		return ExitInterrupted
	}
	return ExitGeneral
}
