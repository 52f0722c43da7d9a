package reconcile

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
)

// counted gives an engine a queue that runs workers of snapshots, and counts everybody's runs until all is quiet.
func counted(t *testing.T, e *Engine) (quiet func() map[realised.Key]int) {
	t.Helper()
	var mu sync.Mutex
	runs := map[realised.Key]int{}
	e.queue = newQueue(func(ctx context.Context, k realised.Key) time.Duration {
		mu.Lock()
		runs[k]++
		mu.Unlock()
		if k.Kind == realised.KindSnapshot {
			return e.work(ctx, k)
		}
		return never
	})
	t.Cleanup(e.queue.close)
	return func() map[realised.Key]int {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for range 500 {
			<-tick.C
			if running, _ := e.queue.depth(); running == 0 {
				mu.Lock()
				defer mu.Unlock()
				return runs
			}
		}
		mu.Lock()
		defer mu.Unlock()
		t.Fatalf("it never comes to rest: %v", runs)
		return nil
	}
}

// Who is woken because something came about must not wake in turn whom that woke: the node would never rest again.
func TestSnapshotsComeToRest(t *testing.T) {
	snap, vm := realised.Key{Kind: realised.KindSnapshot, ID: "snap"}, realised.Key{Kind: realised.KindVM, ID: "vm"}
	for name, c := range map[string]struct {
		fail   string
		absent bool
		vm     int // how often the VM is woken, at least
	}{
		"taken":              {vm: 1},
		"fails for now":      {fail: "create"},
		"removed, not begun": {absent: true},
	} {
		t.Run(name, func(t *testing.T) {
			e, f := newFake(t)
			e.vmIs(running)
			if c.fail != "" {
				f.fail[c.fail] = errNotNow
			}
			quiet := counted(t, e)
			e.snapshot(crash, c.absent)
			e.queue.add(snap)
			runs := quiet()
			if runs[snap] > 2 || runs[vm] > 2 || runs[vm] < c.vm {
				t.Errorf("runs: %v", runs)
			}
			before := runs[snap]
			if c.fail == "" { // woken by something else, it has nothing to tell
				e.queue.add(snap)
				if runs = quiet(); runs[snap] != before+1 || runs[vm] > 2 {
					t.Errorf("runs, woken again: %v", runs)
				}
			}
		})
	}
}

// Who finds a volume held runs when it is released; nobody else does.
func TestHeldVolumeWakes(t *testing.T) {
	e, _ := newFake(t)
	e.vmIs(shutOff)
	quiet := counted(t, e)
	release, _, err := e.holdVolume("vol", true, volumeKey("vol"))
	if err != nil {
		t.Fatal(err)
	}
	vm := realised.Key{Kind: realised.KindVM, ID: "vm"}
	r := &vmRun{e: e, key: vm, s: e.vmState("vm"), d: e.wants[vm].obj.GetVm()}
	if r.mayStart() == nil {
		t.Error("a VM is started on a volume that is held")
	}
	release()
	if runs := quiet(); runs[vm] != 1 || len(runs) != 1 {
		t.Errorf("runs: %v", runs)
	}
	if release, _, err = e.holdVolume("vol", true, volumeKey("vol")); err != nil {
		t.Fatal(err)
	}
	release()
	if runs := quiet(); runs[vm] != 1 || len(runs) != 1 {
		t.Errorf("runs, nobody waited: %v", runs)
	}
}
