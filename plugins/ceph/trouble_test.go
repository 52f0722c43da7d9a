package ceph_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/test/lab"
)

const otherPool = "99999999-9999-4999-8999-999999999999"

// within bounds what must not take long; it is generous, since what is told apart is seconds from for ever.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// wantHealth waits until a pool is as wanted.
func (l launched) wantHealth(t *testing.T, healthy bool) {
	t.Helper()
	eventually(t, "health", func() error {
		r, err := l.GetPool(t.Context(), &driverv1.GetPoolRequest{PoolId: poolID})
		if p := r.GetPool(); err == nil && (p.GetHealth() == driverv1.HealthState_HEALTH_STATE_HEALTHY) != healthy {
			err = fmt.Errorf("it is %v", p)
		}
		return err
	})
}

// A monitor that hangs or is killed, and an OSD that hangs: this pool is unhealthy and refuses calls at once, another pool of the same plugin works on as if
// nothing were, a new connection is refused within its time, and when the cluster answers again all of it works without anybody's doing.
func TestClusterThatStopsAnswering(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "lqceph")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, err := lab.StartCeph(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	}()
	sick, well := newPool(t, c), newPool(t, shared.ceph)
	l := launch(t, nodeID, t.TempDir(), quick)
	l.ensure(t, sick)
	req := well.ensureRequest()
	req.PoolId = otherPool
	if _, err := l.EnsurePool(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	l.create(t, volumeID, 8<<20, nil)
	for _, f := range []struct {
		name       string
		hurt, heal func() error
		connects   bool // a new connection is possible meanwhile
	}{
		{"hung monitor", func() error { return c.SignalMonitor(syscall.SIGSTOP) }, func() error { return c.SignalMonitor(syscall.SIGCONT) }, false},
		{"killed monitor", c.KillMonitor, func() error { return c.StartMonitor(t.Context()) }, false},
		{"hung OSD", func() error { return c.SignalOSD(syscall.SIGSTOP) }, func() error { return c.SignalOSD(syscall.SIGCONT) }, true},
	} {
		t.Run(f.name, func(t *testing.T) {
			if err := f.hurt(); err != nil {
				t.Fatal(err)
			}
			healed := false
			defer func() {
				if !healed {
					_ = f.heal() // the test has failed
				}
			}()
			// More calls than the pool may have at once: those that hang must not keep the other pool's.
			var hung sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for n := range 40 {
				hung.Go(func() {
					id := fmt.Sprintf("%08d-aaaa-4000-8000-000000000000", n)
					_, _ = l.CreateVolume(ctx, createRequest(id, 8<<20, nil)) // its outcome is unknown; it is issued again below
				})
			}
			var slowest time.Duration
			for range 20 {
				began := time.Now()
				if _, err := l.ListVolumes(within(t), &driverv1.ListVolumesRequest{PoolId: otherPool}); err != nil {
					t.Fatal("the other pool:", err)
				}
				slowest = max(slowest, time.Since(began))
			}
			t.Logf("the other pool's slowest call took %s", slowest)
			l.wantHealth(t, false)
			began := time.Now()
			_, err := l.CreateVolume(within(t), createRequest(cloneID, 8<<20, nil))
			want(t, "create in the sick pool", err, metav1.Reason_REASON_POOL_UNHEALTHY)
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("it was refused after %s", d)
			}
			if !f.connects {
				second := launch(t, otherID, t.TempDir(), quick)
				_, err := second.EnsurePool(within(t), sick.ensureRequest())
				want(t, "a new connection", err, metav1.Reason_REASON_BACKEND_UNAVAILABLE)
			}
			if err := f.heal(); err != nil {
				t.Fatal(err)
			}
			healed = true
			l.wantHealth(t, true)
			cancel()
			hung.Wait()
			for n := range 40 {
				id := fmt.Sprintf("%08d-aaaa-4000-8000-000000000000", n)
				eventually(t, "create again", func() error {
					_, err := l.CreateVolume(within(t), createRequest(id, 8<<20, nil))
					return err
				})
				l.delete(t, id)
			}
			if list, err := l.ListVolumes(within(t), &driverv1.ListVolumesRequest{PoolId: poolID}); err != nil || len(list.GetVolumes()) != 1 {
				t.Errorf("what was there before: %v, %v", list, err)
			}
		})
	}
	l.delete(t, volumeID)
	if _, err := l.ReleasePool(t.Context(), &driverv1.ReleasePoolRequest{PoolId: poolID}); err != nil {
		t.Fatal(err)
	}
	l.ensure(t, sick) // it sweeps what the cluster refused to remove
	sick.wantEmpty(t)
}

