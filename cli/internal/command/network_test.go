package command

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// withDriver makes a node that has a network driver.
func (b *bench) withDriver() {
	b.server.Nodes = []*computev1.Node{{
		Meta: &metav1.ObjectMeta{Id: "node-1", Name: "host1", Labels: map[string]string{"zone": "a"}},
		Status: &computev1.NodeStatus{Phase: computev1.NodePhase_NODE_PHASE_READY, Drivers: []*computev1.DriverStatus{
			{Name: "bridge", Kinds: []string{"network"}, NetworkTypes: []networkv1.NetworkType{networkv1.NetworkType_NETWORK_TYPE_BRIDGE}},
		}},
	}}
}

// lan makes a network with two VMs in it, and a group.
func (b *bench) lan() {
	b.t.Helper()
	b.withDriver()
	b.ok("network", "create", "lan", "--subnet", "10.4.0.0/24")
	b.ok("sg", "create", "web", "--rule", "in=tcp:80,from=0.0.0.0/0", "--rule", "in=tcp:5432,from=sg/web,description=among us")
	b.ok("vm", "create", "web", "--nic", "network=lan,sg=web")
	b.ok("vm", "create", "db", "--nic", "network=lan")
}

// Every flag of create arrives, in the subnet that it belongs to.
func TestNetworkCreate(t *testing.T) {
	b := newBench(t)
	got := b.ok("network", "create", "lan", "--type", "bridge", "--subnet", "10.4.0.0/24", "--subnet", "2001:db8:4::/64", "--gateway", "10.4.0.254", "--gateway", "2001:db8:4::1",
		"--range", "10.4.0.100-10.4.0.200", "--range", "10.4.0.20-10.4.0.30", "--reserve", "10.4.0.10", "--reserve", "2001:db8:4::10=52:54:00:AA:00:01", "--dns", "192.0.2.53", "--dns", "2001:db8::53",
		"--route", "10.9.0.0/16=10.4.0.253", "--egress", "nat", "--mtu", "1400", "--forward", "tcp:8080:10.4.0.11:80", "--forward", "udp:192.0.2.1:53:10.4.0.10", "--forward", "[2001:db8::1]:443:[2001:db8:4::10]:8443",
		"--domain", "lan.example", "--node-selector", "zone=a", "--protect", "--label", "app=web", "--no-dhcp")
	if got != "lan created (pending, 0s)\n" {
		t.Errorf("%q", got)
	}
	golden(t, "network-create.json", b.ok("network", "show", "lan", "-o", "json"))
	golden(t, "network-show.txt", b.ok("network", "show", "lan"))
	b.ok("network", "create", "tagged", "--type", "ovs", "--vlan", "12", "--driver", "ovs", "--uplink", "br-ex")
	b.ok("network", "create", "wide", "--type", "vxlan", "--vni", "5000", "--subnet", "10.5.0.0/24")
	b.ok("network", "create", "office", "--type", "vlan", "--vlan", "12", "--uplink", "eth1")
	golden(t, "network-list.txt", b.ok("network", "list"))
	golden(t, "network-list-wide.txt", b.ok("network", "list", "-o", "wide", "-l", "app=web"))
	if got := b.ok("net", "ls", "--type", "vxlan,vlan", "-o", "name"); got != "office\nwide\n" {
		t.Errorf("%q", got)
	}
	b.fails(failure.ExitUsage, []string{"network", "create", "again", "--subnet", "10.4.0.0/16"}, "overlaps 10.4.0.0/24 of network lan")
	b.fails(failure.ExitConflict, []string{"network", "create", "wide"}, "NAME_TAKEN")
	b.fails(failure.ExitState, []string{"network", "delete", "lan"}, "protected")
	b.ok("network", "set", "lan", "--protect=false")
	if got := b.ok("network", "delete", "lan", "wide"); got != "lan deleted (0s)\nwide deleted (0s)\n" {
		t.Errorf("%q", got)
	}
	b.fails(failure.ExitNotFound, []string{"network", "show", "lan"}, "NETWORK_NOT_FOUND")
}

