package host

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func TestLaunchServesCalls(t *testing.T) {
	t.Parallel()
	spec := install(t, "serve")
	spec.Secrets = map[string][]byte{"token": []byte("s3cret")}
	p := launch(t, spec)
	c := driverv1.NewComputeDriverServiceClient(p.Conn())
	if got, err := do(t.Context(), c, "secret:token"); err != nil || got != "s3cret" {
		t.Fatalf("secret: %q, %v", got, err)
	}
	if p.Info().GetName() != "fake" || p.Capabilities().GetCompute() == nil || p.PID() == 0 {
		t.Errorf("info %v, capabilities %v, pid %d", p.Info(), p.Capabilities(), p.PID())
	}
	if err := p.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestErrorsSurviveTheTrip(t *testing.T) {
	t.Parallel()
	c := driverv1.NewComputeDriverServiceClient(launch(t, install(t, "serve")).Conn())
	for _, tc := range []struct {
		what   string
		reason metav1.Reason
		code   codes.Code
	}{
		{"fault", metav1.Reason_REASON_VOLUME_IN_USE, codes.FailedPrecondition},
		{"plain", metav1.Reason_REASON_INTERNAL, codes.Internal},
		{"panic", metav1.Reason_REASON_PLUGIN_PANIC, codes.Internal},
		{"bytes:17825792", metav1.Reason_REASON_LIMIT_EXCEEDED, codes.ResourceExhausted},
	} {
		_, err := do(t.Context(), c, tc.what)
		if f := fault.From(err); err == nil || f.Reason != tc.reason || f.Code != tc.code {
			t.Errorf("%s: got %v (%+v), want %s, %s", tc.what, err, f, tc.reason, tc.code)
		}
	}
	_, err := do(t.Context(), c, "fault")
	if f := fault.From(err); f.Remedy != "detach it" || f.Metadata["volume"] != "v" {
		t.Errorf("details were lost: %+v", f)
	}
	if _, err := do(t.Context(), c, "version"); err != nil {
		t.Errorf("it does not serve on after a panic: %v", err)
	}
}

func TestLaunchRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		mode, config string
		reason       metav1.Reason
		says         string
	}{
		{"exit", "", metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "cannot find my library"},
		{"garbage", "", metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "this is not a handshake"},
		{"cookie", "", metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "This binary is a plugin"},
		{"nocert", "", metav1.Reason_REASON_PLUGIN_INVALID, "AutoMTLS"},
		{"elsewhere", "", metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "not on a unix socket in"},
		{"version", "", metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "incompatible API version"},
		{"serve:liar", "", metav1.Reason_REASON_PLUGIN_INVALID, `the plugin "liar"`},
		{"serve:version=2.0.0", "", metav1.Reason_REASON_PLUGIN_INVALID, `the plugin "2.0.0"`},
		{"serve", `{"unknown":1}`, metav1.Reason_REASON_INVALID_FIELD, "unknown"},
		{"serve", `{"crash":true}`, metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "told to crash"},
	} {
		t.Run(tc.mode+tc.config, func(t *testing.T) {
			t.Parallel()
			spec := install(t, tc.mode)
			spec.ConfigJSON = tc.config
			p, err := Launch(t.Context(), spec)
			if err == nil {
				_ = p.Stop(context.Background(), 0)
				t.Fatal("it was launched")
			}
			f := fault.From(err)
			if f.Reason != tc.reason || !strings.Contains(f.Message, tc.says) {
				t.Errorf("got %s: %v, want %s with %q", f.Reason, err, tc.reason, tc.says)
			}
			assertEmpty(t, spec.RuntimeDir)
		})
	}
}
