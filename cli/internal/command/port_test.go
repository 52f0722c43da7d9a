package command

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/fakeapi"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

func TestPorts(t *testing.T) {
	b := newBench(t)
	b.lan()
	if got := b.ok("port", "create", "vip", "--network", "lan", "--ip", "10.4.0.10", "--mac", "52:54:00:AA:BB:CC", "--sg", "web,default", "--extra-address", "10.4.0.200", "--extra-address", "10.7.0.0/24",
		"--hostname", "vip", "--qos-in", "100M", "--qos-out", "1.5G", "--qos-burst", "1M", "--link", "down", "--trunk-vlan", "12", "--trunk-vlan", "13", "--protect", "--label", "a=b"); got != "vip created (idle, 10.4.0.10, 0s)\n" {
		t.Errorf("%q", got)
	}
	golden(t, "port-create.json", b.ok("port", "show", "vip", "-o", "json"))
	golden(t, "port-show-vip.txt", b.ok("port", "show", "vip"))
	golden(t, "port-list.txt", b.ok("port", "list"))
	for args, want := range map[string]string{
		"--network lan":         "db/nic0\nvip\nweb/nic0\n",
		"--vm web":              "web/nic0\n",
		"--node host1":          "db/nic0\nweb/nic0\n",
		"--sg web":              "vip\nweb/nic0\n",
		"--sg web --vm web":     "web/nic0\n",
		"-l a=b":                "vip\n",
		"--project elsewhere":   "",
		"--vm db --network lan": "db/nic0\n",
	} {
		if got := b.ok(append([]string{"port", "list", "-o", "name"}, strings.Fields(args)...)...); got != want {
			t.Errorf("%s: %q", args, got)
		}
	}
	b.fails(failure.ExitNotFound, []string{"port", "list", "--vm", "absent"}, `no VM "absent"`)
	b.fails(failure.ExitNotFound, []string{"port", "list", "--sg", "absent"}, `no security group "absent"`)
	if got := b.ok("port", "set", "vip", "--ip", "none", "--sg", "none", "--qos-in", "none", "--link", "up", "--hostname", "", "--protect=false", "--trunk-vlan", "14", "--label", "a-"); got != "vip changed (idle, 10.4.0.4, 0s)\n" {
		t.Errorf("%q", got)
	}
	golden(t, "port-set.json", b.ok("port", "show", "vip", "-o", "json"))
	b.fails(failure.ExitConflict, []string{"port", "set", "vip", "--ip", "10.4.0.2"}, "is taken")
	b.fails(failure.ExitState, []string{"port", "delete", "web/nic0"}, "is NIC nic0")
	if got := b.ok("port", "delete", "vip"); got != "vip deleted (0s)\n" {
		t.Errorf("%q", got)
	}
}

// show says how addresses are known, which generation of which group is in force, and why a port is shut.
func TestPortShow(t *testing.T) {
	b := newBench(t)
	b.lan()
	b.ok("sg", "rule", "add", "web", "--in", "icmp:8")
	p := b.server.Ports[0]
	p.Status.Phase, p.Status.Reason, p.Status.Message = networkv1.PortPhase_PORT_PHASE_BLOCKED, "BRIDGE_FILTER_INACTIVE", "the kernel does not enforce bridge filtering"
	p.Status.ObservedAddresses = append(p.Status.ObservedAddresses,
		&networkv1.ObservedAddress{IpAddress: "fe80::1", Source: networkv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_NEIGHBOUR, ObserveTime: timestamppb.New(fakeapi.Epoch.Add(4 * time.Minute))},
		&networkv1.ObservedAddress{IpAddress: "10.0.0.9", Source: networkv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_GUEST_AGENT})
	p.Status.SecurityGroups = append(p.Status.SecurityGroups, &networkv1.AppliedSecurityGroup{SecurityGroupId: "gone", Generation: 7})
	golden(t, "port-show.txt", b.ok("port", "show", "web/nic0"))
	b.server.Stats[p.GetMeta().GetId()] = &networkv1.GetPortStatsResponse{
		ReceiveBytes: 3 << 20, ReceivePackets: 2048, TransmitBytes: 100, TransmitPackets: 1, IngressDeniedPackets: 7, EgressDeniedPackets: 8, SpoofedPackets: 9, ObserveTime: timestamppb.New(fakeapi.Epoch),
	}
	golden(t, "port-stats.txt", b.ok("port", "stats", "web/nic0"))
	if got := b.ok("port", "stats", "db/nic0"); !strings.Contains(got, "never") {
		t.Error(got)
	}
	var stats networkv1.GetPortStatsResponse
	if err := protojson.Unmarshal([]byte(b.ok("port", "stats", "web/nic0", "-o", "json")), &stats); err != nil || stats.GetSpoofedPackets() != 9 {
		t.Errorf("%v %v", err, &stats)
	}
	b.ok("port", "create", "vip", "--network", "lan")
	b.fails(failure.ExitState, []string{"port", "stats", "vip"}, "on no node")
}

