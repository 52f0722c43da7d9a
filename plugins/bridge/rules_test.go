package bridge_test

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/filter"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// What no rule allows does not pass, what one allows does, answers do, and a rule that is removed cuts what it had allowed.
func TestTwoLayers(t *testing.T) {
	l := launch(t)
	t.Cleanup(func() { l.collect(t) })
	set := newID()
	l.apply(t, set, 1)
	n := l.network(t, &driverv1.NetworkSpec{
		Type:    driverv1.NetworkType_NETWORK_TYPE_BRIDGE,
		Subnets: []*driverv1.SubnetSpec{{Cidr: "10.0.0.0/24"}, {Cidr: "fd00:a::/64"}},
	})
	a := n.attach(t, "02:00:00:00:00:0a", []string{"10.0.0.10", "fd00:a::10"}, set).plug(t)
	b := n.attach(t, "02:00:00:00:00:0b", []string{"10.0.0.11", "fd00:a::11"}).plug(t)
	b.wantPing(t, "10.0.0.10", false)
	b.wantPing(t, "fd00:a::10", false)
	if s := a.stats(t); s.GetIngressDeniedPackets() < 2 || s.GetSpoofedPackets() != 0 {
		t.Error(s)
	}
	l.apply(t, set, 2, ingress(1, 0), ingress(58, 0))
	b.wantPing(t, "10.0.0.10", true)
	b.wantPing(t, "fd00:a::10", true)
	a.wantPing(t, "10.0.0.11", false)
	debug(t)
	l.apply(t, set, 3)
	b.wantPing(t, "10.0.0.10", false)
	b.wantPing(t, "fd00:a::10", false)
	r, err := l.CheckNetwork(t.Context(), &driverv1.CheckNetworkRequest{})
	if err != nil || len(r.GetDrifts()) > 0 {
		t.Error(r, err)
	}
}

// When the kernel refuses one part of a change, the other parts are taken back.
func TestTakenBack(t *testing.T) {
	var k filter.Kernel
	ctx := t.Context()
	n := &filter.Network{Key: "aaaaaaaaaa", Bridge: "lqbaaaaaaaaaa", Number: 1, Zone: 5, MAC: "02:00:00:00:00:01", Subnets: []filter.Subnet{{CIDR: netip.MustParsePrefix("10.0.0.0/24")}}}
	p := &filter.Port{Key: "bbbbbbbbbb", Tap: "lqtbbbbbbbbbb", MAC: "02:00:00:00:00:05", Network: n, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")}}
	q := &filter.Port{Key: "cccccccccc", Tap: "lqtcccccccccc", MAC: "02:00:00:00:00:06", Network: n, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.6")}}
	render := func(ports ...*filter.Port) *filter.Rendered {
		return (&filter.Model{Networks: []*filter.Network{n}, Ports: ports}).Render()
	}
	nothing, old, next := (&filter.Model{}).Render(), render(p), render(p, q)
	is := func(want *filter.Rendered) {
		t.Helper()
		have, err := k.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d := filter.Differences(have, want); len(d) > 0 {
			t.Error(d)
		}
	}
	if err := k.Apply(ctx, nothing, old); err != nil {
		t.Fatal(err)
	}
	is(old)
	// What is there is said to be more than it is, so that a part fails when it takes that away.
	lie := func(tables filter.Tables) filter.Tables {
		other := maps.Clone(tables)
		other["mangle"] = maps.Clone(tables["mangle"])
		other["mangle"]["LQN-aaaaaaaaaa"] = append([]string{"-m physdev --physdev-in lqtnobody -g LQ-NO"}, tables["mangle"]["LQN-aaaaaaaaaa"]...)
		return other
	}
	frames := *old.Frames
	frames.Chains = maps.Clone(frames.Chains)
	frames.Chains["guard-nobody"] = []string{"drop"}
	for part, have := range map[string]*filter.Rendered{
		"frames": {V4: old.V4, V6: old.V6, Frames: &frames},
		"IPv4":   {V4: lie(old.V4), V6: old.V6, Frames: old.Frames},
		"IPv6":   {V4: old.V4, V6: lie(old.V6), Frames: old.Frames},
	} {
		if err := k.Apply(ctx, have, next); err == nil {
			t.Error(part, "is not refused")
		}
		is(old)
	}
	for _, step := range []*filter.Rendered{next, render(q), nothing} { // ports come and go by difference
		if err := k.Apply(ctx, old, step); err != nil {
			t.Fatal(err)
		}
		is(step)
		old = step
	}
}
