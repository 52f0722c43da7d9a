package command

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Every code that a controller can answer with has its exit code, and its reason and remedy are shown.
func TestExitCodeOfAnswers(t *testing.T) {
	b := newBench(t)
	for reason, want := range map[metav1.Reason]int{
		metav1.Reason_REASON_INVALID_FIELD:     failure.ExitUsage,
		metav1.Reason_REASON_SIZE_OUT_OF_RANGE: failure.ExitUsage,
		metav1.Reason_REASON_NOT_FOUND:         failure.ExitNotFound,
		metav1.Reason_REASON_NAME_TAKEN:        failure.ExitConflict,
		metav1.Reason_REASON_STALE_ETAG:        failure.ExitConflict,
		metav1.Reason_REASON_WRONG_STATE:       failure.ExitState,
		metav1.Reason_REASON_NODE_UNREACHABLE:  failure.ExitUnavailable,
		metav1.Reason_REASON_BACKEND_TIMEOUT:   failure.ExitUnavailable,
		metav1.Reason_REASON_UNAUTHENTICATED:   failure.ExitForbidden,
		metav1.Reason_REASON_FORBIDDEN:         failure.ExitForbidden,
		metav1.Reason_REASON_UNSCHEDULABLE:     failure.ExitExhausted,
		metav1.Reason_REASON_NO_SPACE:          failure.ExitExhausted,
		metav1.Reason_REASON_CANCELLED:         failure.ExitInterrupted,
		metav1.Reason_REASON_INTERNAL:          failure.ExitGeneral,
		metav1.Reason_REASON_NOT_IMPLEMENTED:   failure.ExitGeneral,
		metav1.Reason_REASON_CHECKSUM_MISMATCH: failure.ExitGeneral,
	} {
		b.server.Fail["ListVMs"] = fault.New(reason, "made to fail").WithRemedy("do this")
		b.fails(want, []string{"vm", "list"}, "error: made to fail", "reason: "+fault.ReasonName(reason), "fix: do this")
		b.server.Fail["ListVMs"] = fault.New(reason, "made to fail") // without a remedy lqctl knows one
		b.fails(want, []string{"vm", "list"}, "reason: "+fault.ReasonName(reason))
	}
	b.server.Fail["ListVMs"] = &fault.Error{Code: codes.Unimplemented, Message: "no such method"}
	b.fails(failure.ExitGeneral, []string{"vm", "list"}, "reason: UNIMPLEMENTED")
}

func TestExitCodeUnreachable(t *testing.T) {
	b := newBench(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b.fails(failure.ExitUnavailable, []string{"vm", "list", "--server", "http://" + l.Addr().String(), "--timeout", "50ms"}, "reason: TIMEOUT")
	_ = l.Close()
	for _, args := range []string{"vm list", "vm list -w", "version", "vm logs web", "vm console web"} {
		b.fails(failure.ExitUnavailable, append(strings.Fields(args), "--server", "http://"+l.Addr().String()), "reason: CONTROLLER_UNREACHABLE")
	}
}

func TestDidYouMean(t *testing.T) {
	b := newBench(t)
	for args, want := range map[string]string{
		"vmm list":                        `unknown command "vmm" for "lqctl"; did you mean "vm"?`,
		"vm lst":                          `unknown command "lst" for "lqctl vm"; did you mean "list"?`,
		"vm strat web --force":            `did you mean "start"?`,
		"vm crate web --cpus 2":           `unknown command "crate" for "lqctl vm"; did you mean "create"?`,
		"node token craete x":             `did you mean "create"?`,
		"vm list --selctor a=b":           `unknown flag --selctor; did you mean --selector?`,
		"vm create web --memry=1G":        `unknown flag --memry; did you mean --memory?`,
		"vm list -Z":                      `unknown flag -Z`,
		"--bogus":                         `unknown flag --bogus`,
		"vm list -o yml":                  `unknown value "yml" for -o; did you mean "yaml"?`,
		"vm list --phase runing":          `did you mean "running"?`,
		"op list --state faild":           `did you mean "failed"?`,
		"vm wait web --for runnning":      `did you mean "running"?`,
		"vm create w --run-policy onfail": `unknown value "onfail" for --run-policy`,
		"vm create w --disk sise=1G":      `did you mean "size"?`,
		"vm create w --nic forwrd=1-1":    `did you mean "forward"?`,
		"vm show":                         `NAME is missing`,
		"vm show a b":                     `"b" is one argument too many`,
		"vm create w --cpus two":          `invalid argument "two"`,
		"vm create w --memory":            `flag needs an argument`,
		"delete web":                      `lqctl vm delete NAME`,
		"vm set web":                      `nothing to change`,
		"apply":                           `-f is missing`,
	} {
		b.fails(failure.ExitUsage, strings.Fields(args), want)
	}
}

func TestViolationsAreListed(t *testing.T) {
	b := newBench(t)
	b.server.Fail["CreateVM"] = fault.Invalid(fault.Violation{Field: "vm.a", Description: "is wrong"}, fault.Violation{Field: "vm.b", Description: "is too"})
	b.fails(failure.ExitUsage, []string{"vm", "create", "web"}, "\n  vm.a: is wrong\n", "\n  vm.b: is too\n", "reason: INVALID_FIELD")
}

func TestUnreadableFiles(t *testing.T) {
	b := newBench(t)
	absent := filepath.Join(t.TempDir(), "absent")
	for _, args := range [][]string{
		{"vm", "create", "web", "--ssh-key", absent},
		{"vm", "create", "web", "--user-data", absent},
		{"image", "import", "x", "--file", absent, "--format", "raw"},
		{"apply", "-f", absent},
	} {
		b.fails(failure.ExitGeneral, args, "reason: FILE", "absent")
	}
	b.fails(failure.ExitForbidden, []string{"vm", "list", "--token-file", absent}, "--token-file")
}
