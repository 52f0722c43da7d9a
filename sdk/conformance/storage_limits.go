package conformance

import (
	"bytes"
	"math"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// limitChecks are about what is at the edge: ids of any form, sizes, pages, what is in use.
func limitChecks() []*Check {
	return []*Check{
		{Name: "storage/ids/long-and-strange", Contract: "Ids are UUIDs. What is no id never reaches the backend, however long or strange it is.", run: strangeIDs},
		{Name: "storage/resize/limits", Contract: "ResizeVolume: beyond the limits OUT_OF_RANGE, with nothing changed; sizes are rounded up.", Storage: resizes, run: resizeLimits},
		{Name: "storage/resize/attached", Contract: "ResizeVolume of an attached volume works only with RESIZE_ONLINE; else FAILED_PRECONDITION.", Storage: resizes, run: resizeAttached},
		{Name: "storage/resize/keeps-content", Contract: "A volume that has grown keeps its content; what is new reads as zeros.", Storage: resizes, run: resizeKeeps},
		{Name: "storage/snapshot/pages", Contract: "ListSnapshots pages through our snapshots of a pool, ordered by id.", Storage: snapshots, run: snapshotPages},
		{Name: "storage/snapshot/size", Contract: "RestoreSnapshot: a volume that has grown since keeps its size.", Storage: restores, run: restoreKeepsSize},
		{Name: "storage/image/pages", Contract: "ListImages pages through our image copies of a pool, ordered by id.", run: imagePages},
		{Name: "storage/content/export-limits", Contract: "ExportVolume: an offset outside the size is OUT_OF_RANGE, what is absent NOT_FOUND.", Storage: exports, run: exportLimits},
		{Name: "storage/attach/shared", Contract: "A volume attached as shared may be attached by several nodes at once.", run: attachShared},
	}
}

func strangeIDs(t T, e *Env) {
	p := e.pool(t)
	for _, id := range []string{strings.Repeat("a", 128), newID() + newID(), newID() + "\n", " " + newID()[1:], newID()[:35] + "/", newID()[:35] + "\x00", newID()[:34] + "é", "-" + newID()[1:]} {
		v := &volume{pool: p, id: id, req: &driverv1.CreateVolumeRequest{PoolId: p.id, VolumeId: id, Mark: e.mark(id), SizeBytes: e.o.Storage.VolumeBytes}}
		refused(t, "create", e.storage().CreateVolume, v.req, codes.InvalidArgument)
		refused(t, "get", e.storage().GetVolume, v.getRequest(), codes.InvalidArgument)
		refused(t, "detach", e.storage().DetachVolume, v.detachRequest(), codes.InvalidArgument)
		refused(t, "delete", e.storage().DeleteVolume, v.deleteRequest(), codes.InvalidArgument)
		refused(t, "delete image", e.storage().DeleteImage, &driverv1.DeleteImageRequest{PoolId: p.id, ImageId: id}, codes.InvalidArgument)
		if e.can(snapshots) {
			refused(t, "delete snapshot", e.storage().DeleteSnapshot, &driverv1.DeleteSnapshotRequest{PoolId: p.id, SnapshotId: id}, codes.InvalidArgument)
		}
	}
}

func resizeLimits(t T, e *Env) {
	v := e.pool(t).made(t)
	before := v.get(t).GetSizeBytes()
	for _, size := range []int64{0, -1, math.MinInt64, before - 1 - e.caps().GetStorage().GetSizeGranularityBytes(), math.MaxInt64, math.MaxInt64 - 511} {
		_, err := e.storage().ResizeVolume(within(t), &driverv1.ResizeVolumeRequest{PoolId: v.pool.id, VolumeId: v.id, SizeBytes: size})
		wantCode(t, "a size beyond the limits", err, codes.OutOfRange, codes.InvalidArgument, codes.ResourceExhausted)
	}
	if now := v.get(t).GetSizeBytes(); now != before {
		t.Errorf("a refused size changed the volume from %d to %d bytes", before, now)
	}
	g := e.caps().GetStorage().GetSizeGranularityBytes()
	want := 2*before + 1
	got := call(t, e.storage().ResizeVolume, &driverv1.ResizeVolumeRequest{PoolId: v.pool.id, VolumeId: v.id, SizeBytes: want}).GetVolume().GetSizeBytes()
	if got < want || got%g != 0 || got >= want+g || v.get(t).GetSizeBytes() != got {
		t.Errorf("asked for %d bytes in steps of %d, got %d", want, g, got)
	}
}

func resizeAttached(t T, e *Env) {
	v := e.pool(t).made(t)
	call(t, e.storage().AttachVolume, v.attachRequest())
	req := &driverv1.ResizeVolumeRequest{PoolId: v.pool.id, VolumeId: v.id, SizeBytes: 2 * v.get(t).GetSizeBytes()}
	if !e.can(driverv1.StorageFeature_STORAGE_FEATURE_RESIZE_ONLINE) {
		refused(t, "resize of what is attached", e.storage().ResizeVolume, req, codes.FailedPrecondition)
		return
	}
	for range 2 {
		if got := call(t, e.storage().ResizeVolume, req).GetVolume(); got.GetSizeBytes() < req.GetSizeBytes() || !got.GetAttached() {
			t.Errorf("resized: %v", got)
		}
	}
}

func resizeKeeps(t T, e *Env) {
	v := e.pool(t).loaded(t)
	content := v.contentNow(t)
	size := 2 * v.get(t).GetSizeBytes()
	call(t, e.storage().ResizeVolume, &driverv1.ResizeVolumeRequest{PoolId: v.pool.id, VolumeId: v.id, SizeBytes: size})
	v.wantContent(t, content)
	if e.can(exports) {
		if got := int64(len(v.export(t))); got != size {
			t.Errorf("exported %d bytes of %d", got, size)
		}
	}
}

// pages walks a list by pages of a size, and fails the check when the ids are out of order, one comes twice or a page is too long.
func pages(t T, size int32, page func(token string) (ids []string, next string)) []string {
	t.Helper()
	var all []string
	for token := ""; ; {
		ids, next := page(token)
		if size > 0 && len(ids) > int(size) {
			t.Errorf("a page of %d has %d entries", size, len(ids))
		}
		all = append(all, ids...)
		if token = next; token == "" {
			break
		}
		if len(all) > 100000 {
			t.Fatalf("the pages do not end")
		}
	}
	if !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Errorf("in pages of %d: out of order, or one comes twice: %v", size, all)
	}
	return all
}