// What is wrong is said before anything is sent, with the flag and what to do.
func TestNetworkCreateRefuses(t *testing.T) {
	b := newBench(t)
	for args, want := range map[string]string{
		"--type vxlans":                                             `unknown value "vxlans" for --type; did you mean "vxlan"?`,
		"--egress snat":                                             `unknown value "snat" for --egress; did you mean "nat"?`,
		"--subnet 10.4.0.1/24":                                      "write --subnet 10.4.0.0/24",
		"--subnet 10.4.0.0":                                         "is no CIDR",
		"--subnet 10.4.0.0/24 --subnet 10.5.0.0/24":                 "are of the same IP version",
		"--subnet 10.4.0.0/24 --gateway 10.5.0.1":                   "--gateway 10.5.0.1 does not lie in 10.4.0.0/24",
		"--gateway 10.5.0.1":                                        "the network has no subnet",
		"--subnet 10.4.0.0/24 --gateway router":                     `--gateway: "router" is no IP address`,
		"--subnet 10.4.0.0/24 --range 10.4.0.9-10.4.0.2":            "write --range 10.4.0.2-10.4.0.9",
		"--subnet 10.4.0.0/24 --range 10.4.0.9":                     "is not FIRST-LAST",
		"--subnet 10.4.0.0/24 --range 10.4.0.9-10.4.1.9":            "leaves subnet 10.4.0.0/24",
		"--subnet 10.4.0.0/24 --range 10.4.0.9-2001::1":             "begins with IPv4 and ends with IPv6",
		"--subnet 10.4.0.0/24 --reserve 10.4.0.9=x":                 `"x" is no MAC address`,
		"--subnet 10.4.0.0/24 --reserve 10.4.0.9=01:00:5e:00:00:01": "a group's address",
		"--subnet 10.4.0.0/24 --reserve x":                          "write for example --reserve 10.4.0.10",
		"--subnet 10.4.0.0/24 --dns 2001:db8::53":                   "has no IPv6 subnet",
		"--subnet 10.4.0.0/24 --dns one.one":                        `--dns: "one.one" is no IP address`,
		"--subnet 10.4.0.0/24 --route 10.9.0.1/16=10.4.0.2":         "write --route 10.9.0.0/16=10.4.0.2",
		"--subnet 10.4.0.0/24 --route 10.9.0.0/16":                  "is not CIDR=NEXTHOP",
		"--subnet 10.4.0.0/24 --route 2001:db8::/32=10.4.0.2":       "from one IP version to the other",
		"--subnet 10.4.0.0/24 --route 10.9.0.0/16=10.8.0.2":         "does not lie in 10.4.0.0/24",
		"--type vlan --uplink eth1":                                 "--vlan is missing",
		"--type vlan --vlan 12":                                     "--uplink is missing",
		"--type vlan --vlan 4095 --uplink eth1":                     "--vlan 4095 is no tag",
		"--vlan 12":                                                 "for the types vlan and ovs",
		"--vni 12":                                                  "for the types vxlan and ovs",
		"--type vxlan --vni 16777216":                               "is no VXLAN network identifier",
		"--type vxlan --uplink eth1":                                "not for the type vxlan",
		"--mtu 500":                                                 "--mtu 500 is not possible",
		"--mtu 1000 --subnet 2001:db8::/64":                         "too small for IPv6",
		"--no-dhcp":                                                 "--no-dhcp needs --subnet",
		"--forward 8080":                                            "does not say where it leads to",
		"--forward tcp:0:web:80":                                    `"0" is no port`,
		"--forward tcp:8080:web:99999":                              `"99999" is no port`,
		"--forward tcp:8080:web:80":                                 "a new network has no ports",
		"--forward tcp:8080:80":                                     "neither a port's name nor an address",
		"--forward icmp:8080:web:80":                                "is neither tcp, udp, a port of the node nor an address",
		"--forward tcp:8080:web:80:90":                              "is too much",
		"--forward tcp:8080:[2001:db8::1:80":                        "is not closed",
		"--forward tcp:1:a --forward 1:b":                           "gives tcp:1 twice",
		"--node-selector zone":                                      "not of the form key=value",
		"--label zone":                                              "not of the form key=value",
		"--sunbet 10.4.0.0/24":                                      "did you mean --subnet?",
	} {
		b.fails(failure.ExitUsage, append([]string{"network", "create", "lan"}, strings.Fields(args)...), want)
	}
	if n := b.server.Calls["CreateNetwork"]; n != 0 {
		t.Errorf("%d calls were made", n)
	}
}

