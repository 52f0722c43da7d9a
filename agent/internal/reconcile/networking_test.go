package reconcile

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

func TestChooseNetworkDriver(t *testing.T) {
	t.Parallel()
	serves := func(name string, running, healthy bool, types ...driverv1.NetworkType) Plugin {
		return Plugin{Name: name, Running: running, Healthy: healthy, Capabilities: &driverv1.GetCapabilitiesResponse{Network: &driverv1.NetworkCapabilities{Types: types}}}
	}
	const bridge, ovs = driverv1.NetworkType_NETWORK_TYPE_BRIDGE, driverv1.NetworkType_NETWORK_TYPE_OVS
	a, b, c := serves("a", true, true, ovs), serves("b", true, false, bridge), serves("c", true, true, bridge)
	down, unknown := serves("a", false, false, bridge), Plugin{Name: "a"}
	for name, tc := range map[string]struct {
		plugins []Plugin
		has     string
		want    string
		reason  metav1.Reason
	}{
		"the first healthy one with the type": {[]Plugin{a, b, c}, "", "c", 0},
		"none is healthy":                     {[]Plugin{a, b}, "", "b", 0},
		"one has it":                          {[]Plugin{a, b, c}, "b", "b", 0},
		"another runs":                        {[]Plugin{down, c}, "", "c", 0},
		"none has the type":                   {[]Plugin{a}, "", "", metav1.Reason_REASON_PLUGIN_MISSING},
		"none is installed":                   {nil, "", "", metav1.Reason_REASON_PLUGIN_MISSING},
		"it does not run":                     {[]Plugin{down}, "", "", metav1.Reason_REASON_PLUGIN_UNAVAILABLE},
		"one that may have it never ran":      {[]Plugin{unknown}, "", "", metav1.Reason_REASON_PLUGIN_UNAVAILABLE},
	} {
		got, err := chooseNetworkDriver(bridge, tc.plugins, tc.has)
		if got != tc.want || reason(err) != tc.reason {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestAddressGenerations(t *testing.T) {
	t.Parallel()
	at := time.UnixMicro(1000)
	for _, c := range []struct{ known, want int64 }{{0, 1000}, {999, 1000}, {1000, 1001}, {5000, 5001}} {
		if got := nextGeneration(c.known, at); got != c.want {
			t.Errorf("after %d comes %d", c.known, got)
		}
	}
	if skipAhead(0) != 0 || skipAhead(1) != time.Hour.Microseconds() || skipAhead(3) != 4*time.Hour.Microseconds() || skipAhead(1000) <= 0 {
		t.Error("a generation that is refused is not passed over in ever larger steps")
	}
	add, remove := addressDelta([]string{"a", "b", "c"}, []string{"b", "d"})
	if !slices.Equal(add, []string{"d"}) || !slices.Equal(remove, []string{"a", "c"}) {
		t.Errorf("add %v, remove %v", add, remove)
	}
	// Applied, a difference gives what is wanted, whatever was there.
	for i := range 64 {
		var had, want []string
		for bit := range 6 {
			name := fmt.Sprint(bit)
			if i>>bit&1 == 1 {
				had = append(had, name)
			}
			if (i*37+11)>>bit&1 == 1 {
				want = append(want, name)
			}
		}
		add, remove := addressDelta(had, want)
		got := slices.DeleteFunc(append(slices.Clone(had), add...), func(a string) bool { return slices.Contains(remove, a) })
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Fatalf("%v to %v: add %v, remove %v", had, want, add, remove)
		}
	}
}

func TestPortPhase(t *testing.T) {
	t.Parallel()
	iface := func(s driverv1.InterfaceState) *driverv1.NetworkInterface {
		return &driverv1.NetworkInterface{State: s}
	}
	const up, waiting, blocked = driverv1.InterfaceState_INTERFACE_STATE_UP, driverv1.InterfaceState_INTERFACE_STATE_WAITING, driverv1.InterfaceState_INTERFACE_STATE_BLOCKED
	failed := setback{problem: "no", reason: "BACKEND_FAILED"}
	for name, c := range map[string]struct {
		state  portState
		on     bool
		absent bool
		want   networkv1.PortPhase
	}{
		"nothing yet":              {portState{}, true, false, networkv1.PortPhase_PORT_PHASE_BINDING},
		"waits for others":         {portState{setback: failed, waits: "a plugin"}, true, false, networkv1.PortPhase_PORT_PHASE_BINDING},
		"failed":                   {portState{setback: failed}, true, false, networkv1.PortPhase_PORT_PHASE_FAILED},
		"its device is awaited":    {portState{iface: iface(waiting)}, true, false, networkv1.PortPhase_PORT_PHASE_BINDING},
		"its VM is off":            {portState{iface: iface(waiting)}, false, false, networkv1.PortPhase_PORT_PHASE_IDLE},
		"up":                       {portState{iface: iface(up)}, true, false, networkv1.PortPhase_PORT_PHASE_UP},
		"a change failed":          {portState{setback: failed, iface: iface(up)}, true, false, networkv1.PortPhase_PORT_PHASE_UP},
		"shut":                     {portState{iface: iface(blocked)}, true, false, networkv1.PortPhase_PORT_PHASE_BLOCKED},
		"on its way out, still up": {portState{iface: iface(up)}, true, true, networkv1.PortPhase_PORT_PHASE_DELETING},
	} {
		v := portView{Want: &agentv1.DesiredPort{Absent: c.absent, Generation: 3}, State: c.state, Realised: 2, VMOn: c.on, Now: now}
		rep := portReport(v)
		if got := rep.GetStatus().GetPhase(); got != c.want || rep.GetObservedGeneration() != 2 || rep.GetAbsent() {
			t.Errorf("%s: %v", name, rep)
		}
		if c.state.problem != "" && rep.GetStatus().GetReason() != "BACKEND_FAILED" {
			t.Errorf("%s does not say why: %v", name, rep)
		}
	}
}

func TestObservedNow(t *testing.T) {
	t.Parallel()
	lease, neighbour := driverv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_LEASE, driverv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_NEIGHBOUR
	seen := func(ip string, s driverv1.ObservedAddressSource, after time.Duration) *driverv1.ObservedAddress {
		return &driverv1.ObservedAddress{IpAddress: ip, Source: s, ObserveTime: timestamppb.New(now.Add(after))}
	}
	was := observedNow(nil, []*driverv1.ObservedAddress{seen("b", lease, 0), seen("a", neighbour, 0), seen("a", lease, 0)})
	if len(was) != 3 || was[0].GetIpAddress() != "a" || was[0].GetSource() != lease || was[2].GetIpAddress() != "b" {
		t.Fatalf("order %v", was)
	}
	again := observedNow(was, []*driverv1.ObservedAddress{seen("a", lease, time.Minute), seen("a", neighbour, time.Minute), seen("b", lease, time.Minute)})
	if !sameAddresses(was, again) {
		t.Errorf("seen again is news: %v", again)
	}
	later := observedNow(was, []*driverv1.ObservedAddress{seen("a", lease, time.Hour)})
	if len(later) != 1 || !later[0].GetObserveTime().AsTime().Equal(now.Add(time.Hour)) {
		t.Errorf("seen long after: %v", later)
	}
}

// What a driver refuses for good is no failure that is tried again at once; what it refuses for the state of things is.
func TestRulesLost(t *testing.T) {
	e, _ := newFake(t)
	d := &agentv1.DesiredPort{PortId: "p", Spec: &driverv1.InterfaceSpec{RuleSetIds: []string{"g"}}}
	for _, c := range []struct {
		err   error
		tries int
		lost  bool
	}{
		{fault.New(metav1.Reason_REASON_BACKEND_FAILED, "no"), 1, false},
		{fault.New(metav1.Reason_REASON_WRONG_STATE, "never applied"), 1, true},
		{fault.New(metav1.Reason_REASON_WRONG_STATE, "never applied"), 3, false}, // else both would wake each other without end
		{fault.New(metav1.Reason_REASON_WRONG_STATE, "never applied"), 4, true},
	} {
		e.ruleState("g").applied["bridge"], e.ruleState("g").tried["bridge"] = told{1, "v"}, told{1, "v"}
		e.rulesLost(d, "bridge", c.err, c.tries)
		if _, there := e.ruleState("g").applied["bridge"]; there == c.lost {
			t.Errorf("after %d tries, %v: %v", c.tries, c.err, there)
		}
	}
}
