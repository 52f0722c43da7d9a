package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/grpc/codes"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// imageChecks are about image copies, and about the content that volumes get from them.
func imageChecks() []*Check {
	export := driverv1.StorageFeature_STORAGE_FEATURE_EXPORT
	return []*Check{
		{Name: "storage/image/import", Contract: "ImportImage stores a stream as an image copy. Same id already complete: OK at once.", run: imageImport},
		{Name: "storage/image/wrong-checksum", Contract: "The content is checked and only then appears: another checksum than declared is DATA_LOSS.", run: imageChecksum},
		{Name: "storage/image/wrong-length", Contract: "More or fewer bytes than declared: INVALID_ARGUMENT, nothing appears.", run: imageLength},
		{Name: "storage/image/holes", Contract: "hole_bytes are zeros that count for length and checksum like any others: 1 to 16 MiB, else INVALID_ARGUMENT.", Storage: driverv1.StorageFeature_STORAGE_FEATURE_IMPORT_HOLES, run: imageHoles},
		{Name: "storage/image/broken-stream", Contract: "A broken stream leaves nothing.", run: imageBroken},
		{Name: "storage/image/no-header", Contract: "First message describes it.", run: imageNoHeader},
		{Name: "storage/image/absent", Contract: "Absent: get is NOT_FOUND, a volume from it is NOT_FOUND, delete is OK.", run: imageAbsent},
		{Name: "storage/image/attach", Contract: "AttachImage gives a read-only source of an image copy.", run: imageAttach},
		{Name: "storage/image/volume-from-it", Contract: "A size of 0 with a source = the source's size. Smaller than the source: OUT_OF_RANGE.", run: volumeFromImage},
		{Name: "storage/image/content", Contract: "ExportVolume streams the content, raw, holes marked; a volume from an image has its content, then zeros.", Storage: export, run: imageContent},
	}
}

// image is one image under check.
type image struct {
	*pool
	id      string
	content []byte
	header  *driverv1.ImportImageHeader
}

// image thinks of a raw image of 1 MiB with data at its ends, and removes it when the check ends if it was made.
func (p *pool) image(t T) *image {
	id := newID()
	content := make([]byte, 1<<20)
	copy(content, "limiquantix conformance "+id)
	copy(content[len(content)-64:], "the end of "+id)
	sum := sha256.Sum256(content)
	i := &image{pool: p, id: id, content: content, header: &driverv1.ImportImageHeader{
		PoolId: p.id, ImageId: id, Mark: p.e.mark(id), Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW, Sha256: hex.EncodeToString(sum[:]), ContentBytes: int64(len(content)),
	}}
	t.Cleanup(func() {
		ctx, cancel := cleanupContext()
		defer cancel()
		if _, err := p.e.storage().DeleteImage(ctx, &driverv1.DeleteImageRequest{PoolId: p.id, ImageId: id}); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return i
}

// upload imports the image.
func (i *image) upload(ctx context.Context) error {
	s, err := i.e.storage().ImportImage(ctx)
	if err != nil {
		return err
	}
	err = s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Header{Header: i.header}})
	for part := range slices.Chunk(i.content, 64<<10) {
		if err != nil {
			break
		}
		err = s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: part}})
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the answer says why, and may be OK
		return err
	}
	_, err = s.CloseAndRecv()
	return err
}

func (i *image) getRequest() *driverv1.GetImageRequest {
	return &driverv1.GetImageRequest{PoolId: i.pool.id, ImageId: i.id}
}

// wantThere fails the check unless get and list agree that the image is there, or is not.
func (i *image) wantThere(t T, want bool) {
	t.Helper()
	_, err := i.e.storage().GetImage(within(t), i.getRequest())
	if want {
		wantCode(t, "get", err, codes.OK)
	} else {
		wantCode(t, "get", err, codes.NotFound)
	}
	listed := 0
	for _, l := range call(t, i.e.storage().ListImages, &driverv1.ListImagesRequest{PoolId: i.pool.id}).GetImages() {
		if l.GetImageId() == i.id {
			listed++
		}
	}
	if want != (listed == 1) || listed > 1 {
		t.Errorf("listed %d times", listed)
	}
}

func imageImport(t T, e *Env) {
	i := e.pool(t).image(t)
	for range 2 {
		must(t, "import", i.upload(within(t)))
	}
	got := call(t, e.storage().GetImage, i.getRequest()).GetImage()
	if got.GetSha256() != i.header.GetSha256() || got.GetContentBytes() != int64(len(i.content)) || got.GetVirtualSizeBytes() < int64(len(i.content)) ||
		got.GetFormat() != i.header.GetFormat() || got.GetMark().String() != i.header.GetMark().String() {
		t.Errorf("read: %v", got)
	}
	i.wantThere(t, true)
	for range 2 {
		call(t, e.storage().DeleteImage, &driverv1.DeleteImageRequest{PoolId: i.pool.id, ImageId: i.id})
	}
	i.wantThere(t, false)
}