// Wrong keys, users, clusters and pools are told apart within seconds, and a key never appears in what is said.
func TestWrongPoolsAreRefused(t *testing.T) {
	t.Parallel()
	p, q := newPool(t, shared.ceph), newPool(t, shared.ceph)
	l := launch(t, nodeID, t.TempDir(), `{"conf_files":["`+p.Conf()+`"]}`)
	for _, c := range []struct {
		name, field, value, key string
		reason                  metav1.Reason
	}{
		{"another user's key", "", "", q.key, metav1.Reason_REASON_BACKEND_CREDENTIALS},
		{"an unknown user", "user", "nobody", p.key, metav1.Reason_REASON_BACKEND_CREDENTIALS},
		{"no key", "", "", "", metav1.Reason_REASON_INVALID_FIELD},
		{"a broken key", "", "", "AQD" + p.key, metav1.Reason_REASON_INVALID_FIELD},
		{"another cluster", "fsid", volumeID, p.key, metav1.Reason_REASON_INVALID_FIELD},
		{"an absent pool", "pool", "absent", p.key, metav1.Reason_REASON_INVALID_FIELD},
		{"an absent namespace", "namespace", "absent", p.key, metav1.Reason_REASON_INVALID_FIELD},
		{"a pool that the user may not use", "pool", q.name, p.key, metav1.Reason_REASON_ACCESS_DENIED},
		{"a port where nobody listens", "monitors", "127.0.0.1:1", p.key, metav1.Reason_REASON_BACKEND_UNAVAILABLE},
		{"a monitor that is none", "monitors", "127.0.0.1:x", p.key, metav1.Reason_REASON_INVALID_FIELD},
		{"options in a name", "pool", "x:conf=/etc/shadow", p.key, metav1.Reason_REASON_INVALID_FIELD},
		{"a file that is not allowed", "conf", "/etc/ceph/ceph.conf", p.key, metav1.Reason_REASON_INVALID_FIELD},
		{"an unknown parameter", "mon", "x", p.key, metav1.Reason_REASON_INVALID_FIELD},
	} {
		req := p.ensureRequest()
		if c.field != "" {
			req.Parameters[c.field] = c.value
		}
		req.Secrets["key"] = []byte(c.key)
		_, err := l.EnsurePool(within(t), req)
		want(t, c.name, err, c.reason)
		if err != nil && len(c.key) > 3 && strings.Contains(fmt.Sprintf("%v %+v", err, fault.From(err)), c.key) {
			t.Errorf("%s: the key is in the error", c.name)
		}
	}
	req := p.ensureRequest()
	req.Parameters["conf"] = p.Conf() // allowed, and it names the administrator's keyring: ours must win
	if _, err := l.EnsurePool(within(t), req); err != nil {
		t.Fatal(err)
	}
	req.Secrets["key"] = []byte(q.key)
	_, err := l.EnsurePool(within(t), req)
	want(t, "a new key that is wrong", err, metav1.Reason_REASON_BACKEND_CREDENTIALS)
	l.create(t, volumeID, 8<<20, nil) // the old connection still works
	if _, err := p.Ceph.Ceph(t.Context(), "auth", "caps", "client."+q.user, "mon", "profile rbd", "osd", "profile rbd pool="+p.name); err != nil {
		t.Fatal(err)
	}
	req.Parameters["user"] = q.user
	if _, err := l.EnsurePool(within(t), req); err != nil {
		t.Fatal("a new user:", err)
	}
	if src := l.attach(t, attachRequest(volumeID)); src.GetUser() != q.user || src.GetKey() != q.key {
		t.Error("attach hands out the old user")
	}
	req.Parameters["pool"] = q.name
	_, err = l.EnsurePool(within(t), req)
	want(t, "another pool", err, metav1.Reason_REASON_WRONG_STATE)
}

