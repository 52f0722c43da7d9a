package conformance

import (
	"context"
	"path/filepath"
	"slices"

	"google.golang.org/grpc/codes"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	storage   = driverv1.DriverKind_DRIVER_KIND_STORAGE
	resizes   = driverv1.StorageFeature_STORAGE_FEATURE_RESIZE
	snapshots = driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT
)

// storageChecks are what every storage driver must pass.
func storageChecks() []*Check {
	checks := []*Check{
		{Name: "storage/pool/ensure", Contract: "EnsurePool makes a pool usable and reports its health and capacity. Repeatable.", run: poolEnsure},
		{Name: "storage/pool/unknown", Contract: "EnsurePool must precede every other call for the pool. ReleasePool of an unknown one: OK.", run: poolUnknown},
		{Name: "storage/pool/release-keeps-data", Contract: "ReleasePool lets go of a pool. No data is deleted. Attached volumes: FAILED_PRECONDITION.", run: poolRelease},
		{Name: "storage/volume/create", Contract: "CreateVolume makes a volume; a driver rounds sizes up and reports the real one.", run: volumeCreate},
		{Name: "storage/volume/same-spec-is-ok", Contract: "Same id and spec: OK, same answer.", run: volumeSame},
		{Name: "storage/volume/other-spec-conflicts", Contract: "Same id, other spec: ALREADY_EXISTS.", run: volumeOther},
		{Name: "storage/volume/sizes", Contract: "A size or offset beyond the limits: OUT_OF_RANGE, with nothing made.", run: volumeSizes},
		{Name: "storage/volume/absent", Contract: "Absent: get is NOT_FOUND; delete and detach are OK.", run: volumeAbsent},
		{Name: "storage/volume/pages", Contract: "ListVolumes pages through our volumes of a pool, ordered by id.", run: volumePages},
		{Name: "storage/volume/only-ours", Contract: "List calls return only objects with our mark. Nothing else is ever touched.", run: volumesOnlyOurs},
		{Name: "storage/volume/survives-kill", Contract: "Plugins keep no database and may be killed at any time.", run: volumeSurvivesKill},
		{Name: "storage/attach/source", Contract: "AttachVolume makes a volume usable on this node and says how. Already attached here: OK, same answer.", run: attachSource},
		{Name: "storage/attach/protects", Contract: "DeleteVolume of what is attached: FAILED_PRECONDITION (VOLUME_IN_USE). Detach of what is not attached: OK.", run: attachProtects},
		{Name: "storage/resize/grows", Contract: "ResizeVolume grows a volume; smaller than now: OUT_OF_RANGE. Already that size: OK.", Storage: resizes, run: resizeGrows},
		{Name: "storage/ids/wrong-ones-are-refused", Contract: "An id that is no UUID is INVALID_ARGUMENT.", run: storageWrongIDs},
		{Name: "storage/snapshot/life", Contract: "CreateSnapshot takes a point-in-time copy; volumes made from it stay whole when it is deleted.", Storage: snapshots, run: snapshotLife},
		{Name: "storage/capabilities/honest", Contract: "What is not advertised answers UNIMPLEMENTED.", run: storageHonest},
	}
	checks = slices.Concat(checks, imageChecks(), contentChecks(), limitChecks())
	checks = append(checks, faultChecks("storage", append(storageVerbs(), contentVerbs()...), func(c *Check, v verb) { c.Storage = driverv1.StorageFeature(v.needs) })...)
	checks = append(checks, closingChecks()...)
	for _, c := range checks {
		c.Kind = storage
	}
	return checks
}

// pool is one ensured pool under check. All checks use one and the same pool, as a node does.
type pool struct {
	e  *Env
	id string
}

// pool ensures the pool, and does so again whenever the plugin is launched again during the check.
func (e *Env) pool(t T) *pool {
	t.Helper()
	p := &pool{e: e, id: e.poolID}
	p.ensure(t)
	e.onLaunch = p.ensure
	t.Cleanup(func() { e.onLaunch = nil })
	return p
}

func (p *pool) ensureRequest() *driverv1.EnsurePoolRequest {
	return &driverv1.EnsurePoolRequest{PoolId: p.id, Parameters: p.e.o.Storage.Parameters, Secrets: p.e.o.Storage.Secrets}
}

func (p *pool) ensure(t T) { call(t, p.e.storage().EnsurePool, p.ensureRequest()) }

