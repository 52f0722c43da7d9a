package failure

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// What a controller puts into a connect error comes out, every detail.
func TestFromConnect(t *testing.T) {
	t.Parallel()
	in := fault.Invalid(fault.Violation{Field: "a", Description: "b"}).WithRemedy("c").WithMetadata("d", "e")
	st := in.GRPCStatus().Proto()
	ce := connect.NewError(connect.Code(st.GetCode()), errors.New(st.GetMessage()))
	for _, d := range st.GetDetails() {
		detail, err := connect.NewErrorDetail(d)
		if err != nil {
			t.Fatal(err)
		}
		ce.AddDetail(detail)
	}
	out, ok := FromConnect(fmt.Errorf("wrapped: %w", ce))
	if !ok || out.Reason != in.Reason || out.Code != codes.InvalidArgument || out.Remedy != "c" || out.Metadata["d"] != "e" || len(out.Violations) != 1 || out.Message != in.Message {
		t.Errorf("%+v", out)
	}
	if _, ok := FromConnect(errors.New("x")); ok {
		t.Error("any error is taken for an answer")
	}
	if !IsReason(ce, metav1.Reason_REASON_INVALID_FIELD) || IsReason(nil, metav1.Reason_REASON_INVALID_FIELD) || !IsCode(ce, codes.InvalidArgument) {
		t.Error("IsReason or IsCode")
	}
}

func TestFromAlwaysHasReasonAndFix(t *testing.T) {
	t.Parallel()
	if From(nil) != nil {
		t.Error("nil does not stay nil")
	}
	for _, err := range []error{
		errors.New("x"), context.Canceled, context.DeadlineExceeded, connect.NewError(connect.CodeUnavailable, errors.New("x")),
		connect.NewError(connect.CodeUnknown, errors.New("x")), New(ExitState, "X", "x"), Usage("x"),
	} {
		if e := From(err); e.Reason == "" || e.Fix == "" || e.Message == "" || e.Exit == 0 {
			t.Errorf("%v: %+v", err, e)
		}
	}
}

// The help names every exit code that is used.
func TestExitHelp(t *testing.T) {
	t.Parallel()
	for _, code := range []int{ExitOK, ExitGeneral, ExitUsage, ExitNotFound, ExitConflict, ExitState, ExitUnavailable, ExitForbidden, ExitOperation, ExitExhausted, ExitInterrupted} {
		if !strings.Contains(ExitHelp(), fmt.Sprintf("\n  %3d  ", code)) {
			t.Errorf("%d is not explained", code)
		}
	}
}
