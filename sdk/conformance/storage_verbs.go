package conformance

import (
	"bytes"
	"context"
	"slices"

	"google.golang.org/grpc/codes"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// contentVerbs are the changing calls that copy, freeze or set back content, each to be borne under each fault: whatever happened, the bytes are right.
func contentVerbs() []verb {
	return []verb{
		{name: "delete-image", prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			i := e.pool(t).image(t)
			must(t, "import", i.upload(within(t)))
			return func(ctx context.Context) error {
				_, err := e.storage().DeleteImage(ctx, &driverv1.DeleteImageRequest{PoolId: i.pool.id, ImageId: i.id})
				return err
			}, func(t T) { i.wantThere(t, false) }
		}},
		{name: "import-volume", needs: int32(imports), prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			p := e.pool(t)
			v, content := p.volume(t), p.pattern()
			return func(ctx context.Context) error { return v.load(ctx, content, true) }, func(t T) {
				v.wantListed(t, true)
				v.wantContent(t, content)
			}
		}},
		{name: "clone-volume", needs: int32(clones), prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			v := e.pool(t).loaded(t)
			return v.copied(t, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: v.id}})
		}},
		{name: "volume-from-snapshot", needs: int32(fromSnapshot), prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			v := e.pool(t).loaded(t)
			id, _ := v.snapshot(t)
			return v.copied(t, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: id}})
		}},
		{name: "create-snapshot", needs: int32(snapshots), prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			v := e.pool(t).loaded(t)
			id, content := newID(), v.contentNow(t)
			v.forget(t, id)
			return func(ctx context.Context) error {
				_, err := e.storage().CreateSnapshot(ctx, v.snapshotRequest(id))
				return err
			}, func(t T) { v.wantFrozen(t, id, content) }
		}},
		{name: "delete-snapshot", needs: int32(snapshots), prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			v := e.pool(t).loaded(t)
			id, _ := v.snapshot(t)
			v.scribble(t, 0x5a)
			content := v.contentNow(t)
			return func(ctx context.Context) error {
					_, err := e.storage().DeleteSnapshot(ctx, &driverv1.DeleteSnapshotRequest{PoolId: v.pool.id, SnapshotId: id})
					return err
				}, func(t T) {
					if v.snapshotListed(t, id) {
						t.Errorf("the snapshot is listed")
					}
					v.wantContent(t, content)
				}
		}},
		{name: "restore-snapshot", needs: int32(restores), prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			v := e.pool(t).loaded(t)
			id, _ := v.snapshot(t)
			content := v.contentNow(t)
			v.scribble(t, 0x6b)
			return func(ctx context.Context) error {
					_, err := e.storage().RestoreSnapshot(ctx, &driverv1.RestoreSnapshotRequest{PoolId: v.pool.id, SnapshotId: id, VolumeId: v.id})
					return err
				}, func(t T) {
					v.wantContent(t, content)
					v.wantFrozen(t, id, content)
				}
		}},
	}
}

// contentNow is what the volume holds; nil when the driver cannot export.
func (v *volume) contentNow(t T) []byte {
	t.Helper()
	if !v.e.can(exports) {
		return nil
	}
	return v.export(t)
}

// wantContent fails the check unless the volume holds content, and then zeros. nil content is not known.
func (v *volume) wantContent(t T, content []byte) {
	t.Helper()
	if content == nil || !v.e.can(exports) {
		return
	}
	wantBytes(t, "the volume", v.export(t), content)
}

func wantBytes(t T, what string, got, content []byte) {
	t.Helper()
	if !bytes.HasPrefix(got, content) || len(bytes.Trim(got[len(content):], "\x00")) > 0 {
		t.Errorf("%s has %d bytes, not the %d that it must have, or other ones", what, len(got), len(content))
	}
}

// copied is the creation of a volume from a source that has v's content.
func (v *volume) copied(t T, src *driverv1.VolumeSource) (func(context.Context) error, func(T)) {
	c := v.volume(t)
	c.req.SizeBytes, c.req.Source = 0, src
	content := v.contentNow(t)
	return func(ctx context.Context) error {
			_, err := v.e.storage().CreateVolume(ctx, c.req)
			return err
		}, func(t T) {
			c.wantListed(t, true)
			c.wantContent(t, content)
			v.wantContent(t, content)
		}
}

// volume thinks of another volume in the same pool.
func (v *volume) volume(t T) *volume { return v.pool.volume(t) }

// forget removes a snapshot when the check ends.
func (v *volume) forget(t T, id string) {
	t.Cleanup(func() {
		cleanUp(t, func(ctx context.Context) error {
			_, err := v.e.storage().DeleteSnapshot(ctx, &driverv1.DeleteSnapshotRequest{PoolId: v.pool.id, SnapshotId: id})
			return err
		})
	})
}

// wantFrozen fails the check unless the snapshot is there, once, and has content.
func (v *volume) wantFrozen(t T, id string, content []byte) {
	t.Helper()
	var listed []string
	for _, s := range call(t, v.e.storage().ListSnapshots, &driverv1.ListSnapshotsRequest{PoolId: v.pool.id, VolumeId: v.id}).GetSnapshots() {
		listed = append(listed, s.GetSnapshotId())
	}
	if !slices.Equal(listed, []string{id}) {
		t.Errorf("listed are %v, not %s alone", listed, id)
	}
	if content != nil {
		wantBytes(t, "the snapshot", v.snapshotContent(t, id), content)
	}
}

func storageHonest(t T, e *Env) {
	p, c, ctx := e.pool(t), e.storage(), within(t)
	errOf := func(_ any, err error) error { return err }
	from := func(s *driverv1.VolumeSource) error {
		v := p.volume(t)
		v.req.Source = s
		_, err := c.CreateVolume(ctx, v.req)
		return err
	}
	for f, err := range map[driverv1.StorageFeature]error{
		resizes:      errOf(c.ResizeVolume(ctx, &driverv1.ResizeVolumeRequest{PoolId: p.id, VolumeId: newID(), SizeBytes: 1 << 20})),
		snapshots:    errOf(c.ListSnapshots(ctx, &driverv1.ListSnapshotsRequest{PoolId: p.id})),
		restores:     errOf(c.RestoreSnapshot(ctx, &driverv1.RestoreSnapshotRequest{PoolId: p.id, SnapshotId: newID(), VolumeId: newID()})),
		fromSnapshot: from(&driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: newID()}}),
		clones:       from(&driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: newID()}}),
		exports:      e.exportError(t, &driverv1.ExportVolumeRequest{PoolId: p.id, Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: newID()}}),
		imports:      (&volume{pool: p, req: &driverv1.CreateVolumeRequest{PoolId: p.id}}).load(ctx, nil, true),
	} {
		advertised := e.can(f)
		if got := code(err); (got == codes.Unimplemented) == advertised {
			t.Errorf("%s: advertised %v, answered %s (%v)", f, advertised, got, err)
		}
	}
	caps := e.caps().GetStorage()
	if len(caps.GetFormats()) == 0 || len(caps.GetDiskSources()) == 0 || caps.GetSizeGranularityBytes() < 1 || caps.GetOnlineSnapshots() == 0 {
		t.Errorf("capabilities: %v", caps)
	}
}

// exportError is what an export of nothing that is there answers.
func (e *Env) exportError(t T, req *driverv1.ExportVolumeRequest) error {
	s, err := e.storage().ExportVolume(within(t), req)
	if err == nil {
		_, err = s.Recv()
	}
	return err
}
