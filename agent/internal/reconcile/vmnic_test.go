package reconcile

import (
	"reflect"
	"testing"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

var (
	hotplug  = driverv1.ComputeFeature_COMPUTE_FEATURE_INTERFACE_HOTPLUG
	linkable = driverv1.ComputeFeature_COMPUTE_FEATURE_LINK_STATE
)

func TestNicsToChange(t *testing.T) {
	t.Parallel()
	all := []driverv1.ComputeFeature{hotplug, linkable}
	off := runsWith()
	off.State = driverv1.DomainState_DOMAIN_STATE_STOPPED
	for name, c := range map[string]struct {
		view nicView
		want nicChange
		next action
	}{
		"as wanted": {nicView{Domain: runsWith("a"), Defined: true, Wanted: map[string]bool{"a": true}, Had: []string{"a"}, Features: all}, nicChange{}, actNone},
		"one more, one less": {
			nicView{Domain: runsWith("a", "x"), Defined: true, Wanted: map[string]bool{"a": true, "b": true}, Had: []string{"a", "b", "x"}, Features: all},
			nicChange{unplug: []string{"x"}, plug: []string{"b"}},
			actUnplug,
		},
		"what is no port of ours stays": {nicView{Domain: runsWith("user"), Defined: true, Features: all}, nicChange{}, actNone},
		"old definition":                {nicView{Domain: runsWith("x"), Wanted: map[string]bool{"a": true}, Had: []string{"x"}, Features: all}, nicChange{}, actNone},
		"off":                           {nicView{Domain: off, Defined: true, Wanted: map[string]bool{"a": true}, Features: all}, nicChange{}, actNone},
		"a driver that cannot":          {nicView{Domain: runsWith("x"), Defined: true, Wanted: map[string]bool{"a": true}, Had: []string{"x"}}, nicChange{}, actNone},
		"one that is not in place": {
			nicView{Domain: runsWith("b"), Defined: true, Wanted: map[string]bool{}, Awaited: []string{"a", "b"}, Had: []string{"a", "b"}, Features: all},
			nicChange{awaited: []string{"a"}},
			actNone,
		},
		"link down":                  {nicView{Domain: runsWith("a"), Defined: true, Wanted: map[string]bool{"a": false}, Features: all}, nicChange{link: map[string]bool{"a": false}}, actLink},
		"a driver that sets no link": {nicView{Domain: runsWith("a"), Defined: true, Wanted: map[string]bool{"a": false}, Features: all[:1]}, nicChange{}, actNone},
	} {
		got := nicsToChange(c.view)
		if !reflect.DeepEqual(got, c.want) || !got.none() && got.next() != c.next || got.none() != (c.next == actNone) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// What a driver confirmed and does not show is not asked for again; the reverse is.
func TestConfirmedNics(t *testing.T) {
	t.Parallel()
	c := nicChange{unplug: []string{"x"}, plug: []string{"a", "b"}, link: map[string]bool{"l": true, "m": false}}
	got := c.without(map[string]bool{pluggedIn + "a": true, unplugged + "b": true, linkUp + "l": true, linkUp + "m": true})
	if want := (nicChange{unplug: []string{"x"}, plug: []string{"b"}, link: map[string]bool{"m": false}}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got := (nicChange{plug: []string{"a"}}).without(map[string]bool{pluggedIn + "a": true}); !got.none() {
		t.Errorf("%+v", got)
	}
}

func TestLetGo(t *testing.T) {
	t.Parallel()
	waits := runsWith("b")
	waits.RestartRequired = true
	off := runsWith("a")
	off.State = driverv1.DomainState_DOMAIN_STATE_CRASHED
	for name, c := range map[string]struct {
		domain   *driverv1.Domain
		features []driverv1.ComputeFeature
		want     bool
	}{
		"no domain":                          {nil, nil, true},
		"off":                                {off, nil, true},
		"plugged in":                         {runsWith("a"), []driverv1.ComputeFeature{hotplug}, false},
		"out":                                {runsWith("b"), []driverv1.ComputeFeature{hotplug}, true},
		"out, and waits for something else":  {waits, []driverv1.ComputeFeature{hotplug}, true},
		"nobody can tell before it restarts": {waits, nil, false},
		"nothing waits":                      {runsWith(), nil, true},
	} {
		if got := letGo(c.domain, "a", c.features); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What a VM's ports wait for keeps it from being defined and from being started, and from nothing else.
func TestPortsWait(t *testing.T) {
	t.Parallel()
	wait := func(v *vmView) { v.Ports = volumesWait{Message: "NIC waits", Reason: "WHY"} }
	v := steady()
	wait(&v)
	if d := nextStep(v); d.Do != actNone || !d.Realised {
		t.Errorf("a guest that runs: %+v", d)
	}
	v.Record.InputHash = "old"
	if d := nextStep(v); d.Do != actWait || d.Phase != computev1.VMPhase_VM_PHASE_RUNNING || d.Reason != "WHY" || d.Step != "port" {
		t.Errorf("a guest that runs and is wanted otherwise: %+v", d)
	}
	v = steady()
	wait(&v)
	v.Domain = nil
	if d := nextStep(v); d.Do != actWait || d.Phase != computev1.VMPhase_VM_PHASE_PROVISIONING || d.Message != "NIC waits" {
		t.Errorf("a VM that was never made: %+v", d)
	}
	v = steady()
	wait(&v)
	off(driverv1.StopReason_STOP_REASON_HOST)(&v)
	if d := nextStep(v); d.Do != actWait || d.After != never {
		t.Errorf("a VM that is off: %+v", d)
	}
	wants(computev1.PowerState_POWER_STATE_STOPPED)(&v)
	if d := nextStep(v); d.Do == actWait {
		t.Errorf("a VM that shall be off: %+v", d)
	}
	v = steady()
	v.Nics = nicChange{plug: []string{"a"}}
	if d := nextStep(v); d.Do != actPlug || d.Realised {
		t.Errorf("a NIC to be plugged in: %+v", d)
	}
	v.Nics = nicChange{awaited: []string{"a"}}
	wait(&v)
	if d := nextStep(v); d.Do != actWait || d.Realised || d.Phase != computev1.VMPhase_VM_PHASE_RUNNING {
		t.Errorf("a NIC whose port is not in place: %+v", d)
	}
	is(driverv1.DomainState_DOMAIN_STATE_PAUSED)(&v)
	wants(computev1.PowerState_POWER_STATE_PAUSED)(&v)
	if d := nextStep(v); d.Do != actNone {
		t.Errorf("a guest that is paused hears of no NIC: %+v", d)
	}
}
