package conformance

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	restores     = driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT_RESTORE
	fromSnapshot = driverv1.StorageFeature_STORAGE_FEATURE_VOLUME_FROM_SNAPSHOT
	clones       = driverv1.StorageFeature_STORAGE_FEATURE_CLONE
	exports      = driverv1.StorageFeature_STORAGE_FEATURE_EXPORT
	imports      = driverv1.StorageFeature_STORAGE_FEATURE_IMPORT
)

// contentChecks hold drivers to the bytes: what is written stays, what is copied is independent, what is deleted is gone.
func contentChecks() []*Check {
	return []*Check{
		{Name: "storage/content/round-trip", Contract: "ImportVolume makes a volume from a stream as ExportVolume gives it; export goes on from an offset.", Storage: imports, run: roundTrip},
		{Name: "storage/content/broken-import", Contract: "ImportVolume: until it returns OK the volume is not listed, and a broken stream leaves nothing.", Storage: imports, run: brokenImport},
		{Name: "storage/content/zeros-after-delete", Contract: "DeleteVolume removes a volume so that its bytes are not readable in a later one.", Storage: imports, run: zerosAfterDelete},
		{Name: "storage/content/clone", Contract: "A volume made from a volume has its content, and neither sees what is written to the other.", Storage: clones, run: cloneIsIndependent},
		{Name: "storage/content/image-export", Contract: "ExportVolume streams the content of an image copy.", Storage: exports, run: imageExport},
		{Name: "storage/snapshot/keeps-content", Contract: "A snapshot stays as it was, whatever is written to its volume; volumes made from it are independent.", Storage: fromSnapshot, run: snapshotKeeps},
		{Name: "storage/snapshot/restore", Contract: "RestoreSnapshot sets a volume back. Attached anywhere: FAILED_PRECONDITION.", Storage: restores, run: restoreSetsBack},
		{Name: "storage/snapshot/holds-its-volume", Contract: "DeleteVolume with children that depend on it: FAILED_PRECONDITION.", Storage: snapshots, run: snapshotHoldsVolume},
		{Name: "storage/snapshot/online", Contract: "Snapshots of a volume in use are taken as online_snapshots says.", Storage: snapshots, run: onlineSnapshot},
		{Name: "storage/snapshot/forgotten-commit", Contract: "A pending snapshot is committed when its volume is detached.", Storage: snapshots, run: forgottenCommit},
		{Name: "storage/attach/alone", Contract: "Unless shared, one attachment in the whole pool; that of a fenced node is void.", run: attachAlone},
	}
}

func (e *Env) can(f driverv1.StorageFeature) bool {
	return slices.Contains(e.caps().GetStorage().GetFeatures(), f)
}

// write writes n bytes of a pattern at an offset of an attached volume, as a guest would.
func (e *Env) write(t T, src *driverv1.DiskSource, pattern byte, offset, n int64) {
	t.Helper()
	if w := e.o.Storage.Write; w != nil {
		must(t, "write to the volume", w(within(t), src, pattern, offset, n))
		return
	}
	err := writeSource(within(t), src, pattern, offset, n)
	if errors.Is(err, errNoWriter) || errors.Is(err, fs.ErrNotExist) {
		kind, path := kindOf(src) // the rest may hold a secret
		t.Skipf("only StorageOptions.Write of a Go test can write to %s %s", kind, path)
	}
	must(t, "write to the volume", err)
}

var errNoWriter = errors.New("a source of another kind than file and block device")

func writeSource(ctx context.Context, src *driverv1.DiskSource, pattern byte, offset, n int64) error {
	path := src.GetBlockDevice().GetPath()
	if f := src.GetFile(); f != nil {
		path = f.GetPath()
		if f.GetFormat() == driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
			do := "write -P 0x" + strconv.FormatUint(uint64(pattern), 16) + " " + strconv.FormatInt(offset, 10) + " " + strconv.FormatInt(n, 10)
			out, err := exec.CommandContext(ctx, "qemu-io", "-f", "qcow2", "-c", do, "-c", "flush", path).CombinedOutput()
			if err != nil {
				return errors.Join(err, errors.New(string(out)))
			}
			return nil
		}
	}
	if path == "" {
		return errNoWriter
	}
	f, err := os.OpenFile(filepath.Clean(path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{pattern}, int(n)), offset)
	return errors.Join(err, f.Sync(), f.Close())
}

