package failpoint_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	rawFormat   = driverv1.VolumeFormat_VOLUME_FORMAT_RAW
	qcow2Format = driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2
	mib         = 1 << 20
)

// calls makes driver calls one after the other; the first failure ends it.
type calls struct {
	ctx context.Context //nolint:containedctx // of one act
	r   *pluginRig
	err error
}

func (c *calls) on(node string, f func(context.Context, driverv1.StorageDriverServiceClient) error) {
	if c.err == nil {
		c.err = c.r.do(c.ctx, node, f)
	}
}

// refused makes a call that is refused for a reason.
func (c *calls) refused(node string, reason metav1.Reason, f func(context.Context, driverv1.StorageDriverServiceClient) error) {
	c.on(node, func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		err := f(ctx, s)
		if fault.Is(err, reason) {
			return nil
		}
		if err == nil {
			return fmt.Errorf("%s was expected", reason)
		}
		return err
	})
}

// id is a new one.
func (c *calls) id() string {
	c.r.serial++
	return fmt.Sprintf("00000000-0000-4000-8000-%012d", c.r.serial)
}

func (c *calls) mark(id string) *driverv1.OwnershipMark {
	m := &driverv1.OwnershipMark{ClusterId: "c", NodeId: "a", ObjectId: id, Generation: 1, Epoch: 1}
	if c.r.shared {
		m.NodeId = ""
	}
	return m
}

func ofImage(id string) *driverv1.VolumeSource {
	return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: id}}
}

func ofSnapshot(id string) *driverv1.VolumeSource {
	return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: id}}
}

func ofVolume(id string) *driverv1.VolumeSource {
	return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: id}}
}

func (c *calls) create(size int64, format driverv1.VolumeFormat, src *driverv1.VolumeSource) string {
	id := c.id()
	c.on("a", func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		_, err := s.CreateVolume(ctx, &driverv1.CreateVolumeRequest{PoolId: pluginPool, VolumeId: id, Mark: c.mark(id), SizeBytes: size, Format: format, Source: src})
		return err
	})
	return id
}

func (c *calls) remove(ids ...string) {
	for _, id := range ids {
		c.on("a", func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
			_, err := s.DeleteVolume(ctx, &driverv1.DeleteVolumeRequest{PoolId: pluginPool, VolumeId: id})
			return err
		})
	}
}

func (c *calls) resize(id string, size int64) {
	c.on("a", func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		v, err := s.ResizeVolume(ctx, &driverv1.ResizeVolumeRequest{PoolId: pluginPool, VolumeId: id, SizeBytes: size})
		if err == nil && v.GetVolume().GetSizeBytes() != size {
			err = fmt.Errorf("resized to %d, and it is %v", size, v)
		}
		return err
	})
}

func (c *calls) attach(node, id string, shared bool, fenced string) (src *driverv1.FileSource) {
	c.on(node, func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		a, err := s.AttachVolume(ctx, &driverv1.AttachVolumeRequest{PoolId: pluginPool, VolumeId: id, Shared: shared, FencedNodeId: fenced})
		src = a.GetSource().GetFile()
		return err
	})
	return src
}

func (c *calls) detach(node, id string) {
	c.on(node, func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		_, err := s.DetachVolume(ctx, &driverv1.DetachVolumeRequest{PoolId: pluginPool, VolumeId: id})
		return err
	})
}

// write lets a guest write a pattern to the first half of a mebibyte of what it has open.
func (c *calls) write(src *driverv1.FileSource, pattern byte) {
	if c.err != nil {
		return
	}
	format := "raw"
	if src.GetFormat() == qcow2Format {
		format = "qcow2"
	}
	out, err := exec.CommandContext(c.ctx, "qemu-io", "-f", format, "-c", fmt.Sprintf("write -q -P %d 0 512k", pattern), "-c", "flush", src.GetPath()).CombinedOutput()
	if err != nil {
		c.err = fmt.Errorf("write to %s: %w: %s", src.GetPath(), err, out)
	}
}

// fill writes a pattern to a volume that nobody has open.
func (c *calls) fill(id string, pattern byte) {
	src := c.attach("a", id, false, "")
	c.write(src, pattern)
	c.detach("a", id)
}

// holds fails unless the first half of a mebibyte of something is of a pattern, and the second is zeros.
func (c *calls) holds(req *driverv1.ExportVolumeRequest, pattern byte) {
	req.PoolId = pluginPool
	c.on("a", func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		got, err := export(ctx, s, req)
		if err != nil {
			return err
		}
		want := append(bytes.Repeat([]byte{pattern}, mib/2), make([]byte, mib/2)...)
		if len(got) < mib || !bytes.Equal(got[:mib], want) {
			return fmt.Errorf("%v holds %d bytes that begin with %v, not with %d", req, len(got), got[:min(len(got), 4)], pattern)
		}
		return nil
	})
}

func export(ctx context.Context, s driverv1.StorageDriverServiceClient, req *driverv1.ExportVolumeRequest) ([]byte, error) {
	in, err := s.ExportVolume(ctx, req)
	if err != nil {
		return nil, err
	}
	var out []byte
	for {
		part, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(append(out, part.GetData()...), make([]byte, part.GetHoleBytes())...)
	}
}

func (c *calls) volumeHolds(id string, pattern byte) {
	c.holds(&driverv1.ExportVolumeRequest{Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: id}}, pattern)
}

