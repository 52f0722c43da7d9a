package kvm_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// A guest that writes all the time notices nothing of two switches: no block is lost or torn, and what it had before each switch stays as it was.
func TestSwitchUnderAWritingGuest(t *testing.T) {
	t.Parallel()
	const blocks, sector = 120, 512
	b, ctx := newBench(t), t.Context()
	disk := b.rawDisk(diskID, 1<<20)
	base := disk.GetSource().GetFile().GetPath()
	image := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img %v: %v: %s", args, err, out)
		}
	}
	sum := func(file string) [32]byte {
		t.Helper()
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(content)
	}
	spec := b.spec("labname=writer")
	spec.Disks = []*driverv1.DomainDisk{disk}
	b.create(b.id, spec)
	first := b.start()
	b.waitLog(b.id, "GUEST-READY")
	b.tell(b.id, fmt.Sprintf("\ni=0; while [ $i -lt %d ]; do printf block-%%08d $i | dd of=/dev/vda bs=%d seek=$i conv=notrunc,sync 2>/dev/null;"+
		" i=$((i+1)); [ $((i%%20)) = 0 ] && { sync; echo at-$i; }; done; echo all-$((40+2))", blocks, sector))

	type side struct {
		file string
		was  [32]byte
	}
	var before []side
	file, format := base, "raw"
	for n, at := range []string{"at-20", "at-60"} {
		b.waitLog(b.id, at)
		overlay := filepath.Join(b.dir, fmt.Sprintf("overlay%d.qcow2", n))
		image("create", "-q", "-f", "qcow2", "-b", file, "-F", format, overlay)
		ok[*driverv1.SwitchDiskResponse](t, "switch")(b.SwitchDisk(ctx, &driverv1.SwitchDiskRequest{DomainId: b.id, DiskId: diskID, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_File{
			File: &driverv1.FileSource{Path: overlay, Format: driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2},
		}}}))
		before = append(before, side{file, sum(file)})
		file, format = overlay, "qcow2"
	}
	b.waitLog(b.id, fmt.Sprintf("at-%d", blocks), "all-42")
	if now := b.get(); now.GetPid() != first.GetPid() || now.GetState() != driverv1.DomainState_DOMAIN_STATE_RUNNING {
		t.Errorf("after the switches: %v, was %v", now, first)
	}
	ok[*driverv1.StopDomainResponse](t, "stop")(b.StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: b.id, Grace: durationpb.New(bootLimit)}))
	for _, s := range before {
		if sum(s.file) != s.was {
			t.Errorf("%s was written to after the domain had left it", s.file)
		}
	}
	image("check", "-q", file)
	whole := filepath.Join(b.dir, "whole.raw")
	image("convert", "-f", "qcow2", "-O", "raw", file, whole)
	got, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for i := range blocks {
		want := make([]byte, sector)
		copy(want, fmt.Sprintf("block-%08d", i))
		if block := got[i*sector : (i+1)*sector]; !bytes.Equal(block, want) {
			t.Errorf("block %d holds %q", i, bytes.TrimRight(block, "\x00"))
		}
	}
	// The definition has followed: the next start reads all of it.
	b.start()
	b.waitLog(b.id, "all-42", "GUEST-READY")
	for _, i := range []int{0, 50, blocks - 1} {
		if got, want := b.answer(b.id, fmt.Sprintf("dd if=/dev/vda bs=%d skip=%d count=1 2>/dev/null | head -c 14", sector, i)), fmt.Sprintf("block-%08d", i); got != want {
			t.Errorf("block %d after a restart: %q", i, got)
		}
	}
}
