package kvm_test

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/test/lab"
)

// Images of a Ceph cluster, one cold and one that comes and goes while the guest runs; a wrong key ends a start in time, and the right one heals the domain. Keys are in
// libvirt's store of secrets, go with their disks, and are nowhere else.
func TestRBD(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t, lab.HostNetwork()), t.Context()
	dir, err := os.MkdirTemp("", "lqr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ceph, err := lab.StartCeph(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ceph.Stop(); err != nil {
			t.Error(err)
		}
	})
	key, wrong := "", ""
	for user, k := range map[string]*string{"lq": &key, "other": &wrong} {
		if *k, err = ceph.CreateUser(ctx, user, "rbd"); err != nil {
			t.Fatal(err)
		}
	}
	rbd := func(args ...string) string {
		t.Helper()
		out, err := ceph.RBD(ctx, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	disk := func(id, image string) *driverv1.DomainDisk {
		t.Helper()
		rbd("create", "--size", "4M", "rbd/"+image)
		return &driverv1.DomainDisk{DiskId: id, Discard: true, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_Rbd{Rbd: &driverv1.RbdSource{
			Monitors: []string{ceph.Monitor()}, Pool: "rbd", Image: image, User: "lq", Key: key,
		}}}}
	}
	holds := func(image, want string) {
		t.Helper()
		if got := rbd("export", "--no-progress", "rbd/"+image, "-"); !strings.HasPrefix(got, want) {
			t.Errorf("image %s begins with %.20q, want %q", image, got, want)
		}
	}
	secrets := func(want int) {
		t.Helper()
		out, err := b.node.Virsh(ctx, "secret-list")
		if got := strings.Count(out, "limiquantix/"); err != nil || got != want {
			t.Errorf("libvirt keeps %d secrets, want %d: %s, %v", got, want, out, err)
		}
	}
	spec := b.spec("labname=rbd")
	spec.Disks = []*driverv1.DomainDisk{disk(otherID, "cold")}
	b.create(b.id, spec)
	secrets(1)
	first := b.start()
	b.waitLog(b.id, "GUEST-READY")
	b.writeDisk(b.id, "vda", "cold")
	holds("cold", "cold\n")

	hot := disk(diskID, "hot")
	for range 2 {
		ok[*driverv1.AttachDiskResponse](t, "attach")(b.AttachDisk(ctx, &driverv1.AttachDiskRequest{DomainId: b.id, Disk: hot}))
	}
	secrets(2)
	b.waitLog(b.id, "HOTPLUG add vdb")
	b.writeDisk(b.id, "vdb", "hot")
	holds("hot", "hot\n")
	rbd("resize", "--no-progress", "--size", "16M", "rbd/hot")
	ok[*driverv1.ResizeDiskResponse](t, "resize")(b.ResizeDisk(ctx, &driverv1.ResizeDiskRequest{DomainId: b.id, DiskId: diskID, SizeBytes: 16 << 20}))
	if got := b.answer(b.id, "cat /sys/block/vdb/size"); got != "32768" {
		t.Errorf("the guest sees %s sectors", got)
	}
	b.nowhere(first.GetPid(), key)
	for range 2 {
		ok[*driverv1.DetachDiskResponse](t, "detach")(b.DetachDisk(ctx, &driverv1.DetachDiskRequest{DomainId: b.id, DiskId: diskID}))
	}
	secrets(1)

	// A wrong key: told within the call's time, whatever librbd does, and nothing runs afterwards. The same spec with the right key is enough.
	ok[*driverv1.StopDomainResponse](t, "stop")(b.StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: b.id, Force: true}))
	bad := proto.CloneOf(spec)
	bad.Disks[0].GetSource().GetRbd().Key = wrong
	update := func(spec *driverv1.DomainSpec) {
		t.Helper()
		ok[*driverv1.UpdateDomainResponse](t, "update")(b.UpdateDomain(ctx, &driverv1.UpdateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: spec}))
	}
	update(bad)
	short, cancel := contextWithTimeout(t, 10*time.Second)
	begin := time.Now()
	_, err = b.StartDomain(short, &driverv1.StartDomainRequest{DomainId: b.id})
	cancel()
	t.Logf("start with a wrong key: %v after %s", err, time.Since(begin))
	if took := time.Since(begin); took > 30*time.Second || err == nil || !isTimeout(err) && !fault.Is(err, metav1.Reason_REASON_BACKEND_FAILED) {
		t.Errorf("start with a wrong key: %v after %s", err, took)
	}
	for fault.Is(err, metav1.Reason_REASON_BUSY) || isTimeout(err) { // the start that was given up is being ended
		if _, err = b.StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: b.id, Force: true}); fault.Is(err, metav1.Reason_REASON_BUSY) {
			time.Sleep(50 * time.Millisecond)
		}
	}
	ok[*driverv1.StopDomainResponse](t, "stop")(b.StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: b.id, Force: true}))
	ok[*driverv1.CreateDomainResponse](t, "create")(b.CreateDomain(ctx, &driverv1.CreateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: spec}))
	b.start()
	b.waitLog(b.id, "HOTPLUG", "GUEST-READY")
	if got := b.answer(b.id, "head -c 4 /dev/vda"); got != "cold" {
		t.Errorf("with the right key it reads %q", got)
	}
	b.nowhere(b.get().GetPid(), key)

	// A disk that cannot be attached leaves no key behind its domain.
	gone := proto.CloneOf(hot)
	gone.GetSource().GetRbd().Image = "gone"
	if _, err := b.AttachDisk(ctx, &driverv1.AttachDiskRequest{DomainId: b.id, Disk: gone}); !fault.Is(err, metav1.Reason_REASON_BACKEND_FAILED) {
		t.Error("attach of an image that is not there:", err)
	}
	ok[*driverv1.StopDomainResponse](t, "stop")(b.StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: b.id, Grace: durationpb.New(bootLimit)}))
	ok[*driverv1.DeleteDomainResponse](t, "delete")(b.DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: b.id}))
	secrets(0)
	holds("cold", "cold\n")
}

// nowhere fails the test when a key, in any form, is in a domain's definitions, in its process's arguments or environment, or in a file of libvirt's logs or the driver's.
func (b *bench) nowhere(pid int64, key string) {
	b.t.Helper()
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		b.t.Fatal(err)
	}
	look := func(where, text string) {
		for _, form := range []string{key, string(raw), fmt.Sprintf("%x", raw)} {
			if strings.Contains(text, form) {
				b.t.Errorf("the key is in %s", where)
			}
		}
	}
	for _, args := range [][]string{{"dumpxml", b.id}, {"dumpxml", b.id, "--inactive"}, {"dumpxml", b.id, "--security-info"}} {
		out, err := b.node.Virsh(b.t.Context(), args...)
		if err != nil {
			b.t.Fatal(err)
		}
		look(strings.Join(args, " "), out)
	}
	files := []string{fmt.Sprintf("/proc/%d/cmdline", pid), fmt.Sprintf("/proc/%d/environ", pid)}
	for _, dir := range []string{b.state, b.run, filepath.Join(b.node.Dir, "log")} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			b.t.Fatal(err)
		}
		look(f, string(text))
	}
}
