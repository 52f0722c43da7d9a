package command

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/fakeapi"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func TestWhy(t *testing.T) {
	b := newBench(t)
	b.ok("vm", "create", "web", "--no-wait")
	at := func(s int) *timestamppb.Timestamp {
		return timestamppb.New(fakeapi.Epoch.Add(5*time.Minute + time.Duration(s)*time.Second))
	}
	b.server.Why = &computev1.Explanation{
		ObjectKind: "VM", ObjectName: "web", State: "STARTING", Wanted: "RUNNING", Summary: "StartDomain of driver kvm has been under way for 12s",
		WaitsFor: "driver kvm on node n1", Since: at(-12),
		Progress: &computev1.Progress{
			Doing: "starting it", Tries: 3, NextTryTime: at(8),
			Calls:     []*computev1.DriverCall{{Driver: "kvm", Method: "StartDomain", StartTime: at(-12), Deadline: at(48)}},
			LastError: &computev1.Failure{Code: "INTERNAL", Reason: "BACKEND_FAILED", Message: "libvirt says no", Remedy: "look at its log", Time: at(-20)},
		},
		Parts: []*computev1.Explanation{{ObjectKind: "Volume", ObjectName: "root", State: "CREATING", Wanted: "READY", Summary: "is being made", WaitsFor: "node n1"}},
	}
	b.server.Nodes = []*computev1.Node{{Meta: &metav1.ObjectMeta{Name: "n1"}}}
	want := `web (starting, shall be running): StartDomain of driver kvm has been under way for 12s
  In flight: StartDomain of driver kvm, for 12s, given up in 48s
  Error:     INTERNAL BACKEND_FAILED: libvirt says no
  When:      20s ago
  Remedy:    look at its log
  Tries:     3 failed in a row
  Next try:  in 8s
  Waits for: driver kvm on node n1
  Since:     2026-01-02T03:08:53Z (12s ago)
  volume root (creating, shall be ready): is being made
    Waits for: node n1
  It would fit: ask for 512 MiB of memory
`
	for _, args := range [][]string{{"why", "web"}, {"why", "vm", "web"}} {
		if got := b.ok(args...); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	if got := b.ok("why", "node", "n1"); got == "" {
		t.Error(got)
	}
	if got := b.ok("why", "web", "-o", "json"); !strings.Contains(got, `"waitsFor"`) {
		t.Error(got)
	}
	b.server.Images = []*storagev1.Image{{Meta: &metav1.ObjectMeta{Id: "i", Name: "debian"}, Status: &storagev1.ImageStatus{
		Phase: storagev1.ImagePhase_IMAGE_PHASE_FAILED, Copies: []*storagev1.ImageCopy{{
			NodeId: "n1", Phase: storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_FAILED, Message: "the disk is full",
		}},
	}}}
	if got := b.ok("why", "image", "debian"); !strings.Contains(got, "the disk is full") || !strings.Contains(got, "Waits for: node n1") {
		t.Error(got)
	}
	b.fails(failure.ExitUsage, []string{"why"}, "NAME is missing")
	b.fails(failure.ExitUsage, []string{"why", "nod", "n1"}, `did you mean "node"?`)
}
