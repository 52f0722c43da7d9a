package pools

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// The controller's heartbeat in these tests, and the lease that follows from it: three intervals, at most three quarters of the timeout.
const (
	beat      = 2 * time.Second
	lease     = 6 * time.Second
	heartbeat = "{interval: 2s, timeout: 8s}"
)

// entry is a line of the ledger that the plugin keeps in a pool's folder.
type entry struct {
	Time time.Time `json:"time"`
	Node string    `json:"node"`
	What string    `json:"what"`
	ID   string    `json:"id"`
}

func ledger(t *testing.T, dir, id string) (out []entry) {
	t.Helper()
	b, _ := os.ReadFile(filepath.Join(dir, ".ledger")) // nothing was done yet
	for line := range strings.Lines(string(b)) {
		var e entry
		must(t, json.Unmarshal([]byte(line), &e))
		if e.ID == id {
			out = append(out, e)
		}
	}
	return out
}

// An executor that is killed or stopped while it makes a volume in a shared pool: another one makes it, only after the lease and when nothing of the first is under way; when the first
// comes back it changes nothing, and nothing is left.
func TestExecutorLost(t *testing.T) {
	n, _ := count(t, 1)
	r := startRig(t, 2, heartbeat)
	dir := filepath.Join(r.dir, "shared")
	must(t, os.Mkdir(dir, 0o700))
	pool := r.pool("shared", "slow", map[string]string{"path": dir}, nil).GetMeta().GetId()
	for i := range n {
		for _, kill := range []bool{true, false} {
			r.loseExecutor(pool, dir, fmt.Sprintf("v-%d-%v", i, kill), kill)
		}
	}
	orphans := 0
	for _, node := range r.list() {
		orphans += len(node.GetStatus().GetOrphans())
	}
	if orphans > 0 {
		t.Errorf("%d orphans", orphans)
	}
	fmt.Printf("evidence: executors killed (kill -9) and stopped in the middle of a volume's making | %d each\n", n)
}

func (r *rig) loseExecutor(pool, dir, name string, kill bool) {
	r.t.Helper()
	slow := filepath.Join(dir, ".slow")
	must(r.t, os.WriteFile(slow, nil, 0o600))
	id, err := r.create(name, pool)
	must(r.t, err)
	r.until(time.Minute, "an executor is at it", func() (bool, string) { return len(ledger(r.t, dir, id)) == 1, fmt.Sprint(r.volume(id)) })
	first := ledger(r.t, dir, id)[0].Node
	lost := time.Now()
	if kill {
		r.nodes[first].end(syscall.SIGKILL)
	} else {
		r.nodes[first].signal(r.t, syscall.SIGSTOP)
	}
	r.until(time.Minute, "another one is at it", func() (bool, string) {
		l := ledger(r.t, dir, id)
		return l[len(l)-1].Node != first, fmt.Sprint(l)
	})
	l := ledger(r.t, dir, id)
	second := l[len(l)-1]
	if waited := second.Time.Sub(lost); waited < lease-beat {
		r.t.Errorf("the second executor began %s after the first was lost, whose lease was at least %s", waited, lease-beat)
	}
	if cancelled := slices.ContainsFunc(l, func(e entry) bool { return e.Node == first && e.What == "cancelled" && e.Time.Before(second.Time) }); cancelled == kill {
		r.t.Errorf("killed: %v; its call was cancelled in time: %v\n%v", kill, cancelled, l)
	}
	must(r.t, os.Remove(slow))
	r.ready(id, time.Minute)
	made, err := r.volume(id)
	must(r.t, err)
	if kill {
		r.nodes[first].start(r.t)
	} else {
		r.nodes[first].signal(r.t, syscall.SIGCONT)
	}
	r.health(pool, time.Minute, storagev1.PoolHealth_POOL_HEALTH_HEALTHY, 2)
	r.until(time.Minute, "every node is ready", func() (bool, string) {
		for _, n := range r.list() {
			if n.GetStatus().GetPhase().String() != "NODE_PHASE_READY" {
				return false, fmt.Sprint(n.GetStatus())
			}
		}
		return true, ""
	})
	now, err := r.volume(id)
	must(r.t, err)
	if now.GetStatus().GetPhase() != storagev1.VolumePhase_VOLUME_PHASE_READY || now.GetStatus().GetReason() != "" || now.GetMeta().GetGeneration() != made.GetMeta().GetGeneration() {
		r.t.Errorf("a late word changed it:\n%v\n%v", made, now)
	}
	times := 0
	for _, e := range ledger(r.t, dir, id) {
		if e.What == "made" {
			times++
		}
	}
	if times != 1 {
		r.t.Errorf("it was made %d times: %v", times, ledger(r.t, dir, id))
	}
	r.delete(id, time.Minute)
	if err := empty(dir); err != nil {
		r.t.Error(err)
	}
}
