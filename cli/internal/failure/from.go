package failure

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"connectrpc.com/connect"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// FromConnect reads what a controller answered over Connect, gRPC or gRPC-Web as a fault with all its details. ok is false when err is no connect error.
func FromConnect(err error) (f *fault.Error, ok bool) {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return nil, false
	}
	st := &spb.Status{Code: int32(ce.Code()), Message: ce.Message()}
	for _, d := range ce.Details() {
		st.Details = append(st.Details, &anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type(), Value: d.Bytes()})
	}
	return fault.FromStatus(status.FromProto(st)), true
}

// IsCode reports whether err is an answer, or a failure of the connection, with this code.
func IsCode(err error, code codes.Code) bool {
	f, ok := FromConnect(err)
	return ok && f.Code == code
}

// IsReason reports whether a controller gave this reason.
func IsReason(err error, reason metav1.Reason) bool {
	f, ok := FromConnect(err)
	return ok && f.Reason == reason
}

// From makes any error one to show; nil stays nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var own *Error
	if errors.As(err, &own) {
		return own.complete()
	}
	if f, ok := FromConnect(err); ok {
		return fromAnswer(f, err).complete()
	}
	var path *fs.PathError
	switch {
	case errors.Is(err, context.Canceled):
		return New(ExitInterrupted, ReasonInterrupted, "interrupted").complete()
	case errors.Is(err, context.DeadlineExceeded):
		return New(ExitUnavailable, ReasonTimeout, "the time was over: %w", err).complete()
	case errors.As(err, &path):
		return New(ExitGeneral, ReasonFile, "%w", err).complete()
	}
	return New(ExitGeneral, ReasonUnknown, "%w", err).complete()
}

func fromAnswer(f *fault.Error, err error) *Error {
	e := New(exitOf(f), fault.ReasonName(f.Reason), "%s", f.Message)
	e.Fix, e.Violations, e.Metadata, e.cause = f.Remedy, f.Violations, f.Metadata, err
	if f.Reason != metav1.Reason_REASON_UNSPECIFIED {
		return e
	}
	switch {
	case f.Code == codes.Canceled:
		e.Reason, e.Message = ReasonInterrupted, "interrupted"
	case f.Code == codes.DeadlineExceeded:
		e.Reason, e.Message = ReasonTimeout, "the controller did not answer in time"
	case !connect.IsWireError(err) && f.Code == codes.Unavailable:
		e.Reason, e.Message = ReasonUnreachable, "the controller cannot be reached: "+f.Message
	default:
		e.Reason = strings.ToUpper(connect.Code(f.Code).String())
	}
	return e
}

// complete gives a failure without a remedy the usual one for its reason or kind.
func (e *Error) complete() *Error {
	if e.Fix != "" {
		return e
	}
	c := *e
	if fix, ok := fixes[e.Reason]; ok {
		c.Fix = fix
	} else {
		c.Fix = fixesByExit[e.Exit]
	}
	return &c
}

var fixes = map[string]string{
	ReasonUnreachable: "check that the controller runs, and that --server, LQCTL_SERVER or the context names it",
	ReasonTimeout:     "try again with a longer --timeout; what was accepted goes on (lqctl op list)",
	ReasonInterrupted: "run the command again; lqctl op list shows what was accepted",
	ReasonFile:        "check the path and who may read it",
	ReasonContext:     "see lqctl context --help",
	ReasonManifest:    "correct the document; lqctl apply --help shows one",

	"UNAUTHENTICATED":    "give the controller's admin token with --token-file or LQCTL_TOKEN, or store it with lqctl context set",
	"FORBIDDEN":          "use a token that may do this",
	"INVALID_FIELD":      "correct the fields named",
	"NAME_TAKEN":         "choose another name, or delete the object that has it",
	"STALE_ETAG":         "read the object again, then repeat the change",
	"BEING_DELETED":      "wait until it is gone, then repeat",
	"WRONG_STATE":        "look at its state with show, change it, then repeat",
	"NOT_IMPLEMENTED":    "use a controller of a later version; lqctl version shows which one this is",
	"STORE_UNAVAILABLE":  "try again shortly; the controller's /ready says what is wrong",
	"STORE_NO_SPACE":     "free space on the controller's disk",
	"NO_SPACE":           "free space in the pool, or ask for less",
	"UNSCHEDULABLE":      "see lqctl vm explain NAME; add room or ask for less",
	"NODE_UNREACHABLE":   "check the agent on that node (lqctl node show NODE)",
	"NODE_IN_USE":        "move or delete what is on it; --force only when the host is off and stays off",
	"CHECKSUM_MISMATCH":  "get the file anew, or correct --sha256",
	"IMAGE_REFUSED":      "check the file with qemu-img info: --format must be right, and it may have no backing file",
	"IMAGE_IN_USE":       "delete the VMs and volumes that use it first",
	"OPERATION_ENDED":    "make the opposite change instead",
	"REVISION_COMPACTED": "run the command again",
	"INTERNAL":           "this is a defect: see the controller's log, and report it",
}

var fixesByExit = map[int]string{
	ExitGeneral:     "see lqctl --help; if this looks like a defect, report it",
	ExitUsage:       "see --help of the command",
	ExitNotFound:    "check the name and --project; list shows what there is",
	ExitConflict:    "look at the object as it is now, then try again",
	ExitState:       "look at its state with show, then try again",
	ExitUnavailable: "try again shortly",
	ExitForbidden:   "use a token that may do this",
	ExitOperation:   "lqctl op show ID and lqctl vm events NAME say more",
	ExitExhausted:   "make room, or ask for less",
	ExitInterrupted: "run the command again",
}