// volume is one volume under check.
type volume struct {
	*pool
	id  string
	req *driverv1.CreateVolumeRequest
}

// volume thinks of a volume, and removes it when the check ends if it was made.
func (p *pool) volume(t T) *volume {
	id := newID()
	v := &volume{pool: p, id: id, req: &driverv1.CreateVolumeRequest{PoolId: p.id, VolumeId: id, Mark: p.e.mark(id), SizeBytes: p.e.o.Storage.VolumeBytes}}
	t.Cleanup(func() {
		cleanUp(t, func(ctx context.Context) error {
			_, err := p.e.storage().DetachVolume(ctx, &driverv1.DetachVolumeRequest{PoolId: p.id, VolumeId: id})
			if err == nil {
				_, err = p.e.storage().DeleteVolume(ctx, &driverv1.DeleteVolumeRequest{PoolId: p.id, VolumeId: id})
			}
			return err
		})
	})
	return v
}

// made makes a volume.
func (p *pool) made(t T) *volume {
	t.Helper()
	v := p.volume(t)
	v.create(t)
	return v
}

func (v *volume) create(t T) *driverv1.Volume {
	t.Helper()
	return call(t, v.e.storage().CreateVolume, v.req).GetVolume()
}

func (v *volume) getRequest() *driverv1.GetVolumeRequest {
	return &driverv1.GetVolumeRequest{PoolId: v.pool.id, VolumeId: v.id}
}

func (v *volume) get(t T) *driverv1.Volume {
	t.Helper()
	return call(t, v.e.storage().GetVolume, v.getRequest()).GetVolume()
}

func (v *volume) attachRequest() *driverv1.AttachVolumeRequest {
	return &driverv1.AttachVolumeRequest{PoolId: v.pool.id, VolumeId: v.id}
}

func (v *volume) detachRequest() *driverv1.DetachVolumeRequest {
	return &driverv1.DetachVolumeRequest{PoolId: v.pool.id, VolumeId: v.id}
}

func (v *volume) deleteRequest() *driverv1.DeleteVolumeRequest {
	return &driverv1.DeleteVolumeRequest{PoolId: v.pool.id, VolumeId: v.id}
}

// listed reads all our volumes of the pool by pages of size, and fails the check when they are out of order or one comes twice.
func (p *pool) listed(t T, size int32) []string {
	t.Helper()
	var ids []string
	for token := ""; ; {
		r := call(t, p.e.storage().ListVolumes, &driverv1.ListVolumesRequest{PoolId: p.id, PageSize: size, PageToken: token})
		if size > 0 && len(r.GetVolumes()) > int(size) {
			t.Errorf("a page of %d has %d volumes", size, len(r.GetVolumes()))
		}
		for _, v := range r.GetVolumes() {
			if len(ids) > 0 && ids[len(ids)-1] >= v.GetVolumeId() {
				t.Errorf("%s is listed after %s", v.GetVolumeId(), ids[len(ids)-1])
			}
			ids = append(ids, v.GetVolumeId())
		}
		if token = r.GetNextPageToken(); token == "" {
			return ids
		}
		if len(ids) > 100000 {
			t.Fatalf("the pages do not end")
		}
	}
}

func (v *volume) wantListed(t T, want bool) {
	t.Helper()
	if got := slices.Contains(v.listed(t, 0), v.id); got != want {
		t.Errorf("listed: %v, want %v", got, want)
	}
}

func poolEnsure(t T, e *Env) {
	p := e.pool(t)
	for range 2 {
		r := call(t, e.storage().EnsurePool, p.ensureRequest()).GetPool()
		if r.GetHealth() != driverv1.HealthState_HEALTH_STATE_HEALTHY || r.GetPoolId() != p.id || r.GetUsedBytes() < 0 || r.GetCapacityBytes() < 0 {
			t.Errorf("ensured: %v", r)
		}
	}
	if r := call(t, e.storage().GetPool, &driverv1.GetPoolRequest{PoolId: p.id}).GetPool(); r.GetHealth() != driverv1.HealthState_HEALTH_STATE_HEALTHY {
		t.Errorf("read: %v", r)
	}
}

func poolUnknown(t T, e *Env) {
	id, v := newID(), newID()
	refused(t, "get", e.storage().GetPool, &driverv1.GetPoolRequest{PoolId: id}, codes.NotFound)
	refused(t, "create in it", e.storage().CreateVolume, &driverv1.CreateVolumeRequest{PoolId: id, VolumeId: v, Mark: e.mark(v), SizeBytes: e.o.Storage.VolumeBytes}, codes.NotFound)
	refused(t, "list", e.storage().ListVolumes, &driverv1.ListVolumesRequest{PoolId: id}, codes.NotFound)
	call(t, e.storage().ReleasePool, &driverv1.ReleasePoolRequest{PoolId: id})
}

