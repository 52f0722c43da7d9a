package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/stack"
)

// backend is a kind of pool that the whole path is walked on.
type backend struct {
	driver     string
	parameters map[string]string
	secrets    map[string][]byte
	left       func(t *testing.T) []string // what the backend holds that is ours, seen with its own tools
}

type object map[string]any

// call calls a method and waits for the operation that it answers with; what it answers is returned.
func call(t *testing.T, s *stack.Stack, method string, in object) object {
	t.Helper()
	out := object{}
	if err := s.Call(t.Context(), method, in, &out); err != nil {
		t.Fatal(err)
	}
	if op, ok := out["operation"].(map[string]any); ok {
		if state, seen := waitFor(t, s, fmt.Sprint(op["id"])); state != "OPERATION_STATE_DONE" {
			t.Fatalf("%s: %s", method, seen)
		}
	}
	return out
}

// waitFor waits for the end of an operation.
func waitFor(t *testing.T, s *stack.Stack, id string) (state, seen string) {
	t.Helper()
	err := stack.Until(t.Context(), bootLimit, "operation "+id+" ends", func() (bool, string) {
		var out struct {
			Operation struct{ State, Reason, Message, Verb, ObjectName string }
		}
		if err := s.Call(t.Context(), "limiquantix.operation.v1.OperationService/GetOperation", object{"id": id}, &out); err != nil {
			return false, err.Error()
		}
		state, seen = out.Operation.State, fmt.Sprintf("%+v", out.Operation)
		return state != "OPERATION_STATE_RUNNING", seen
	})
	if err != nil {
		t.Fatal(err)
	}
	return state, seen
}

const storage = "limiquantix.storage.v1."

// shell is a guest's console: what is typed is run by the shell on it.
type shell struct{ stack.Shell }

func shellOf(s *stack.Stack, vm string) *shell { return &shell{stack.Shell{Stack: s, VM: vm}} }

// run runs a command in the guest, which must succeed, and returns what it printed.
func (g *shell) run(t *testing.T, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	out, code, err := g.Run(ctx, command)
	if err != nil {
		t.Fatal(err)
	}
	if code != "0" {
		t.Fatalf("in the guest: %s: exit %s: %s", command, code, out)
	}
	return out
}

// settled waits until a disk of the guest is there, by what the kernel says.
func (g *shell) settled(t *testing.T, disk string) {
	t.Helper()
	g.run(t, fmt.Sprintf("n=0; until [ -b /dev/%s ]; do n=$((n+1)); [ $n -gt 100 ] && break; usleep 100000; done; test -b /dev/%[1]s", disk))
}

const (
	// The pattern lies behind what the image holds.
	writePattern = "head -c 4194304 /dev/urandom >/tmp/p && dd if=/tmp/p of=/dev/%[1]s bs=1M seek=60 conv=fsync 2>/dev/null && sha256sum </tmp/p"
	readPattern  = "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/%s bs=1M skip=60 count=4 2>/dev/null | sha256sum"
	erasePattern = "dd if=/dev/zero of=/dev/%s bs=1M seek=60 count=4 conv=fsync 2>/dev/null"
)

