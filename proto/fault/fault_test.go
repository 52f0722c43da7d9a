package fault_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Every reason but UNSPECIFIED has a code, and it is the one that its comment promises.
func TestCodesAgreeWithComments(t *testing.T) {
	src, err := os.ReadFile("../limiquantix/meta/v1/reason.proto")
	if err != nil {
		t.Fatal(err)
	}
	re := regexp.MustCompile(`(?m)^  // ([A-Z_]+): .*\n(?:  //.*\n)*  (REASON_[A-Z_]+) = \d+;`)
	found := map[string]string{}
	for _, m := range re.FindAllStringSubmatch(string(src), -1) {
		found[m[2]] = m[1]
	}
	for name, number := range metav1.Reason_value {
		if number == 0 {
			continue
		}
		want, ok := found[name]
		if !ok {
			t.Errorf("%s: comment does not begin with a gRPC code", name)
			continue
		}
		var code codes.Code
		if err := code.UnmarshalJSON([]byte(`"` + want + `"`)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := fault.CodeOf(metav1.Reason(number)); got != code {
			t.Errorf("%s: code %v, comment says %s", name, got, want)
		}
	}
}

// What a server puts in, a client reads out.
func TestSurvivesStatus(t *testing.T) {
	in := fault.Invalid(fault.Violation{Field: "vm.spec.memory_bytes", Description: "must be at least 16 MiB"}).
		WithRemedy("give %d bytes or more", 16<<20).WithMetadata("limit", "16777216")
	out := fault.From(status.FromProto(in.GRPCStatus().Proto()).Err())
	if out.Code != codes.InvalidArgument || out.Reason != metav1.Reason_REASON_INVALID_FIELD || out.Remedy != in.Remedy ||
		len(out.Violations) != 1 || out.Violations[0] != in.Violations[0] || out.Metadata["limit"] != "16777216" {
		t.Fatalf("got %+v", out)
	}
	if !errors.Is(error(out), fault.New(metav1.Reason_REASON_INVALID_FIELD, "x")) || errors.Is(error(out), fault.New(metav1.Reason_REASON_BUSY, "x")) {
		t.Fatal("errors.Is does not follow the reason")
	}
}

func TestFromForeignErrors(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code codes.Code
	}{
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{fmt.Errorf("call: %w", context.Canceled), codes.Canceled},
		{errors.New("boom"), codes.Internal},
		{status.Error(codes.Unavailable, "gone"), codes.Unavailable},
		{fmt.Errorf("wrapped: %w", fault.New(metav1.Reason_REASON_BUSY, "b")), codes.Aborted},
	} {
		if got := fault.From(tc.err).Code; got != tc.code {
			t.Errorf("%v: %v, want %v", tc.err, got, tc.code)
		}
	}
	if fault.From(nil) != nil {
		t.Error("nil does not stay nil")
	}
}

func TestWrapsCause(t *testing.T) {
	e := fault.New(metav1.Reason_REASON_BACKEND_FAILED, "define: %w", os.ErrNotExist)
	if !errors.Is(e, os.ErrNotExist) || !strings.Contains(e.Error(), "define") {
		t.Fatal(e)
	}
}
