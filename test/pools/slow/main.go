// Command limiquantix-plugin-slow is a storage driver for tests: its pools are folders that several nodes share, and the test makes them hang or slow by files in them.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Files that the test puts into a pool's folder, and the ledger that is kept there.
const (
	hangFile   = ".hang"   // calls do not answer, whatever their context says, while it is there
	slowFile   = ".slow"   // making a volume takes as long as it is there
	ledgerFile = ".ledger" // what was done, one entry a line
)

const look = 10 * time.Millisecond

// entry is a line of the ledger.
type entry struct {
	Time time.Time `json:"time"`
	Node string    `json:"node"`
	What string    `json:"what"` // begin, made, cancelled
	ID   string    `json:"id"`
}

type driver struct {
	driverv1.UnimplementedStorageDriverServiceServer
	*sdk.BasePlugin

	keys  sdk.KeyLock
	mu    sync.Mutex
	host  *driverv1.HostFacts
	pools map[string]string // folders
}

func main() {
	d := &driver{pools: map[string]string{}}
	d.BasePlugin = sdk.NewBasePlugin(sdk.Info{Name: "slow", Version: "0.0.0-test"}, d.configureSlow)
	sdk.Serve(sdk.Plugin{Base: d.BasePlugin, Storage: d})
}

func (d *driver) configureSlow(_ context.Context, c *sdk.Config) (*driverv1.GetCapabilitiesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.host = c.Host
	return &driverv1.GetCapabilitiesResponse{Storage: &driverv1.StorageCapabilities{
		SharedPools: true, SizeGranularityBytes: 512, Formats: []driverv1.VolumeFormat{driverv1.VolumeFormat_VOLUME_FORMAT_RAW},
		DiskSources: []driverv1.DiskSourceKind{driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE},
	}}, nil
}

func there(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// pool is the folder of a pool, once it does not hang.
func (d *driver) pool(id string) (string, error) {
	d.mu.Lock()
	dir := d.pools[id]
	d.mu.Unlock()
	if dir == "" {
		return "", fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "pool %s is not ensured", id)
	}
	hang(dir)
	return dir, nil
}

// hang does not answer, as a thread that the kernel keeps.
func hang(dir string) {
	for there(dir, hangFile) {
		time.Sleep(look)
	}
}

func (d *driver) EnsurePool(_ context.Context, r *driverv1.EnsurePoolRequest) (*driverv1.EnsurePoolResponse, error) {
	dir := r.GetParameters()["path"]
	hang(dir)
	if _, err := os.Stat(dir); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "%w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pools[r.GetPoolId()] = dir
	return &driverv1.EnsurePoolResponse{Pool: state(r.GetPoolId())}, nil
}

func state(id string) *driverv1.Pool {
	return &driverv1.Pool{PoolId: id, Health: driverv1.HealthState_HEALTH_STATE_HEALTHY, CapacityBytes: 1 << 40}
}

func (d *driver) GetPool(_ context.Context, r *driverv1.GetPoolRequest) (*driverv1.GetPoolResponse, error) {
	_, err := d.pool(r.GetPoolId())
	return &driverv1.GetPoolResponse{Pool: state(r.GetPoolId())}, err
}

func (d *driver) ReleasePool(_ context.Context, r *driverv1.ReleasePoolRequest) (*driverv1.ReleasePoolResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.pools, r.GetPoolId())
	return &driverv1.ReleasePoolResponse{}, nil
}