func TestPortRefuses(t *testing.T) {
	b := newBench(t)
	b.lan()
	asked := b.server.Calls["CreatePort"] + b.server.Calls["GetPort"] + b.server.Calls["ExplainPacket"]
	for args, want := range map[string]string{
		"create":                                                                     "NAME is missing",
		"create p --ip 10.4.0":                                                       `--ip: "10.4.0" is no IP address`,
		"create p --ip 10.4.0.1,10.4.0.2":                                            "of the same IP version",
		"create p --mac 01:00:5e:00:00:01":                                           "a group's address",
		"create p --link off":                                                        "use one of up, down",
		"create p --qos-in fast":                                                     "--qos-in: \"fast\" is no rate",
		"create p --qos-out 100":                                                     "--qos-out: \"100\" is 100 bits per second; give a unit",
		"create p --qos-burst much":                                                  "--qos-burst:",
		"create p --trunk-vlan 4095":                                                 "--trunk-vlan 4095 is no tag",
		"create p --extra-address 10.4.0.1/24":                                       "write 10.4.0.0/24",
		"create p --label x":                                                         "not of the form key=value",
		"set web/nic0":                                                               "nothing to change",
		"set web/nic0 --label x":                                                     "neither key=value nor key-",
		"set web/nic0 --network lan":                                                 "unknown flag --network",
		"why web/nic0":                                                               "give either --in or --out",
		"why web/nic0 --in --out":                                                    "give either --in or --out",
		"why web/nic0 --in --proto tcp":                                              "--from is missing",
		"why web/nic0 --out --proto tcp":                                             "--to is missing",
		"why web/nic0 --in --from 10.0.0.1":                                          "--proto is missing",
		"why web/nic0 --in --to 10.0.0.1":                                            "name the other side with --from",
		"why web/nic0 --out --from 10.0.0.1":                                         "name the other side with --to",
		"why web/nic0 --in --from 10.0.0.0/8 --proto tcp --port 80":                  `"10.0.0.0/8" is no IP address`,
		"why web/nic0 --in --from 10.0.0.1 --proto tcp":                              "--port is missing",
		"why web/nic0 --in --from 10.0.0.1 --proto tcp --port 0":                     "--port 0 is no port",
		"why web/nic0 --in --from 10.0.0.1 --proto tcp --port 65536":                 "--port 65536 is no port",
		"why web/nic0 --in --from 10.0.0.1 --proto tcp:80-90":                        "more than one packet",
		"why web/nic0 --in --from 10.0.0.1 --proto any":                              "more than one packet",
		"why web/nic0 --in --from 10.0.0.1 --proto icmp --port 80":                   "--port is for tcp, udp and sctp",
		"why web/nic0 --in --from 10.0.0.1 --proto tcp --port 1 --icmp-type 8":       "are for icmp and icmpv6",
		"why web/nic0 --in --from 10.0.0.1 --proto icmp --icmp-code 0":               "--icmp-code needs --icmp-type",
		"why web/nic0 --in --from 10.0.0.1 --proto icmp --icmp-type 256":             "are 0-255",
		"why web/nic0 --in --from 10.0.0.1 --proto icmpv6 --icmp-type 1":             "write icmp",
		"why web/nic0 --in --from 10.0.0.1 --proto 256":                              "numbers are 0-255",
		"why web/nic0 --in --from 10.0.0.1 --proto tcp --port 1 --local 2001:db8::1": "is no IPv4 address",
		"whi web/nic0":                                                               `did you mean "why"?`,
	} {
		b.fails(failure.ExitUsage, append([]string{"port"}, strings.Fields(args)...), want)
	}
	if got := b.server.Calls["CreatePort"] + b.server.Calls["GetPort"] + b.server.Calls["ExplainPacket"]; got != asked {
		t.Errorf("%d calls were made", got-asked)
	}
}

