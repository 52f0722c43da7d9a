package bridge_test

import (
	"os"
	"strings"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Where frames on bridges pass iptables by, every interface is shut, and says so; it opens by itself when that is over.
func TestFilterInactive(t *testing.T) {
	l := launch(t)
	t.Cleanup(func() { l.collect(t) })
	all := newID()
	l.apply(t, all, 1, &driverv1.Rule{Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS})
	n := l.network(t, &driverv1.NetworkSpec{Type: driverv1.NetworkType_NETWORK_TYPE_BRIDGE, Subnets: []*driverv1.SubnetSpec{{Cidr: "10.0.0.0/24"}}})
	a := n.attach(t, "02:00:00:00:00:0a", []string{"10.0.0.10"}, all).plug(t)
	b := n.attach(t, "02:00:00:00:00:0b", []string{"10.0.0.11"}, all).plug(t)
	a.wantPing(t, "10.0.0.11", true)
	const setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	set := func(v string) {
		if err := os.WriteFile(setting, []byte(v), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { set("1") })
	set("0")
	a.wantPing(t, "10.0.0.11", false) // at once: the second layer misses the first one's marks
	state := func(g *guest) (driverv1.InterfaceState, string) {
		r, err := l.ListInterfaces(t.Context(), &driverv1.ListInterfacesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range r.GetInterfaces() {
			if i.GetInterfaceId() == g.id {
				return i.GetState(), i.GetReason()
			}
		}
		return 0, ""
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for began := time.Now(); !ok(); {
			if time.Since(began) > 20*time.Second {
				t.Fatal(what)
			}
		}
	}
	until("the interface does not say that it is blocked", func() bool {
		s, reason := state(a)
		return s == driverv1.InterfaceState_INTERFACE_STATE_BLOCKED && reason == "BRIDGE_FILTER_INACTIVE"
	})
	until("no frame is to pass", func() bool {
		return strings.Contains(run(t, "nft", "list", "set", "bridge", "limiquantix", "blocked"), a.tap())
	})
	c := n.attach(t, "02:00:00:00:00:0c", []string{"10.0.0.12"}, all)
	if i := c.update(t); i.GetState() != driverv1.InterfaceState_INTERFACE_STATE_BLOCKED {
		t.Error(i)
	}
	set("1")
	until("the interface is not healed", func() bool { s, _ := state(b); return s == driverv1.InterfaceState_INTERFACE_STATE_UP })
	a.wantPing(t, "10.0.0.11", true)
}
