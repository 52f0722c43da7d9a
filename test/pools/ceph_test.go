package pools

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/test/lab"
)

// A Ceph cluster whose only monitor is killed: the pool is told in time with its reason and takes nothing on; nothing else notices; well by itself when the monitor is back.
func TestMonitorKilled(t *testing.T) {
	n, slack := count(t, 1)
	r := startRig(t, 1, heartbeat)
	ceph, err := lab.StartCeph(t.Context(), filepath.Join(r.dir, "ceph"))
	must(t, err)
	t.Cleanup(func() {
		if err := ceph.Stop(); err != nil {
			t.Error(err)
		}
	})
	version, err := ceph.Version(t.Context())
	must(t, err)
	fmt.Printf("evidence: Ceph | %s\n", version)
	key, err := ceph.CreateUser(t.Context(), "pools", "rbd")
	must(t, err)
	pool := r.pool("ceph", "ceph", map[string]string{"monitors": ceph.Monitor(), "pool": "rbd", "user": "pools", "fsid": ceph.FSID}, map[string][]byte{"key": []byte(key)}).GetMeta().GetId()
	first, err := r.create("first", pool)
	must(t, err)
	r.ready(first, time.Minute)
	for i := range n {
		before := r.baseline(i)
		over := make(chan struct{})
		var silent, told, well time.Duration
		var stuck string
		var watch sync.WaitGroup
		watch.Go(func() { silent = r.beats(over) })
		during := r.during("local", fmt.Sprintf("during-%d", i), 100, func() {
			defer close(over)
			begin := time.Now()
			must(t, ceph.KillMonitor())
			var err error
			stuck, err = r.create(fmt.Sprintf("stuck-%d", i), pool)
			must(t, err)
			st := r.health(pool, toldWithin*time.Duration(slack), storagev1.PoolHealth_POOL_HEALTH_UNHEALTHY, 1)
			told = time.Since(begin)
			if !strings.HasPrefix(st[0].GetReason(), "BACKEND_") || st[0].GetMessage() == "" {
				t.Errorf("it says %v", st[0])
			}
			must(t, ceph.StartMonitor(t.Context()))
			begin = time.Now()
			r.health(pool, 2*toldWithin*time.Duration(slack), storagev1.PoolHealth_POOL_HEALTH_HEALTHY, 1)
			well = time.Since(begin)
		})
		watch.Wait()
		unharmed(t, "a monitor killed", before, during, silent, slack)
		fmt.Printf("evidence: a monitor killed: told after, well again after | %s, %s\n", told.Round(time.Second/10), well.Round(time.Second/10))
		r.ready(stuck, 2*time.Minute)
		r.delete(stuck, time.Minute)
	}
	r.delete(first, time.Minute)
	out, err := ceph.RBD(t.Context(), "ls", "--pool", "rbd")
	must(t, err)
	if strings.TrimSpace(out) != "" {
		t.Errorf("left in the cluster:\n%s", out)
	}
}
