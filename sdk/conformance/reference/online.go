package reference

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// The tables of snapshots that are taken while a volume is in use. Keys are POOL/VOLUME but for overlays.
const (
	headTable    = "volume-head"    // name of the file that the volume is; none = the volume's id
	pendingTable = "volume-pending" // id of the snapshot that CommitSnapshot is waited for
	overlayTable = "overlay"        // by POOL/FILE: what was written to an overlay before its commit, as JSON
)

// onlineModes are the values of the configuration.
var onlineModes = map[string]driverv1.OnlineSnapshotMode{
	"":               driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_NONE,
	"none":           driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_NONE,
	"storage":        driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_STORAGE,
	"compute_switch": driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_COMPUTE_SWITCH,
}

func (d *driver) onlineMode() driverv1.OnlineSnapshotMode {
	d.mu.Lock()
	defer d.mu.Unlock()
	return onlineModes[d.cfg.OnlineSnapshots]
}

// written is what a guest wrote to an overlay.
type written struct {
	Pattern   byte
	Offset, N int64
}

// apply puts writes into content, which grows as is needed.
func apply(content []byte, writes ...written) []byte {
	out := slices.Clone(content)
	for _, w := range writes {
		if need := w.Offset + w.N - int64(len(out)); need > 0 {
			out = append(out, make([]byte, need)...)
		}
		for i := range w.N {
			out[w.Offset+i] = w.Pattern
		}
	}
	return out
}

func overlayName(volume, snapshot string) string { return volume + "." + snapshot }

// head is the name of the file that a volume is.
func (x *tx) head(pool, volume string) string {
	if b := x.bytes(headTable, pool+"/"+volume); len(b) > 0 {
		return string(b)
	}
	return volume
}

// begin makes the overlay for a snapshot of a volume in use.
func (x *tx) begin(pool, volume, snapshot string) error {
	if p := string(x.bytes(pendingTable, pool+"/"+volume)); p != "" && p != snapshot {
		return fault.New(metav1.Reason_REASON_BUSY, "snapshot %s of volume %s is being taken", p, volume)
	}
	x.putBytes(pendingTable, pool+"/"+volume, []byte(snapshot))
	return nil
}

// commit makes the overlay of a pending snapshot the volume: what the volume held until then is the snapshot.
func (x *tx) commit(pool, volume string, snap *driverv1.Snapshot) error {
	key, file := pool+"/"+volume, overlayName(volume, snap.GetSnapshotId())
	var writes []written
	if b := x.bytes(overlayTable, pool+"/"+file); len(b) > 0 {
		if err := json.Unmarshal(b, &writes); err != nil {
			return fmt.Errorf("overlay %s: %w", file, err)
		}
	}
	x.putBytes(frozenTable, pool+"/"+snap.GetSnapshotId(), x.bytes(contentTable, key))
	x.putBytes(contentTable, key, apply(x.bytes(contentTable, key), writes...))
	x.putBytes(headTable, key, []byte(file))
	x.del(pendingTable, key)
	x.del(overlayTable, pool+"/"+file)
	snap.Pending = false
	return x.put(snapshotTable, pool+"/"+snap.GetSnapshotId(), snap)
}

// settle commits what is pending of a volume that is detached.
func (s *storageDriver) settle(x *tx, pool, volume string) error {
	id := string(x.bytes(pendingTable, pool+"/"+volume))
	if id == "" {
		return nil
	}
	snap, err := s.snapshot(x, pool, id)
	if err != nil {
		return err
	}
	return x.commit(pool, volume, snap)
}

// CommitSnapshot makes the overlay of a pending snapshot the volume.
func (s *storageDriver) CommitSnapshot(ctx context.Context, req *driverv1.CommitSnapshotRequest) (*driverv1.CommitSnapshotResponse, error) {
	if s.onlineMode() != driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_COMPUTE_SWITCH {
		return s.UnimplementedStorageDriverServiceServer.CommitSnapshot(ctx, req)
	}
	pool, id := req.GetPoolId(), req.GetSnapshotId()
	r := &driverv1.CommitSnapshotResponse{}
	return r, s.on(ctx, pool, "snapshot", id, func(x *tx) (err error) {
		if r.Snapshot, err = s.snapshot(x, pool, id); err != nil || !r.Snapshot.GetPending() {
			return err
		}
		return x.commit(pool, r.Snapshot.GetVolumeId(), r.Snapshot)
	})
}

// WriteVolume writes n bytes of a pattern at an offset of an attached volume, as a guest would: the sources that a reference hands out are no files.
func WriteVolume(journal string, src *driverv1.DiskSource, pattern byte, offset, n int64) error {
	pool, file := placeOf(src)
	id, snapshot, _ := strings.Cut(file, ".")
	key, w := pool+"/"+id, written{Pattern: pattern, Offset: offset, N: n}
	return (&backend{path: journal}).do(func(x *tx) error {
		v := &driverv1.Volume{}
		if !x.get(volumeTable, key, v) || !v.GetAttached() || offset+n > v.GetSizeBytes() {
			return fmt.Errorf("volume %s is absent, not attached or too small", key)
		}
		switch {
		case file == x.head(pool, id):
			x.putBytes(contentTable, key, apply(x.bytes(contentTable, key), w))
			return nil
		case snapshot != "" && snapshot == string(x.bytes(pendingTable, key)):
			var writes []written
			if b := x.bytes(overlayTable, pool+"/"+file); len(b) > 0 {
				if err := json.Unmarshal(b, &writes); err != nil {
					return err
				}
			}
			b, err := json.Marshal(append(writes, w))
			x.putBytes(overlayTable, pool+"/"+file, b)
			return err
		}
		return fmt.Errorf("%s is not what volume %s is", file, key)
	})
}