func (p *pool) snapshotIDs(t T, size int32, volume string) []string {
	t.Helper()
	return pages(t, size, func(token string) (ids []string, next string) {
		r := call(t, p.e.storage().ListSnapshots, &driverv1.ListSnapshotsRequest{PoolId: p.id, VolumeId: volume, PageSize: size, PageToken: token})
		for _, s := range r.GetSnapshots() {
			ids = append(ids, s.GetSnapshotId())
		}
		return ids, r.GetNextPageToken()
	})
}

func (p *pool) imageIDs(t T, size int32) []string {
	t.Helper()
	return pages(t, size, func(token string) (ids []string, next string) {
		r := call(t, p.e.storage().ListImages, &driverv1.ListImagesRequest{PoolId: p.id, PageSize: size, PageToken: token})
		for _, i := range r.GetImages() {
			ids = append(ids, i.GetImageId())
		}
		return ids, r.GetNextPageToken()
	})
}

func snapshotPages(t T, e *Env) {
	p := e.pool(t)
	a, b := p.made(t), p.made(t)
	var made []string
	for range 3 {
		id, _ := a.snapshot(t)
		made = append(made, id)
	}
	other, _ := b.snapshot(t)
	slices.Sort(made)
	for _, size := range []int32{0, 1, 2, 3, 1000} {
		if got := p.snapshotIDs(t, size, a.id); !slices.Equal(got, made) {
			t.Errorf("in pages of %d the volume's snapshots are %v, not %v", size, got, made)
		}
		if all := p.snapshotIDs(t, size, ""); !slices.Contains(all, other) || !slices.Contains(all, made[0]) {
			t.Errorf("in pages of %d the pool's snapshots are %v", size, all)
		}
	}
}