// wholePath walks one pool's life with real guests: a VM boots from an image disk, a second volume is attached while it runs, it is snapshotted while it runs,
// overwritten, set back, resized while it runs and cloned; each time the guest itself tells what it reads. At the end nothing of ours is on the backend.
func wholePath(t *testing.T, s *stack.Stack, b backend) {
	began := time.Now()
	name := b.driver + "-path"
	disk, err := lab.BusyboxDisk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	call(t, s, storage+"StoragePoolService/CreateStoragePool", object{"storagePool": object{
		"meta": object{"name": name}, "spec": object{"driver": b.driver, "parameters": b.parameters, "secrets": b.secrets},
	}})
	before := b.left(t)
	lq(t, s, "image", "import", name, "--file", disk, "--format", "qcow2", "--pool", name)

	// Boots from its own disk.
	call(t, s, "limiquantix.compute.v1.VMService/CreateVM", object{"vm": object{
		"meta": object{"name": name},
		"spec": object{
			"cpu": object{"vcpus": 1}, "memoryBytes": fmt.Sprint(128 << 20), "desiredPower": "POWER_STATE_RUNNING",
			"disks": []object{{"name": "root", "inline": object{"image": name, "pool": name, "sizeBytes": fmt.Sprint(96 << 20)}}},
		},
	}})
	awaitConsole(t, s, name, "GUEST-READY")
	g := shellOf(s, name)
	pattern := g.run(t, fmt.Sprintf(writePattern, "vda"))
	root := volumeOf(t, s, name, "root")

	// A second volume comes while it runs.
	call(t, s, storage+"VolumeService/CreateVolume", object{"volume": object{
		"meta": object{"name": name + "-data"}, "spec": object{"poolId": name, "sizeBytes": fmt.Sprint(80 << 20)},
	}})
	call(t, s, storage+"VolumeService/AttachVolume", object{"id": name + "-data", "vm": name})
	g.settled(t, "vdb")
	data := g.run(t, fmt.Sprintf(writePattern, "vdb"))

	// Snapshots of both while it runs; both are overwritten; both are set back.
	for volume, disk := range map[string]string{root: "vda", name + "-data": "vdb"} {
		call(t, s, storage+"SnapshotService/CreateSnapshot", object{"snapshot": object{
			"meta": object{"name": name + "-" + disk}, "spec": object{"volumeId": volume, "consistency": "SNAPSHOT_CONSISTENCY_CRASH"},
		}})
		g.run(t, fmt.Sprintf(erasePattern, disk))
	}
	if now := g.run(t, fmt.Sprintf(readPattern, "vda")); now == pattern {
		t.Error("the guest's write is not seen by the guest")
	}
	lq(t, s, "vm", "stop", name, "--force")
	for _, disk := range []string{"vda", "vdb"} {
		call(t, s, storage+"SnapshotService/RestoreSnapshot", object{"id": name + "-" + disk})
	}
	boots := strings.Count(lq(t, s, "vm", "logs", name), "GUEST-READY")
	lq(t, s, "vm", "start", name)
	again(t, s, name, boots)
	if now := g.run(t, fmt.Sprintf(readPattern, "vda")); now != pattern {
		t.Errorf("restored root: the guest reads %s, not %s", now, pattern)
	}
	if now := g.run(t, fmt.Sprintf(readPattern, "vdb")); now != data {
		t.Errorf("restored data: the guest reads %s, not %s", now, data)
	}

	// Grown while it runs.
	call(t, s, storage+"VolumeService/ResizeVolume", object{"id": name + "-data", "sizeBytes": fmt.Sprint(160 << 20)})
	g.run(t, fmt.Sprintf("n=0; until [ $(cat /sys/block/vdb/size) = %d ]; do n=$((n+1)); [ $n -gt 300 ] && break; usleep 100000; done; test $(cat /sys/block/vdb/size) = %[1]d", 160<<20/512))
	if now := g.run(t, fmt.Sprintf(readPattern, "vdb")); now != data {
		t.Errorf("grown data: the guest reads %s, not %s", now, data)
	}

	// Limited while it runs.
	lq(t, s, "volume", "set", name+"-data", "--iops", "750", "--bandwidth", "20M")
	if err := stack.Until(t.Context(), bootLimit, "the hypervisor has the limits", func() (bool, string) {
		out, err := s.Node.Virsh(t.Context(), "blkdeviotune", vmID(t, s, name), "vdb")
		return err == nil && regexp.MustCompile(`total_bytes_sec\s*: 20971520\b`).MatchString(out) && regexp.MustCompile(`total_iops_sec\s*: 750\b`).MatchString(out), fmt.Sprint(out, err)
	}); err != nil {
		t.Error(err)
	}
	if err := stack.AtRest(t.Context(), func(ctx context.Context) ([]byte, error) { return s.Metrics(ctx, "agent") }); err != nil {
		t.Error(err)
	}

	// A clone boots by itself, and neither sees what the other writes.
	clone := name + "-clone"
	call(t, s, storage+"VolumeService/CreateVolume", object{"volume": object{
		"meta": object{"name": clone}, "spec": object{"poolId": name, "source": object{"snapshotId": name + "-vda"}},
	}})
	call(t, s, "limiquantix.compute.v1.VMService/CreateVM", object{"vm": object{
		"meta": object{"name": clone},
		"spec": object{
			"cpu": object{"vcpus": 1}, "memoryBytes": fmt.Sprint(128 << 20), "desiredPower": "POWER_STATE_RUNNING",
			"disks": []object{{"name": "root", "volume": clone}},
		},
	}})
	awaitConsole(t, s, clone, "GUEST-READY")
	c := shellOf(s, clone)
	if now := c.run(t, fmt.Sprintf(readPattern, "vda")); now != pattern {
		t.Errorf("clone: the guest reads %s, not %s", now, pattern)
	}
	c.run(t, fmt.Sprintf(erasePattern, "vda"))
	if now := g.run(t, fmt.Sprintf(readPattern, "vda")); now != pattern {
		t.Errorf("after the clone wrote, the first reads %s, not %s", now, pattern)
	}

	// Let go while it runs; then everything goes, and the backend is as before.
	call(t, s, storage+"VolumeService/DetachVolume", object{"id": name + "-data", "vm": name})
	g.run(t, "n=0; while [ -b /dev/vdb ]; do n=$((n+1)); [ $n -gt 100 ] && break; usleep 100000; done; test ! -b /dev/vdb")
	lq(t, s, "vm", "delete", clone)
	call(t, s, storage+"VolumeService/DeleteVolume", object{"id": clone})
	for _, disk := range []string{"vda", "vdb"} {
		call(t, s, storage+"SnapshotService/DeleteSnapshot", object{"id": name + "-" + disk})
	}
	call(t, s, storage+"VolumeService/DeleteVolume", object{"id": name + "-data"})
	lq(t, s, "vm", "delete", name)
	lq(t, s, "image", "delete", name)
	if after := b.left(t); strings.Join(after, "\n") != strings.Join(before, "\n") {
		t.Errorf("left on the backend: %v; before there was: %v", after, before)
	}
	call(t, s, storage+"StoragePoolService/DeleteStoragePool", object{"id": name})
	t.Logf("evidence: the whole path on a pool of %s, seconds | %.0f", b.driver, time.Since(began).Seconds())
}

