package reference

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// The tables of storage. Keys of all but pools are POOL/ID.
const (
	poolTable     = "pool"         // EnsurePoolRequest, without secrets
	volumeTable   = "volume"       // Volume
	askTable      = "volume-ask"   // CreateVolumeRequest: what was asked for, to tell a repetition from another spec
	contentTable  = "volume-bytes" // content; what is beyond it is zeros
	snapshotTable = "snapshot"     // Snapshot
	frozenTable   = "snapshot-bytes"
	imageTable    = "image" // Image
	pictureTable  = "image-bytes"
)

const (
	granularity = 512
	maxVolume   = 1 << 40
	poolBytes   = 1 << 40
	maxContent  = 64 << 20 // greatest image: all is kept in memory
)

type storageDriver struct {
	driverv1.UnimplementedStorageDriverServiceServer
	*driver
}

func storageCapabilities(cfg config) *driverv1.StorageCapabilities {
	return &driverv1.StorageCapabilities{
		Features: []driverv1.StorageFeature{
			driverv1.StorageFeature_STORAGE_FEATURE_RESIZE, driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT,
			driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT_RESTORE, driverv1.StorageFeature_STORAGE_FEATURE_VOLUME_FROM_SNAPSHOT,
			driverv1.StorageFeature_STORAGE_FEATURE_CLONE, driverv1.StorageFeature_STORAGE_FEATURE_EXPORT, driverv1.StorageFeature_STORAGE_FEATURE_IMPORT, driverv1.StorageFeature_STORAGE_FEATURE_THIN,
		},
		OnlineSnapshots:      onlineModes[cfg.OnlineSnapshots],
		SharedPools:          cfg.SharedPools,
		Formats:              []driverv1.VolumeFormat{driverv1.VolumeFormat_VOLUME_FORMAT_RAW},
		SizeGranularityBytes: granularity,
		DiskSources:          []driverv1.DiskSourceKind{driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE},
	}
}