func poolRelease(t T, e *Env) {
	p := e.pool(t)
	v := p.made(t)
	call(t, e.storage().AttachVolume, v.attachRequest())
	refused(t, "release with an attached volume", e.storage().ReleasePool, &driverv1.ReleasePoolRequest{PoolId: p.id}, codes.FailedPrecondition)
	call(t, e.storage().DetachVolume, v.detachRequest())
	for range 2 {
		call(t, e.storage().ReleasePool, &driverv1.ReleasePoolRequest{PoolId: p.id})
	}
	refused(t, "get after the release", e.storage().GetVolume, v.getRequest(), codes.NotFound)
	p.ensure(t)
	v.get(t)
}

func volumeCreate(t T, e *Env) {
	v := e.pool(t).volume(t)
	v.req.SizeBytes++ // no multiple of anything
	got := v.create(t)
	g := max(e.caps().GetStorage().GetSizeGranularityBytes(), 1)
	if got.GetSizeBytes() < v.req.GetSizeBytes() || got.GetSizeBytes()%g != 0 || got.GetSizeBytes() >= v.req.GetSizeBytes()+g {
		t.Errorf("asked for %d bytes in steps of %d, got %d", v.req.GetSizeBytes(), g, got.GetSizeBytes())
	}
	if read := v.get(t); read.GetMark().String() != v.req.GetMark().String() || read.GetSizeBytes() != got.GetSizeBytes() || read.GetAttached() || read.GetFormat() == 0 {
		t.Errorf("read: %v", read)
	}
	v.wantListed(t, true)
	call(t, e.storage().DeleteVolume, v.deleteRequest())
	v.wantListed(t, false)
	refused(t, "get after delete", e.storage().GetVolume, v.getRequest(), codes.NotFound)
}

func volumeSame(t T, e *Env) {
	v := e.pool(t).volume(t)
	if a, b := v.create(t), v.create(t); a.GetSizeBytes() != b.GetSizeBytes() || a.GetFormat() != b.GetFormat() {
		t.Errorf("answered %v, then %v", a, b)
	}
	call(t, e.storage().AttachVolume, v.attachRequest())
	v.create(t) // also when it is in use
}

func volumeOther(t T, e *Env) {
	v := e.pool(t).made(t)
	before := v.get(t)
	v.req.SizeBytes *= 2
	refused(t, "another size", e.storage().CreateVolume, v.req, codes.AlreadyExists)
	if after := v.get(t); after.GetSizeBytes() != before.GetSizeBytes() {
		t.Errorf("the refused spec changed the volume")
	}
}

func volumeSizes(t T, e *Env) {
	p := e.pool(t)
	for _, size := range []int64{0, -1, -1 << 62, 1<<63 - 1} {
		v := p.volume(t)
		v.req.SizeBytes = size
		if _, err := e.storage().CreateVolume(within(t), v.req); err == nil {
			t.Errorf("a volume of %d bytes was made", size)
		} else {
			wantCode(t, "an absurd size", err, codes.OutOfRange, codes.InvalidArgument, codes.ResourceExhausted)
		}
		v.wantListed(t, false)
	}
}

func volumeAbsent(t T, e *Env) {
	v := &volume{pool: e.pool(t), id: newID()}
	refused(t, "get", e.storage().GetVolume, v.getRequest(), codes.NotFound)
	refused(t, "attach", e.storage().AttachVolume, v.attachRequest(), codes.NotFound)
	call(t, e.storage().DetachVolume, v.detachRequest())
	call(t, e.storage().DeleteVolume, v.deleteRequest())
}

func volumePages(t T, e *Env) {
	p := e.pool(t)
	var made []string
	for range 5 {
		made = append(made, p.made(t).id)
	}
	for _, size := range []int32{0, 1, 2, 5, 1000} {
		ids := p.listed(t, size)
		for _, id := range made {
			if !slices.Contains(ids, id) {
				t.Errorf("in pages of %d %s is missing", size, id)
			}
		}
	}
}

