package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/stack"
)

// A full disk under the controller, then under the agent: what would be lost is refused with the reason, reads are served, guests run on, and with room
// again all goes on, without a restart; nothing that was acknowledged is lost.
func TestDiskFull(t *testing.T) {
	s := start(t, func(o *stack.Options) {
		o.Small = map[string]stack.Small{"controller": {Dir: "controller/etcd", MiB: 600}, "agent": {Dir: "agent", MiB: 32}}
	})
	if err := s.AwaitNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := importGuest(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	lq(t, s, small("before", "")...)
	guest := guestPID(t, s, "before")
	controller, agent := s.PID("controller"), s.PID("agent")

	t.Run("controller", func(t *testing.T) {
		room := fill(t, s.Inside("controller", "controller/etcd"))
		_, err := s.LQCtl(t.Context(), small("refused", "")...)
		if err == nil || !strings.Contains(err.Error(), "MiB free") {
			t.Fatalf("a create on a full disk: %v", err)
		}
		if out := lq(t, s, "vm", "list"); !strings.Contains(out, "before") || strings.Contains(out, "refused") {
			t.Fatalf("reads on a full disk:\n%s", out)
		}
		r, err := http.Get(s.Server + "/ready") //nolint:noctx,gosec // ours
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "MiB free") {
			t.Fatalf("/ready: %s %s", r.Status, body)
		}
		// A leader's lease ends and begins meanwhile, if it does.
		until(t, 12*time.Second, "the disk has been full for a while", elapsed(11*time.Second))
		room()
		until(t, time.Minute, "writes are taken again", func() (bool, string) {
			_, err := s.LQCtl(t.Context(), small("after", "")...)
			return err == nil, fmt.Sprint(err)
		})
	})

	t.Run("agent", func(t *testing.T) {
		room := fill(t, s.Inside("agent", "agent"))
		want := [][]byte{}
		for i := range 6 { // more than the free pages of the file hold
			name := fmt.Sprintf("many-%d", i)
			lq(t, s, small(name, strings.Repeat("x", 1500), "--stopped", "--release-claim-when-stopped")...)
			want = append(want, []byte(name))
		}
		if out, err := os.ReadFile(filepath.Join(s.Dir, "agent.log")); err != nil || !strings.Contains(string(out), "no space left") {
			t.Fatalf("the agent says nothing of its full disk: %v", err)
		}
		room()
		until(t, time.Minute, "the state file holds all", func() (bool, string) {
			file, err := os.ReadFile(s.Inside("agent", "agent/realised.db"))
			if err != nil {
				return false, err.Error()
			}
			for _, w := range want {
				if !bytes.Contains(file, w) {
					return false, string(w) + " is not in it"
				}
			}
			return true, ""
		})
	})

	if got := guestPID(t, s, "before"); got != guest {
		t.Errorf("the guest's process was %d, is %d", guest, got)
	}
	for name, pid := range map[string]int{"controller": controller, "agent": agent} {
		if s.PID(name) != pid || syscall.Kill(pid, 0) != nil {
			t.Errorf("%s was restarted", name)
		}
	}
	lq(t, s, "vm", "delete", "before", "after", "many-0")
}

// fill takes all the room there is; the returned function gives it back.
func fill(t *testing.T, dir string) (room func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path) //nolint:gosec // below the test's folder
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	size := int64(0)
	for step := int64(64 << 20); step >= 4096; {
		switch err := syscall.Fallocate(int(f.Fd()), 0, size, step); {
		case err == nil:
			size += step
		case errors.Is(err, syscall.ENOSPC):
			step /= 2
		case !errors.Is(err, syscall.EINTR):
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func until(t *testing.T, limit time.Duration, what string, check func() (bool, string)) {
	t.Helper()
	if err := stack.Until(t.Context(), limit, what, check); err != nil {
		t.Fatal(err)
	}
}

func elapsed(d time.Duration) func() (bool, string) {
	end := time.Now().Add(d)
	return func() (bool, string) { return time.Now().After(end), "not yet" }
}

func guestPID(t *testing.T, s *stack.Stack, vm string) int {
	t.Helper()
	var out struct {
		VM struct{ Status struct{ PID string } } `json:"vm"`
	}
	if err := s.Call(t.Context(), "limiquantix.compute.v1.VMService/GetVM", map[string]string{"id": vm}, &out); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(out.VM.Status.PID, &pid); err != nil || pid == 0 {
		t.Fatalf("pid %q of %s: %v", out.VM.Status.PID, vm, err)
	}
	return pid
}