func imageChecksum(t T, e *Env) {
	i := e.pool(t).image(t)
	i.content[5] ^= 1
	wantCode(t, "import", i.upload(within(t)), codes.DataLoss)
	i.wantThere(t, false)
	i.content[5] ^= 1
	must(t, "the right content afterwards", i.upload(within(t)))
}

func imageLength(t T, e *Env) {
	for _, by := range []int64{-4096, 4096} {
		i := e.pool(t).image(t)
		i.header.ContentBytes += by
		wantCode(t, "import", i.upload(within(t)), codes.InvalidArgument)
		i.wantThere(t, false)
	}
}

func imageHoles(t T, e *Env) {
	i := e.pool(t).image(t)
	send := func(holes ...int64) error {
		s, err := e.storage().ImportImage(within(t))
		must(t, "ImportImage", err)
		list := []*driverv1.ImportImageRequest{
			{Message: &driverv1.ImportImageRequest_Header{Header: i.header}},
			{Message: &driverv1.ImportImageRequest_Data{Data: i.content[:4096]}},
		}
		for _, n := range holes {
			list = append(list, &driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_HoleBytes{HoleBytes: n}})
		}
		list = append(list, &driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: i.content[len(i.content)-4096:]}})
		for _, m := range list {
			if err := s.Send(m); err != nil {
				break // the answer says why
			}
		}
		_, err = s.CloseAndRecv()
		return err
	}
	rest := int64(len(i.content)) - 2*4096
	for _, bad := range [][]int64{{0, rest}, {-1, rest + 1}, {16<<20 + 1}, {rest, 16 << 20}, {rest - 1}} {
		wantCode(t, fmt.Sprintf("holes of %v bytes", bad), send(bad...), codes.InvalidArgument)
		i.wantThere(t, false)
	}
	must(t, "import with holes", send(1, rest-1))
	i.wantThere(t, true)
}

func imageBroken(t T, e *Env) {
	i := e.pool(t).image(t)
	begin := func(ctx context.Context) {
		s, err := e.storage().ImportImage(ctx)
		must(t, "ImportImage", err)
		must(t, "header", s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Header{Header: i.header}}))
		must(t, "data", s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: i.content[:100_000]}}))
	}
	ctx, cancel := context.WithCancel(t.Context())
	begin(ctx)
	cancel()
	i.wantThere(t, false)
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	settle(t, func(context.Context) error { // until the cancelled one has ended
		i2 := *i
		i2.content = append([]byte("x"), i.content[1:]...)
		if err := i2.upload(within(t)); code(err) != codes.DataLoss {
			return err
		}
		return nil
	})
	begin(ctx)
	e.kill(t)
	i.wantThere(t, false)
	settle(t, i.upload)
	i.wantThere(t, true)
}

func imageNoHeader(t T, e *Env) {
	e.pool(t)
	s, err := e.storage().ImportImage(within(t))
	must(t, "ImportImage", err)
	_ = s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: []byte("x")}}) // the answer says it
	_, err = s.CloseAndRecv()
	wantCode(t, "data without a header", err, codes.InvalidArgument)
}

func imageAbsent(t T, e *Env) {
	p := e.pool(t)
	i := &image{pool: p, id: newID()}
	refused(t, "get", e.storage().GetImage, i.getRequest(), codes.NotFound)
	refused(t, "attach", e.storage().AttachImage, &driverv1.AttachImageRequest{PoolId: p.id, ImageId: i.id}, codes.NotFound)
	call(t, e.storage().DeleteImage, &driverv1.DeleteImageRequest{PoolId: p.id, ImageId: i.id})
	v := p.volume(t)
	v.req.Source = &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: i.id}}
	refused(t, "a volume from it", e.storage().CreateVolume, v.req, codes.NotFound)
	v.wantListed(t, false)
}

func imageAttach(t T, e *Env) {
	i := e.pool(t).image(t)
	must(t, "import", i.upload(within(t)))
	e.wantSource(t, call(t, e.storage().AttachImage, &driverv1.AttachImageRequest{PoolId: i.pool.id, ImageId: i.id}).GetSource())
}

// from makes a volume of an image.
func (i *image) from(t T, size int64) *volume {
	v := i.volume(t)
	v.req.SizeBytes, v.req.Source = size, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: i.id}}
	return v
}

