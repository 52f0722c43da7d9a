package ceph_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// write writes text to the beginning of a volume, as a guest would: through the RBD image that it is given.
func (p cephPool) write(t *testing.T, l launched, volume, text string) {
	t.Helper()
	src := l.attach(t, attachRequest(volume))
	spec := fmt.Sprintf("rbd:%s/%s:id=admin:conf=%s", src.GetPool(), src.GetImage(), p.Conf())
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, append([]byte(text), make([]byte, 512-len(text))...), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "qemu-io", "-f", "raw", "-c", "write -s "+file+" 0 512", spec)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l.detach(t, volume)
}

// Snapshots and clones keep their content whatever happens to what they were made from, in any order of deletion, and nothing is left in the end.
func TestSnapshotsAndClones(t *testing.T) {
	t.Parallel()
	p := newPool(t, shared.ceph)
	l := ready(t, nodeID, p)
	if err := l.upload(t.Context(), &driverv1.ImportImageHeader{Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW}, []byte("from the image")); err != nil {
		t.Fatal(err)
	}
	l.create(t, volumeID, 16<<20, fromImage(imageID))
	l.wantBegin(t, volumeID, "from the image")
	p.write(t, l, volumeID, "first")
	l.attach(t, attachRequest(volumeID))
	l.snapshot(t, snapID, volumeID) // while it is attached
	_, err := l.RestoreSnapshot(t.Context(), &driverv1.RestoreSnapshotRequest{PoolId: poolID, SnapshotId: snapID, VolumeId: volumeID})
	want(t, "restore while attached", err, metav1.Reason_REASON_VOLUME_IN_USE)
	_, err = l.CreateVolume(t.Context(), createRequest(cloneID, 0, fromVolume(volumeID)))
	want(t, "clone while attached", err, metav1.Reason_REASON_VOLUME_IN_USE)
	l.detach(t, volumeID)
	p.write(t, l, volumeID, "second")
	l.create(t, cloneID, 0, fromSnapshot(snapID))
	l.create(t, otherID, 32<<20, fromVolume(volumeID))
	if _, err := l.RestoreSnapshot(t.Context(), &driverv1.RestoreSnapshotRequest{PoolId: poolID, SnapshotId: snapID, VolumeId: volumeID}); err != nil {
		t.Fatal(err)
	}
	l.wantBegin(t, volumeID, "first")
	l.wantBegin(t, cloneID, "first")
	l.wantBegin(t, otherID, "second")
	_, err = l.DeleteVolume(t.Context(), &driverv1.DeleteVolumeRequest{PoolId: poolID, VolumeId: volumeID})
	want(t, "delete with a snapshot", err, metav1.Reason_REASON_VOLUME_IN_USE)
	l.deleteSnapshot(t, snapID) // a clone rests on it
	if list, err := l.ListSnapshots(t.Context(), &driverv1.ListSnapshotsRequest{PoolId: poolID}); err != nil || len(list.GetSnapshots()) != 0 {
		t.Errorf("a deleted snapshot is listed: %v, %v", list, err)
	}
	l.delete(t, volumeID) // two clones rest on it
	l.wantBegin(t, cloneID, "first")
	l.wantBegin(t, otherID, "second")
	_, err = l.DeleteImage(t.Context(), &driverv1.DeleteImageRequest{PoolId: poolID, ImageId: imageID})
	want(t, "delete of an image that clones rest on", err, metav1.Reason_REASON_IMAGE_IN_USE)
	l.delete(t, cloneID, otherID)
	if _, err := l.DeleteImage(t.Context(), &driverv1.DeleteImageRequest{PoolId: poolID, ImageId: imageID}); err != nil {
		t.Fatal(err)
	}
	if out, err := p.RBD(t.Context(), "ls", p.name); err != nil || out != "" {
		t.Errorf("left: %s %v", out, err)
	}
}

// A chain of clones does not grow for ever, and its content goes along.
func TestLongChainIsFlattened(t *testing.T) {
	t.Parallel()
	p := newPool(t, shared.ceph)
	l := ready(t, nodeID, p)
	id := func(n int) string { return fmt.Sprintf("%08d-0000-4000-8000-000000000000", n) }
	l.create(t, id(0), 8<<20, nil)
	p.write(t, l, id(0), "the first of them")
	const links = 9
	for n := range links {
		l.create(t, id(n+1), 0, fromVolume(id(n)))
		l.delete(t, id(n))
	}
	l.wantBegin(t, id(links), "the first of them")
	out, err := p.RBD(t.Context(), "ls", p.name)
	if n := strings.Count(out, "\n"); err != nil || n > 3 {
		t.Errorf("%d RBD images hold one volume, although the chain was cut: %s %v", n, out, err)
	}
	l.delete(t, id(links))
	p.wantEmpty(t)
}