// CreateVolume writes a volume beside its place and moves it there when it is done. What another node left undone is swept first.
func (d *driver) CreateVolume(ctx context.Context, r *driverv1.CreateVolumeRequest) (*driverv1.CreateVolumeResponse, error) {
	dir, err := d.pool(r.GetPoolId())
	if err != nil {
		return nil, err
	}
	unlock, err := d.keys.Lock(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if v, err := read(dir, r.GetVolumeId()); err == nil {
		return &driverv1.CreateVolumeResponse{Volume: v}, nil
	}
	old, _ := filepath.Glob(filepath.Join(dir, r.GetVolumeId()+".*.half"))
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%w", err)
		}
	}
	v := &driverv1.Volume{PoolId: r.GetPoolId(), VolumeId: r.GetVolumeId(), Mark: r.GetMark(), SizeBytes: r.GetSizeBytes(), Format: cmp.Or(r.GetFormat(), driverv1.VolumeFormat_VOLUME_FORMAT_RAW)}
	b, err := protojson.Marshal(v)
	if err != nil {
		return nil, err
	}
	half := filepath.Join(dir, r.GetVolumeId()+"."+d.host.GetNodeName()+".half")
	d.note(dir, "begin", r.GetVolumeId())
	if err := os.WriteFile(half, b, 0o600); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%w", err)
	}
	for there(dir, slowFile) {
		select {
		case <-ctx.Done():
			err := errors.Join(ctx.Err(), os.Remove(half))
			d.note(dir, "cancelled", r.GetVolumeId())
			return nil, err
		case <-time.After(look):
		}
	}
	if err := os.Rename(half, place(dir, r.GetVolumeId())); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%w", err)
	}
	d.note(dir, "made", r.GetVolumeId())
	return &driverv1.CreateVolumeResponse{Volume: v}, nil
}

func place(dir, id string) string { return filepath.Join(dir, id+".volume") }

func read(dir, id string) (*driverv1.Volume, error) {
	b, err := os.ReadFile(place(dir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "no volume %s", id)
	}
	v := &driverv1.Volume{}
	return v, errors.Join(err, protojson.Unmarshal(b, v))
}

// note adds to the ledger.
func (d *driver) note(dir, what, id string) {
	b, _ := json.Marshal(entry{time.Now(), d.host.GetNodeName(), what, id})
	f, err := os.OpenFile(filepath.Join(dir, ledgerFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.Write(append(b, '\n')) // one write: lines of two nodes do not mix
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		panic(err)
	}
}

func (d *driver) GetVolume(_ context.Context, r *driverv1.GetVolumeRequest) (*driverv1.GetVolumeResponse, error) {
	dir, err := d.pool(r.GetPoolId())
	if err != nil {
		return nil, err
	}
	v, err := read(dir, r.GetVolumeId())
	return &driverv1.GetVolumeResponse{Volume: v}, err
}

func (d *driver) DeleteVolume(_ context.Context, r *driverv1.DeleteVolumeRequest) (*driverv1.DeleteVolumeResponse, error) {
	dir, err := d.pool(r.GetPoolId())
	if err != nil {
		return nil, err
	}
	old, _ := filepath.Glob(filepath.Join(dir, r.GetVolumeId()+".*"))
	for _, f := range old {
		err = errors.Join(err, os.Remove(f))
	}
	return &driverv1.DeleteVolumeResponse{}, err
}

func (d *driver) ListVolumes(_ context.Context, r *driverv1.ListVolumesRequest) (*driverv1.ListVolumesResponse, error) {
	dir, err := d.pool(r.GetPoolId())
	if err != nil {
		return nil, err
	}
	out := &driverv1.ListVolumesResponse{}
	files, _ := filepath.Glob(place(dir, "*"))
	for _, f := range files {
		if v, err := read(dir, strings.TrimSuffix(filepath.Base(f), ".volume")); err == nil {
			out.Volumes = append(out.Volumes, v)
		}
	}
	return out, nil
}

func (d *driver) ListImages(_ context.Context, r *driverv1.ListImagesRequest) (*driverv1.ListImagesResponse, error) {
	_, err := d.pool(r.GetPoolId())
	return &driverv1.ListImagesResponse{}, err
}

func (d *driver) AttachVolume(_ context.Context, r *driverv1.AttachVolumeRequest) (*driverv1.AttachVolumeResponse, error) {
	dir, err := d.pool(r.GetPoolId())
	if err == nil {
		_, err = read(dir, r.GetVolumeId())
	}
	if err != nil {
		return nil, err
	}
	return &driverv1.AttachVolumeResponse{Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_File{File: &driverv1.FileSource{
		Path: place(dir, r.GetVolumeId()), Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW,
	}}}}, nil
}

func (d *driver) DetachVolume(_ context.Context, r *driverv1.DetachVolumeRequest) (*driverv1.DetachVolumeResponse, error) {
	_, err := d.pool(r.GetPoolId())
	return &driverv1.DetachVolumeResponse{}, err
}
