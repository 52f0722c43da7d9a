package network

import "testing"

// Guests on two nodes are in Open vSwitch networks with VLAN tags on one wire: those with one tag reach each other as their groups allow, over the nodes; those with
// another tag do not, though they are on the same wire and switch. Nothing is left.
func TestOpenVSwitch(t *testing.T) {
	f := start(t, []string{"ovs"}, "n1", "n2")
	var before []string
	for _, h := range f.Hosts {
		before = append(before, footprint(t, h))
	}
	lq(t, f, "network", "create", "ten", "--type", "ovs", "--vlan", "10", "--uplink", "physnet1", "--subnet", "10.60.0.0/24", "--no-dhcp")
	lq(t, f, "network", "create", "twenty", "--type", "ovs", "--vlan", "20", "--uplink", "physnet1", "--subnet", "10.61.0.0/24", "--no-dhcp")
	lq(t, f, "sg", "create", "web", "--rule", "in=icmp", "--rule", "in=tcp:80")
	tagged := listenWire(t, "vlan 10 and icmp")
	a := launchAs(t, f, "a", "n1", "10.60.0.11/16", "network=ten,sg=web,ip=10.60.0.11") // so wide that it looks for everybody on the wire
	b := launchAs(t, f, "b", "n2", "10.60.0.12/16", "network=ten,sg=web,ip=10.60.0.12")
	a.ready()
	b.ready()
	b.soon(ping(a.address(0)), true)
	b.soon(fetch(a.address(0), "80"), true)
	if tagged() == 0 {
		t.Error("no frame with tag 10 was on the wire")
	}
	if _, ok := b.do(fetch(a.address(0), "7777")); ok {
		t.Error("a port that no rule allows answers")
	}
	lq(t, f, "sg", "rule", "remove", "web", "--in", "tcp:80")
	b.soon(fetch(a.address(0), "80"), false)
	b.must(ping(a.address(0)))
	checkTopology(t, f)

	lq(t, f, "vm", "delete", "b")
	c := launchAs(t, f, "c", "n2", "10.61.0.12/8", "network=twenty,sg=web,ip=10.61.0.12")
	c.ready()
	if _, ok := c.do(ping(a.address(0))); ok {
		t.Error("a guest with another tag is reached")
	}
	lq(t, f, "vm", "delete", "a", "c")
	lq(t, f, "network", "delete", "ten", "twenty")
	for i, h := range f.Hosts {
		nothingLeft(t, h, before[i])
	}
}
