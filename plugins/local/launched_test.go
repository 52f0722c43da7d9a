// Package local_test runs the built plugin in a process of its own, as an agent does.
package local_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance"
	"github.com/limiquantix/limiquantix/sdk/host"
)

const (
	poolID   = "11111111-1111-4111-8111-111111111111"
	volumeID = "22222222-2222-4222-8222-222222222222"
	imageID  = "33333333-3333-4333-8333-333333333333"
)

// build makes a plugin directory with the binary and its manifest.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir, "./cmd/limiquantix-plugin-local")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := host.WriteManifest(dir, &host.Manifest{Name: "local", Version: "0.0.0-dev", Kinds: []string{"storage"}, Executable: "limiquantix-plugin-local"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mark(id string) *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: "c", NodeId: "n", ObjectId: id, Generation: 1, Epoch: 1}
}

// launched is a running plugin with its pool ensured.
type launched struct {
	*host.Process
	driverv1.StorageDriverServiceClient
}

func launch(t *testing.T, dir, state string) launched {
	t.Helper()
	run, err := os.MkdirTemp("", "lq")
	if err != nil {
		t.Fatal(err)
	}
	p, err := host.Launch(t.Context(), host.Spec{
		Dir: dir, RuntimeDir: run, ConfigJSON: "{}",
		Host: &driverv1.HostFacts{ClusterId: "c", NodeId: "n", NodeName: "n", BootId: "b", StateDirectory: state, RuntimeDirectory: run},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = p.Stop(ctx, time.Second)
		_ = os.RemoveAll(run)
	})
	return launched{p, driverv1.NewStorageDriverServiceClient(p.Conn())}
}

func (l launched) ensure(t *testing.T) {
	t.Helper()
	pool, err := l.EnsurePool(t.Context(), &driverv1.EnsurePoolRequest{PoolId: poolID})
	if err != nil || pool.GetPool().GetHealth() != driverv1.HealthState_HEALTH_STATE_HEALTHY || pool.GetPool().GetCapacityBytes() == 0 {
		t.Fatal(pool, err)
	}
}

func (l launched) kill(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(l.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-l.Done()
}

// upload imports content, or sends only half of it and lets the stream hang.
func (l launched) upload(ctx context.Context, content []byte, whole bool) error {
	s, err := l.ImportImage(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	h := &driverv1.ImportImageHeader{
		PoolId: poolID, ImageId: imageID, Mark: mark(imageID), Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW,
		Sha256: hex.EncodeToString(sum[:]), ContentBytes: int64(len(content)),
	}
	if err := s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Header{Header: h}}); err != nil {
		return err
	}
	if !whole {
		content = content[:len(content)/2]
	}
	for len(content) > 0 {
		n := min(len(content), 256<<10)
		if s.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: content[:n]}}) != nil {
			break // CloseAndRecv tells why
		}
		content = content[n:]
	}
	if !whole {
		return nil
	}
	_, err = s.CloseAndRecv()
	return err
}

