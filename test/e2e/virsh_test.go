package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/stack"
)

// What somebody does to a guest by hand is seen and put right by what is wanted of it: its power, and its run policy.
func TestChangedByHand(t *testing.T) {
	s := common(t)
	lq(t, s, small("byhand", "")...)
	t.Cleanup(func() { _, _ = s.LQCtl(context.Background(), "vm", "delete", "byhand") })
	id := vmID(t, s, "byhand")
	state := func() string {
		out, err := s.Node.Virsh(t.Context(), "domstate", id)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(out))
	}
	for _, tc := range []struct {
		what  string
		virsh [][]string
	}{
		{"paused", [][]string{{"suspend", id}}},
		{"destroyed", [][]string{{"destroy", id}}},
		{"undefined and destroyed", [][]string{{"undefine", id}, {"destroy", id}}},
	} {
		for _, args := range tc.virsh {
			if out, err := s.Node.Virsh(t.Context(), args...); err != nil {
				t.Fatalf("virsh %s: %v %s", args, err, out)
			}
		}
		err := stack.Until(t.Context(), 2*time.Minute, "the guest running again after it was "+tc.what, func() (bool, string) {
			out, _ := s.LQCtl(t.Context(), "vm", "list")
			return state() == "running" && strings.Contains(out, "running"), state() + "\n" + out
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