func volumesOnlyOurs(t T, e *Env) {
	v := e.pool(t).made(t)
	other := e.as(t, newID())
	op := &pool{e: other, id: v.pool.id}
	op.ensure(t)
	if e.caps().GetStorage().GetSharedPools() {
		if !slices.Contains(op.listed(t, 0), v.id) {
			t.Errorf("another node does not list what is the cluster's")
		}
		return
	}
	for _, id := range op.listed(t, 0) {
		t.Errorf("another node lists %s", id)
	}
	refused(t, "another node's get", other.storage().GetVolume, v.getRequest(), codes.PermissionDenied, codes.NotFound)
	_, err := other.storage().DeleteVolume(within(t), v.deleteRequest())
	wantCode(t, "another node's delete", err, codes.PermissionDenied, codes.OK, codes.FailedPrecondition)
	v.get(t) // whatever it was told, the volume is there
}

func volumeSurvivesKill(t T, e *Env) {
	p := e.pool(t)
	idle, used := p.made(t), p.made(t)
	before := call(t, e.storage().AttachVolume, used.attachRequest())
	e.kill(t)
	idle.get(t)
	if !used.get(t).GetAttached() {
		t.Errorf("it is not attached any more")
	}
	after := call(t, e.storage().AttachVolume, used.attachRequest())
	if before.GetSource().String() != after.GetSource().String() {
		t.Errorf("source %v became %v", before.GetSource(), after.GetSource())
	}
	call(t, e.storage().DetachVolume, &driverv1.DetachVolumeRequest{PoolId: p.id, VolumeId: used.id, Handle: before.GetHandle()})
}

// kindOf is the kind of a source, and its path if it has one.
func kindOf(s *driverv1.DiskSource) (driverv1.DiskSourceKind, string) {
	switch s := s.GetSource().(type) {
	case *driverv1.DiskSource_BlockDevice:
		return driverv1.DiskSourceKind_DISK_SOURCE_KIND_BLOCK_DEVICE, s.BlockDevice.GetPath()
	case *driverv1.DiskSource_File:
		return driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE, s.File.GetPath()
	case *driverv1.DiskSource_Rbd:
		return driverv1.DiskSourceKind_DISK_SOURCE_KIND_RBD, "/"
	case *driverv1.DiskSource_Nbd:
		return driverv1.DiskSourceKind_DISK_SOURCE_KIND_NBD, "/"
	}
	return 0, ""
}

func (e *Env) wantSource(t T, s *driverv1.DiskSource) {
	t.Helper()
	kind, path := kindOf(s)
	if !slices.Contains(e.caps().GetStorage().GetDiskSources(), kind) {
		t.Errorf("a source of kind %s, which is not advertised", kind)
	}
	if !filepath.IsAbs(path) {
		t.Errorf("its path %q is not absolute", path)
	}
	if f := s.GetFile(); f != nil && f.GetFormat() == driverv1.VolumeFormat_VOLUME_FORMAT_UNSPECIFIED {
		t.Errorf("a file without a format: nobody ever probes formats")
	}
}

func attachSource(t T, e *Env) {
	v := e.pool(t).made(t)
	a := call(t, e.storage().AttachVolume, v.attachRequest())
	b := call(t, e.storage().AttachVolume, v.attachRequest())
	if a.GetSource().String() != b.GetSource().String() {
		t.Errorf("answered %v, then %v", a, b)
	}
	e.wantSource(t, a.GetSource())
	if len(a.GetHandle()) > 16<<10 {
		t.Errorf("a handle of %d bytes", len(a.GetHandle()))
	}
	if !v.get(t).GetAttached() {
		t.Errorf("it does not say that it is attached")
	}
}

func attachProtects(t T, e *Env) {
	v := e.pool(t).made(t)
	call(t, e.storage().AttachVolume, v.attachRequest())
	refused(t, "delete while attached", e.storage().DeleteVolume, v.deleteRequest(), codes.FailedPrecondition)
	v.get(t)
	for range 2 {
		call(t, e.storage().DetachVolume, v.detachRequest())
	}
	call(t, e.storage().DeleteVolume, v.deleteRequest())
}