func (c *calls) snapshotHolds(id string, pattern byte) {
	c.holds(&driverv1.ExportVolumeRequest{Subject: &driverv1.ExportVolumeRequest_SnapshotId{SnapshotId: id}}, pattern)
}

func (c *calls) imageHolds(id string, pattern byte) {
	c.holds(&driverv1.ExportVolumeRequest{Subject: &driverv1.ExportVolumeRequest_ImageId{ImageId: id}}, pattern)
}

// snapshot takes one; if the volume is attached it is pending, and overlay is what the guest is to write to.
func (c *calls) snapshot(volume string) (id string, overlay *driverv1.FileSource) {
	id = c.id()
	c.on("a", func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		a, err := s.CreateSnapshot(ctx, &driverv1.CreateSnapshotRequest{PoolId: pluginPool, SnapshotId: id, VolumeId: volume, Mark: c.mark(id)})
		overlay = a.GetOverlay().GetFile()
		if err == nil && a.GetSnapshot().GetPending() != (overlay != nil) {
			err = fmt.Errorf("pending without an overlay, or the other way: %v", a)
		}
		return err
	})
	return id, overlay
}

func (c *calls) commit(id, volume string) {
	c.on("a", func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		a, err := s.CommitSnapshot(ctx, &driverv1.CommitSnapshotRequest{PoolId: pluginPool, SnapshotId: id, VolumeId: volume})
		if err == nil && a.GetSnapshot().GetPending() {
			err = fmt.Errorf("it was committed: %v", a)
		}
		return err
	})
}

func (c *calls) restore(id, volume string) {
	c.on("a", func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		_, err := s.RestoreSnapshot(ctx, &driverv1.RestoreSnapshotRequest{PoolId: pluginPool, SnapshotId: id, VolumeId: volume})
		return err
	})
}

func (c *calls) removeSnapshots(ids ...string) {
	for _, id := range ids {
		c.on("a", func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
			_, err := s.DeleteSnapshot(ctx, &driverv1.DeleteSnapshotRequest{PoolId: pluginPool, SnapshotId: id})
			return err
		})
	}
}

// pattern is a mebibyte whose first half is of a pattern.
func pattern(b byte) []byte { return append(bytes.Repeat([]byte{b}, mib/2), make([]byte, mib/2)...) }

// importImage stores content as an image; with a sum that is wrong it is refused.
func (c *calls) importImage(content []byte, format driverv1.VolumeFormat, wrong bool) string {
	id := c.id()
	sum := sha256.Sum256(content)
	if wrong {
		sum[0]++
	}
	send := func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		out, err := s.ImportImage(ctx)
		if err != nil {
			return err
		}
		// What went wrong is in the answer.
		_ = out.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Header{Header: &driverv1.ImportImageHeader{
			PoolId: pluginPool, ImageId: id, Mark: c.mark(id), Format: format, Sha256: hex.EncodeToString(sum[:]), ContentBytes: int64(len(content)),
		}}})
		for part := range slices.Chunk(content, 256<<10) {
			if out.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: part}}) != nil {
				break
			}
		}
		_, err = out.CloseAndRecv()
		return err
	}
	if wrong {
		c.refused("a", metav1.Reason_REASON_CHECKSUM_MISMATCH, send)
	} else {
		c.on("a", send)
	}
	return id
}

func (c *calls) removeImage(id string) {
	c.on("a", func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		_, err := s.DeleteImage(ctx, &driverv1.DeleteImageRequest{PoolId: pluginPool, ImageId: id})
		return err
	})
}

// importVolume makes a volume from a stream; one that ends too early is refused.
func (c *calls) importVolume(content []byte, format driverv1.VolumeFormat, short bool) string {
	id := c.id()
	send := func(ctx context.Context, s driverv1.StorageDriverServiceClient) error {
		out, err := s.ImportVolume(ctx)
		if err != nil {
			return err
		}
		_ = out.Send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Header{Header: &driverv1.CreateVolumeRequest{
			PoolId: pluginPool, VolumeId: id, Mark: c.mark(id), SizeBytes: int64(len(content)), Format: format,
		}}})
		at := int64(0)
		for part := range slices.Chunk(content, 256<<10) {
			if short && at > 0 {
				break
			}
			if out.Send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Part{Part: &driverv1.ExportVolumeResponse{Offset: at, Data: part}}}) != nil {
				break
			}
			at += int64(len(part))
		}
		_, err = out.CloseAndRecv()
		return err
	}
	if short {
		c.refused("a", metav1.Reason_REASON_INVALID_FIELD, send)
	} else {
		c.on("a", send)
	}
	return id
}

// qcow2Of is content as a compressed qcow2 file.
func (c *calls) qcow2Of(content []byte) []byte {
	if c.err != nil {
		return nil
	}
	raw, packed := filepath.Join(c.r.dir, "content.raw"), filepath.Join(c.r.dir, "content.qcow2")
	if c.err = writeNew(raw, content); c.err != nil {
		return nil
	}
	out, err := exec.CommandContext(c.ctx, "qemu-img", "convert", "-q", "-c", "-f", "raw", "-O", "qcow2", raw, packed).CombinedOutput()
	if err != nil {
		c.err = fmt.Errorf("qemu-img: %w: %s", err, out)
		return nil
	}
	var b []byte
	b, c.err = readAll(packed)
	return b
}