func (s *storageDriver) EnsurePool(ctx context.Context, req *driverv1.EnsurePoolRequest) (*driverv1.EnsurePoolResponse, error) {
	id := req.GetPoolId()
	if err := checkID("pool_id", id); err != nil {
		return nil, err
	}
	for k := range req.GetParameters() {
		return nil, fault.Invalid(fault.Violation{Field: "parameters." + k, Description: "unknown parameter"})
	}
	if s.defect("logs-secrets") {
		slog.Info("pool", "secrets", fmt.Sprintf("%s", req.GetSecrets()))
	}
	unlock, err := s.keys.Lock("pool/" + id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var pool *driverv1.Pool
	err = s.change(ctx, func(x *tx) error {
		pool = s.pool(x, id)
		if x.has(poolTable, s.poolKey(id)) {
			return nil
		}
		return x.put(poolTable, s.poolKey(id), &driverv1.EnsurePoolRequest{PoolId: id})
	})
	return &driverv1.EnsurePoolResponse{Pool: pool}, err
}

// pool describes a pool.
func (s *storageDriver) pool(x *tx, id string) *driverv1.Pool {
	p := &driverv1.Pool{PoolId: id, Health: driverv1.HealthState_HEALTH_STATE_HEALTHY, CapacityBytes: poolBytes, Handle: handleOf(id)}
	for _, key := range x.keys(contentTable) {
		if strings.HasPrefix(key, id+"/") {
			p.UsedBytes += int64(len(x.bytes(contentTable, key)))
		}
	}
	return p
}

func (s *storageDriver) ReleasePool(ctx context.Context, req *driverv1.ReleasePoolRequest) (*driverv1.ReleasePoolResponse, error) {
	id := req.GetPoolId()
	if err := checkID("pool_id", id); err != nil {
		return nil, err
	}
	unlock, err := s.keys.Lock("pool/" + id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return &driverv1.ReleasePoolResponse{}, s.change(ctx, func(x *tx) error {
		for _, v := range s.volumes(x, id) {
			if s.seen(x, v).GetAttached() {
				return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s of pool %s is attached", v.GetVolumeId(), id)
			}
		}
		x.del(poolTable, s.poolKey(id))
		return nil
	})
}

func (s *storageDriver) GetPool(_ context.Context, req *driverv1.GetPoolRequest) (*driverv1.GetPoolResponse, error) {
	r := &driverv1.GetPoolResponse{}
	return r, s.in(req.GetPoolId(), func(x *tx) error {
		r.Pool = s.pool(x, req.GetPoolId())
		return nil
	})
}

// in reads within an ensured pool.
func (s *storageDriver) in(pool string, f func(*tx) error) error {
	if err := checkID("pool_id", pool); err != nil {
		return err
	}
	return s.do(func(x *tx) error { return s.ensured(x, pool, f) })
}

// on changes one object of an ensured pool, under the object's key.
func (s *storageDriver) on(ctx context.Context, pool, field, id string, f func(*tx) error) error {
	if err := checkIDs("pool_id", pool, field, id); err != nil {
		return err
	}
	unlock, err := s.keys.Lock(field + "/" + pool + "/" + id)
	if err != nil {
		return err
	}
	defer unlock()
	return s.change(ctx, func(x *tx) error { return s.ensured(x, pool, f) })
}

func (s *storageDriver) ensured(x *tx, pool string, f func(*tx) error) error {
	if !x.has(poolTable, s.poolKey(pool)) {
		return fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "pool %s is not ensured", pool).WithRemedy("call EnsurePool first")
	}
	return f(x)
}

// volume reads a volume of ours.
func (s *storageDriver) volume(x *tx, pool, id string) (*driverv1.Volume, error) {
	v := &driverv1.Volume{}
	if !x.get(volumeTable, pool+"/"+id, v) {
		return nil, notFound(metav1.Reason_REASON_VOLUME_NOT_FOUND, "volume", id)
	}
	if !s.ours(v.GetMark()) {
		return nil, notOurs("volume", id)
	}
	return v, nil
}

// volumes are our volumes of a pool, ordered by id.
func (s *storageDriver) volumes(x *tx, pool string) (vs []*driverv1.Volume) {
	for _, key := range x.keys(volumeTable) {
		v := &driverv1.Volume{}
		if strings.HasPrefix(key, pool+"/") && x.get(volumeTable, key, v) && s.ours(v.GetMark()) {
			vs = append(vs, v)
		}
	}
	return vs
}

func (s *storageDriver) CreateVolume(ctx context.Context, req *driverv1.CreateVolumeRequest) (*driverv1.CreateVolumeResponse, error) {
	return s.create(ctx, req, nil)
}

// create makes a volume from its source, or with imported content.
func (s *storageDriver) create(ctx context.Context, req *driverv1.CreateVolumeRequest, imported []byte) (*driverv1.CreateVolumeResponse, error) {
	pool, id := req.GetPoolId(), req.GetVolumeId()
	if err := checkIDs("pool_id", pool, "volume_id", id); err != nil {
		return nil, err
	}
	if err := s.checkMark(req.GetMark(), id); err != nil {
		return nil, err
	}
	if f := req.GetFormat(); f != driverv1.VolumeFormat_VOLUME_FORMAT_UNSPECIFIED && f != driverv1.VolumeFormat_VOLUME_FORMAT_RAW {
		return nil, fault.Invalid(fault.Violation{Field: "format", Description: "only RAW is advertised"})
	}
	ask := &driverv1.CreateVolumeRequest{SizeBytes: req.GetSizeBytes(), Source: req.GetSource()}
	var v *driverv1.Volume
	err := s.on(ctx, pool, "volume", id, func(x *tx) (err error) {
		before := &driverv1.CreateVolumeRequest{}
		if x.get(askTable, pool+"/"+id, before) {
			if v, err = s.volume(x, pool, id); err == nil && !proto.Equal(ask, before) && !s.defect("create-ignores-spec") {
				err = conflict("volume", id)
			}
			s.seen(x, v)
			return err
		}
		content, size, err := s.source(x, pool, req.GetSource())
		if err != nil {
			return err
		}
		if imported != nil {
			content = imported
		}
		if req.GetSizeBytes() != 0 || req.GetSource() == nil {
			if req.GetSizeBytes() < max(size, 1) || req.GetSizeBytes() > maxVolume {
				return fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is outside %d to %d", req.GetSizeBytes(), max(size, 1), int64(maxVolume))
			}
			size = req.GetSizeBytes()
		}
		v = &driverv1.Volume{
			PoolId: pool, VolumeId: id, Mark: req.GetMark(), SizeBytes: roundUp(size), AllocationBytes: int64(len(content)),
			Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW, Source: req.GetSource(), Handle: handleOf(id),
		}
		x.putBytes(contentTable, pool+"/"+id, content)
		if err := x.put(askTable, pool+"/"+id, ask); err != nil {
			return err
		}
		return x.put(volumeTable, pool+"/"+id, v)
	})
	return &driverv1.CreateVolumeResponse{Volume: v}, err
}

// source is the content and size of what a volume is made from.
func (s *storageDriver) source(x *tx, pool string, src *driverv1.VolumeSource) (content []byte, size int64, err error) {
	switch src := src.GetSource().(type) {
	case *driverv1.VolumeSource_ImageId:
		img := &driverv1.Image{}
		if !x.get(imageTable, pool+"/"+src.ImageId, img) {
			return nil, 0, notFound(metav1.Reason_REASON_IMAGE_NOT_FOUND, "image", src.ImageId)
		}
		return x.bytes(pictureTable, pool+"/"+src.ImageId), img.GetVirtualSizeBytes(), nil
	case *driverv1.VolumeSource_SnapshotId:
		snap := &driverv1.Snapshot{}
		if !x.get(snapshotTable, pool+"/"+src.SnapshotId, snap) || snap.GetPending() {
			return nil, 0, notFound(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "snapshot", src.SnapshotId)
		}
		if s.defect("snapshots-follow") {
			return x.bytes(contentTable, pool+"/"+snap.GetVolumeId()), snap.GetSizeBytes(), nil
		}
		return x.bytes(frozenTable, pool+"/"+src.SnapshotId), snap.GetSizeBytes(), nil
	case *driverv1.VolumeSource_VolumeId:
		v, err := s.volume(x, pool, src.VolumeId)
		if err != nil {
			return nil, 0, err
		}
		if v.GetAttached() {
			return nil, 0, inUse(src.VolumeId)
		}
		return x.bytes(contentTable, pool+"/"+src.VolumeId), v.GetSizeBytes(), nil
	}
	return nil, 0, nil
}

func (s *storageDriver) DeleteVolume(ctx context.Context, req *driverv1.DeleteVolumeRequest) (*driverv1.DeleteVolumeResponse, error) {
	pool, id := req.GetPoolId(), req.GetVolumeId()
	return &driverv1.DeleteVolumeResponse{}, s.on(ctx, pool, "volume", id, func(x *tx) error {
		v, err := s.volume(x, pool, id)
		switch {
		case fault.Is(err, metav1.Reason_REASON_VOLUME_NOT_FOUND) && !s.defect("delete-unknown-fails"):
			return nil
		case err != nil:
			return err
		case v.GetAttached() && !s.defect("deletes-attached"):
			return inUse(id)
		}
		for _, key := range x.keys(snapshotTable) {
			snap := &driverv1.Snapshot{}
			if strings.HasPrefix(key, pool+"/") && x.get(snapshotTable, key, snap) && snap.GetVolumeId() == id {
				return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s has snapshot %s", id, snap.GetSnapshotId()).WithRemedy("delete its snapshots first")
			}
		}
		for _, table := range []string{volumeTable, askTable, contentTable, headTable, holderTable} {
			x.del(table, pool+"/"+id)
		}
		return nil
	})
}

func (s *storageDriver) GetVolume(_ context.Context, req *driverv1.GetVolumeRequest) (*driverv1.GetVolumeResponse, error) {
	if err := checkID("volume_id", req.GetVolumeId()); err != nil {
		return nil, err
	}
	r := &driverv1.GetVolumeResponse{}
	return r, s.in(req.GetPoolId(), func(x *tx) error {
		v, err := s.volume(x, req.GetPoolId(), req.GetVolumeId())
		r.Volume = s.seen(x, v)
		return err
	})
}

func (s *storageDriver) ListVolumes(_ context.Context, req *driverv1.ListVolumesRequest) (*driverv1.ListVolumesResponse, error) {
	r := &driverv1.ListVolumesResponse{}
	return r, s.in(req.GetPoolId(), func(x *tx) error {
		byID, ids := map[string]*driverv1.Volume{}, []string(nil)
		for _, v := range s.volumes(x, req.GetPoolId()) {
			byID[v.GetVolumeId()], ids = s.seen(x, v), append(ids, v.GetVolumeId())
		}
		if s.defect("one-page") {
			req.PageSize = 0
			ids = ids[:min(len(ids), 2)]
		}
		ids, r.NextPageToken = page(ids, req.GetPageSize(), req.GetPageToken())
		for _, id := range ids {
			r.Volumes = append(r.Volumes, byID[id])
		}
		return nil
	})
}

func (s *storageDriver) ResizeVolume(ctx context.Context, req *driverv1.ResizeVolumeRequest) (*driverv1.ResizeVolumeResponse, error) {
	r := &driverv1.ResizeVolumeResponse{}
	return r, s.on(ctx, req.GetPoolId(), "volume", req.GetVolumeId(), func(x *tx) (err error) {
		if r.Volume, err = s.volume(x, req.GetPoolId(), req.GetVolumeId()); err != nil {
			return err
		}
		size := roundUp(req.GetSizeBytes())
		switch {
		case size < r.Volume.GetSizeBytes() || size > maxVolume:
			return fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is outside %d to %d", size, r.Volume.GetSizeBytes(), int64(maxVolume))
		case r.Volume.GetAttached() && !s.defect("resizes-attached"):
			return inUse(req.GetVolumeId())
		}
		r.Volume.SizeBytes = size
		return x.put(volumeTable, req.GetPoolId()+"/"+req.GetVolumeId(), r.Volume)
	})
}

func (s *storageDriver) AttachVolume(ctx context.Context, req *driverv1.AttachVolumeRequest) (*driverv1.AttachVolumeResponse, error) {
	pool, id := req.GetPoolId(), req.GetVolumeId()
	var head string
	err := s.on(ctx, pool, "volume", id, func(x *tx) error {
		err := s.attach(x, req, true)
		head = x.head(pool, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.AttachVolumeResponse{Source: s.file(pool, head), Handle: handleOf(id)}, nil
}

func (s *storageDriver) DetachVolume(ctx context.Context, req *driverv1.DetachVolumeRequest) (*driverv1.DetachVolumeResponse, error) {
	pool, id := req.GetPoolId(), req.GetVolumeId()
	err := s.on(ctx, pool, "volume", id, func(x *tx) error {
		return s.attach(x, &driverv1.AttachVolumeRequest{PoolId: pool, VolumeId: id}, false)
	})
	if fault.Is(err, metav1.Reason_REASON_VOLUME_NOT_FOUND) {
		err = nil
	}
	return &driverv1.DetachVolumeResponse{}, err
}

func (s *storageDriver) attach(x *tx, req *driverv1.AttachVolumeRequest, attached bool) error {
	pool, id := req.GetPoolId(), req.GetVolumeId()
	switch {
	case s.sharedPools() && attached:
		return s.hold(x, req)
	case s.sharedPools():
		return s.letGo(x, pool, id)
	}
	v, err := s.volume(x, pool, id)
	if err != nil || v.GetAttached() == attached {
		return err
	}
	if !attached {
		if err := s.settle(x, pool, id); err != nil {
			return err
		}
	}
	v.Attached = attached
	return x.put(volumeTable, pool+"/"+id, v)
}

// file is where a volume or image would lie, were there a file.
func (s *storageDriver) file(pool, id string) *driverv1.DiskSource {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &driverv1.DiskSource{Source: &driverv1.DiskSource_File{File: &driverv1.FileSource{
		Path: fmt.Sprintf("%s/%s/%s.raw", s.host.GetStateDirectory(), pool, id), Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW,
	}}}
}

func roundUp(n int64) int64 { return (n + granularity - 1) / granularity * granularity }

func inUse(id string) error {
	return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached", id).WithRemedy("detach it first")
}
