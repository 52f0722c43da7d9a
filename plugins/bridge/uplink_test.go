package bridge_test

import (
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// A bridge with an uplink: guests and the outside reach each other under the guests' rules, and DHCP, which is the node's, stays on the node.
func TestUplink(t *testing.T) {
	l := launchWith(t, `{"runtime_directory":"/run/limiquantix/bridge","uplinks":["up0","up1"]}`)
	out := newSpace(t, "out")
	wire := func() {
		run(t, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "address", "02:00:00:00:00:99", "netns", string(out))
		out.run(t, "ip", "addr", "add", "10.6.0.9/24", "dev", "eth0")
		out.run(t, "ip", "link", "set", "eth0", "up")
	}
	wire()
	t.Cleanup(func() { runQuiet("ip", "link", "del", "up0") })
	spec := &driverv1.NetworkSpec{
		Type: driverv1.NetworkType_NETWORK_TYPE_BRIDGE, Uplink: "up0", Subnets: []*driverv1.SubnetSpec{{Cidr: "10.6.0.0/24", Dhcp: true}},
	}
	t.Run("packets", func(t *testing.T) {
		t.Cleanup(func() { l.collect(t) })
		icmp := newID()
		l.apply(t, icmp, 1, ingress(1, 0), ingress(17, 4242))
		n := l.network(t, spec)
		other := &driverv1.EnsureNetworkRequest{NetworkId: newID(), Spec: spec}
		other.Mark = mark(other.GetNetworkId())
		if _, err := l.EnsureNetwork(t.Context(), other); !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
			t.Error("a second network on the same uplink:", err)
		}
		a := n.attach(t, "02:00:00:00:00:0a", []string{"10.6.0.10"}, icmp).plug(t)
		b := n.attach(t, "02:00:00:00:00:0b", []string{"10.6.0.11"}).plug(t)
		a.wantPing(t, "10.6.0.9", true)
		b.wantPing(t, "10.6.0.9", true)
		out.wantPing(t, "10.6.0.10", true)
		out.wantPing(t, "10.6.0.11", false)
		const me, outside, all0 = "02:00:00:00:00:0a", "02:00:00:00:00:99", "ff:ff:ff:ff:ff:ff"
		offer := append([]byte{2, 1, 6, 0}, make([]byte, 60)...)
		discover := append([]byte{1, 1, 6, 0}, make([]byte, 60)...)
		exchange := func() (atGuest, atOutside string) {
			guest, wire := capture(t, "eth0", "", a.space), capture(t, "eth0", "", out)
			a.send(t, frame(all0, me, 0x0800, ipv4("0.0.0.0", "255.255.255.255", 17, udp(68, 67, discover))),
				frame(outside, me, 0x0800, ipv4("10.6.0.10", "10.6.0.9", 17, udp(4243, 1, nil))))
			out.send(t, frame(me, outside, 0x0800, ipv4("10.6.0.9", "10.6.0.10", 17, udp(67, 68, offer))),
				frame(me, outside, 0x0800, ipv4("10.6.0.9", "10.6.0.10", 17, udp(4244, 4242, nil))))
			for range 5 {
				a.wantPing(t, "10.6.0.9", true)
			}
			return guest(), wire()
		}
		const asked, offered, sent, came = "0.0.0.0.68 > 255.255.255.255.67", "10.6.0.9.67 > 10.6.0.10.68", "10.6.0.10.4243 >", "10.6.0.9.4244 >"
		guest, seen := exchange()
		if !strings.Contains(guest, came) || strings.Contains(guest, offered) || !strings.Contains(seen, sent) || strings.Contains(seen, asked) {
			t.Errorf("DHCP leaves or enters, or what is allowed does not:\n%s\n%s", guest, seen)
		}
		l.apply(t, icmp, 2, ingress(1, 0), ingress(17, 4242), ingress(17, 68))
		n.spec.Subnets[0].Dhcp = false
		n.ensure(t)
		if guest, seen = exchange(); !strings.Contains(guest, offered) || !strings.Contains(seen, asked) {
			t.Errorf("without DHCP of the node, that of the outside is not reached:\n%s\n%s", guest, seen)
		}
		// The kernel tells us nothing of a device that is not ours: it is looked for.
		run(t, "ip", "link", "del", "up0")
		a.wantPing(t, "10.6.0.9", false)
		wire()
		a.wantPing(t, "10.6.0.9", true)
	})
	if state := run(t, "ip", "-o", "link", "show", "up0"); strings.Contains(state, "master") {
		t.Error("the uplink is not given back:", state)
	}
}