// again waits until the guest has said once more than so often that it is ready.
func again(t *testing.T, s *stack.Stack, vm string, before int) {
	t.Helper()
	err := stack.Until(t.Context(), bootLimit, vm+" boots again", func() (bool, string) {
		out, err := s.LQCtl(t.Context(), "vm", "logs", vm)
		if err != nil {
			return false, err.Error()
		}
		return strings.Count(out, "GUEST-READY") > before, out[max(0, len(out)-500):]
	})
	if err != nil {
		t.Fatal(err)
	}
}

// vmID is a VM's id.
func vmID(t *testing.T, s *stack.Stack, vm string) string {
	t.Helper()
	var got struct {
		VM struct{ Meta struct{ ID string } } `json:"vm"`
	}
	if err := s.Call(t.Context(), "limiquantix.compute.v1.VMService/GetVM", object{"id": vm}, &got); err != nil {
		t.Fatal(err)
	}
	return got.VM.Meta.ID
}

// volumeOf is the id of the volume of a VM's disk.
func volumeOf(t *testing.T, s *stack.Stack, vm, disk string) string {
	t.Helper()
	var out struct {
		VM struct {
			Status struct {
				Disks []struct{ Name, VolumeID string }
			}
		}
	}
	if err := s.Call(t.Context(), "limiquantix.compute.v1.VMService/GetVM", object{"id": vm}, &out); err != nil {
		t.Fatal(err)
	}
	for _, d := range out.VM.Status.Disks {
		if d.Name == disk {
			return d.VolumeID
		}
	}
	t.Fatalf("VM %s has no disk %s: %+v", vm, disk, out)
	return ""
}

// A pool of files on the node's own disk.
func TestStorageLocal(t *testing.T) {
	s := common(t)
	wholePath(t, s, backend{driver: "local", left: func(t *testing.T) []string { t.Helper(); return poolFiles(t, s.Dir) }})
}

// A pool of a Ceph cluster: the hypervisor opens the images by itself, with a key that is in libvirt's store of secrets and nowhere else.
func TestStorageCeph(t *testing.T) {
	dir, err := os.MkdirTemp("", "lqc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c, err := lab.StartCeph(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	key, err := c.CreateUser(t.Context(), "lq", "rbd")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, func(o *stack.Options) { o.Storage, o.HostNetwork = []string{"ceph"}, true })
	if err := s.AwaitNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	wholePath(t, s, backend{
		driver: "ceph", parameters: map[string]string{"monitors": c.Monitor(), "pool": "rbd", "user": "lq"}, secrets: map[string][]byte{"key": []byte(key)},
		left: func(t *testing.T) []string {
			t.Helper()
			out, err := c.RBD(t.Context(), "ls", "rbd")
			if err != nil {
				t.Fatal(err)
			}
			return strings.Fields(out)
		},
	})
	if left, err := s.Node.Virsh(t.Context(), "secret-list"); err != nil || strings.Contains(left, "limiquantix") {
		t.Errorf("keys are left in libvirt: %s, %v", left, err)
	}
	// libvirt's own store of secrets is under etc; nothing else on the disk has the key: no log, state file, store, command line or definition.
	err = filepath.WalkDir(s.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(path, "/etc/secrets/") {
			return nil //nolint:nilerr // it went away meanwhile
		}
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), key) {
			t.Errorf("the key is in %s", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