// set changes what flags name and leaves the rest, list by list.
func TestNetworkSet(t *testing.T) {
	b := newBench(t)
	b.ok("network", "create", "lan", "--subnet", "10.4.0.0/24", "--subnet", "2001:db8:4::/64", "--range", "10.4.0.100-10.4.0.200", "--reserve", "10.4.0.10", "--dns", "192.0.2.53",
		"--forward", "tcp:8080:10.4.0.12:80", "--forward", "udp:53:10.4.0.10", "--label", "a=1", "--label", "b=2")
	b.ok("port", "create", "vip", "--network", "lan")
	b.ok("vm", "create", "web", "--nic", "network=lan")
	if got := b.ok("network", "set", "lan", "--forward", "8080:vip:81", "--forward", "tcp:443:web/nic0", "--remove-forward", "udp:53", "--reserve", "10.4.0.10=52:54:00:00:00:09", "--reserve", "10.4.0.11",
		"--range", "10.4.0.50-10.4.0.60", "--range", "2001:db8:4::100-2001:db8:4::200", "--dns", "none", "--gateway", "10.4.0.254", "--no-dhcp", "--mtu", "1400", "--egress", "routed", "--label", "a-", "--label", "c=3"); got != "lan changed (ready, 0s)\n" {
		t.Errorf("%q", got)
	}
	golden(t, "network-set.json", b.ok("network", "show", "lan", "-o", "json"))
	if got := b.ok("network", "show", "lan"); !strings.Contains(got, "tcp:8080 -> port vip:81\n") || !strings.Contains(got, "tcp:443 -> port web/nic0:443\n") {
		t.Error(got)
	}
	b.ok("network", "set", "lan", "--remove-reservation", "10.4.0.10", "--dhcp", "--gateway", "none")
	n := b.server.Networks[0]
	v4 := n.GetSpec().GetSubnets()[0]
	if len(v4.GetReservations()) != 1 || !v4.GetDhcp() || v4.GetGateway() != "" || len(v4.GetRanges()) != 1 || n.GetSpec().GetMtu() != 1400 {
		t.Errorf("%v", n)
	}
	calls := b.server.Calls["GetNetwork"]
	for args, want := range map[string]string{
		"":                                "nothing to change",
		"--dhcp --no-dhcp":                "exclude each other",
		"--remove-forward tcp:80:web":     "where it listens alone",
		"--remove-reservation x":          "is no IP address",
		"--label x":                       "neither key=value nor key-",
		"--mtu 1":                         "not possible",
		"--forward x":                     `"x" is no port`,
		"--subnet 10.6.0.0/24":            "unknown flag --subnet",
		"--egress all":                    "unknown value",
		"--forward tcp:1:a --forward 1:b": "twice",
	} {
		b.fails(failure.ExitUsage, append([]string{"network", "set", "lan"}, strings.Fields(args)...), want)
	}
	if b.server.Calls["GetNetwork"] != calls {
		t.Error("something was asked")
	}
	b.fails(failure.ExitUsage, []string{"network", "set", "lan", "--reserve", "10.9.0.1"}, "does not lie in 10.4.0.0/24 or 2001:db8:4::/64")
	b.fails(failure.ExitNotFound, []string{"network", "set", "lan", "--forward", "tcp:1:web/nic9:80"}, `VM web has no interface "nic9" in a network`, "it has: web/nic0")
	b.fails(failure.ExitUsage, []string{"network", "set", "lan", "--forward", "tcp:1:absent:80"}, `there is no port "absent" in the network`)
	b.fails(failure.ExitNotFound, []string{"network", "set", "lan", "--remove-forward", "udp:53"}, "there is no such forward", "there are: tcp:8080, tcp:443")
	b.fails(failure.ExitNotFound, []string{"network", "set", "lan", "--remove-reservation", "10.4.0.10"}, "kept are: 10.4.0.11")
	// Somebody else changes it in between, again and again: then that is said.
	b.server.Fail["UpdateNetwork"] = fault.New(metav1.Reason_REASON_STALE_ETAG, "stale")
	b.fails(failure.ExitConflict, []string{"network", "set", "lan", "--mtu", "0"}, "STALE_ETAG")
	if n := b.server.Calls["UpdateNetwork"]; n != 3+setAttempts {
		t.Errorf("%d attempts", n)
	}
}

// The tree shows what is where; -o json is the API's own graph.
func TestTopology(t *testing.T) {
	b := newBench(t)
	b.lan()
	b.ok("network", "create", "aside", "--subnet", "10.6.0.0/24")
	b.ok("port", "create", "vip", "--network", "aside")
	golden(t, "topology.txt", b.ok("network", "topology"))
	golden(t, "topology.dot", b.ok("network", "topology", "lan", "-o", "dot"))
	if got := b.ok("network", "topology", "-o", "tree"); got != b.ok("network", "topology") {
		t.Error("a tree is not the default")
	}
	var graph networkv1.GetNetworkTopologyResponse
	if err := protojson.Unmarshal([]byte(b.ok("network", "topology", "-o", "json")), &graph); err != nil || !slices.ContainsFunc(graph.GetVertices(), func(v *networkv1.TopologyVertex) bool { return v.GetName() == "vip" }) {
		t.Errorf("%v: %v", err, &graph)
	}
	b.fails(failure.ExitUsage, []string{"network", "topology", "-o", "dott"}, `did you mean "dot"?`, "use one of tree, dot, json, yaml")
	b.fails(failure.ExitUsage, []string{"network", "list", "-o", "dot"}, `unknown value "dot" for -o`)
	b.fails(failure.ExitUsage, []string{"network", "topology", "a", "b"}, "one argument too many")
	b.fails(failure.ExitNotFound, []string{"network", "topology", "absent"}, "NETWORK_NOT_FOUND")
	if got := b.ok("__complete", "network", "topology", "-o", ""); !strings.HasPrefix(got, "tree\ndot\njson\nyaml\n") {
		t.Errorf("%q", got)
	}
}