// A volume goes from pool to pool with its holes, from any offset, and an import that ends early leaves nothing.
func TestExportAndImport(t *testing.T) {
	t.Parallel()
	p := newPool(t, shared.ceph)
	l := ready(t, nodeID, p)
	content := make([]byte, 21<<20)
	copy(content[5<<20+100:], "in the middle")
	copy(content[len(content)-3:], "end")
	if err := l.upload(t.Context(), &driverv1.ImportImageHeader{Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW, ContentBytes: int64(len(content))}, content); err != nil {
		t.Fatal(err)
	}
	const size = 3 << 30
	l.create(t, volumeID, size, fromImage(imageID))
	req := &driverv1.ExportVolumeRequest{PoolId: poolID, Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: volumeID}}
	out, err := l.ExportVolume(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.ImportVolume(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Header{Header: createRequest(cloneID, size, nil)}}); err != nil {
		t.Fatal(err)
	}
	var data, at int64
	for {
		part, err := out.Recv()
		if err != nil {
			break // the import tells whether it was the end
		}
		data += int64(len(part.GetData()))
		at = part.GetOffset() + int64(len(part.GetData())) + part.GetHoleBytes()
		if err := in.Send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Part{Part: part}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := in.CloseAndRecv(); err != nil || at != size || data == 0 || data > 1<<20 {
		t.Fatalf("%d bytes, %d of them data, %v", at, data, err)
	}
	l.delete(t, volumeID)
	got, _ := l.download(t, &driverv1.ExportVolumeRequest{Subject: &driverv1.ExportVolumeRequest_ImageId{ImageId: imageID}, Offset: 5 << 20})
	if !bytes.Equal(got, content[5<<20:]) {
		t.Error("the image from 5 MiB on has other content")
	}
	l.snapshot(t, snapID, cloneID)
	if file, err := p.exported(t, cloneID, l); err != nil || !bytes.Equal(file, content) {
		t.Errorf("the imported volume has other content: %v", err)
	}
	l.deleteSnapshot(t, snapID)

	in, err = l.ImportVolume(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = in.Send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Header{Header: createRequest(otherID, 8<<20, nil)}})
	_ = in.Send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Part{Part: &driverv1.ExportVolumeResponse{Data: []byte("half")}}})
	_, err = in.CloseAndRecv()
	want(t, "an import that ends early", err, metav1.Reason_REASON_INVALID_FIELD)
	l.delete(t, cloneID)
	if _, err := l.DeleteImage(t.Context(), &driverv1.DeleteImageRequest{PoolId: poolID, ImageId: imageID}); err != nil {
		t.Fatal(err)
	}
	p.wantEmpty(t)
}

// exported reads the first 21 MiB of a volume with Ceph's own tool.
func (p cephPool) exported(t *testing.T, volume string, l launched) ([]byte, error) {
	t.Helper()
	src := l.attach(t, attachRequest(volume))
	defer l.detach(t, volume)
	file := filepath.Join(t.TempDir(), "export")
	if _, err := p.RBD(t.Context(), "export", "--no-progress", p.name+"/"+src.GetImage(), file); err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, 21<<20)
	_, err = f.Read(b)
	return b, err
}