func restoreKeepsSize(t T, e *Env) {
	if !e.can(resizes) {
		return // nothing grows
	}
	v := e.pool(t).loaded(t)
	content := v.contentNow(t)
	id, _ := v.snapshot(t)
	size := 2 * v.get(t).GetSizeBytes()
	call(t, e.storage().ResizeVolume, &driverv1.ResizeVolumeRequest{PoolId: v.pool.id, VolumeId: v.id, SizeBytes: size})
	v.scribble(t, 0x3c)
	if got := call(t, e.storage().RestoreSnapshot, &driverv1.RestoreSnapshotRequest{PoolId: v.pool.id, SnapshotId: id, VolumeId: v.id}).GetVolume().GetSizeBytes(); got != size {
		t.Errorf("set back it has %d bytes, it had grown to %d", got, size)
	}
	v.wantContent(t, content)
}

func imagePages(t T, e *Env) {
	p := e.pool(t)
	var made []string
	for range 3 {
		i := p.image(t)
		must(t, "import", i.upload(within(t)))
		made = append(made, i.id)
	}
	for _, size := range []int32{0, 1, 2, 1000} {
		ids := p.imageIDs(t, size)
		for _, id := range made {
			if !slices.Contains(ids, id) {
				t.Errorf("in pages of %d %s is missing", size, id)
			}
		}
	}
}

func exportLimits(t T, e *Env) {
	v := e.pool(t).loaded(t)
	size := v.get(t).GetSizeBytes()
	of := func(id string, offset int64) *driverv1.ExportVolumeRequest {
		return &driverv1.ExportVolumeRequest{PoolId: v.pool.id, Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: id}, Offset: offset}
	}
	for _, offset := range []int64{-1, size + 1, math.MaxInt64} {
		wantCode(t, "an offset outside", e.exportError(t, of(v.id, offset)), codes.OutOfRange)
	}
	if rest := e.exported(t, of(v.id, size)); len(rest) != 0 {
		t.Errorf("from the end on there are %d bytes", len(rest))
	}
	if rest := e.exported(t, of(v.id, size-1)); len(bytes.Trim(rest, "\x00")) != 0 || len(rest) != 1 {
		t.Errorf("the last byte is %v", rest)
	}
	wantCode(t, "what is absent", e.exportError(t, of(newID(), 0)), codes.NotFound)
	wantCode(t, "nothing named", e.exportError(t, &driverv1.ExportVolumeRequest{PoolId: v.pool.id}), codes.InvalidArgument)
}

func attachShared(t T, e *Env) {
	if !e.caps().GetStorage().GetSharedPools() {
		return // nobody else is there
	}
	v := e.pool(t).made(t)
	other := e.as(t, newID())
	(&pool{e: other, id: v.pool.id}).ensure(t)
	shared := v.attachRequest()
	shared.Shared = true
	call(t, e.storage().AttachVolume, shared)
	call(t, other.storage().AttachVolume, shared)
	refused(t, "delete while two have it", e.storage().DeleteVolume, v.deleteRequest(), codes.FailedPrecondition)
	call(t, e.storage().DetachVolume, v.detachRequest())
	if v.get(t).GetAttached() {
		t.Errorf("it says that it is attached here, where it was detached")
	}
	refused(t, "delete while the other has it", e.storage().DeleteVolume, v.deleteRequest(), codes.FailedPrecondition)
	call(t, other.storage().DetachVolume, v.detachRequest())
	call(t, e.storage().DeleteVolume, v.deleteRequest())
}
