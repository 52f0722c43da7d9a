package filter

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// A tool has its whole script before it begins, however long it is, and says why it failed.
func TestRun(t *testing.T) {
	var k Kernel
	long := strings.Repeat("add rule bridge limiquantix c drop\n", 10000)
	if out, err := k.Run(t.Context(), long, "sh", "-c", "test -f /proc/self/fd/0 && cat"); err != nil || out != long {
		t.Errorf("%v, %d bytes, want %d of a file: %.100s", err, len(out), len(long), out)
	}
	if out, err := k.Run(t.Context(), "", "cat"); err != nil || out != "" {
		t.Errorf("%v, %q", err, out)
	}
	_, err := k.Run(t.Context(), "nonsense\n", "sh", "-c", "cat >&2; exit 3")
	if !fault.Is(err, metav1.Reason_REASON_BACKEND_FAILED) || !strings.Contains(err.Error(), "nonsense") {
		t.Error(err)
	}
}

// Of many processes none that has just run is forgotten, and none is known for long: its number may be another's by then.
func TestOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k Kernel
		for pid := range 5000 {
			k.runs(pid)
		}
		if !k.Own(0) || !k.Own(4999) || k.Own(5000) {
			t.Error("who ran is not known, or who did not is")
		}
		time.Sleep(ownFor)
		if k.Own(4999) {
			t.Error("known for ever")
		}
		k.runs(7)
		if len(k.pids) != 1 || !k.Own(7) {
			t.Error(len(k.pids), "are remembered")
		}
	})
}
