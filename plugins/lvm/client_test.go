package lvm_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
)

const (
	raw   = driverv1.VolumeFormat_VOLUME_FORMAT_RAW
	qcow2 = driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2
	mib   = 1 << 20
)

// client is a running plugin with one pool ensured.
type client struct {
	driverv1.StorageDriverServiceClient
	p      *host.Process
	ctx    context.Context
	pool   string
	params map[string]string
}

// launch starts the plugin in the guest; run is a directory of the host for its sockets.
func (r *rig) launch(t *testing.T, pool string, params map[string]string) *client {
	t.Helper()
	run, err := os.MkdirTemp("", "lq")
	if err != nil {
		t.Fatal(err)
	}
	spec := r.spec()
	spec.RuntimeDir = run
	spec.Host = &driverv1.HostFacts{ClusterId: "c", NodeId: "n", NodeName: "n", BootId: "b", StateDirectory: "/var/lib/lq", RuntimeDirectory: "/run/lq"}
	p, err := host.Launch(r.ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = p.Stop(ctx, 10*time.Second)
		_ = os.RemoveAll(run)
	})
	c := &client{StorageDriverServiceClient: driverv1.NewStorageDriverServiceClient(p.Conn()), p: p, ctx: r.ctx, pool: pool, params: params}
	if _, err := c.EnsurePool(c.ctx, &driverv1.EnsurePoolRequest{PoolId: pool, Parameters: params}); err != nil {
		t.Fatal(err)
	}
	return c
}

// kill ends the plugin with SIGKILL and returns the next one.
func (r *rig) kill(t *testing.T, c *client) *client {
	t.Helper()
	_ = syscall.Kill(c.p.PID(), syscall.SIGKILL)
	<-c.p.Done()
	return r.launch(t, c.pool, c.params)
}

func id() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func mark(id string) *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: "c", NodeId: "n", ObjectId: id, Generation: 1, Epoch: 1}
}

func want(t *testing.T, what string, err error, reason metav1.Reason) {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Errorf("%s: %v, want %s", what, err, fault.ReasonName(reason))
	}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func (c *client) request(size int64, src *driverv1.VolumeSource) *driverv1.CreateVolumeRequest {
	v := id()
	return &driverv1.CreateVolumeRequest{PoolId: c.pool, VolumeId: v, Mark: mark(v), SizeBytes: size, Source: src}
}

// create makes a volume and returns its id.
func (c *client) create(t *testing.T, size int64, src *driverv1.VolumeSource) string {
	t.Helper()
	req := c.request(size, src)
	_, err := c.CreateVolume(c.ctx, req)
	must(t, "create", err)
	return req.GetVolumeId()
}

func (c *client) attach(t *testing.T, volume string) (device string) {
	t.Helper()
	r, err := c.AttachVolume(c.ctx, &driverv1.AttachVolumeRequest{PoolId: c.pool, VolumeId: volume})
	must(t, "attach", err)
	return r.GetSource().GetBlockDevice().GetPath()
}

func (c *client) detachErr(volume string) error {
	_, err := c.DetachVolume(c.ctx, &driverv1.DetachVolumeRequest{PoolId: c.pool, VolumeId: volume})
	return err
}

func (c *client) delete(t *testing.T, volume string) {
	t.Helper()
	_, err := c.DeleteVolume(c.ctx, &driverv1.DeleteVolumeRequest{PoolId: c.pool, VolumeId: volume})
	must(t, "delete", err)
}

func (c *client) snapshot(t *testing.T, volume string) string {
	t.Helper()
	s := id()
	_, err := c.CreateSnapshot(c.ctx, &driverv1.CreateSnapshotRequest{PoolId: c.pool, SnapshotId: s, VolumeId: volume, Mark: mark(s)})
	must(t, "snapshot", err)
	return s
}

func (c *client) restore(snapshot, volume string) error {
	_, err := c.RestoreSnapshot(c.ctx, &driverv1.RestoreSnapshotRequest{PoolId: c.pool, SnapshotId: snapshot, VolumeId: volume})
	return err
}

func (c *client) deleteSnapshot(t *testing.T, s string) {
	t.Helper()
	_, err := c.DeleteSnapshot(c.ctx, &driverv1.DeleteSnapshotRequest{PoolId: c.pool, SnapshotId: s})
	must(t, "delete snapshot", err)
}

func (c *client) state(t *testing.T) *driverv1.Pool {
	t.Helper()
	r, err := c.GetPool(c.ctx, &driverv1.GetPoolRequest{PoolId: c.pool})
	must(t, "get pool", err)
	return r.GetPool()
}

// upload imports an image of which only the format is declared.
func (c *client) upload(format driverv1.VolumeFormat, content []byte) (*driverv1.Image, error) {
	s, err := c.ImportImage(c.ctx)
	if err != nil {
		return nil, err
	}
	i := id()
	h := &driverv1.ImportImageHeader{PoolId: c.pool, ImageId: i, Mark: mark(i), Format: format, ContentBytes: int64(len(content))}
	err = s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Header{Header: h}})
	for len(content) > 0 && err == nil {
		n := min(len(content), 256<<10)
		err = s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: content[:n]}})
		content = content[n:]
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	r, err := s.CloseAndRecv()
	return r.GetImage(), err
}

// export reads a volume, and how much of it came as holes.
func (c *client) export(t *testing.T, req *driverv1.ExportVolumeRequest) (all []byte, holes int64) {
	t.Helper()
	req.PoolId = c.pool
	s, err := c.ExportVolume(c.ctx, req)
	must(t, "export", err)
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all, holes
		}
		must(t, "export", err)
		if r.GetOffset() != int64(len(all)) {
			t.Fatalf("a part at %d after %d bytes", r.GetOffset(), len(all))
		}
		all, holes = append(append(all, r.GetData()...), make([]byte, r.GetHoleBytes())...), holes+r.GetHoleBytes()
	}
}

// holds fails the test unless a volume begins with a word and is zero behind its first MiB.
func (c *client) holds(t *testing.T, volume, word string) {
	t.Helper()
	got, _ := c.export(t, &driverv1.ExportVolumeRequest{Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: volume}})
	if !bytes.HasPrefix(got, []byte(word)) || len(bytes.Trim(got[mib:], "\x00")) > 0 {
		t.Errorf("it begins with %q, want %q; or something lies behind", got[:min(len(got), 16)], word)
	}
}

// write writes a word again and again over the first MiB of a device in the guest.
func (r *rig) write(t *testing.T, device, word string) {
	t.Helper()
	r.sh(t, "yes "+word+" | tr -d '\\n' | dd of="+device+" bs=64k count=16 iflag=fullblock conv=fsync 2>/dev/null")
}

// lies reports whether a word lies anywhere on a disk of the guest.
func (r *rig) lies(t *testing.T, disk int, word string) bool {
	t.Helper()
	r.sh(t, "sync; blockdev --flushbufs "+r.Disk(disk))
	f, err := os.Open(r.DiskFile(disk))
	must(t, "open the disk", err)
	defer f.Close() //nolint:errcheck // only read
	buf := make([]byte, mib)
	for at := int64(0); ; at += int64(len(buf) - len(word)) {
		n, err := f.ReadAt(buf, at)
		if bytes.Contains(buf[:n], []byte(word)) {
			return true
		}
		if errors.Is(err, io.EOF) {
			return false
		}
		must(t, "read the disk", err)
	}
}