// A qcow2 image is converted; what is refused leaves nothing, neither in the pool nor on the node.
func TestQcow2Images(t *testing.T) {
	t.Parallel()
	p := newPool(t, shared.ceph)
	state := t.TempDir()
	l := launch(t, nodeID, state, `{"spool_bytes":16777216}`)
	l.ensure(t, p)
	dir := t.TempDir()
	qemu := func(name string, args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	qemu("good", "qemu-img", "create", "-q", "-f", "qcow2", "good", "3G")
	good := qemu("good", "qemu-io", "-f", "qcow2", "-c", "write -P 0x61 2G 1M", "good")
	backed := qemu("backed", "qemu-img", "create", "-q", "-f", "qcow2", "-b", "good", "-F", "qcow2", "backed")
	qemu("large", "qemu-img", "create", "-q", "-f", "qcow2", "large", "1G")
	large := qemu("large", "qemu-io", "-f", "qcow2", "-c", "write -P 0x61 0 15M", "-c", "write -P 0x61 30M 15M", "large")
	format := driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2
	for _, c := range []struct {
		name    string
		content []byte
		sha     string
		reason  metav1.Reason
	}{
		{"a backing file", backed, "", metav1.Reason_REASON_IMAGE_REFUSED},
		{"not qcow2", []byte("plain"), "", metav1.Reason_REASON_IMAGE_REFUSED},
		{"cut short", good[:len(good)/8], "", metav1.Reason_REASON_IMAGE_REFUSED},
		{"empty", nil, "", metav1.Reason_REASON_IMAGE_REFUSED},
		{"another checksum", good, strings.Repeat("0", 64), metav1.Reason_REASON_CHECKSUM_MISMATCH},
		{"too large to convert", large, "", metav1.Reason_REASON_SIZE_OUT_OF_RANGE},
	} {
		err := l.upload(t.Context(), &driverv1.ImportImageHeader{Format: format, Sha256: c.sha}, c.content)
		want(t, c.name, err, c.reason)
		if out, err := p.RBD(t.Context(), "ls", p.name); err != nil || out != "" {
			t.Errorf("%s: left in the pool: %s %v", c.name, out, err)
		}
		if left, err := filepath.Glob(filepath.Join(state, "import/*/*")); err != nil || len(left) > 0 {
			t.Errorf("%s: left on the node: %s %v", c.name, left, err)
		}
	}
	if err := l.upload(t.Context(), &driverv1.ImportImageHeader{Format: format}, good); err != nil {
		t.Fatal(err)
	}
	img, err := l.GetImage(t.Context(), &driverv1.GetImageRequest{PoolId: poolID, ImageId: imageID})
	if err != nil || img.GetImage().GetVirtualSizeBytes() != 3<<30 || img.GetImage().GetFormat() != format || img.GetImage().GetContentBytes() != int64(len(good)) {
		t.Error(img, err)
	}
	tail, _ := l.download(t, &driverv1.ExportVolumeRequest{Subject: &driverv1.ExportVolumeRequest_ImageId{ImageId: imageID}, Offset: 2 << 30})
	if len(tail) != 1<<30 || !bytes.Equal(tail[:1<<20], bytes.Repeat([]byte{0x61}, 1<<20)) || len(bytes.Trim(tail[1<<20:], "\x00")) != 0 {
		t.Error("the converted image has other content")
	}
	if left, err := filepath.Glob(filepath.Join(state, "import/*/*")); err != nil || len(left) > 0 {
		t.Errorf("left on the node: %s %v", left, err)
	}
}

// What others keep in the same Ceph pool is byte for byte what it was, and is not listed.
func TestForeignImagesAreLeftAlone(t *testing.T) {
	t.Parallel()
	p := newPool(t, shared.ceph)
	foreign := "lq-volume-" + volumeID + ".00000000" // even one that is named like ours
	if _, err := p.RBD(t.Context(), "create", "--size", "8M", p.name+"/"+foreign); err != nil {
		t.Fatal(err)
	}
	if _, err := p.RBD(t.Context(), "bench", "--io-type", "write", "--io-total", "4M", p.name+"/"+foreign); err != nil {
		t.Fatal(err)
	}
	look := func() string {
		file := filepath.Join(t.TempDir(), "content")
		_, err := p.RBD(t.Context(), "export", "--no-progress", p.name+"/"+foreign, file)
		body, err2 := os.ReadFile(file)
		info, err3 := p.RBD(t.Context(), "info", "--format", "json", p.name+"/"+foreign)
		if err := errors.Join(err, err2, err3); err != nil {
			t.Fatal(err)
		}
		return info + string(body)
	}
	before := look()
	l := ready(t, nodeID, p)
	l.create(t, volumeID, 8<<20, nil)
	if list, err := l.ListVolumes(t.Context(), &driverv1.ListVolumesRequest{PoolId: poolID}); err != nil || len(list.GetVolumes()) != 1 {
		t.Error(list, err)
	}
	for range 2 {
		l.delete(t, volumeID)
	}
	if _, err := l.ReleasePool(t.Context(), &driverv1.ReleasePoolRequest{PoolId: poolID}); err != nil {
		t.Fatal(err)
	}
	if look() != before {
		t.Error("the foreign image changed")
	}
	out, err := p.Rados(t.Context(), "-p", p.name, "ls")
	if err != nil || strings.Contains(out, "limiquantix") {
		t.Errorf("an empty pool's index is left after its release: %s %v", out, err)
	}
}
