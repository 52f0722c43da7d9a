package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/stack"
)

// killsInTest is how often each process is killed in make test; make soak SUITE=kills does it more often.
const killsInTest = 10

// crashesUntilRenewal keeps a plugin below the five crashes in ten minutes that mean quarantine, on purpose: a new agent counts anew.
const crashesUntilRenewal = 3

func countOf(t *testing.T, usual int) int {
	t.Helper()
	return int(number(t, stack.CountEnv, int64(usual)))
}

func number(t *testing.T, env string, usual int64) int64 {
	t.Helper()
	text := os.Getenv(env)
	if text == "" {
		return usual
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a number", env, text)
	}
	return n
}

// Agent, plugin, controller and libvirtd are killed again and again, and restarted in good order, in an order drawn from a seed: every guest keeps its
// process, every call that was acknowledged before a kill holds after it, and a foreign domain on the same libvirtd stays as it was. Afterwards
// deletion leaves nothing.
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
	k := &killer{s: s}
	var ids []string
	for _, name := range []string{"a", "b"} {
		lq(t, s, small(name, "")...)
		ids = append(ids, field(t, s, name, "id"))
	}
	first := running(t, s)
	if len(first) != 2 {
		t.Fatalf("%d guests run", len(first))
	}
	for round, victim := range k.order(t) {
		acknowledged := acknowledge(t, s, round)
		if err := k.kill(t, victim); err != nil {
			t.Fatalf("round %d, %s: %v", round, victim, err)
		}
		if round%3 == 0 { // else the next blow falls while this one is being got over
			if err := k.awaitNode(t); err != nil {
				t.Fatalf("round %d, after %s: %v", round, victim, err)
			}
		}
		acknowledged.mustHold(t, s, victim)
		now := running(t, s)
		for _, id := range ids {
			if now[id].PID != first[id].PID || now[id].StartTime != first[id].StartTime {
				t.Fatalf("round %d, %s: guest %s is %v, was %v", round, victim, id, now[id], first[id])
			}
		}
	}
	if err := k.awaitNode(t); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		phase(t, s, name, "VM_PHASE_RUNNING")
		lq(t, s, "vm", "delete", name)
	}
	if left := strings.TrimSpace(lq(t, s, "vm", "list", "-o", "name")); left != "" {
		lq(t, s, append([]string{"vm", "delete"}, strings.Fields(strings.ReplaceAll(left, "vm/", ""))...)...)
	}
	if after := hostState(t, s); after != before {
		t.Errorf("left behind; before:\n%s\nafter:\n%s", before, after)
	}
	if now, err := s.Node.Virsh(t.Context(), "dumpxml", "precious"); err != nil || string(now) != foreign {
		t.Errorf("the foreign domain changed: %v\n%s", err, now)
	}
}

// killer kills and restarts what a stack is made of.
type killer struct {
	s       *stack.Stack
	crashes int // of the plugin, since the agent started
}

// order is every victim as often as the suite counts, mixed.
func (k *killer) order(t *testing.T) []string {
	t.Helper()
	seed := number(t, stack.SeedEnv, time.Now().UnixNano())
	t.Logf("seed %d: run again with %s=%d", seed, stack.SeedEnv, seed)
	var out []string
	for range countOf(t, killsInTest) {
		out = append(out, "kill agent", "restart agent", "kill plugin", "kill controller", "kill libvirtd")
	}
	r := rand.New(rand.NewPCG(uint64(seed), 0)) //nolint:gosec // a seed that can be given
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// awaitNode waits until the node is ready. A libvirtd that ended by itself, which one does now and then that is killed again and again, is started again,
// as systemd would.
func (k *killer) awaitNode(t *testing.T) error {
	t.Helper()
	var err error
	for range 8 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err = k.s.AwaitNode(ctx)
		cancel()
		if err == nil {
			return nil
		}
		runs, lookErr := k.s.Node.LibvirtdRuns()
		if lookErr != nil {
			return errors.Join(err, lookErr)
		}
		if !runs {
			t.Log("libvirtd ended by itself")
			if err := k.s.Node.StartLibvirtd(t.Context()); err != nil {
				return err
			}
		}
	}
	return err
}

