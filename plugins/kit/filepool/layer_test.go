package filepool

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	volB  = "00000000-0000-4000-8000-00000000000b"
	snapA = "00000000-0000-4000-8000-0000000000f1"
	snapB = "00000000-0000-4000-8000-0000000000f2"
)

func (p *Pool) mustSnapshot(t *testing.T, id, volume string) {
	t.Helper()
	if _, _, err := p.CreateSnapshot(t.Context(), &driverv1.CreateSnapshotRequest{PoolId: pool1, SnapshotId: id, VolumeId: volume, Mark: markFor(id)}); err != nil {
		t.Fatal(err)
	}
}

func fromSnapshot(id, snapshot string) *driverv1.CreateVolumeRequest {
	r := create(id, 0, qcow, "")
	r.Source = &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: snapshot}}
	return r
}

// scribble writes a byte over the first 64 KiB of a volume, as a guest would.
func (p *Pool) scribble(t *testing.T, volume, pattern string) {
	t.Helper()
	src, err := p.AttachVolume(&driverv1.AttachVolumeRequest{PoolId: pool1, VolumeId: volume})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("qemu-io", "-f", "qcow2", "-c", "write -P "+pattern+" 0 64k", src.GetFile().GetPath()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := p.DetachVolume(volume); err != nil {
		t.Fatal(err)
	}
}

// first is the first byte of a volume, and whether the rest can be read.
func (p *Pool) first(t *testing.T, volume string) byte {
	t.Helper()
	var b []byte
	err := p.Export(t.Context(), &driverv1.ExportVolumeRequest{PoolId: pool1, Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: volume}}, func(r *driverv1.ExportVolumeResponse) error {
		b = append(append(b, r.GetData()...), make([]byte, r.GetHoleBytes())...)
		return nil
	})
	if err != nil || len(b) != 1<<20 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	return b[0]
}

