package reference

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// snapshot reads a snapshot of ours.
func (s *storageDriver) snapshot(x *tx, pool, id string) (*driverv1.Snapshot, error) {
	snap := &driverv1.Snapshot{}
	if !x.get(snapshotTable, pool+"/"+id, snap) {
		return nil, notFound(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "snapshot", id)
	}
	if !s.ours(snap.GetMark()) {
		return nil, notOurs("snapshot", id)
	}
	return snap, nil
}

func (s *storageDriver) CreateSnapshot(ctx context.Context, req *driverv1.CreateSnapshotRequest) (*driverv1.CreateSnapshotResponse, error) {
	pool, id := req.GetPoolId(), req.GetSnapshotId()
	if err := checkIDs("snapshot_id", id, "volume_id", req.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := s.checkMark(req.GetMark(), id); err != nil {
		return nil, err
	}
	r := &driverv1.CreateSnapshotResponse{}
	return r, s.on(ctx, pool, "snapshot", id, func(x *tx) (err error) {
		if x.has(snapshotTable, pool+"/"+id) {
			if r.Snapshot, err = s.snapshot(x, pool, id); err == nil && r.Snapshot.GetVolumeId() != req.GetVolumeId() {
				err = conflict("snapshot", id)
			} else if err == nil && r.Snapshot.GetPending() {
				r.Overlay = s.file(pool, overlayName(req.GetVolumeId(), id))
			}
			return err
		}
		v, err := s.volume(x, pool, req.GetVolumeId())
		if err != nil {
			return err
		}
		if err := s.elsewhere(x, pool, req.GetVolumeId()); err != nil {
			return err
		}
		mode := s.onlineMode()
		if v.GetAttached() && mode == driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_NONE {
			return inUse(req.GetVolumeId())
		}
		r.Snapshot = &driverv1.Snapshot{
			PoolId: pool, SnapshotId: id, VolumeId: req.GetVolumeId(), Mark: req.GetMark(), SizeBytes: v.GetSizeBytes(), CreateTime: timestamppb.Now(), Handle: handleOf(id),
		}
		if v.GetAttached() && mode == driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_COMPUTE_SWITCH {
			r.Snapshot.Pending, r.Overlay = true, s.file(pool, overlayName(req.GetVolumeId(), id))
			if err := x.begin(pool, req.GetVolumeId(), id); err != nil {
				return err
			}
			return x.put(snapshotTable, pool+"/"+id, r.Snapshot)
		}
		x.putBytes(frozenTable, pool+"/"+id, x.bytes(contentTable, pool+"/"+req.GetVolumeId()))
		return x.put(snapshotTable, pool+"/"+id, r.Snapshot)
	})
}

func (s *storageDriver) DeleteSnapshot(ctx context.Context, req *driverv1.DeleteSnapshotRequest) (*driverv1.DeleteSnapshotResponse, error) {
	pool, id := req.GetPoolId(), req.GetSnapshotId()
	return &driverv1.DeleteSnapshotResponse{}, s.on(ctx, pool, "snapshot", id, func(x *tx) error {
		snap, err := s.snapshot(x, pool, id)
		switch {
		case fault.Is(err, metav1.Reason_REASON_SNAPSHOT_NOT_FOUND):
			return nil
		case err != nil:
			return err
		case snap.GetPending():
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "snapshot %s is being taken", id).WithRemedy("commit it first")
		}
		x.del(snapshotTable, pool+"/"+id)
		x.del(frozenTable, pool+"/"+id)
		return nil
	})
}

func (s *storageDriver) ListSnapshots(_ context.Context, req *driverv1.ListSnapshotsRequest) (*driverv1.ListSnapshotsResponse, error) {
	r := &driverv1.ListSnapshotsResponse{}
	return r, s.in(req.GetPoolId(), func(x *tx) error {
		byID, ids := map[string]*driverv1.Snapshot{}, []string(nil)
		for _, key := range x.keys(snapshotTable) {
			snap := &driverv1.Snapshot{}
			if strings.HasPrefix(key, req.GetPoolId()+"/") && x.get(snapshotTable, key, snap) && s.ours(snap.GetMark()) && !snap.GetPending() &&
				(req.GetVolumeId() == "" || req.GetVolumeId() == snap.GetVolumeId()) {
				byID[snap.GetSnapshotId()], ids = snap, append(ids, snap.GetSnapshotId())
			}
		}
		ids, r.NextPageToken = page(ids, req.GetPageSize(), req.GetPageToken())
		for _, id := range ids {
			r.Snapshots = append(r.Snapshots, byID[id])
		}
		return nil
	})
}

