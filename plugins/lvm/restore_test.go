package lvm_test

import (
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// A restore cut short by SIGKILL at many moments: the volume is always there, whole, old or restored, and the same call ends it.
func TestRestoreKilled(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]string{"thin": makeThin, "linear": makeVG} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, prepare, 200)
			params := map[string]string{"vg": "lab", "devices": r.Disk(0)}
			if name == "thin" {
				params["thin_pool"] = "tp"
			}
			c := r.launch(t, id(), params)
			v := c.create(t, 8*mib, nil)
			r.write(t, c.attach(t, v), "OLD")
			must(t, "detach", c.detachErr(v))
			s := c.snapshot(t, v)
			for after := 300 * time.Millisecond; after < 3*time.Second; after += 700 * time.Millisecond {
				r.write(t, c.attach(t, v), "NEW")
				must(t, "detach", c.detachErr(v))
				done := make(chan error, 1)
				go func() { done <- c.restore(s, v) }()
				<-time.After(after) // the moment of the kill
				c = r.kill(t, c)
				<-done
				l, err := c.ListVolumes(c.ctx, &driverv1.ListVolumesRequest{PoolId: c.pool})
				if err != nil || len(l.GetVolumes()) != 1 || l.GetVolumes()[0].GetVolumeId() != v {
					t.Fatalf("after %s: %v %v", after, l, err)
				}
				must(t, "restore, issued again", c.restore(s, v))
				c.holds(t, v, "OLD")
			}
			c.deleteSnapshot(t, s)
			c.delete(t, v)
			if left := r.sh(t, "lvs --noheadings -o lv_name lab 2>/dev/null | grep lq_ || true"); left != "" {
				t.Errorf("left behind: %s", left)
			}
		})
	}
}
