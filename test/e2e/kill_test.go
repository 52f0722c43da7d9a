package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/stack"
)

// killsInTest is how often each process is killed in make test; make soak SUITE=kills does it 50 times.
const killsInTest = 10

func countOf(t *testing.T, usual int) int {
	t.Helper()
	text := os.Getenv(stack.CountEnv)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a count", stack.CountEnv, text)
	}
	return n
}

// Agent, plugin, controller and libvirtd are killed again and again: every guest keeps its process, what was acknowledged holds, and a foreign domain
// on the same libvirtd stays as it was. Afterwards deletion leaves nothing.
func TestGuestsOutliveEverything(t *testing.T) {
	s := start(t)
	if err := s.AwaitNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := importGuest(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	foreign := defineForeign(t, s)
	before := hostState(t, s)
	var ids []string
	for _, name := range []string{"a", "b"} {
		lq(t, s, small(name, "")...)
		ids = append(ids, field(t, s, name, "id"))
	}
	first := running(t, s)
	if len(first) != 2 {
		t.Fatalf("%d guests run", len(first))
	}
	for _, victim := range []struct {
		name string
		kill func() error
	}{
		{"agent", func() error {
			if err := s.Kill("agent"); err != nil {
				return err
			}
			return s.StartAgent(t.Context())
		}},
		{"agent, restarted in good order", func() error {
			if err := s.Terminate("agent"); err != nil {
				return err
			}
			return s.StartAgent(t.Context())
		}},
		{"plugin", func() error {
			awaitPlugin(t, s)
			pid, err := s.Plugin("kvm")
			if err != nil {
				return err
			}
			return syscall.Kill(pid, syscall.SIGKILL)
		}},
		{"controller", func() error {
			if err := s.Kill("controller"); err != nil {
				return err
			}
			return s.StartController(t.Context())
		}},
		{"libvirtd", func() error {
			if err := s.Node.KillLibvirtd(); err != nil {
				return err
			}
			return s.Node.StartLibvirtd(t.Context())
		}},
	} {
		for i := range countOf(t, killsInTest) {
			if victim.name == "plugin" && i%4 == 3 { // five crashes in ten minutes mean quarantine, on purpose: a new agent counts anew
				if err := s.Kill("agent"); err != nil {
					t.Fatal(err)
				}
				if err := s.StartAgent(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := victim.kill(); err != nil {
				t.Fatalf("%s, %d: %v", victim.name, i, err)
			}
			if victim.name == "plugin" {
				awaitPlugin(t, s)
			}
			now := running(t, s)
			for _, id := range ids {
				if now[id].PID != first[id].PID || now[id].StartTime != first[id].StartTime {
					t.Fatalf("%s killed, %d: guest %s is %v, was %v", victim.name, i, id, now[id], first[id])
				}
			}
			label := fmt.Sprintf("round=%s-%d", strings.Fields(strings.ReplaceAll(victim.name, ",", ""))[0], i)
			acknowledged(t, s, label)
		}
		if err := s.AwaitNode(t.Context()); err != nil {
			t.Fatalf("after %s: %v", victim.name, err)
		}
	}
	for _, name := range []string{"a", "b"} {
		phase(t, s, name, "VM_PHASE_RUNNING")
		lq(t, s, "vm", "delete", name)
	}
	if after := hostState(t, s); after != before {
		t.Errorf("left behind; before:\n%s\nafter:\n%s", before, after)
	}
	if now, err := s.Node.Virsh(t.Context(), "dumpxml", "precious"); err != nil || string(now) != foreign {
		t.Errorf("the foreign domain changed: %v\n%s", err, now)
	}
}

// acknowledged makes a change and reads it back.
func acknowledged(t *testing.T, s *stack.Stack, label string) {
	t.Helper()
	if out, err := s.LQCtl(t.Context(), "vm", "set", "a", "--label", label, "--no-wait"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out := lq(t, s, "vm", "show", "a", "-o", "yaml"); !strings.Contains(out, strings.SplitN(label, "=", 2)[1]) {
		t.Fatalf("an acknowledged change is gone: %s", label)
	}
}

func awaitPlugin(t *testing.T, s *stack.Stack) {
	t.Helper()
	err := stack.Until(t.Context(), 2*time.Minute, "plugin kvm runs", func() (bool, string) {
		_, err := s.Plugin("kvm")
		return err == nil, fmt.Sprint(err)
	})
	if err != nil {
		t.Fatal(err)
	}
}