// A pool whose quota is used up answers NO_SPACE, at once and not when there is room, says so in its health, and what was begun is removed.
func TestFullPool(t *testing.T) {
	t.Parallel()
	p := newPool(t, shared.ceph)
	l := launch(t, nodeID, t.TempDir(), "{}")
	if got := l.ensure(t, p); got.GetCapacityBytes() < 1<<30 || got.GetUsedBytes() >= got.GetCapacityBytes() {
		t.Errorf("room: %v", got)
	}
	content := make([]byte, 24<<20)
	for i := range content {
		content[i] = byte(i % 251)
	}
	raw := driverv1.VolumeFormat_VOLUME_FORMAT_RAW
	if err := l.upload(within(t), &driverv1.ImportImageHeader{Format: raw}, content); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Ceph.Ceph(t.Context(), "osd", "pool", "set-quota", p.name, "max_bytes", "8388608"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "full", func() error { // the quota is enforced by reports that come every few seconds
		_, err := l.CreateVolume(within(t), createRequest(volumeID, 32<<20, fromImage(imageID)))
		if err == nil {
			l.delete(t, volumeID)
			return errors.New("there is room")
		}
		want(t, "create", err, metav1.Reason_REASON_NO_SPACE)
		return nil
	})
	if r, err := l.GetPool(t.Context(), &driverv1.GetPoolRequest{PoolId: poolID}); err != nil || r.GetPool().GetHealth() == driverv1.HealthState_HEALTH_STATE_UNHEALTHY {
		t.Error("a full pool can still be read:", r, err)
	}
	l.delete(t, volumeID)
	eventually(t, "delete in a full pool", func() error {
		_, err := l.DeleteImage(within(t), &driverv1.DeleteImageRequest{PoolId: poolID, ImageId: imageID})
		if !fault.Is(err, metav1.Reason_REASON_BUSY) && err != nil { // busy: on a slow machine the cluster may still hold what was begun for open
			t.Fatal("delete in a full pool:", err)
		}
		return err
	})
	p.emptyWithin(t, 3*time.Minute) // what the cluster did not answer in time is open for half a minute, and looked for after that
	importing := func() error {
		err := l.upload(within(t), &driverv1.ImportImageHeader{Format: raw}, content)
		if err != nil {
			want(t, "import", err, metav1.Reason_REASON_NO_SPACE)
			p.emptyWithin(t, 3*time.Minute)
		}
		return err
	}
	_ = importing() // the quota's flag may be there yet, or not any more
	if _, err := p.Ceph.Ceph(t.Context(), "osd", "pool", "set-quota", p.name, "max_bytes", "0"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "room again", importing)
}

// hold keeps an RBD image open, as a client that does not ask us.
func (p cephPool) hold(t *testing.T, image string) (release func()) {
	t.Helper()
	watch := exec.CommandContext(t.Context(), "rbd", "-c", p.Conf(), "watch", p.name+"/"+image)
	enter, err := watch.StdinPipe() // it ends when its input does
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := errors.Join(enter.Close(), watch.Wait()); err != nil {
			t.Fatal(err)
		}
	}
}

// What a creation that failed has left, because somebody had it open, is no volume: the image below it is BUSY, not in use, until the rest is gone.
func TestLeftoverBelowImage(t *testing.T) {
	t.Parallel()
	p := newPool(t, shared.ceph)
	l := ready(t, nodeID, p)
	if err := l.upload(within(t), &driverv1.ImportImageHeader{Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW}, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	image, err := p.RBD(t.Context(), "ls", p.name)
	if err != nil {
		t.Fatal(err)
	}
	left := "lq-volume-" + volumeID + ".00000000"
	if _, err := p.RBD(t.Context(), "clone", p.name+"/"+strings.TrimSpace(image)+"@lq", p.name+"/"+left); err != nil {
		t.Fatal(err)
	}
	remove := func() error {
		_, err := l.DeleteImage(within(t), &driverv1.DeleteImageRequest{PoolId: poolID, ImageId: imageID})
		return err
	}
	want(t, "delete beside a clone of somebody's", remove(), metav1.Reason_REASON_IMAGE_IN_USE)
	if _, err := p.Rados(t.Context(), "-p", p.name, "setomapval", "limiquantix."+poolID, "d/"+left, ""); err != nil {
		t.Fatal(err)
	}
	release := p.hold(t, left)
	eventually(t, "the leftover is open", func() error {
		out, err := p.RBD(t.Context(), "status", p.name+"/"+left)
		if err == nil && !strings.Contains(out, "watcher=") {
			err = errors.New(out)
		}
		return err
	})
	want(t, "delete beside an open leftover", remove(), metav1.Reason_REASON_BUSY)
	release()
	eventually(t, "the leftover is removed without being asked for", func() error {
		out, err := p.RBD(t.Context(), "ls", p.name)
		if err == nil && strings.Contains(out, left) {
			err = errors.New(out)
		}
		return err
	})
	if err := remove(); err != nil {
		t.Error(err)
	}
	p.wantEmpty(t)
}

// A plugin killed at any moment of a clone, and of an import: the call issued again makes one volume, and nothing else is left.
func TestKilledMidClone(t *testing.T) {
	t.Parallel()
	p := newPool(t, shared.ceph)
	state := t.TempDir()
	l := launch(t, nodeID, state, "{}")
	l.ensure(t, p)
	content := []byte(strings.Repeat("limiquantix", 100_000))
	raw := driverv1.VolumeFormat_VOLUME_FORMAT_RAW
	if err := l.upload(t.Context(), &driverv1.ImportImageHeader{Format: raw}, content); err != nil {
		t.Fatal(err)
	}
	l.create(t, volumeID, 0, fromImage(imageID))
	for n := range 8 {
		after := time.Duration(n*n) * 2 * time.Millisecond
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = l.CreateVolume(t.Context(), createRequest(cloneID, 64<<20, fromVolume(volumeID))) // cut short
		}()
		time.Sleep(after) // the moment is what is tried
		l.kill(t)
		<-done
		l = launch(t, nodeID, state, "{}")
		l.ensure(t, p)
		l.create(t, cloneID, 64<<20, fromVolume(volumeID))
		if got := l.content(t, cloneID); len(got) != 64<<20 || string(got[:len(content)]) != string(content) {
			t.Errorf("killed after %s: %d bytes, or other ones", after, len(got))
		}
		l.delete(t, cloneID)
		eventually(t, "only the image and its volume", func() error {
			out, err := p.RBD(t.Context(), "ls", p.name)
			if err == nil && strings.Count(out, "\n") != 2 {
				err = errors.New(out)
			}
			return err
		})
	}
	l.delete(t, volumeID)
	if _, err := l.DeleteImage(t.Context(), &driverv1.DeleteImageRequest{PoolId: poolID, ImageId: imageID}); err != nil {
		t.Fatal(err)
	}
	p.wantEmpty(t)
}

