package filepool

import (
	"os"
	"path/filepath"
	"testing"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// What a process leaves that is killed while it writes the marker does not keep the directory from being a pool; other files do.
func TestMarkerIsWrittenAgain(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, ".new-0123456789abcdef"), []byte("{"))
	p := open(t, dir)
	if left := leftovers(t, p); len(left) > 0 {
		t.Error(left)
	}
	other := t.TempDir()
	writeFile(t, filepath.Join(other, ".new-x"), nil)
	_, err := Open(pool1, other, p.owner, Options{})
	want(t, err, metav1.Reason_REASON_INVALID_FIELD)
}

// A commit that is cut short between its two records is finished by whatever comes next, once: the overlay, which a guest writes to already, stays, and what is
// taken later stays too.
func TestCommitCutShort(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	if _, err := p.CreateVolume(t.Context(), create(volA, 1<<20, qcow, "")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.AttachVolume(&driverv1.AttachVolumeRequest{PoolId: pool1, VolumeId: volA}); err != nil {
		t.Fatal(err)
	}
	p.mustSnapshot(t, snapA, volA)
	rec, err := p.ourSnapshot(snapA)
	if err != nil {
		t.Fatal(err)
	}
	rec.Pending, rec.Overlay = false, nil // the first of the two
	if err := p.writeRecord(snapsDir, snapA, rec); err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
	p = open(t, dir)
	if _, err := os.Stat(p.layerPath(overlayOf(volA, snapA))); err != nil {
		t.Fatal(err)
	}
	if list, _, err := p.ListSnapshots(volA, "", 10); err != nil || len(list) > 0 {
		t.Errorf("it is listed before it is taken: %v, %v", list, err)
	}
	want(t, p.DeleteSnapshot(t.Context(), snapA), metav1.Reason_REASON_WRONG_STATE)
	if err := p.DetachVolume(volA); err != nil {
		t.Fatal(err)
	}
	p.mustSnapshot(t, snapB, volA)
	p.mustSnapshot(t, snapA, volA) // issued again, late
	if vol, err := p.volume(volA); err != nil || len(vol.Layers) != 3 || vol.Layers[0] != overlayOf(volA, snapB) {
		t.Errorf("%+v, %v", vol, err)
	}
	if list, _, err := p.ListSnapshots(volA, "", 10); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}

// A deletion that is cut short goes on when it is issued again; with a volume goes what calls that were never issued again left of it.
func TestDeletionGoesOn(t *testing.T) {
	p := open(t, t.TempDir())
	if _, err := p.CreateVolume(t.Context(), create(volA, 1<<20, qcow, "")); err != nil {
		t.Fatal(err)
	}
	p.mustSnapshot(t, snapA, volA)
	rec, err := p.ourSnapshot(snapA)
	if err != nil {
		t.Fatal(err)
	}
	rec.Gone = true
	if err := p.writeRecord(snapsDir, snapA, rec); err != nil {
		t.Fatal(err)
	}
	if list, _, err := p.ListSnapshots(volA, "", 10); err != nil || len(list) > 0 {
		t.Errorf("what is being deleted is listed: %v, %v", list, err)
	}
	for _, stray := range []string{volA + "." + snapB + ".qcow2", volA + ".0123456789abcdef.qcow2"} {
		writeFile(t, p.abs(volumesDir+"/"+stray), nil)
	}
	for range 2 {
		if err := p.DeleteSnapshot(t.Context(), snapA); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := p.DeleteVolume(volA); err != nil {
			t.Fatal(err)
		}
	}
	if left := leftovers(t, p); len(left) > 0 {
		t.Error(left)
	}
}

// An attachment that was moved aside, and is not the fenced node's, is put back even if the process that did so is gone.
func TestAttachmentIsBroughtBack(t *testing.T) {
	dir := t.TempDir()
	b, c := openShared(t, dir, 2), openShared(t, dir, 3)
	sharedVolume(t, b, volA)
	if err := c.attach(volA); err != nil {
		t.Fatal(err)
	}
	aside := tmpDir + "/" + nodeID(2) + asideInfix + volA + "." + nodeID(1) + "." + randomName()
	if err := b.root.Rename(volumesDir+"/"+volA+aloneSuffix, aside); err != nil {
		t.Fatal(err)
	}
	b = openShared(t, dir, 2)
	want(t, b.attach(volA, fenced(1)), metav1.Reason_REASON_VOLUME_IN_USE)
	if v, err := c.GetVolume(volA); err != nil || !v.GetAttached() {
		t.Errorf("%v, %v", v, err)
	}
}