func resizeGrows(t T, e *Env) {
	v := e.pool(t).made(t)
	req := &driverv1.ResizeVolumeRequest{PoolId: v.pool.id, VolumeId: v.id, SizeBytes: 2 * v.req.GetSizeBytes()}
	for range 2 {
		if got := call(t, e.storage().ResizeVolume, req).GetVolume().GetSizeBytes(); got < req.GetSizeBytes() {
			t.Errorf("resized to %d, want %d", got, req.GetSizeBytes())
		}
	}
	req.SizeBytes = v.req.GetSizeBytes()
	refused(t, "smaller", e.storage().ResizeVolume, req, codes.OutOfRange)
	req.VolumeId = newID()
	refused(t, "absent", e.storage().ResizeVolume, req, codes.NotFound)
	v.create(t) // a repetition of the creation is no conflict, although the size is another now
}

func storageWrongIDs(t T, e *Env) {
	p := e.pool(t)
	for _, id := range []string{"", "x", "../../etc", newID() + "/..", "%s", "."} {
		v := &volume{pool: p, id: id, req: &driverv1.CreateVolumeRequest{PoolId: p.id, VolumeId: id, Mark: e.mark(id), SizeBytes: e.o.Storage.VolumeBytes}}
		refused(t, "create "+id, e.storage().CreateVolume, v.req, codes.InvalidArgument)
		refused(t, "get "+id, e.storage().GetVolume, v.getRequest(), codes.InvalidArgument)
		refused(t, "delete "+id, e.storage().DeleteVolume, v.deleteRequest(), codes.InvalidArgument)
		refused(t, "attach "+id, e.storage().AttachVolume, v.attachRequest(), codes.InvalidArgument)
		refused(t, "get image "+id, e.storage().GetImage, &driverv1.GetImageRequest{PoolId: p.id, ImageId: id}, codes.InvalidArgument)
		refused(t, "pool "+id, e.storage().EnsurePool, &driverv1.EnsurePoolRequest{PoolId: id, Parameters: e.o.Storage.Parameters}, codes.InvalidArgument)
	}
	v := p.volume(t)
	v.req.Mark = e.mark(newID())
	refused(t, "a mark of another object", e.storage().CreateVolume, v.req, codes.InvalidArgument)
}

// storageVerbs are the changing calls of the storage contract, each to be borne under each fault.
func storageVerbs() []verb {
	type prepared = func(T, *Env) (func(context.Context) error, func(T))
	onVolume := func(attached, wantListed bool, f func(context.Context, *volume) error, verify func(T, *volume)) prepared {
		return func(t T, e *Env) (func(context.Context) error, func(T)) {
			v := e.pool(t).made(t)
			if attached {
				call(t, e.storage().AttachVolume, v.attachRequest())
			}
			return func(ctx context.Context) error { return f(ctx, v) }, func(t T) {
				v.wantListed(t, wantListed)
				if verify != nil {
					verify(t, v)
				}
			}
		}
	}
	wantAttached := func(want bool) func(T, *volume) {
		return func(t T, v *volume) {
			if got := v.get(t).GetAttached(); got != want {
				t.Errorf("attached: %v", got)
			}
		}
	}
	return []verb{
		{name: "create-volume", prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			v := e.pool(t).volume(t)
			return func(ctx context.Context) error {
				_, err := e.storage().CreateVolume(ctx, v.req)
				return err
			}, func(t T) { v.wantListed(t, true) }
		}},
		{name: "delete-volume", prepare: onVolume(false, false, func(ctx context.Context, v *volume) error {
			_, err := v.e.storage().DeleteVolume(ctx, v.deleteRequest())
			return err
		}, nil)},
		{name: "attach-volume", prepare: onVolume(false, true, func(ctx context.Context, v *volume) error {
			_, err := v.e.storage().AttachVolume(ctx, v.attachRequest())
			return err
		}, wantAttached(true))},
		{name: "detach-volume", prepare: onVolume(true, true, func(ctx context.Context, v *volume) error {
			_, err := v.e.storage().DetachVolume(ctx, v.detachRequest())
			return err
		}, wantAttached(false))},
		{name: "resize-volume", needs: int32(resizes), prepare: onVolume(false, true, func(ctx context.Context, v *volume) error {
			_, err := v.e.storage().ResizeVolume(ctx, &driverv1.ResizeVolumeRequest{PoolId: v.pool.id, VolumeId: v.id, SizeBytes: 2 * v.req.GetSizeBytes()})
			return err
		}, func(t T, v *volume) {
			if got := v.get(t).GetSizeBytes(); got < 2*v.req.GetSizeBytes() {
				t.Errorf("its size is %d", got)
			}
		})},
		{name: "import-image", prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			i := e.pool(t).image(t)
			return i.upload, func(t T) { i.wantThere(t, true) }
		}},
	}
}
