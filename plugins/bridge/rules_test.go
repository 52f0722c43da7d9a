package bridge_test

import (
	"testing"

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