// A pool and what lies in it outlive kill -9 of the plugin, half an upload included; delete leaves nothing.
func TestPoolOutlivesItsPlugin(t *testing.T) {
	ctx, dir, state := t.Context(), build(t), t.TempDir()
	p := launch(t, dir, state)
	create := &driverv1.CreateVolumeRequest{
		PoolId: poolID, VolumeId: volumeID, Mark: mark(volumeID), SizeBytes: 8 << 20,
		Source: &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: imageID}},
	}
	if _, err := p.CreateVolume(ctx, create); !fault.Is(err, metav1.Reason_REASON_POOL_NOT_FOUND) {
		t.Fatal("before EnsurePool:", err)
	}
	p.ensure(t)
	content := make([]byte, 3<<20)
	copy(content[1<<20:], "limiquantix")
	if err := p.upload(ctx, content, false); err != nil {
		t.Fatal(err)
	}
	p.kill(t)

	p = launch(t, dir, state)
	p.ensure(t)
	if l, err := p.ListImages(ctx, &driverv1.ListImagesRequest{PoolId: poolID}); err != nil || len(l.GetImages()) != 0 {
		t.Fatal("half an image is offered:", l, err)
	}
	for range 2 {
		if err := p.upload(ctx, content, true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.CreateVolume(ctx, create); err != nil {
		t.Fatal(err)
	}
	if _, err := p.AttachVolume(ctx, &driverv1.AttachVolumeRequest{PoolId: poolID, VolumeId: volumeID}); err != nil {
		t.Fatal(err)
	}
	p.kill(t)

	p = launch(t, dir, state)
	p.ensure(t)
	v, err := p.GetVolume(ctx, &driverv1.GetVolumeRequest{PoolId: poolID, VolumeId: volumeID})
	if err != nil || !v.GetVolume().GetAttached() || v.GetVolume().GetSizeBytes() != 8<<20 {
		t.Fatal(v, err)
	}
	if _, err := p.ReleasePool(ctx, &driverv1.ReleasePoolRequest{PoolId: poolID}); !fault.Is(err, metav1.Reason_REASON_VOLUME_IN_USE) {
		t.Error("release of a pool in use:", err)
	}
	if _, err := p.DetachVolume(ctx, &driverv1.DetachVolumeRequest{PoolId: poolID, VolumeId: volumeID}); err != nil {
		t.Error(err)
	}
	if _, err := p.DeleteVolume(ctx, &driverv1.DeleteVolumeRequest{PoolId: poolID, VolumeId: volumeID}); err != nil {
		t.Error(err)
	}
	if _, err := p.DeleteImage(ctx, &driverv1.DeleteImageRequest{PoolId: poolID, ImageId: imageID}); err != nil {
		t.Error(err)
	}
	if _, err := p.ReleasePool(ctx, &driverv1.ReleasePoolRequest{PoolId: poolID}); err != nil {
		t.Error(err)
	}
	_ = filepath.WalkDir(filepath.Join(state, "pools"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != ".limiquantix-pool" {
			t.Error("left behind:", path)
		}
		return err
	})
}

// A pool path outside the allowed roots, an unknown parameter or configuration key: refused and named, without effect.
func TestBadInputIsNamed(t *testing.T) {
	ctx, dir := t.Context(), build(t)
	p := launch(t, dir, t.TempDir())
	for _, params := range []map[string]string{{"path": "/"}, {"path": "/etc/x"}, {"path": "/srv/../etc"}, {"paht": "/srv/x"}} {
		_, err := p.EnsurePool(ctx, &driverv1.EnsurePoolRequest{PoolId: poolID, Parameters: params})
		if e := fault.From(err); err == nil || e.Reason != metav1.Reason_REASON_INVALID_FIELD || len(e.Violations) != 1 {
			t.Errorf("%v: %v", params, err)
		}
	}
	if _, err := p.EnsurePool(ctx, &driverv1.EnsurePoolRequest{PoolId: "../x"}); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
		t.Error(err)
	}
	facts := &driverv1.HostFacts{ClusterId: "c", NodeId: "n", StateDirectory: "/tmp/x", RuntimeDirectory: "/tmp/y"}
	for _, cfg := range []string{`{"root":["/srv"]}`, `{"roots":["/"]}`, `{"roots":["srv"]}`} {
		if err := p.Configure(ctx, facts, cfg, nil); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
			t.Errorf("%s: %v", cfg, err)
		}
	}
}

// The contract of the SDK, against the real directory pool; of all that the suite made no file is left.
func TestConformance(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool")
	conformance.Test(t, conformance.Options{
		Plugin: host.Spec{Dir: build(t), ConfigJSON: `{"roots":["` + filepath.Dir(path) + `"]}`},
		Storage: conformance.StorageOptions{Parameters: map[string]string{"path": path}, Objects: func(context.Context) ([]string, error) {
			return files(path)
		}},
	})
}

// files are all files of a pool but its marker.
func files(path string) (names []string, err error) {
	err = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() && d.Name() != ".limiquantix-pool" {
			names = append(names, name)
		}
		return err
	})
	return names, err
}
