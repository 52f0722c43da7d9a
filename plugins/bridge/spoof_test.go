package bridge_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// sendFrames is set in a process that only sends frames, given in hexadecimal, on eth0 of the namespace that it is in.
const sendFrames = "LQ_TEST_SEND"

func send(frames string) int {
	dev, err := net.InterfaceByName("eth0")
	if err == nil {
		var fd int
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); err == nil {
			for f := range strings.SplitSeq(frames, ",") {
				b, _ := hex.DecodeString(f)
				if err = unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index, Halen: 6}); err != nil {
					break
				}
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (s space) send(t testing.TB, frames ...[]byte) {
	t.Helper()
	var hexed []string
	for _, f := range frames {
		hexed = append(hexed, hex.EncodeToString(f))
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.command(exe)
	cmd.Env = append(os.Environ(), sendFrames+"="+strings.Join(hexed, ","))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
}

func mac(s string) []byte { m, _ := net.ParseMAC(s); return m }
func ip(s string) []byte  { return netip.MustParseAddr(s).AsSlice() }

func frame(dst, src string, ether uint16, payload ...[]byte) []byte {
	return bytes.Join(append([][]byte{mac(dst), mac(src), binary.BigEndian.AppendUint16(nil, ether)}, payload...), nil)
}

func arp(op byte, hw, proto, target string) []byte {
	return bytes.Join([][]byte{{0, 1, 8, 0, 6, 4, 0, op}, mac(hw), ip(proto), make([]byte, 6), ip(target)}, nil)
}

func checksum(parts ...[]byte) uint16 {
	b := bytes.Join(parts, nil)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func ipv4(src, dst string, proto byte, payload []byte) []byte {
	h := bytes.Join([][]byte{{0x45, 0, 0, byte(20 + len(payload)), 0, 1, 0, 0, 64, proto, 0, 0}, ip(src), ip(dst)}, nil)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, payload...)
}

func udp(sport, dport uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

func icmp6(src, dst string, payload []byte) []byte {
	pseudo := bytes.Join([][]byte{ip(src), ip(dst), {0, 0, 0, byte(len(payload)), 0, 0, 0, 58}}, nil)
	binary.BigEndian.PutUint16(payload[2:], checksum(pseudo, payload))
	return bytes.Join([][]byte{{0x60, 0, 0, 0, 0, byte(len(payload)), 58, 255}, ip(src), ip(dst), payload}, nil)
}

// A guest that lies about its MAC address, address, ARP or neighbours, that plays router or DHCP server, reaches nobody: captured behind another tap.
func TestSpoofing(t *testing.T) {
	l := launch(t)
	t.Cleanup(func() { l.collect(t) })
	all := newID()
	l.apply(t, all, 1, &driverv1.Rule{Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS})
	n := l.network(t, &driverv1.NetworkSpec{
		Type:    driverv1.NetworkType_NETWORK_TYPE_BRIDGE,
		Subnets: []*driverv1.SubnetSpec{{Cidr: "10.0.0.0/24"}, {Cidr: "fd00:a::/64"}},
	})
	a := n.attach(t, "02:00:00:00:00:0a", []string{"10.0.0.10", "fd00:a::10"}, all).plug(t)
	b := n.attach(t, "02:00:00:00:00:0b", []string{"10.0.0.11", "fd00:a::11"}, all).plug(t)
	const me, you, all0, own6 = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "ff:ff:ff:ff:ff:ff", "fe80::ff:fe00:a"
	a.wantPing(t, "10.0.0.11", true)
	a.wantPing(t, "fd00:a::11", true)
	before := a.stats(t).GetSpoofedPackets()
	seen := capture(t, "eth0", "", b.space)
	na := func(target, link string) []byte {
		return append(append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, ip(target)...), append([]byte{2, 1}, mac(link)...)...)
	}
	ns := func(target, link string) []byte {
		return append(append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, ip(target)...), append([]byte{1, 1}, mac(link)...)...)
	}
	dhcp := append([]byte{2, 1, 6, 0}, make([]byte, 60)...)
	const lie = "02:00:00:00:00:ee"
	lies := [][]byte{
		frame(you, lie, 0x0800, ipv4("10.0.0.10", "10.0.0.11", 17, udp(1001, 1, nil))),
		frame(you, me, 0x0800, ipv4("10.0.0.66", "10.0.0.11", 17, udp(1002, 1, nil))),
		frame(all0, me, 0x0806, arp(1, me, "10.0.0.66", "10.0.0.11")),
		frame(all0, me, 0x0806, arp(2, me, "10.0.0.11", "10.0.0.11")),
		frame(all0, me, 0x0806, arp(2, lie, "10.0.0.10", "10.0.0.11")),
		frame(you, me, 0x0800, ipv4("10.0.0.10", "10.0.0.11", 17, udp(67, 68, dhcp))),
		frame("33:33:00:00:00:01", me, 0x86dd, icmp6(own6, "ff02::1", append([]byte{134, 0, 0, 0, 64, 0, 7, 8}, make([]byte, 8)...))),
		frame("33:33:00:00:00:01", me, 0x86dd, icmp6("fe80::1", "ff02::1", na("fe80::1", me))),
		frame("33:33:00:00:00:01", me, 0x86dd, icmp6("fd00:a::10", "ff02::1", na("fd00:a::66", me))),
		frame("33:33:00:00:00:01", me, 0x86dd, icmp6("fd00:a::10", "ff02::1", na("fd00:a::10", lie))),
		frame("33:33:ff:00:00:11", me, 0x86dd, icmp6("fd00:a::10", "ff02::1:ff00:11", ns("fd00:a::11", lie))),
		frame("33:33:00:00:00:01", me, 0x86dd, icmp6("fd00:a::66", "ff02::1", []byte{128, 0, 0, 0, 0, 1, 0, 1})),
		frame(you, me, 0x88cc, []byte("lldp")),
		frame(you, me, 0x8100, []byte{0, 5, 8, 0}, ipv4("10.0.0.10", "10.0.0.11", 17, udp(1003, 1, nil))),
	}
	a.send(t, lies...)
	a.send(t, frame(you, me, 0x0800, ipv4("10.0.0.10", "10.0.0.11", 17, udp(4242, 1, nil)))) // the truth, last
	for range 10 {
		a.wantPing(t, "10.0.0.11", true)
	}
	got := seen()
	if !strings.Contains(got, "10.0.0.10.4242 >") {
		t.Error("the truth is lost:", got)
	}
	for _, l := range []string{lie, "10.0.0.66", ".1001 >", ".1002 >", ".1003 >", ".67 >", "router advertisement", "fd00:a::66", "fe80::1 >", "LLDP", "10.0.0.11 is-at 02:00:00:00:00:0a"} {
		if line := indexLine(got, l); line != "" {
			t.Errorf("%s passes: %s", l, line)
		}
	}
	if s := a.stats(t).GetSpoofedPackets() - before; s < uint64(len(lies)) {
		t.Errorf("%d of %d lies are counted", s, len(lies))
	}
	// Down is down.
	a.req.Spec.LinkDown = true
	if i := a.update(t); i.GetState() != driverv1.InterfaceState_INTERFACE_STATE_BLOCKED || i.GetReason() != "LINK_DOWN" {
		t.Error(i)
	}
	a.wantPing(t, "10.0.0.11", false)
	a.req.Spec.LinkDown = false
	a.update(t)
	a.wantPing(t, "10.0.0.11", true)
}
