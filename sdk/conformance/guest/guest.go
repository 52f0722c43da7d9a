package guest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"github.com/limiquantix/limiquantix/sdk/conformance/packet"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// Guest is one NIC of a guest. All methods may be called at once.
type Guest struct {
	// Name in packets of the model.
	Name string
	MAC  net.HardwareAddr
	// Addrs are its own addresses, which it answers ARP and neighbour solicitations for.
	Addrs []netip.Addr

	log *Log

	tap    atomic.Pointer[os.File]
	detach func() error // undoes what plugging did beside the tap
	device string
	reader sync.WaitGroup
	known  neighbours
	mu     sync.Mutex // of Plug and Unplug
}

// New makes a guest that is not plugged in. What reaches it goes to the log.
func New(name string, mac net.HardwareAddr, log *Log, addrs ...netip.Addr) *Guest {
	return &Guest{Name: name, MAC: mac, Addrs: addrs, log: log}
}

// Send writes a frame. While the guest is not plugged in, or its link is down, it fails.
func (g *Guest) Send(frame []byte) error {
	f := g.tap.Load()
	if f == nil {
		return fmt.Errorf("guest %s is not plugged in", g.Name)
	}
	_, err := f.Write(frame)
	return err
}

// Device is the name of its tap; empty while it is not plugged in.
func (g *Guest) Device() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.device
}

// Announce tells everybody where the guest is, as guests do when they come up.
func (g *Guest) Announce() {
	for _, a := range g.Addrs {
		if a.Is4() {
			_ = g.Send(packet.Ethernet(packet.Broadcast, g.MAC, packet.EtherARP, packet.ARP(packet.ARPRequest, g.MAC, a, make(net.HardwareAddr, 6), a, 0)))
			continue
		}
		all := netip.MustParseAddr("ff02::1")
		_ = g.Send(packet.Ethernet(packet.Multicast(all), g.MAC, packet.EtherIPv6, packet.Neighbour(packet.NeighbourAdvert, a, all, a, g.MAC, 0)))
	}
}

// read hands each frame that comes to the log until the tap is closed.
func (g *Guest) read(f *os.File) {
	buf := make([]byte, 65536)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return
		}
		frame := buf[:n]
		if token, ok := packet.TokenOf(frame); ok {
			g.log.add(g.Name, token)
		}
		g.learn(frame)
		if answer := g.answer(frame); answer != nil {
			_ = g.Send(answer)
		}
	}
}

// answer is what an honest guest says when it is asked for its address; nil to everything else.
func (g *Guest) answer(frame []byte) []byte {
	if len(frame) < 42 {
		return nil
	}
	asker := net.HardwareAddr(frame[6:12])
	switch kind := uint16(frame[12])<<8 | uint16(frame[13]); {
	case kind == packet.EtherARP && frame[21] == packet.ARPRequest:
		sender, target := netip.AddrFrom4([4]byte(frame[28:32])), netip.AddrFrom4([4]byte(frame[38:42]))
		if g.has(target) && sender != target {
			return packet.Ethernet(asker, g.MAC, packet.EtherARP, packet.ARP(packet.ARPReply, g.MAC, target, asker, sender, 0))
		}
	case kind == packet.EtherIPv6 && len(frame) >= 78 && frame[20] == packetmodel.ICMPv6 && frame[54] == packet.NeighbourSolicitation:
		sender, target := netip.AddrFrom16([16]byte(frame[22:38])), netip.AddrFrom16([16]byte(frame[62:78]))
		if g.has(target) && !sender.IsUnspecified() {
			return packet.Ethernet(asker, g.MAC, packet.EtherIPv6, packet.Neighbour(packet.NeighbourAdvert, target, sender, target, g.MAC, 0))
		}
	}
	return nil
}

func (g *Guest) has(a netip.Addr) bool {
	for _, own := range g.Addrs {
		if own == a {
			return true
		}
	}
	return a.Is6() && a == packet.LinkLocal(g.MAC)
}
