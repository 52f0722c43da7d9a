package conformance

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limiquantix/limiquantix/sdk/conformance/packet"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// forbiddenPort is a port of UDP that no rule of the suite's fixed sets allows.
const forbiddenPort = 7

// stream sends packets, about a thousand a second each, until it is stopped.
type stream struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	sent   []uint32 // tokens of what the device took, complete when done
	tried  atomic.Int64
}

// stream sends what next makes from n until stop. What cannot be sent, since the guest is not plugged in or its link is down, is tried all the same.
func (n *nic) stream(ctx context.Context, next func(token uint32) []byte) *stream {
	s := &stream{}
	ctx, s.cancel = context.WithCancel(ctx)
	s.done.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			token := tokens.Add(1)
			s.tried.Add(1)
			if n.Send(next(token)) == nil {
				s.sent = append(s.sent, token)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return s
}

// stop ends the stream and returns the tokens of what was sent.
func (s *stream) stop() []uint32 {
	s.cancel()
	s.done.Wait()
	return s.sent
}

// arrived is how many of the tokens reached a guest.
func (l *lab) arrived(at *nic, sent []uint32) (n int) {
	for _, token := range sent {
		if l.log.Seen(at.Name, token) > 0 {
			n++
		}
	}
	return n
}

// firstPacket plugs in ports whose guests send from before there is a port, and are sent to. Of what their rules forbid nothing passes, ever.
func firstPacket(t T, e *Env) {
	l := e.newLab(t, 0)
	open := e.allowing(t, both("any", packetmodel.UDP, 0)...)
	shut := e.ruleSet(t, 1)
	shut.req.RuleSet.EgressDefaultDeny = true
	open.apply(t)
	shut.apply(t)
	peer := l.plugged(t, open)
	peer.ends(t, l.plugged(t)) // the peer is there, and can be heard
	if through := l.first(t, peer, open); through[0] == 0 || through[1] == 0 {
		t.Fatalf("the control shows nothing: of what may pass %d got out and %d in", through[0], through[1])
	}
	for range e.o.Network.Packets.Ports {
		if through := l.first(t, peer, shut); through != [3]int{} {
			t.Fatalf("passed before the rules: %d out of the guest, %d to it, %d with another's address", through[0], through[1], through[2])
		}
	}
	t.Logf("evidence: ports that packets waited for, on both sides; packets that passed | %d; 0", e.o.Network.Packets.Ports)
}

// first plugs in one guest that sends to its peer all the while, is sent to, and lies. What of that passed is returned: out, in, and lies.
func (l *lab) first(t T, peer *nic, set *ruleSet) (through [3]int) {
	t.Helper()
	n := l.nic(t, set)
	l.nics = l.nics[:len(l.nics)-1] // the next one may have its addresses
	udp := func(from, to *nic, lie bool) func(uint32) []byte {
		p := from.packet(to, 0, forbiddenPort)
		if lie { // rules would allow it
			p.Src, p.DstPort = p.Src.Next(), sentinelPort
		}
		return func(token uint32) []byte { return packet.Frame(to.MAC, from.MAC, p, packet.TCP{}, packet.Token(token)) }
	}
	out, lies, in := n.stream(t.Context(), udp(n, peer, false)), n.stream(t.Context(), udp(n, peer, true)), peer.stream(t.Context(), udp(peer, n, false))
	defer func() { out.stop(); lies.stop(); in.stop() }()
	eventually(t, 30*time.Second, "the guest tried before there was a port", func() bool { return out.tried.Load() > 5 && in.tried.Load() > 5 })
	n.plug(t)
	n.up(t)
	n.ends(t, peer)
	peer.ends(t, n)
	began := out.tried.Load()
	eventually(t, 30*time.Second, "the guest sent often", func() bool { return out.tried.Load() > began+50 })
	o, s, i := out.stop(), lies.stop(), in.stop()
	n.ends(t, peer)
	peer.ends(t, n)
	if len(o) == 0 || len(s) == 0 || len(i) == 0 {
		t.Fatalf("nothing was sent: %d, %d, %d", len(o), len(s), len(i))
	}
	through = [3]int{l.arrived(peer, o), l.arrived(n, i), l.arrived(peer, s)}
	must(t, "unplugging", n.Unplug())
	call(t, l.e.network().DetachInterface, n.detachRequest())
	l.log.Forget()
	return through
}
