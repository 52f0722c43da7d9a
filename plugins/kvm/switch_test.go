package kvm_test

import (
	"os/exec"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// A running domain goes over to an overlay of one disk, once however often it is asked, and its definition with it; the spec that names the overlay is then what runs.
func TestSwitchDisk(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	spec := b.spec("labname=switch")
	first, second := b.rawDisk(otherID, 4<<20), b.rawDisk(diskID, 8<<20)
	spec.Disks = []*driverv1.DomainDisk{first, second}
	overlay := second.GetSource().GetFile().GetPath() + ".overlay.qcow2"
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", second.GetSource().GetFile().GetPath(), "-F", "raw", overlay).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	req := &driverv1.SwitchDiskRequest{DomainId: b.id, DiskId: diskID, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_File{
		File: &driverv1.FileSource{Path: overlay, Format: driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2},
	}}}
	ok[*driverv1.CreateDomainResponse](t, "create")(b.CreateDomain(ctx, &driverv1.CreateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: spec}))
	if _, err := b.SwitchDisk(ctx, req); !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Error("switch of a domain that is off:", err)
	}
	pid := b.start().GetPid()
	b.waitLog(b.id, "GUEST-READY")
	for _, wrong := range []*driverv1.SwitchDiskRequest{
		{DomainId: b.id, DiskId: diskID, Source: second.GetSource()},
		{DomainId: b.id, DiskId: "../x", Source: req.GetSource()},
	} {
		if _, err := b.SwitchDisk(ctx, wrong); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
			t.Errorf("%v: %v", wrong, err)
		}
	}
	absent := proto.CloneOf(req)
	absent.DiskId = foreignID
	if _, err := b.SwitchDisk(ctx, absent); !fault.Is(err, metav1.Reason_REASON_VOLUME_NOT_FOUND) {
		t.Error("switch of another disk:", err)
	}
	for range 2 {
		if d := ok[*driverv1.SwitchDiskResponse](t, "switch")(b.SwitchDisk(ctx, req)).GetDomain(); d.GetRestartRequired() || d.GetPid() != pid {
			t.Errorf("switched: %v", d)
		}
	}
	files := func(flags ...string) string {
		out, err := b.node.Virsh(ctx, append([]string{"domblklist", b.id}, flags...)...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, flags := range [][]string{nil, {"--inactive"}} {
		if l := files(flags...); strings.Count(l, overlay) != 1 || strings.Count(l, first.GetSource().GetFile().GetPath()) != 1 {
			t.Errorf("%v: %s", flags, l)
		}
	}
	if l, err := b.node.Virsh(ctx, "snapshot-list", b.id, "--name"); err != nil || strings.TrimSpace(l) != "" {
		t.Errorf("libvirt keeps snapshots of its own: %q, %v", l, err)
	}
	spec = proto.CloneOf(spec)
	spec.Disks[1].Source = req.GetSource()
	if d := ok[*driverv1.UpdateDomainResponse](t, "update")(b.UpdateDomain(ctx, &driverv1.UpdateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: spec})).GetDomain(); d.GetRestartRequired() || d.GetPid() != pid {
		t.Errorf("the spec that names the overlay is not what runs: %v", d)
	}
	ok[*driverv1.StopDomainResponse](t, "stop")(b.StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: b.id, Grace: durationpb.New(bootLimit)}))
	b.start()
	if l := files(); !strings.Contains(l, overlay) {
		t.Errorf("started again: %s", l)
	}
}