// scribble attaches the volume, writes a pattern over its first 128 KiB and detaches it.
func (v *volume) scribble(t T, pattern byte) {
	t.Helper()
	a := call(t, v.e.storage().AttachVolume, v.attachRequest())
	v.e.write(t, a.GetSource(), pattern, 0, 128<<10)
	d := v.detachRequest()
	d.Handle = a.GetHandle()
	call(t, v.e.storage().DetachVolume, d)
}

// reads fails the check unless content begins with 128 KiB of the pattern.
func reads(t T, what string, content []byte, pattern byte) {
	t.Helper()
	if len(content) < 128<<10 || !bytes.Equal(content[:128<<10], bytes.Repeat([]byte{pattern}, 128<<10)) {
		t.Errorf("%s: %d bytes that do not begin with %#x", what, len(content), pattern)
	}
}

// parts are content as an export gives it: data, a hole where there are zeros.
func parts(content []byte) (out []*driverv1.ExportVolumeResponse) {
	const block = 64 << 10
	for at := 0; at < len(content); at += block {
		b := content[at:min(at+block, len(content))]
		p := &driverv1.ExportVolumeResponse{Offset: int64(at), Data: b}
		if len(bytes.Trim(b, "\x00")) == 0 {
			p.Data, p.HoleBytes = nil, int64(len(b))
		}
		out = append(out, p)
	}
	return out
}

// load imports a volume; with whole = false the stream ends early.
func (v *volume) load(ctx context.Context, content []byte, whole bool) error {
	s, err := v.e.storage().ImportVolume(ctx)
	if err != nil {
		return err
	}
	send := func(m *driverv1.ImportVolumeRequest) bool { return s.Send(m) == nil }
	ok := send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Header{Header: v.req}})
	all := parts(content)
	if !whole {
		all = all[:len(all)/2]
	}
	for i := 0; ok && i < len(all); i++ {
		ok = send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Part{Part: all[i]}})
	}
	_, err = s.CloseAndRecv()
	return err
}

// pattern is content of the suite's usual size: data, a hole, data.
func (p *pool) pattern() []byte {
	b := make([]byte, p.e.o.Storage.VolumeBytes)
	copy(b, bytes.Repeat([]byte{0xa1}, 256<<10))
	copy(b[len(b)/2+70_000:], bytes.Repeat([]byte{0xb2}, 100_000))
	return b
}

// loaded makes a volume with the pattern.
func (p *pool) loaded(t T) *volume {
	t.Helper()
	v := p.volume(t)
	if p.e.can(imports) {
		must(t, "ImportVolume", v.load(within(t), p.pattern(), true))
		return v
	}
	v.create(t)
	v.scribble(t, 0xa1)
	return v
}

// exported reads a subject from an offset on.
func (e *Env) exported(t T, req *driverv1.ExportVolumeRequest) []byte {
	t.Helper()
	s, err := e.storage().ExportVolume(within(t), req)
	must(t, "ExportVolume", err)
	var all []byte
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, "export", err)
		if r.GetOffset() != req.GetOffset()+int64(len(all)) || len(r.GetData()) > 1<<20 || len(r.GetData()) > 0 && r.GetHoleBytes() > 0 || r.GetHoleBytes() > 1<<30 {
			t.Fatalf("a part at %d with %d bytes and a hole of %d, after %d bytes", r.GetOffset(), len(r.GetData()), r.GetHoleBytes(), len(all))
		}
		all = append(append(all, r.GetData()...), make([]byte, r.GetHoleBytes())...)
	}
}

func roundTrip(t T, e *Env) {
	p := e.pool(t)
	v, content := p.volume(t), p.pattern()
	for range 2 { // the second is answered at once
		must(t, "ImportVolume", v.load(within(t), content, true))
	}
	got := v.export(t)
	if int64(len(got)) != v.get(t).GetSizeBytes() || !bytes.HasPrefix(got, content) || len(bytes.Trim(got[len(content):], "\x00")) > 0 {
		t.Errorf("exported %d bytes, imported %d, or other ones", len(got), len(content))
	}
	at := int64(len(content)/2 + 70_001)
	rest := e.exported(t, &driverv1.ExportVolumeRequest{PoolId: p.id, Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: v.id}, Offset: at})
	if !bytes.Equal(rest, got[at:]) {
		t.Errorf("from offset %d: %d bytes, or other ones", at, len(rest))
	}
	call(t, e.storage().AttachVolume, v.attachRequest())
	s, err := e.storage().ExportVolume(within(t), &driverv1.ExportVolumeRequest{PoolId: p.id, Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: v.id}})
	if err == nil {
		_, err = s.Recv()
	}
	wantCode(t, "export of what is attached", err, codes.FailedPrecondition)
}

