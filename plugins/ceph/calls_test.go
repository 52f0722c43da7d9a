package ceph_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func fromVolume(id string) *driverv1.VolumeSource {
	return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: id}}
}

func fromSnapshot(id string) *driverv1.VolumeSource {
	return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: id}}
}

func fromImage(id string) *driverv1.VolumeSource {
	return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: id}}
}

func createRequest(id string, size int64, src *driverv1.VolumeSource) *driverv1.CreateVolumeRequest {
	return &driverv1.CreateVolumeRequest{PoolId: poolID, VolumeId: id, Mark: mark(id), SizeBytes: size, Source: src}
}

func (l launched) create(t *testing.T, id string, size int64, src *driverv1.VolumeSource) {
	t.Helper()
	if _, err := l.CreateVolume(t.Context(), createRequest(id, size, src)); err != nil {
		t.Fatal(err)
	}
}

func (l launched) delete(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if _, err := l.DeleteVolume(t.Context(), &driverv1.DeleteVolumeRequest{PoolId: poolID, VolumeId: id}); err != nil {
			t.Fatal(err)
		}
	}
}

func (l launched) snapshot(t *testing.T, id, volume string) {
	t.Helper()
	if _, err := l.CreateSnapshot(t.Context(), &driverv1.CreateSnapshotRequest{PoolId: poolID, SnapshotId: id, VolumeId: volume, Mark: mark(id)}); err != nil {
		t.Fatal(err)
	}
}

func (l launched) deleteSnapshot(t *testing.T, id string) {
	t.Helper()
	if _, err := l.DeleteSnapshot(t.Context(), &driverv1.DeleteSnapshotRequest{PoolId: poolID, SnapshotId: id}); err != nil {
		t.Fatal(err)
	}
}

func attachRequest(id string) *driverv1.AttachVolumeRequest {
	return &driverv1.AttachVolumeRequest{PoolId: poolID, VolumeId: id}
}

func (l launched) attach(t *testing.T, req *driverv1.AttachVolumeRequest) *driverv1.RbdSource {
	t.Helper()
	r, err := l.AttachVolume(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return r.GetSource().GetRbd()
}

func (l launched) detach(t *testing.T, id string) {
	t.Helper()
	if _, err := l.DetachVolume(t.Context(), &driverv1.DetachVolumeRequest{PoolId: poolID, VolumeId: id}); err != nil {
		t.Fatal(err)
	}
}

// upload imports an image; the header's ids, mark and checksum are filled in where they are empty.
func (l launched) upload(ctx context.Context, h *driverv1.ImportImageHeader, content []byte) error {
	h.PoolId, h.ImageId, h.Mark = poolID, imageID, mark(imageID)
	if h.Sha256 == "" {
		sum := sha256.Sum256(content)
		h.Sha256 = hex.EncodeToString(sum[:])
	}
	s, err := l.ImportImage(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Header{Header: h}}); err != nil {
		return err
	}
	for len(content) > 0 {
		n := min(len(content), 1<<20)
		if s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: content[:n]}}) != nil {
			break // CloseAndRecv tells why
		}
		content = content[n:]
	}
	_, err = s.CloseAndRecv()
	return err
}

// download reads what req names. It also counts the bytes that came as data.
func (l launched) download(t *testing.T, req *driverv1.ExportVolumeRequest) (all []byte, parts []*driverv1.ExportVolumeResponse) {
	t.Helper()
	req.PoolId = poolID
	s, err := l.ExportVolume(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all, parts
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.GetOffset() != req.GetOffset()+int64(len(all)) {
			t.Fatalf("a part at %d after %d bytes", r.GetOffset(), len(all))
		}
		all = append(append(all, r.GetData()...), make([]byte, r.GetHoleBytes())...)
		parts = append(parts, r)
	}
}

func (l launched) content(t *testing.T, volume string) []byte {
	t.Helper()
	all, _ := l.download(t, &driverv1.ExportVolumeRequest{Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: volume}})
	return all
}

// wantBegin fails the test unless a volume begins with text.
func (l launched) wantBegin(t *testing.T, volume, text string) {
	t.Helper()
	if got := l.content(t, volume); !bytes.HasPrefix(got, []byte(text)) {
		t.Errorf("volume %s begins with %q, want %q", volume, got[:len(text)], text)
	}
}

func want(t *testing.T, what string, err error, reason metav1.Reason) {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Errorf("%s: %v, want %s", what, err, reason)
	}
}
