package reconcile

import (
	"testing"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func reason(err error) metav1.Reason {
	if err == nil {
		return metav1.Reason_REASON_UNSPECIFIED
	}
	return fault.From(err).Reason
}

func TestHoldVolume(t *testing.T) {
	const ok = metav1.Reason_REASON_UNSPECIFIED
	for name, c := range map[string]struct {
		prepare func(*Engine)
		off     bool
		want    metav1.Reason
		user    string
		on      bool
	}{
		"of a VM that has no domain yet": {prepare: func(*Engine) {}, off: true, want: ok},
		"of a VM not looked at yet": {prepare: func(e *Engine) {
			e.store.Put(realised.Record{Kind: realised.KindVM, ID: "vm", Driver: "compute"})
		}, want: metav1.Reason_REASON_BUSY},
		"of a VM that is off":                       {prepare: func(e *Engine) { e.vmIs(shutOff) }, off: true, want: ok, user: "vm"},
		"of a VM that runs":                         {prepare: func(e *Engine) { e.vmIs(running) }, want: ok, user: "vm", on: true},
		"of a VM that runs and must not":            {prepare: func(e *Engine) { e.vmIs(running) }, off: true, want: metav1.Reason_REASON_VOLUME_IN_USE},
		"of a VM that is being started":             {prepare: func(e *Engine) { e.vmIs(shutOff).starting = true }, want: metav1.Reason_REASON_BUSY},
		"of a VM that is being started and may not": {prepare: func(e *Engine) { e.vmIs(shutOff).starting = true }, off: true, want: metav1.Reason_REASON_VOLUME_IN_USE},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := newFake(t)
			c.prepare(e)
			release, user, err := e.holdVolume("vol", c.off, volumeKey("vol"))
			if got := reason(err); got != c.want {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err != nil {
				if len(e.held) != 0 {
					t.Error("it is held all the same")
				}
				return
			}
			if (user == nil) != (c.user == "") || user != nil && (user.vm != c.user || user.on != c.on || user.driver != "compute") {
				t.Errorf("user %+v", user)
			}
			if _, _, err := e.holdVolume("vol", false, volumeKey("vol")); !fault.Is(err, metav1.Reason_REASON_BUSY) {
				t.Errorf("held twice: %v", err)
			}
			if other, _, err := e.holdVolume("another", false, volumeKey("another")); err != nil {
				t.Errorf("another volume: %v", err)
			} else {
				other()
			}
			release()
			if release, _, err = e.holdVolume("vol", c.off, volumeKey("vol")); err != nil {
				t.Errorf("after its release: %v", err)
			} else {
				release()
			}
		})
	}
}

// A VM is not started on a volume that is worked on, or whose snapshot may have left it elsewhere; nor with sources that are out of date.
func TestMayStart(t *testing.T) {
	e, _ := newFake(t)
	s := e.vmIs(shutOff)
	r := &vmRun{e: e, key: realised.Key{Kind: realised.KindVM, ID: "vm"}, s: s, d: e.wants[realised.Key{Kind: realised.KindVM, ID: "vm"}].obj.GetVm()}
	may := func(what string, want bool) {
		t.Helper()
		err := r.mayStart()
		if (err == nil) != want || err != nil && !fault.Is(err, metav1.Reason_REASON_BUSY) || s.starting != want {
			t.Errorf("%s: %v, starting %v", what, err, s.starting)
		}
		r.started()
	}
	may("at first", true)
	release, _, err := e.holdVolume("vol", true, volumeKey("vol"))
	if err != nil {
		t.Fatal(err)
	}
	may("while it is held", false)
	release()
	may("after that", true)

	w := e.snapshot(best, false)
	may("with a snapshot to be taken", false)
	e.hopeless[keyOf(w.obj.GetKey())] = w
	may("with one that cannot be", true)
	e.snapshot(best, true)
	may("with one to be removed that was never begun", true)
	e.store.Put(realised.Record{Kind: realised.KindSnapshot, ID: "snap", Begun: true})
	may("with one to be removed that was begun", false)
	e.store.Put(realised.Record{Kind: realised.KindSnapshot, ID: "snap", Begun: true, Made: true})
	may("with one to be removed that was taken", true)

	e.sourcesChanged("another")
	may("with another volume elsewhere", true)
	e.sourcesChanged("vol")
	may("with its volume elsewhere", false)
}
