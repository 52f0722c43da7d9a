package network

import (
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/test/stack"
)

// Two guests on two nodes are in one VXLAN: each has its address from its own node, they reach each other by name and address with full packets, and the groups
// hold across nodes. No DHCP crosses the tunnel, and what is known of the network is what the hosts have.
func TestVXLAN(t *testing.T) {
	f := start(t, []string{"bridge"}, "n1", "n2")
	var before []string
	for _, h := range f.Hosts {
		before = append(before, footprint(t, h))
	}
	lq(t, f, "network", "create", "far", "--type", "vxlan", "--subnet", "10.50.0.0/24", "--egress", "nat")
	lq(t, f, "sg", "create", "web", "--rule", "in=icmp", "--rule", "in=tcp:80,from=sg/web")
	crossing := listen(t, "udp port 4789 and (udp[34:2] = 0x0043 or udp[34:2] = 0x0044)") // inner UDP ports 67 and 68
	a := launch(t, f, "a", "n1", "network=far,sg=web")
	b := launch(t, f, "b", "n2", "network=far,sg=web")
	a.ready()
	b.ready()
	for _, g := range []*guest{a, b} {
		if log := lq(t, f, "vm", "logs", g.name); !strings.Contains(log, "DHCP-BOUND "+g.address(0)+" ") {
			t.Errorf("%s did not lease %s:\n%s", g.name, g.address(0), log)
		}
	}
	b.soon(ping(a.address(0)), true)
	if out := b.must("nslookup a.far.internal"); !strings.Contains(out, a.address(0)) {
		t.Errorf("the name of a: %s", out)
	}
	b.soon(fetch(a.address(0), "80"), true)
	mtu := strings.TrimSpace(b.must("cat /sys/class/net/eth0/mtu"))
	if mtu != "1450" {
		t.Errorf("the guest's MTU is %s, want 1450", mtu)
	}
	b.must("ping -c 2 -W 2 -s 1400 " + a.address(0) + " >/dev/null")
	if n := crossing(); n > 0 {
		t.Errorf("%d frames of DHCP crossed the tunnel", n)
	}
	checkTopology(t, f)

	lq(t, f, "port", "set", portOf(t, f, "b"), "--sg", "default") // no member of web any more
	b.soon(fetch(a.address(0), "80"), false)
	b.must(ping(a.address(0)))

	lq(t, f, "vm", "delete", "a", "b")
	lq(t, f, "network", "delete", "far")
	for i, h := range f.Hosts {
		nothingLeft(t, h, before[i])
	}
}

// portOf is the port of a VM's first NIC.
func portOf(t *testing.T, f *stack.Fleet, vm string) string {
	t.Helper()
	nics, _ := show(t, f, "vm", vm)["status"].(map[string]any)["nics"].([]any)
	if len(nics) == 0 {
		t.Fatalf("VM %s has no NIC", vm)
	}
	id, _ := nics[0].(map[string]any)["portId"].(string)
	return id
}