// Layers stay as long as a record names them, whatever is deleted in which order, issued twice, or opened anew; then they go.
func TestLayersLiveAsLongAsTheyAreNeeded(t *testing.T) {
	for name, order := range map[string][]string{
		"volume, snapshot, clone": {"snapshot", "volume", "clone"},
		"clone first":             {"clone", "snapshot", "volume"},
		"clone in the middle":     {"snapshot", "clone", "volume"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := open(t, dir)
			if _, err := p.CreateVolume(t.Context(), create(volA, 1<<20, qcow, "")); err != nil {
				t.Fatal(err)
			}
			p.scribble(t, volA, "1")
			p.mustSnapshot(t, snapA, volA)
			if _, err := p.CreateVolume(t.Context(), fromSnapshot(volB, snapA)); err != nil {
				t.Fatal(err)
			}
			p.scribble(t, volA, "2")
			there := []string{"snapshot", "volume", "clone"}
			for _, what := range order {
				for range 2 { // a repetition removes nothing more
					var err error
					switch what {
					case "snapshot":
						err = p.DeleteSnapshot(t.Context(), snapA)
					case "volume":
						err = p.DeleteVolume(volA)
					case "clone":
						err = p.DeleteVolume(volB)
					}
					if err != nil {
						t.Fatalf("%s: %v", what, err)
					}
				}
				there = slices.DeleteFunc(there, func(s string) bool { return s == what })
				_ = p.Close()
				p = open(t, dir) // which sweeps
				if slices.Contains(there, "volume") && p.first(t, volA) != 2 {
					t.Errorf("after %s the volume has other content", what)
				}
				if slices.Contains(there, "clone") && p.first(t, volB) != 1 {
					t.Errorf("after %s the clone has other content", what)
				}
			}
			if left := leftovers(t, p); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// Deleting snapshots of a detached volume gives their room back: the chain gets shorter, with the content as it was.
func TestChainGetsShorter(t *testing.T) {
	p := open(t, t.TempDir())
	if _, err := p.CreateVolume(t.Context(), create(volA, 1<<20, qcow, "")); err != nil {
		t.Fatal(err)
	}
	p.scribble(t, volA, "1")
	p.mustSnapshot(t, snapA, volA)
	p.mustSnapshot(t, snapB, volA)
	for _, s := range []string{snapA, snapB} {
		if err := p.DeleteSnapshot(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if p.first(t, volA) != 1 {
			t.Error("other content")
		}
	}
	rec, err := p.volume(volA)
	if err != nil || len(rec.Layers) != 1 {
		t.Errorf("%+v, %v", rec.Layers, err)
	}
	if left := leftovers(t, p); len(left) != 2 { // the file and the record
		t.Errorf("left: %v", left)
	}
}

// What an interrupted snapshot leaves is finished by the same call, and refuses another one meanwhile.
func TestSnapshotIsTakenUpAgain(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	if _, err := p.CreateVolume(t.Context(), create(volA, 1<<20, qcow, "")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.AttachVolume(&driverv1.AttachVolumeRequest{PoolId: pool1, VolumeId: volA}); err != nil {
		t.Fatal(err)
	}
	p.mustSnapshot(t, snapA, volA)
	_, _, err := p.CreateSnapshot(t.Context(), &driverv1.CreateSnapshotRequest{PoolId: pool1, SnapshotId: snapB, VolumeId: volA, Mark: markFor(snapB)})
	want(t, err, metav1.Reason_REASON_BUSY)
	// Killed between the two records of a commit: the volume knows, the snapshot does not.
	rec, _ := p.ourSnapshot(snapA)
	vol, _ := p.volume(volA)
	if _, err := p.commit(snapA, rec, volA, &vol); err != nil {
		t.Fatal(err)
	}
	if err := p.writeRecord(snapsDir, snapA, rec); err != nil { // pending again
		t.Fatal(err)
	}
	_ = p.Close()
	p = open(t, dir)
	if _, err := p.CommitSnapshot(snapA); err != nil {
		t.Fatal(err)
	}
	vol, _ = p.volume(volA)
	if len(vol.Layers) != 2 || vol.Layers[0] != rec.Overlay[0] || vol.Pending != "" {
		t.Errorf("%+v", vol)
	}
}

// A snapshot of a raw volume, and of one whose image is compressed, is exported as it is.
func TestExportOfEveryForm(t *testing.T) {
	p := open(t, t.TempDir())
	content := []byte(strings.Repeat("limiquantix ", 1<<20/12+1))[:1<<20]
	plain := t.TempDir() + "/plain"
	packed := t.TempDir() + "/packed.qcow2"
	writeFile(t, plain, content)
	if out, err := exec.Command("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", plain, packed).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	compressed := readFile(t, packed)
	if _, err := p.ImportImage(t.Context(), header(imgA, qcow, compressed), strings.NewReader(string(compressed))); err != nil {
		t.Fatal(err)
	}
	if _, err := p.CreateVolume(t.Context(), create(volA, 0, qcow, imgA)); err != nil {
		t.Fatal(err)
	}
	p.mustSnapshot(t, snapA, volA)
	for what, req := range map[string]*driverv1.ExportVolumeRequest{
		"image":    {Subject: &driverv1.ExportVolumeRequest_ImageId{ImageId: imgA}},
		"volume":   {Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: volA}},
		"snapshot": {Subject: &driverv1.ExportVolumeRequest_SnapshotId{SnapshotId: snapA}},
	} {
		var got []byte
		err := p.Export(t.Context(), req, func(r *driverv1.ExportVolumeResponse) error {
			got = append(append(got, r.GetData()...), make([]byte, r.GetHoleBytes())...)
			return nil
		})
		if err != nil || string(got) != string(content) {
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
	}
	want(t, p.DeleteImage(imgA), metav1.Reason_REASON_IMAGE_IN_USE)
}

// In a pool that nodes share, all nodes list what is there, one attaches, and what another is making is left alone.
func TestSharedPool(t *testing.T) {
	dir := t.TempDir()
	node := func(id string) *Pool {
		p, err := Open(pool1, dir, Owner{ClusterID: "c", NodeID: id, Shared: true}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	a := node("a")
	req := create(volA, 1<<20, qcow, "")
	req.Mark.NodeId = ""
	if _, err := a.CreateVolume(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if err := a.writeFile(a.tmp(volB, qcow), []byte("under way"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := node("b")
	if vs, _, err := b.ListVolumes("", 10); err != nil || len(vs) != 1 {
		t.Errorf("%v, %v", vs, err)
	}
	if left := leftovers(t, b); len(left) != 3 {
		t.Errorf("%v", left)
	}
	attach := &driverv1.AttachVolumeRequest{VolumeId: volA}
	if _, err := a.AttachVolume(attach); err != nil {
		t.Fatal(err)
	}
	_, err := b.AttachVolume(attach)
	want(t, err, metav1.Reason_REASON_VOLUME_IN_USE)
	if _, err := b.AttachVolume(&driverv1.AttachVolumeRequest{VolumeId: volA, FencedNodeId: "a"}); err != nil {
		t.Error(err)
	}
	if err := a.DetachVolume(volA); err != nil {
		t.Error(err)
	}
	if rec, _ := b.ourVolume(volA); rec.AttachedNode != "b" {
		t.Errorf("a fenced node's detach ended the attachment of %q", rec.AttachedNode)
	}
}

// An import whose parts leave a gap, overlap, or go beyond the size leaves nothing.
func TestImportVolumeRefusesWhatIsNotWhole(t *testing.T) {
	p := open(t, t.TempDir())
	for name, parts := range map[string][]*driverv1.ExportVolumeResponse{
		"gap":     {{Offset: 4096, HoleBytes: 1<<20 - 4096}},
		"overlap": {{HoleBytes: 8192}, {Offset: 4096, HoleBytes: 1<<20 - 4096}},
		"beyond":  {{HoleBytes: 1<<20 + 1}},
		"short":   {{HoleBytes: 1<<20 - 512}},
		"both":    {{Data: []byte("x"), HoleBytes: 1<<20 - 1}},
		"back":    {{HoleBytes: -1}},
	} {
		_, err := p.ImportVolume(t.Context(), create(volA, 1<<20, raw, ""), func() (*driverv1.ExportVolumeResponse, error) {
			if len(parts) == 0 {
				return nil, io.EOF
			}
			next := parts[0]
			parts = parts[1:]
			return next, nil
		})
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		if left := leftovers(t, p); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
