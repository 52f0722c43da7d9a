package ovs_test

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/plugins/ovs/internal/flow"
	"github.com/limiquantix/limiquantix/sdk/conformance/packet"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// Connections of each kind that is tracked are forgotten one by one, but for those that the switch does not survive to forget, and it survives.
func TestCut(t *testing.T) {
	o := newSwitch(t)
	o.vsctl("add-br", "br", "--", "set", "bridge", "br", "datapath_type=netdev", "fail_mode=secure", "protocols=OpenFlow10,OpenFlow13,OpenFlow14")
	o.ofctl("br", "add-flow", "table=0,ip,actions=ct(commit,zone=7)")
	o.ofctl("br", "add-flow", "table=0,ipv6,actions=ct(commit,zone=7)")
	four := packetmodel.Packet{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2")}
	six := packetmodel.Packet{Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2")}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, x := range []struct {
		p                packetmodel.Packet
		protocol, echoes uint8
	}{{four, packetmodel.UDP, 0}, {four, packetmodel.TCP, 0}, {four, packetmodel.ICMP, 8}, {six, packetmodel.UDP, 0}, {six, packetmodel.TCP, 0}, {six, packetmodel.ICMPv6, 128}} {
		x.p.Protocol, x.p.ICMPType, x.p.ICMPID = x.protocol, x.echoes, 99
		if x.echoes == 0 {
			x.p.SrcPort, x.p.DstPort = 1000, 2000
		}
		kind := uint16(packet.EtherIPv4)
		if x.p.Src.Is6() {
			kind = packet.EtherIPv6
		}
		frame := packet.Ethernet(mac, mac, kind, packet.IP(x.p, packet.TCP{Flags: packet.SYN}, []byte("x")))
		o.ofctl("br", "packet-out", fmt.Sprintf("in_port=controller packet=%x actions=table", frame))
	}
	c := flow.Conntrack{RunDirectory: o.dir, Datapath: "netdev@ovs-netdev"}
	left := func() string {
		return run(t, "ovs-appctl", "--timeout=30", "-t", filepath.Join(o.dir, fmt.Sprintf("ovs-vswitchd.%d.ctl", o.vswitchd.cmd.Process.Pid)), "dpctl/dump-conntrack", c.Datapath, "zone=7")
	}
	if n := strings.Count(left(), "orig="); n != 6 {
		t.Fatalf("%d connections are tracked: %s", n, left())
	}
	n, err := c.Cut(t.Context(), 7, func(x flow.Connection) bool { return x.Protocol == 6 })
	if err != nil || n != 3 {
		t.Errorf("%d connections were cut, %v", n, err)
	}
	if s := left(); strings.Count(s, "orig=") != 3 || strings.Count(s, "tcp,orig=") != 2 || strings.Count(s, "icmpv6,orig=") != 1 {
		t.Errorf("left: %s", s)
	}
}