// kill returns when the victim runs again.
func (k *killer) kill(t *testing.T, victim string) error {
	t.Helper()
	s, ctx := k.s, t.Context()
	switch victim {
	case "kill agent":
		k.crashes = 0
		return errors.Join(s.Kill("agent"), s.StartAgent(ctx))
	case "restart agent":
		k.crashes = 0
		return errors.Join(s.Terminate("agent"), s.StartAgent(ctx))
	case "kill controller":
		return errors.Join(s.Kill("controller"), s.StartController(ctx))
	case "kill libvirtd":
		return errors.Join(s.Node.KillLibvirtd(), s.Node.StartLibvirtd(ctx))
	}
	if k.crashes == crashesUntilRenewal {
		if err := k.kill(t, "kill agent"); err != nil {
			return err
		}
	}
	k.crashes++
	old := awaitPlugin(t, s, 0)
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		return err
	}
	awaitPlugin(t, s, old)
	return nil
}

// awaitPlugin waits until the plugin runs in another process than the old one.
func awaitPlugin(t *testing.T, s *stack.Stack, old int) (pid int) {
	t.Helper()
	err := stack.Until(t.Context(), 2*time.Minute, "plugin kvm runs", func() (bool, string) {
		var err error
		pid, err = s.Plugin("kvm")
		return err == nil && pid != old, fmt.Sprint(pid, err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// acknowledgement is what the controller said it had done just before a kill.
type acknowledgement struct{ label, made, deleted string }

// acknowledge changes a VM, makes one and deletes another, and waits for none of it to be realised.
func acknowledge(t *testing.T, s *stack.Stack, round int) acknowledgement {
	t.Helper()
	a := acknowledgement{label: fmt.Sprintf("r%d", round)}
	call := func(method string, in map[string]any) string {
		var out struct {
			VM struct{ Meta struct{ ID string } } `json:"vm"`
		}
		if err := s.Call(t.Context(), vmService+method, in, &out); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		return out.VM.Meta.ID
	}
	call("UpdateVM", map[string]any{"vm": map[string]any{"meta": map[string]any{"name": "a", "labels": map[string]string{"round": a.label}}}, "updateMask": "meta.labels"})
	create := func(name string) string {
		return call("CreateVM", map[string]any{"vm": map[string]any{
			"meta": map[string]any{"name": name},
			"spec": map[string]any{"memoryBytes": "134217728", "desiredPower": "POWER_STATE_STOPPED", "boot": map[string]any{"kernel": map[string]any{"kernelImage": "vmlinuz"}}},
		}})
	}
	if round > 0 {
		a.deleted = call("DeleteVM", map[string]any{"id": fmt.Sprintf("made-%d", round-1)})
	}
	a.made = create(fmt.Sprintf("made-%d", round))
	return a
}

// mustHold checks that all of it is still so.
func (a acknowledgement) mustHold(t *testing.T, s *stack.Stack, after string) {
	t.Helper()
	var out struct {
		VM struct {
			Meta struct{ Labels map[string]string }
		} `json:"vm"`
	}
	if err := s.Call(t.Context(), vmService+"GetVM", map[string]string{"id": "a"}, &out); err != nil || out.VM.Meta.Labels["round"] != a.label {
		t.Fatalf("after %s an acknowledged change is gone: %v, want %s, %v", after, out.VM.Meta.Labels, a.label, err)
	}
	if err := s.Call(t.Context(), vmService+"GetVM", map[string]string{"id": a.made}, nil); err != nil {
		t.Fatalf("after %s an acknowledged VM is gone: %v", after, err)
	}
	if a.deleted == "" {
		return
	}
	b, _ := json.Marshal(map[string]string{"id": a.deleted})
	status, answer, err := s.Post(t.Context(), vmService+"GetVM", b, true)
	if err != nil || status != http.StatusNotFound && !strings.Contains(string(answer), "DELETING") {
		t.Fatalf("after %s an acknowledged deletion is undone: %d %s %v", after, status, answer, err)
	}
}