func brokenImport(t T, e *Env) {
	p := e.pool(t)
	v := p.volume(t)
	wantCode(t, "a stream that ends early", v.load(within(t), p.pattern(), false), codes.InvalidArgument)
	v.wantListed(t, false)
	ctx, cancel := context.WithCancel(within(t))
	s, err := e.storage().ImportVolume(ctx)
	must(t, "ImportVolume", err)
	must(t, "send", s.Send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Header{Header: v.req}}))
	must(t, "send", s.Send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Part{Part: parts(p.pattern())[0]}}))
	cancel()
	v.wantListed(t, false)
	eventually(t, callTimeout, "the import can be done after one that broke", func() bool { return v.load(within(t), p.pattern(), true) == nil })
	if got := v.export(t); !bytes.HasPrefix(got, p.pattern()) {
		t.Errorf("after a broken import the volume has other content")
	}
}

func zerosAfterDelete(t T, e *Env) {
	p := e.pool(t)
	for range 3 {
		v := p.volume(t)
		must(t, "ImportVolume", v.load(within(t), bytes.Repeat([]byte{0xd7}, int(e.o.Storage.VolumeBytes)), true))
		call(t, e.storage().DeleteVolume, v.deleteRequest())
		next := p.made(t)
		if e.can(exports) && len(bytes.Trim(next.export(t), "\x00")) > 0 {
			t.Errorf("a new volume has bytes that are not zero")
		}
	}
}

func cloneIsIndependent(t T, e *Env) {
	p := e.pool(t)
	v := p.loaded(t)
	c := p.volume(t)
	c.req.SizeBytes, c.req.Source = 0, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: v.id}}
	for range 2 {
		if got := c.create(t); got.GetSizeBytes() != v.get(t).GetSizeBytes() || got.GetSource().GetVolumeId() != v.id {
			t.Errorf("clone: %v", got)
		}
	}
	if !e.can(exports) {
		return
	}
	before := v.export(t)
	if !bytes.Equal(c.export(t), before) {
		t.Errorf("the clone has other content")
	}
	c.scribble(t, 0xc3)
	if !bytes.Equal(v.export(t), before) {
		t.Errorf("what the clone's guest wrote is in the volume")
	}
	v.scribble(t, 0xe5)
	reads(t, "the clone, after a write to its source", c.export(t), 0xc3)
	call(t, e.storage().DeleteVolume, v.deleteRequest())
	reads(t, "the clone, after its source was deleted", c.export(t), 0xc3)
}

func imageExport(t T, e *Env) {
	i := e.pool(t).image(t)
	must(t, "import", i.upload(within(t)))
	got := e.exported(t, &driverv1.ExportVolumeRequest{PoolId: i.pool.id, Subject: &driverv1.ExportVolumeRequest_ImageId{ImageId: i.id}})
	if !bytes.HasPrefix(got, i.content) || len(bytes.Trim(got[len(i.content):], "\x00")) > 0 {
		t.Errorf("exported %d bytes of %d, or other ones", len(got), len(i.content))
	}
}

// snapshot takes a snapshot, and removes it when the check ends.
func (v *volume) snapshot(t T) (id string, got *driverv1.CreateSnapshotResponse) {
	t.Helper()
	id = newID()
	t.Cleanup(func() {
		cleanUp(t, func(ctx context.Context) error {
			_, err := v.e.storage().DetachVolume(ctx, v.detachRequest()) // which ends what is pending
			if err == nil {
				_, err = v.e.storage().DeleteSnapshot(ctx, &driverv1.DeleteSnapshotRequest{PoolId: v.pool.id, SnapshotId: id})
			}
			return err
		})
	})
	return id, call(t, v.e.storage().CreateSnapshot, v.snapshotRequest(id))
}

func (v *volume) snapshotRequest(id string) *driverv1.CreateSnapshotRequest {
	return &driverv1.CreateSnapshotRequest{PoolId: v.pool.id, SnapshotId: id, VolumeId: v.id, Mark: v.e.mark(id)}
}

func (v *volume) snapshotContent(t T, id string) []byte {
	t.Helper()
	return v.e.exported(t, &driverv1.ExportVolumeRequest{PoolId: v.pool.id, Subject: &driverv1.ExportVolumeRequest_SnapshotId{SnapshotId: id}})
}

