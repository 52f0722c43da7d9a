package network

import (
	"fmt"
	"testing"
)

// A guest that sends with another's MAC or address, claims another's address by ARP or neighbour discovery, announces itself as router or answers DHCP gets none
// of it to its neighbour; what it may send arrives.
func TestSpoofing(t *testing.T) {
	f := start(t, []string{"bridge"}, "n1")
	lq(t, f, "sg", "create", "open", "--rule", "in=any")
	a := launch(t, f, "a", "n1", "network=default,sg=open")
	b := launch(t, f, "b", "n1", "network=default,sg=open")
	a.ready()
	b.ready()
	tap, _ := show(t, f, "port", portOf(t, f, "b"))["status"].(map[string]any)["binding"].(map[string]any)["device"].(string)
	mac := a.must("cat /sys/class/net/eth0/address")
	for _, kind := range []string{"mac", "ip", "arp", "nd", "ra", "dhcp"} {
		t.Run(kind, func(t *testing.T) {
			lies := listenOn(t, f.Hosts[0], tap, filterOf(kind, mac, a.address(0), b.address(0)))
			truths := listenOn(t, f.Hosts[0], tap, filterOf("truth", mac, a.address(0), b.address(0)))
			a.must(fmt.Sprintf("liar -n 50 -ip %s -as %s %s && liar -n 5 -ip %[1]s -as %[2]s truth", a.address(0), b.address(0), kind))
			until(t, "what a may send arrives at b", func() bool { return truths() > 0 }) // frames stay in order: the lies came before
			if n := lies(); n > 0 {
				t.Errorf("%d lies arrived", n)
			}
		})
	}
	lq(t, f, "vm", "delete", "a", "b")
}

// filterOf finds a liar's frames at another's tap: its MAC address, or the false one, and its own and another's address.
func filterOf(kind, mac, own, other string) string {
	switch kind {
	case "mac":
		return "ether src 52:54:00:ba:d0:01"
	case "ip":
		return "udp and port 7 and src host " + other
	case "arp":
		return "arp and ether src " + mac + " and arp src host " + other
	case "nd":
		return "icmp6 and ip6[40] = 136 and src host fe80::bad"
	case "ra":
		return "icmp6 and ip6[40] = 134"
	case "dhcp":
		return "udp src port 67 and src host " + own
	}
	return "udp and port 7 and src host " + own
}