// One node at a time, in the index and by who has the RBD image open; all when all share; and a fenced node's client cannot write any more.
func TestAttachExclusively(t *testing.T) {
	t.Parallel()
	p := newPool(t, shared.ceph)
	a, b := ready(t, nodeID, p), ready(t, otherID, p)
	a.create(t, volumeID, 8<<20, nil)
	src := a.attach(t, attachRequest(volumeID))
	_, err := b.AttachVolume(t.Context(), attachRequest(volumeID))
	want(t, "attach at two nodes", err, metav1.Reason_REASON_VOLUME_IN_USE)
	_, err = b.DeleteVolume(t.Context(), &driverv1.DeleteVolumeRequest{PoolId: poolID, VolumeId: volumeID})
	want(t, "delete at another node", err, metav1.Reason_REASON_VOLUME_IN_USE)
	shared := attachRequest(volumeID)
	shared.Shared = true
	_, err = b.AttachVolume(t.Context(), shared)
	want(t, "share what the other does not", err, metav1.Reason_REASON_VOLUME_IN_USE)
	a.attach(t, shared)
	b.attach(t, shared)
	b.detach(t, volumeID)

	// A hypervisor on the first node writes; the node is declared fenced.
	guest := exec.CommandContext(t.Context(), "qemu-io", "-f", "raw", fmt.Sprintf("rbd:%s/%s:id=admin:conf=%s", p.name, src.GetImage(), p.Conf()))
	in, err := guest.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	guest.Stdout, guest.Stderr = log, log
	if err := guest.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = guest.Process.Kill() // it may have ended
		_ = guest.Wait()
	}()
	if _, err := fmt.Fprintln(in, "write -P 0x61 0 512"); err != nil {
		t.Fatal(err)
	}
	said := func(text string) {
		t.Helper()
		eventually(t, "qemu-io", func() error {
			body, err := os.ReadFile(log.Name())
			if err == nil && !strings.Contains(string(body), text) {
				err = fmt.Errorf("no %q in %q", text, body)
			}
			return err
		})
	}
	said("wrote 512/512")
	void := attachRequest(volumeID)
	void.FencedNodeId = nodeID
	b.attach(t, void)
	if _, err := fmt.Fprintln(in, "write -P 0x62 0 512\nflush"); err != nil {
		t.Fatal(err)
	}
	said("failed")
	_, err = a.AttachVolume(t.Context(), attachRequest(volumeID))
	want(t, "the fenced node attaches", err, metav1.Reason_REASON_VOLUME_IN_USE)
	b.detach(t, volumeID)
	b.wantBegin(t, volumeID, "aaaa")

	// Somebody has it open without asking.
	release := p.hold(t, src.GetImage())
	eventually(t, "a watcher is seen", func() error {
		_, err := b.AttachVolume(t.Context(), attachRequest(volumeID))
		if err == nil {
			b.detach(t, volumeID)
			return errors.New("attached beside it")
		}
		want(t, "attach beside a watcher", err, metav1.Reason_REASON_VOLUME_IN_USE)
		if fault.From(err).Metadata["watchers"] == "" {
			t.Error("the watcher is not named:", err)
		}
		return nil
	})
	_, err = b.DeleteVolume(t.Context(), &driverv1.DeleteVolumeRequest{PoolId: poolID, VolumeId: volumeID})
	want(t, "delete beside a watcher", err, metav1.Reason_REASON_VOLUME_IN_USE)
	release()
	eventually(t, "delete", func() error {
		_, err := b.DeleteVolume(t.Context(), &driverv1.DeleteVolumeRequest{PoolId: poolID, VolumeId: volumeID})
		return err
	})
	p.wantEmpty(t)
}