func snapshotKeeps(t T, e *Env) {
	p := e.pool(t)
	v := p.loaded(t)
	v.scribble(t, 1)
	id, _ := v.snapshot(t)
	v.scribble(t, 2)
	second, _ := v.snapshot(t)
	v.scribble(t, 3)
	c := p.volume(t)
	c.req.SizeBytes, c.req.Source = 0, &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: id}}
	c.create(t)
	if e.can(exports) {
		reads(t, "the first snapshot", v.snapshotContent(t, id), 1)
		reads(t, "the second snapshot", v.snapshotContent(t, second), 2)
		reads(t, "the volume", v.export(t), 3)
		reads(t, "the volume made from the first", c.export(t), 1)
	}
	c.scribble(t, 4)
	for _, s := range []string{id, second} {
		_, err := e.storage().DeleteSnapshot(within(t), &driverv1.DeleteSnapshotRequest{PoolId: p.id, SnapshotId: s})
		wantCode(t, "delete of a snapshot", err, codes.OK, codes.FailedPrecondition)
	}
	if e.can(exports) {
		reads(t, "the volume, once its snapshots are gone", v.export(t), 3)
		reads(t, "the volume made from a snapshot that is gone", c.export(t), 4)
	}
}

func restoreSetsBack(t T, e *Env) {
	p := e.pool(t)
	v := p.loaded(t)
	v.scribble(t, 1)
	id, _ := v.snapshot(t)
	v.scribble(t, 2)
	later, _ := v.snapshot(t)
	v.scribble(t, 3)
	req := &driverv1.RestoreSnapshotRequest{PoolId: p.id, SnapshotId: id, VolumeId: v.id}
	call(t, e.storage().AttachVolume, v.attachRequest())
	refused(t, "restore of what is attached", e.storage().RestoreSnapshot, req, codes.FailedPrecondition)
	call(t, e.storage().DetachVolume, v.detachRequest())
	refused(t, "restore of another volume", e.storage().RestoreSnapshot, &driverv1.RestoreSnapshotRequest{PoolId: p.id, SnapshotId: id, VolumeId: p.made(t).id}, codes.InvalidArgument)
	refused(t, "restore of an absent snapshot", e.storage().RestoreSnapshot, &driverv1.RestoreSnapshotRequest{PoolId: p.id, SnapshotId: newID(), VolumeId: v.id}, codes.NotFound)
	for range 2 {
		call(t, e.storage().RestoreSnapshot, req)
	}
	if e.can(exports) {
		reads(t, "the volume set back", v.export(t), 1)
		reads(t, "a later snapshot", v.snapshotContent(t, later), 2)
	}
	v.scribble(t, 4)
	call(t, e.storage().RestoreSnapshot, &driverv1.RestoreSnapshotRequest{PoolId: p.id, SnapshotId: later, VolumeId: v.id})
	if e.can(exports) {
		reads(t, "the volume set back to the later one", v.export(t), 2)
		reads(t, "the first snapshot", v.snapshotContent(t, id), 1)
	}
}

func snapshotHoldsVolume(t T, e *Env) {
	v := e.pool(t).loaded(t)
	id, _ := v.snapshot(t)
	refused(t, "delete of a volume with a snapshot", e.storage().DeleteVolume, v.deleteRequest(), codes.FailedPrecondition)
	for range 2 {
		call(t, e.storage().DeleteSnapshot, &driverv1.DeleteSnapshotRequest{PoolId: v.pool.id, SnapshotId: id})
	}
	call(t, e.storage().DeleteVolume, v.deleteRequest())
	v.wantListed(t, false)
}

// snapshotListed says whether a snapshot is listed.
func (v *volume) snapshotListed(t T, id string) bool {
	t.Helper()
	l := call(t, v.e.storage().ListSnapshots, &driverv1.ListSnapshotsRequest{PoolId: v.pool.id, VolumeId: v.id}).GetSnapshots()
	return slices.ContainsFunc(l, func(s *driverv1.Snapshot) bool { return s.GetSnapshotId() == id })
}

