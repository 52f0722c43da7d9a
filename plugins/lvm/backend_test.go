package lvm_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	healthy   = driverv1.HealthState_HEALTH_STATE_HEALTHY
	degraded  = driverv1.HealthState_HEALTH_STATE_DEGRADED
	unhealthy = driverv1.HealthState_HEALTH_STATE_UNHEALTHY
)

// Snapshots of volumes in use, restored twice; clones; nothing of what was written is on the disk when all is deleted. In both kinds of pool.
func testContent(t *testing.T, r *rig, c *client) {
	v := c.create(t, 16*mib, nil)
	dev := c.attach(t, v)
	r.write(t, dev, "SECRETA")
	if !r.lies(t, 0, "SECRETA") {
		t.Error("what was written does not lie on the disk: looking for it proves nothing")
	}
	first := c.snapshot(t, v) // while it is attached
	r.write(t, dev, "SECRETB")
	second := c.snapshot(t, v)
	want(t, "restore while attached", c.restore(first, v), metav1.Reason_REASON_VOLUME_IN_USE)
	r.sh(t, "vgchange -ay lab >/dev/null 2>&1; test -z \"$(ls /dev/lab | grep lq_s)\"") // an administrator's activation leaves ours alone
	must(t, "detach", c.detachErr(v))
	c.holds(t, v, "SECRETB")

	for range 2 { // the snapshot is still there after a restore
		must(t, "restore", c.restore(first, v))
		c.holds(t, v, "SECRETA")
	}
	must(t, "restore", c.restore(second, v))
	c.holds(t, v, "SECRETB")

	clone := c.create(t, 24*mib, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: first}})
	copied := c.create(t, 0, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: v}})
	c.deleteSnapshot(t, first)
	_, err := c.DeleteVolume(c.ctx, &driverv1.DeleteVolumeRequest{PoolId: c.pool, VolumeId: v})
	want(t, "delete of a volume with a snapshot", err, metav1.Reason_REASON_VOLUME_IN_USE)
	c.deleteSnapshot(t, second)
	c.delete(t, v)
	c.holds(t, clone, "SECRETA")
	c.holds(t, copied, "SECRETB")

	// Growing shows at once to whoever has it open, and what is new is zero.
	dev = c.attach(t, clone)
	if _, err := c.ResizeVolume(c.ctx, &driverv1.ResizeVolumeRequest{PoolId: c.pool, VolumeId: clone, SizeBytes: 40 * mib}); err != nil {
		t.Error("resize while attached:", err)
	}
	if got := r.sh(t, "blockdev --getsize64 "+dev); got != fmt.Sprint(40*mib) {
		t.Errorf("the device has %s bytes", got)
	}
	must(t, "detach", c.detachErr(clone))
	c.holds(t, clone, "SECRETA")
	c.delete(t, clone)
	c.delete(t, copied)
	again := c.create(t, 64*mib, nil)
	if got, holes := c.export(t, &driverv1.ExportVolumeRequest{Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: again}}); holes != 64*mib || len(got) != 64*mib {
		t.Errorf("a new volume of %d bytes has only %d of zeros", len(got), holes)
	}
	c.delete(t, again)
}

func TestLinearPool(t *testing.T) {
	t.Parallel()
	r := newRig(t, makeVG, 300)
	versions(t, r)
	c := r.launch(t, id(), map[string]string{"vg": "lab", "devices": r.Disk(0)})
	testContent(t, r, c)
	for _, word := range []string{"SECRETA", "SECRETB"} {
		if r.lies(t, 0, word) {
			t.Errorf("%s still lies on the disk", word)
		}
	}

	// A volume that does not fit; one whose device is open.
	_, err := c.CreateVolume(c.ctx, c.request(1<<30, nil))
	want(t, "more than there is", err, metav1.Reason_REASON_NO_SPACE)
	v := c.create(t, 8*mib, nil)
	dev := c.attach(t, v)
	r.sh(t, "sleep 1000 <"+dev+" >/dev/null 2>&1 & echo $! >/run/holder")
	want(t, "detach while it is open", c.detachErr(v), metav1.Reason_REASON_VOLUME_IN_USE)
	_, err = c.DeleteVolume(c.ctx, &driverv1.DeleteVolumeRequest{PoolId: c.pool, VolumeId: v})
	want(t, "delete while it is open", err, metav1.Reason_REASON_VOLUME_IN_USE)
	r.sh(t, "p=$(cat /run/holder); kill $p; while [ -e /proc/$p ]; do sleep 0.1; done")
	must(t, "detach", c.detachErr(v))

	// Somebody else has the group locked: a call ends with its deadline, and is done when issued again.
	r.sh(t, "flock -F /run/lock/lvm/V_lab sleep 1000 >/dev/null 2>&1 & echo $! >/run/holder; until pgrep -x sleep; do sleep 0.1; done")
	ctx, cancel := context.WithTimeout(c.ctx, 3*time.Second)
	req := c.request(8*mib, nil)
	if _, err := c.CreateVolume(ctx, req); err == nil {
		t.Error("a locked group was changed")
	}
	cancel()
	r.sh(t, "kill $(cat /run/holder)")
	c.settle(t, func() error { _, err := c.CreateVolume(c.ctx, req); return err })
	c.delete(t, req.GetVolumeId())
	testThousand(t, r, c)
}

