package guest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/sdk/conformance/packet"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// neighbours are what a guest was told when it asked.
type neighbours struct {
	mu   sync.Mutex
	macs map[netip.Addr]net.HardwareAddr
}

// learn keeps what an answer to a question for an address says.
func (g *Guest) learn(frame []byte) {
	var of netip.Addr
	var mac net.HardwareAddr
	switch {
	case len(frame) < 42:
		return
	case frame[12] == 8 && frame[13] == 6 && frame[21] == packet.ARPReply:
		of, mac = netip.AddrFrom4([4]byte(frame[28:32])), frame[22:28]
	case len(frame) >= 86 && frame[12] == 0x86 && frame[13] == 0xdd && frame[20] == packetmodel.ICMPv6 && frame[54] == packet.NeighbourAdvert && frame[78] == 2:
		of, mac = netip.AddrFrom16([16]byte(frame[62:78])), frame[80:86]
	default:
		return
	}
	g.known.mu.Lock()
	defer g.known.mu.Unlock()
	if g.known.macs == nil {
		g.known.macs = map[netip.Addr]net.HardwareAddr{}
	}
	g.known.macs[of] = bytes.Clone(mac)
}

// Resolve asks for an address of the guest's network, as often as it takes until ctx ends.
func (g *Guest) Resolve(ctx context.Context, a netip.Addr) (net.HardwareAddr, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		g.ask(a)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("nobody says where %s is: %w", a, ctx.Err())
		}
		g.known.mu.Lock()
		mac := g.known.macs[a]
		g.known.mu.Unlock()
		if mac != nil {
			return mac, nil
		}
	}
}

func (g *Guest) ask(a netip.Addr) {
	for _, own := range g.Addrs {
		switch {
		case own.Is4() != a.Is4():
		case a.Is4():
			_ = g.Send(packet.Ethernet(packet.Broadcast, g.MAC, packet.EtherARP, packet.ARP(packet.ARPRequest, g.MAC, own, make(net.HardwareAddr, 6), a, 0)))
		default:
			group, mac := packet.SolicitedNode(a)
			_ = g.Send(packet.Ethernet(mac, g.MAC, packet.EtherIPv6, packet.Neighbour(packet.NeighbourSolicitation, own, group, a, g.MAC, 0)))
		}
	}
}