func (s *storageDriver) RestoreSnapshot(ctx context.Context, req *driverv1.RestoreSnapshotRequest) (*driverv1.RestoreSnapshotResponse, error) {
	pool, id := req.GetPoolId(), req.GetVolumeId()
	r := &driverv1.RestoreSnapshotResponse{}
	return r, s.on(ctx, pool, "volume", id, func(x *tx) error {
		snap, err := s.snapshot(x, pool, req.GetSnapshotId())
		if err != nil {
			return err
		}
		if r.Volume, err = s.volume(x, pool, id); err != nil {
			return err
		}
		switch {
		case snap.GetVolumeId() != id:
			return fault.Invalid(fault.Violation{Field: "volume_id", Description: "the snapshot is of another volume"})
		case r.Volume.GetAttached():
			return inUse(id)
		}
		x.putBytes(contentTable, pool+"/"+id, x.bytes(frozenTable, pool+"/"+req.GetSnapshotId()))
		if s.defect("restore-shrinks") {
			r.Volume.SizeBytes = snap.GetSizeBytes()
		}
		return x.put(volumeTable, pool+"/"+id, r.Volume)
	})
}

// subject is the content and size of what is exported.
func (s *storageDriver) subject(x *tx, req *driverv1.ExportVolumeRequest) (content []byte, size int64, err error) {
	pool := req.GetPoolId()
	switch of := req.GetSubject().(type) {
	case *driverv1.ExportVolumeRequest_VolumeId:
		return s.source(x, pool, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: of.VolumeId}})
	case *driverv1.ExportVolumeRequest_SnapshotId:
		return s.source(x, pool, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: of.SnapshotId}})
	case *driverv1.ExportVolumeRequest_ImageId:
		return s.source(x, pool, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: of.ImageId}})
	}
	return nil, 0, fault.Invalid(fault.Violation{Field: "subject", Description: "must be a volume_id, a snapshot_id or an image_id"})
}

// ExportVolume streams the content, and what is beyond it as one hole.
func (s *storageDriver) ExportVolume(req *driverv1.ExportVolumeRequest, out grpc.ServerStreamingServer[driverv1.ExportVolumeResponse]) error {
	var content []byte
	var size int64
	err := s.in(req.GetPoolId(), func(x *tx) (err error) {
		content, size, err = s.subject(x, req)
		return err
	})
	if err != nil {
		return err
	}
	at := req.GetOffset()
	if at < 0 || at > size {
		return fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "offset %d is outside 0 to %d", at, size)
	}
	end := min(int64(len(content)), size)
	for ; at < end; at = min(end, at+1<<20) {
		if err := out.Send(&driverv1.ExportVolumeResponse{Offset: at, Data: content[at:min(end, at+1<<20)]}); err != nil {
			return err
		}
	}
	if at < size {
		return out.Send(&driverv1.ExportVolumeResponse{Offset: at, HoleBytes: size - at})
	}
	return nil
}

// ImportVolume makes a volume from a stream. The content is kept in memory: what is imported into a reference is small.
func (s *storageDriver) ImportVolume(in grpc.ClientStreamingServer[driverv1.ImportVolumeRequest, driverv1.ImportVolumeResponse]) error {
	first, err := in.Recv()
	if err != nil {
		return err
	}
	req := proto.CloneOf(first.GetHeader())
	if req == nil {
		return fault.Invalid(fault.Violation{Field: "header", Description: "must come first"})
	}
	req.Source = nil
	known := false
	if err := s.in(req.GetPoolId(), func(x *tx) error {
		known = x.has(volumeTable, req.GetPoolId()+"/"+req.GetVolumeId())
		return nil
	}); err != nil {
		return err
	}
	var content []byte
	for !known {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		p := m.GetPart()
		if p.GetOffset() != int64(len(content)) || p.GetHoleBytes() < 0 || p.GetOffset()+int64(len(p.GetData()))+p.GetHoleBytes() > req.GetSizeBytes() {
			return fault.New(metav1.Reason_REASON_INVALID_FIELD, "a part at %d follows what ends at %d of %d", p.GetOffset(), len(content), req.GetSizeBytes())
		}
		content = append(append(content, p.GetData()...), make([]byte, p.GetHoleBytes())...)
	}
	if !known && int64(len(content)) != req.GetSizeBytes() {
		return fault.New(metav1.Reason_REASON_INVALID_FIELD, "the content ends at %d of %d bytes", len(content), req.GetSizeBytes())
	}
	r, err := s.create(in.Context(), req, content)
	if err != nil {
		return err
	}
	return in.SendAndClose(&driverv1.ImportVolumeResponse{Volume: r.GetVolume()})
}
