package filepool

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func nodeID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-0000000e%04d", n) }

// openShared opens a pool as one of several nodes.
func openShared(t *testing.T, path string, node int) *Pool {
	t.Helper()
	p, err := Open(pool1, path, Owner{ClusterID: "c", NodeID: nodeID(node), Shared: true}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func sharedVolume(t *testing.T, p *Pool, id string) {
	t.Helper()
	r := create(id, 1<<20, qcow, "")
	r.Mark.NodeId = ""
	if _, err := p.CreateVolume(context.Background(), r); err != nil {
		t.Fatal(err)
	}
}

func (p *Pool) attach(id string, edit ...func(*driverv1.AttachVolumeRequest)) error {
	r := &driverv1.AttachVolumeRequest{PoolId: pool1, VolumeId: id}
	for _, e := range edit {
		e(r)
	}
	_, err := p.AttachVolume(r)
	return err
}

func asShared(r *driverv1.AttachVolumeRequest) { r.Shared = true }

func fenced(n int) func(*driverv1.AttachVolumeRequest) {
	return func(r *driverv1.AttachVolumeRequest) { r.FencedNodeId = nodeID(n) }
}

// Of many nodes that attach at once one has the volume, and only that one.
func TestOneNodeAttaches(t *testing.T) {
	const nodes = 8
	dir := t.TempDir()
	pools := make([]*Pool, nodes)
	for n := range pools {
		pools[n] = openShared(t, dir, n)
	}
	sharedVolume(t, pools[0], volA)
	for round := range 20 {
		errs := make([]error, nodes)
		var wg sync.WaitGroup
		for n, p := range pools {
			wg.Go(func() { errs[n] = p.attach(volA) })
		}
		wg.Wait()
		winner := -1
		for n, err := range errs {
			if err == nil && winner >= 0 {
				t.Fatalf("round %d: both %d and %d have it", round, winner, n)
			} else if err == nil {
				winner = n
			} else {
				want(t, err, metav1.Reason_REASON_VOLUME_IN_USE)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody has it: %v", round, errs)
		}
		for n, p := range pools {
			v, err := p.GetVolume(volA)
			if err != nil || v.GetAttached() != (n == winner) {
				t.Fatalf("node %d, when %d has it: %v %v", n, winner, v, err)
			}
			want(t, p.DeleteVolume(volA), metav1.Reason_REASON_VOLUME_IN_USE)
			if n != winner {
				if err := p.DetachVolume(volA); err != nil { // of another node's: changes nothing
					t.Fatal(err)
				}
			}
		}
		if err := pools[winner].DetachVolume(volA); err != nil {
			t.Fatal(err)
		}
	}
}

// One kind of attachment never stands beside the other, whoever comes first.
func TestAloneOrShared(t *testing.T) {
	dir := t.TempDir()
	a, b := openShared(t, dir, 1), openShared(t, dir, 2)
	sharedVolume(t, a, volA)
	for round := range 50 {
		var alone, shared error
		var wg sync.WaitGroup
		wg.Go(func() { alone = a.attach(volA) })
		wg.Go(func() { shared = b.attach(volA, asShared) })
		wg.Wait()
		if alone == nil && shared == nil {
			t.Fatalf("round %d: both have it", round)
		}
		if err := a.DetachVolume(volA); err != nil {
			t.Fatal(err)
		}
		if err := b.DetachVolume(volA); err != nil {
			t.Fatal(err)
		}
		if h, err := a.allHolders(volA); err != nil || h[volA].any() {
			t.Fatalf("round %d: %v %v", round, h, err)
		}
	}
}

// What a fenced node had is void, what another has is not; a snapshot that it left pending is taken.
func TestFencedNode(t *testing.T) {
	dir := t.TempDir()
	a, b, c := openShared(t, dir, 1), openShared(t, dir, 2), openShared(t, dir, 3)
	sharedVolume(t, a, volA)
	if err := a.attach(volA); err != nil {
		t.Fatal(err)
	}
	m := markFor(snapA)
	m.NodeId = ""
	_, overlay, err := a.CreateSnapshot(t.Context(), &driverv1.CreateSnapshotRequest{PoolId: pool1, SnapshotId: snapA, VolumeId: volA, Mark: m})
	if err != nil || overlay == nil {
		t.Fatal(overlay, err)
	}
	want(t, b.attach(volA, fenced(3)), metav1.Reason_REASON_VOLUME_IN_USE)
	var wg sync.WaitGroup
	var eb, ec error
	wg.Go(func() { eb = b.attach(volA, fenced(1)) })
	wg.Go(func() { ec = c.attach(volA, fenced(1)) })
	wg.Wait()
	if (eb == nil) == (ec == nil) {
		t.Fatalf("of two that follow a fenced node one has the volume: %v, %v", eb, ec)
	}
	has := b
	if eb != nil {
		has = c
	}
	src, err := has.AttachVolume(&driverv1.AttachVolumeRequest{PoolId: pool1, VolumeId: volA})
	if err != nil || src.GetFile().GetPath() != overlay.GetFile().GetPath() {
		t.Errorf("%v, not the overlay %v: %v", src, overlay, err)
	}
	if err := a.DetachVolume(volA); err != nil { // the fenced node comes back and is late
		t.Fatal(err)
	}
	if v, err := has.GetVolume(volA); err != nil || !v.GetAttached() {
		t.Errorf("%v, %v", v, err)
	}
}

// Another node may have the pool mounted elsewhere: chains hold.
func TestChainsMove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "here")
	p := openShared(t, dir, 1)
	sharedVolume(t, p, volA)
	p.scribble(t, volA, "7")
	m := markFor(snapA)
	m.NodeId = ""
	if _, _, err := p.CreateSnapshot(t.Context(), &driverv1.CreateSnapshotRequest{PoolId: pool1, SnapshotId: snapA, VolumeId: volA, Mark: m}); err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(filepath.Dir(dir), "there")
	if err := os.Rename(dir, there); err != nil {
		t.Fatal(err)
	}
	moved := openShared(t, there, 2)
	if b := moved.first(t, volA); b != 7 {
		t.Errorf("the volume begins with %d", b)
	}
	src, err := moved.AttachVolume(&driverv1.AttachVolumeRequest{PoolId: pool1, VolumeId: volA})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("qemu-io", "-f", "qcow2", "-c", "read -P 7 0 64k", src.GetFile().GetPath()).CombinedOutput()
	if err != nil || strings.Contains(string(out), "failed") {
		t.Errorf("%v: %s", err, out)
	}
	if !fault.Is(p.DeleteVolume("x"), metav1.Reason_REASON_INVALID_FIELD) {
		t.Error("an id that is none")
	}
}