func volumeFromImage(t T, e *Env) {
	i := e.pool(t).image(t)
	must(t, "import", i.upload(within(t)))
	if got := i.from(t, 0).create(t); got.GetSizeBytes() < int64(len(i.content)) || got.GetSource().GetImageId() != i.id {
		t.Errorf("without a size: %v", got)
	}
	i.from(t, 8*int64(len(i.content))).create(t)
	small := i.from(t, int64(len(i.content))/2)
	refused(t, "smaller than the image", e.storage().CreateVolume, small.req, codes.OutOfRange)
	small.wantListed(t, false)
}

func imageContent(t T, e *Env) {
	i := e.pool(t).image(t)
	must(t, "import", i.upload(within(t)))
	v := i.from(t, 2*int64(len(i.content)))
	size := v.create(t).GetSizeBytes()
	got := v.export(t)
	if int64(len(got)) != size || !bytes.Equal(got[:len(i.content)], i.content) || len(bytes.Trim(got[len(i.content):], "\x00")) > 0 {
		t.Errorf("exported %d bytes of %d, or other ones", len(got), size)
	}
	// Deleting the image is refused, or the volume stays whole.
	_, err := e.storage().DeleteImage(within(t), &driverv1.DeleteImageRequest{PoolId: i.pool.id, ImageId: i.id})
	wantCode(t, "delete of an image that a volume was made from", err, codes.OK, codes.FailedPrecondition)
	if !bytes.Equal(v.export(t), got) {
		t.Errorf("afterwards the volume has other content")
	}
}

// export reads a volume.
func (v *volume) export(t T) (all []byte) {
	t.Helper()
	s, err := v.e.storage().ExportVolume(within(t), &driverv1.ExportVolumeRequest{PoolId: v.pool.id, Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: v.id}})
	must(t, "ExportVolume", err)
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, "export", err)
		if r.GetOffset() != int64(len(all)) || len(r.GetData()) > 0 && r.GetHoleBytes() > 0 || r.GetHoleBytes() > 1<<30 {
			t.Fatalf("a part at %d with %d bytes and a hole of %d, after %d bytes", r.GetOffset(), len(r.GetData()), r.GetHoleBytes(), len(all))
		}
		all = append(append(all, r.GetData()...), make([]byte, r.GetHoleBytes())...)
	}
}

func snapshotLife(t T, e *Env) {
	p := e.pool(t)
	i := p.image(t)
	must(t, "import", i.upload(within(t)))
	v := i.from(t, 0)
	v.create(t)
	id := newID()
	req := &driverv1.CreateSnapshotRequest{PoolId: p.id, SnapshotId: id, VolumeId: v.id, Mark: e.mark(id)}
	del := &driverv1.DeleteSnapshotRequest{PoolId: p.id, SnapshotId: id}
	t.Cleanup(func() {
		ctx, cancel := cleanupContext()
		defer cancel()
		_, _ = e.storage().DeleteSnapshot(ctx, del) // the volume's own clean-up tells
	})
	for range 2 {
		if got := call(t, e.storage().CreateSnapshot, req).GetSnapshot(); got.GetVolumeId() != v.id || got.GetSizeBytes() != v.get(t).GetSizeBytes() || got.GetCreateTime() == nil {
			t.Errorf("snapshot: %v", got)
		}
	}
	other := p.made(t)
	refused(t, "the same id of another volume", e.storage().CreateSnapshot, &driverv1.CreateSnapshotRequest{PoolId: p.id, SnapshotId: id, VolumeId: other.id, Mark: e.mark(id)}, codes.AlreadyExists)
	refused(t, "of an absent volume", e.storage().CreateSnapshot, &driverv1.CreateSnapshotRequest{PoolId: p.id, SnapshotId: del.SnapshotId[:35] + "0", VolumeId: newID(), Mark: e.mark(del.SnapshotId[:35] + "0")}, codes.NotFound, codes.AlreadyExists)
	listed := call(t, e.storage().ListSnapshots, &driverv1.ListSnapshotsRequest{PoolId: p.id, VolumeId: v.id}).GetSnapshots()
	if len(listed) != 1 || listed[0].GetSnapshotId() != id {
		t.Errorf("listed: %v", listed)
	}
	if slices.Contains(e.caps().GetStorage().GetFeatures(), driverv1.StorageFeature_STORAGE_FEATURE_VOLUME_FROM_SNAPSHOT) {
		copied := p.volume(t)
		copied.req.SizeBytes, copied.req.Source = 0, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: id}}
		copied.create(t)
		call(t, e.storage().DeleteSnapshot, del)
		if slices.Contains(e.caps().GetStorage().GetFeatures(), driverv1.StorageFeature_STORAGE_FEATURE_EXPORT) && !bytes.HasPrefix(copied.export(t), i.content) {
			t.Errorf("the volume from the snapshot has other content")
		}
	}
	for range 2 {
		call(t, e.storage().DeleteSnapshot, del)
	}
}