// A device is gone: the pool says so, and so does what needs it; what is on other devices goes on.
func TestDeviceMissing(t *testing.T) {
	t.Parallel()
	r := newRig(t, makeVG+`vgextend -q lab "$1" >/dev/null`, 64, 64)
	params := map[string]string{"vg": "lab", "devices": r.Disk(0) + "," + r.Disk(1)}
	c := r.launch(t, id(), params)
	near := c.create(t, 8*mib, nil)
	far := c.create(t, 100*mib, nil) // over both
	must(t, "pull the disk out", r.RemoveDisk(r.ctx, 1))
	if s := c.state(t); s.GetHealth() != unhealthy || s.GetReason() != "DEVICE_MISSING" {
		t.Errorf("without a device: %v", s)
	}
	_, err := c.CreateVolume(c.ctx, c.request(8*mib, nil))
	want(t, "create without a device", err, metav1.Reason_REASON_DEVICE_MISSING)
	_, err = c.AttachVolume(c.ctx, &driverv1.AttachVolumeRequest{PoolId: c.pool, VolumeId: far})
	want(t, "attach without a device", err, metav1.Reason_REASON_DEVICE_MISSING)
	if c.attach(t, near) == "" {
		t.Error("a volume on the other device is not attached")
	}
}

// settle issues a call until it is done: the one before may still be ending.
func (c *client) settle(t *testing.T, call func() error) {
	t.Helper()
	for {
		err := call()
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "under way") || c.ctx.Err() != nil {
			t.Fatal("issued again:", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// testThousand lists a thousand volumes: one command of LVM, whatever their number.
func testThousand(t *testing.T, r *rig, c *client) {
	v := c.create(t, 4*mib, nil)
	// LVM itself restores a group from text: a thousand volumes at once.
	text := r.sh(t, quiet+"vgcfgbackup -q -f /run/before lab >/dev/null; cat /run/before")
	lines := strings.Split(text, "\n")
	var block []string
	at := -1
	for i, l := range lines {
		switch {
		case strings.Contains(l, "_"+v+" {"):
			at = i
			block = []string{l}
		case at >= 0:
			block = append(block, l)
		}
		if at >= 0 && l == "\t\t}" {
			break
		}
	}
	if at < 0 {
		t.Fatal("the volume is not in the group's text")
	}
	var made strings.Builder
	for n := range 1000 {
		other := fmt.Sprintf("%08x-0000-4000-8000-000000000000", n)
		b := strings.ReplaceAll(strings.Join(block, "\n"), v, other)
		b = uuidLine.ReplaceAllString(b, fmt.Sprintf(`id = "aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-a%05d"`, n))
		// No room is needed to be listed: they have the error target's segment, which lies nowhere.
		b = stripeLines.ReplaceAllString(b, `type = "error"`)
		made.WriteString(b + "\n\n")
	}
	text = strings.Join(lines[:at], "\n") + "\n" + made.String() + strings.Join(lines[at:], "\n")
	file := filepath.Join(r.share, "thousand")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r.sh(t, quiet+"vgcfgrestore -q -f /host/thousand lab >/dev/null")
	r.sh(t, "printf '#!/bin/sh\\necho \"$1\" >>/run/execs\\nexec /usr/sbin/lvm \"$@\"\\n' >/usr/local/sbin/lvm; chmod 755 /usr/local/sbin/lvm; : >/run/execs")
	began := time.Now()
	l, err := c.ListVolumes(c.ctx, &driverv1.ListVolumesRequest{PoolId: c.pool})
	must(t, "list", err)
	t.Logf("%d volumes listed in %s", len(l.GetVolumes()), time.Since(began).Round(time.Millisecond))
	if execs := r.sh(t, "rm /usr/local/sbin/lvm; cat /run/execs"); execs != "lvs" {
		t.Errorf("commands run: %q", execs)
	}
	if len(l.GetVolumes()) != 1000 || l.GetNextPageToken() == "" {
		t.Errorf("a page of %d volumes, next %q", len(l.GetVolumes()), l.GetNextPageToken())
	}
	r.sh(t, quiet+"vgcfgrestore -q -f /run/before lab >/dev/null")
	c.delete(t, v)
}

func TestThinPool(t *testing.T) {
	t.Parallel()
	r := newRig(t, makeThin, 200)
	pool := id()
	c := r.launch(t, pool, map[string]string{"vg": "lab", "thin_pool": "tp", "devices": r.Disk(0)})
	testContent(t, r, c)
	testImages(t, r, c)

	// What is provisioned may exceed what there is; when it is written the pool is full, and says so.
	big := c.create(t, 2<<30, nil)
	dev := c.attach(t, big)
	if s := c.state(t); s.GetHealth() != healthy || s.GetCapacityBytes() != 128*mib {
		t.Errorf("before: %v", s)
	}
	if out, err := r.Sh(r.ctx, "dd if=/dev/urandom of="+dev+" bs=1M count=140 oflag=direct 2>&1"); err == nil || !strings.Contains(out, "No space left") {
		t.Errorf("%s %v", out, err)
	}
	if s := c.state(t); s.GetHealth() != degraded || s.GetReason() != "NO_SPACE" || s.GetUsedBytes() != s.GetCapacityBytes() {
		t.Errorf("full: %v", s)
	}
	_, err := c.CreateVolume(c.ctx, c.request(8*mib, nil))
	want(t, "create in a full pool", err, metav1.Reason_REASON_NO_SPACE)
	must(t, "detach", c.detachErr(big))
	c.delete(t, big)
	if s := c.state(t); s.GetHealth() != healthy || s.GetUsedBytes() > 10*mib {
		t.Errorf("afterwards: %v", s)
	}
	// An image that does not fit: refused as that, and nothing stays.
	content := bytes.Repeat([]byte("0123456789abcdef"), 140*mib/16)
	_, err = c.upload(raw, content)
	want(t, "an image larger than the pool", err, metav1.Reason_REASON_NO_SPACE)
	if left := r.sh(t, "lvs --noheadings -o lv_name lab 2>/dev/null | tr -d ' '"); left != "tp" {
		t.Errorf("left behind: %s", left)
	}

	// A pool that would show old bytes is refused.
	r.sh(t, quiet+`lvchange -q --config "$C" -Zn lab/tp >/dev/null 2>&1`)
	_, err = c.EnsurePool(c.ctx, &driverv1.EnsurePoolRequest{PoolId: id(), Parameters: c.params})
	want(t, "a thin pool that does not zero", err, metav1.Reason_REASON_WRONG_STATE)
	for field, params := range map[string]map[string]string{
		"parameters.vg":        {"vg": "../x"},
		"parameters.thin_pool": {"vg": "lab", "thin_pool": "none"},
		"parameters.devices":   {"vg": "lab", "devices": "/etc/passwd"},
		"parameters.other":     {"vg": "lab", "other": "x"},
	} {
		_, err := c.EnsurePool(c.ctx, &driverv1.EnsurePoolRequest{PoolId: id(), Parameters: params})
		want(t, field, err, metav1.Reason_REASON_INVALID_FIELD)
		if err != nil && !strings.Contains(err.Error(), strings.TrimPrefix(field, "parameters.")) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
	_, err = c.EnsurePool(c.ctx, &driverv1.EnsurePoolRequest{PoolId: id(), Parameters: map[string]string{"vg": "nosuch", "devices": r.Disk(0)}})
	want(t, "no such group", err, metav1.Reason_REASON_DEVICE_MISSING)
}

// testImages imports a qcow2 image, makes a volume of it, and refuses one with a backing file.
func testImages(t *testing.T, r *rig, c *client) {
	dir := t.TempDir()
	qemuImg := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(r.ctx, "qemu-img", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	content := make([]byte, 9*mib)
	copy(content, "BEGIN")
	copy(content[5*mib:], bytes.Repeat([]byte("x"), 100_000))
	if err := os.WriteFile(filepath.Join(dir, "raw"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	qemuImg("convert", "-f", "raw", "-O", "qcow2", "-c", "raw", "packed")
	qemuImg("create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "evil", "9M")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		must(t, "read", err)
		return b
	}
	_, err := c.upload(qcow2, read("evil"))
	want(t, "an image with a backing file", err, metav1.Reason_REASON_IMAGE_REFUSED)
	_, err = c.upload(qcow2, content)
	want(t, "an image of another format than declared", err, metav1.Reason_REASON_IMAGE_REFUSED)
	img, err := c.upload(qcow2, read("packed"))
	must(t, "import", err)
	if img.GetVirtualSizeBytes() != 9*mib || img.GetFormat() != qcow2 {
		t.Errorf("%v", img)
	}
	src, err := c.AttachImage(c.ctx, &driverv1.AttachImageRequest{PoolId: c.pool, ImageId: img.GetImageId()})
	must(t, "attach image", err)
	dev := src.GetSource().GetBlockDevice().GetPath()
	if out, err := r.Sh(r.ctx, "dd if=/dev/zero of="+dev+" bs=4k count=1 2>&1"); err == nil {
		t.Errorf("an image can be written: %s", out)
	}
	v := c.create(t, 16*mib, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: img.GetImageId()}})
	got, holes := c.export(t, &driverv1.ExportVolumeRequest{Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: v}})
	if len(got) != 16*mib || !bytes.Equal(got[:9*mib], content) || len(bytes.Trim(got[9*mib:], "\x00")) > 0 || holes < 15*mib {
		t.Errorf("a volume of the image has other content: %d bytes, %d of them in holes", len(got), holes)
	}
	_, err = c.DeleteImage(c.ctx, &driverv1.DeleteImageRequest{PoolId: c.pool, ImageId: img.GetImageId()})
	must(t, "delete image", err)
	c.delete(t, v)
}