func onlineSnapshot(t T, e *Env) {
	p := e.pool(t)
	v := p.loaded(t)
	src := call(t, e.storage().AttachVolume, v.attachRequest()).GetSource()
	e.write(t, src, 1, 0, 128<<10)
	switch mode := e.caps().GetStorage().GetOnlineSnapshots(); mode {
	case driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_NONE:
		refused(t, "snapshot of what is attached", e.storage().CreateSnapshot, v.snapshotRequest(newID()), codes.FailedPrecondition)
		return
	case driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_STORAGE:
		id, got := v.snapshot(t)
		if got.GetOverlay() != nil || got.GetSnapshot().GetPending() || !v.snapshotListed(t, id) {
			t.Errorf("the storage takes it by itself, and answered %v", got)
		}
		e.write(t, src, 2, 0, 128<<10)
		if e.can(exports) {
			reads(t, "the snapshot", v.snapshotContent(t, id), 1)
			call(t, e.storage().DetachVolume, v.detachRequest())
			reads(t, "the volume", v.export(t), 2)
		}
	case driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_COMPUTE_SWITCH:
		id, got := v.snapshot(t)
		overlay := got.GetOverlay()
		if overlay == nil || !got.GetSnapshot().GetPending() || overlay.String() == src.String() {
			t.Fatalf("no overlay to switch to: %v", got)
		}
		if v.snapshotListed(t, id) {
			t.Errorf("a pending snapshot is listed")
		}
		refused(t, "delete of a pending snapshot", e.storage().DeleteSnapshot, &driverv1.DeleteSnapshotRequest{PoolId: p.id, SnapshotId: id}, codes.FailedPrecondition)
		if again := call(t, e.storage().CreateSnapshot, v.snapshotRequest(id)); again.GetOverlay().String() != overlay.String() {
			t.Errorf("issued again: %v, not %v", again.GetOverlay(), overlay)
		}
		if now := call(t, e.storage().AttachVolume, v.attachRequest()).GetSource(); now.String() != src.String() {
			t.Errorf("before the commit the volume is at %v, not %v", now, src)
		}
		e.kill(t)
		e.write(t, overlay, 2, 0, 128<<10)
		for range 2 {
			if c := call(t, e.storage().CommitSnapshot, &driverv1.CommitSnapshotRequest{PoolId: p.id, SnapshotId: id, VolumeId: v.id}); c.GetSnapshot().GetPending() {
				t.Errorf("committed, and pending: %v", c)
			}
		}
		if now := call(t, e.storage().AttachVolume, v.attachRequest()).GetSource(); now.String() != overlay.String() {
			t.Errorf("after the commit the volume is at %v, not %v", now, overlay)
		}
		if !v.snapshotListed(t, id) {
			t.Errorf("a committed snapshot is not listed")
		}
		if e.can(exports) {
			reads(t, "the snapshot", v.snapshotContent(t, id), 1)
			call(t, e.storage().DetachVolume, v.detachRequest())
			reads(t, "the volume", v.export(t), 2)
		}
	default:
		t.Errorf("online_snapshots is %s", mode)
	}
}

func forgottenCommit(t T, e *Env) {
	if e.caps().GetStorage().GetOnlineSnapshots() != driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_COMPUTE_SWITCH {
		refused(t, "a commit without COMPUTE_SWITCH", e.storage().CommitSnapshot, &driverv1.CommitSnapshotRequest{PoolId: e.pool(t).id, SnapshotId: newID(), VolumeId: newID()}, codes.Unimplemented)
		return
	}
	v := e.pool(t).loaded(t)
	src := call(t, e.storage().AttachVolume, v.attachRequest()).GetSource()
	id, got := v.snapshot(t)
	e.write(t, src, 1, 0, 128<<10) // the guest never switched
	e.kill(t)
	call(t, e.storage().DetachVolume, v.detachRequest())
	if !v.snapshotListed(t, id) {
		t.Errorf("it is not listed")
	}
	if now := call(t, e.storage().AttachVolume, v.attachRequest()).GetSource(); now.String() != got.GetOverlay().String() {
		t.Errorf("the volume is at %v, not %v", now, got.GetOverlay())
	}
	call(t, e.storage().DetachVolume, v.detachRequest())
	if e.can(exports) {
		reads(t, "the volume", v.export(t), 1)
	}
}

func attachAlone(t T, e *Env) {
	if !e.caps().GetStorage().GetSharedPools() {
		return // nobody else is there
	}
	v := e.pool(t).made(t)
	other := e.as(t, newID())
	(&pool{e: other, id: v.pool.id}).ensure(t)
	call(t, e.storage().AttachVolume, v.attachRequest())
	refused(t, "attach by another node", other.storage().AttachVolume, v.attachRequest(), codes.FailedPrecondition)
	refused(t, "delete by another node", other.storage().DeleteVolume, v.deleteRequest(), codes.FailedPrecondition)
	fenced := v.attachRequest()
	fenced.FencedNodeId = newID()
	refused(t, "attach by another node, when a third was fenced", other.storage().AttachVolume, fenced, codes.FailedPrecondition)
	fenced.FencedNodeId = e.facts.GetNodeId()
	call(t, other.storage().AttachVolume, fenced)
	call(t, other.storage().DetachVolume, v.detachRequest())
}
