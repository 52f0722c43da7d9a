package host

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// The end of a call by its deadline is one reason, whoever notices first: the caller's context, gRPC, or the plugin's side, which cancels the stream.
func TestWhyCallsEnd(t *testing.T) {
	soon, cancelSoon := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancelSoon()
	late, cancelLate := context.WithTimeout(t.Context(), time.Hour)
	defer cancelLate()
	over, cancelOver := context.WithTimeout(t.Context(), 0)
	defer cancelOver()
	gone, cancelGone := context.WithTimeout(t.Context(), 50*time.Millisecond)
	cancelGone()
	for name, c := range map[string]struct {
		ctx    context.Context //nolint:containedctx // the case
		code   codes.Code
		reason metav1.Reason
	}{
		"the plugin's side was first": {soon, codes.Canceled, metav1.Reason_REASON_BACKEND_TIMEOUT},
		"gRPC was first":              {soon, codes.DeadlineExceeded, metav1.Reason_REASON_BACKEND_TIMEOUT},
		"the context was first":       {over, codes.DeadlineExceeded, metav1.Reason_REASON_BACKEND_TIMEOUT},
		"the connection was closed":   {late, codes.Canceled, metav1.Reason_REASON_PLUGIN_UNAVAILABLE},
		"the caller gave up":          {gone, codes.Canceled, metav1.Reason_REASON_CANCELLED},
	} {
		f := fault.From(classify(c.ctx, "p", "M", status.Error(c.code, "stream terminated by RST_STREAM with error code: CANCEL")))
		if f.Reason != c.reason {
			t.Errorf("%s: %v", name, f)
		}
		if timeout := f.Reason == metav1.Reason_REASON_BACKEND_TIMEOUT; timeout != (f.Code == codes.DeadlineExceeded) || timeout && f.Message != "plugin p did not answer M in time" {
			t.Errorf("%s: %v %s", name, f.Code, f.Message)
		}
	}
}