// The verdict stands first; then the rules that allow it, or the command that would.
func TestPortWhy(t *testing.T) {
	b := newBench(t)
	b.lan()
	for _, step := range []struct{ args, out string }{
		{"web/nic0 --in --proto tcp --port 80 --from 198.51.100.7", "allowed (RULE): a rule allows it\n  by group web: --in tcp:80 --from 0.0.0.0/0\n"},
		{"web/nic0 --in --proto tcp:5432 --from 10.4.0.2", "allowed (RULE): a rule allows it\n  by group web: --in tcp:5432 --from sg/web (among us), as the other side is port web/nic0\n"},
		{"web/nic0 --in --proto tcp --port 22 --from 198.51.100.7", "dropped (NO_RULE): no rule of its groups allows it\n  to allow it: lqctl sg rule add web --in tcp:22 --from 198.51.100.7/32\n"},
		{"web/nic0 --in --proto icmp --icmp-type 8 --from 10.4.0.3", "dropped (NO_RULE): no rule of its groups allows it\n  to allow it: lqctl sg rule add web --in icmp:8 --from 10.4.0.3/32\n"},
		{"web/nic0 --out --proto udp --port 53 --to 192.0.2.53", "allowed (EGRESS_DEFAULT): what goes out and no rule allows passes\n"},
	} {
		if got := b.ok(append([]string{"port", "why"}, strings.Fields(step.args)...)...); got != step.out {
			t.Errorf("%s:\n got %q\nwant %q", step.args, got, step.out)
		}
	}
	// The remedy is a command that works.
	b.ok("sg", "rule", "add", "web", "--in", "tcp:22", "--from", "198.51.100.7/32")
	if got := b.ok("port", "why", "web/nic0", "--in", "--proto", "tcp", "--port", "22", "--from", "198.51.100.7"); !strings.HasPrefix(got, "allowed (RULE)") {
		t.Error(got)
	}
	b.ok("sg", "set", "web", "--egress", "deny")
	if got := b.ok("port", "why", "web/nic0", "--out", "--proto", "udp", "--port", "53", "--to", "192.0.2.53"); !strings.Contains(got, "dropped (NO_RULE)") || !strings.Contains(got, "lqctl sg rule add web --out udp:53 --to 192.0.2.53/32") {
		t.Error(got)
	}
	b.ok("port", "set", "web/nic0", "--link", "down")
	if got := b.ok("port", "why", "web/nic0", "--in", "--proto", "47", "--from", "10.4.0.3"); got != "dropped (LINK_DOWN): the link is down\n  to allow it: lqctl port set web/nic0 --link up\n" {
		t.Errorf("%q", got)
	}
	b.ok("port", "create", "vip", "--network", "lan")
	if got := b.ok("port", "why", "vip", "--in", "--proto", "tcp", "--port", "80", "--from", "10.4.0.3"); !strings.Contains(got, "not in force on a node now") {
		t.Error(got)
	}
	var x networkv1.ExplainPacketResponse
	if err := protojson.Unmarshal([]byte(b.ok("port", "why", "vip", "--in", "--proto", "tcp", "--port", "80", "--from", "10.4.0.3", "-o", "json")), &x); err != nil || x.GetReason() == "" {
		t.Errorf("%v %v", err, &x)
	}
}
