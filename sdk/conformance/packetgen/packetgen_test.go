package packetgen

import (
	"net/netip"
	"testing"

	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

func guests() []Guest {
	var gs []Guest
	for i, name := range []string{"A", "B", "C"} {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + i)})
		b := netip.AddrFrom16([16]byte{0xfd, 15: byte(10 + i)})
		gs = append(gs, Guest{
			Name: name, Addrs: []netip.Addr{a, b},
			Extra: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(32 * i), 0}), 19)},
		})
	}
	return gs
}

func modelOf(p Policy) *packetmodel.Model {
	m := packetmodel.New()
	for _, s := range (Policy{}).Steps(p) {
		s.Do(m)
	}
	return m
}

func draw(seed uint64, policies int) (all []packetmodel.Packet, dropped int, texts string) {
	g := New(seed, guests(), []string{"s0", "s1", "s2"}, []string{"g0", "g1"})
	p := g.Empty()
	for range policies {
		for {
			next := g.Policy(p)
			m := modelOf(next)
			ps := g.Packets(next, m)
			if ps == nil {
				continue
			}
			for _, x := range ps {
				if !m.Allowed(x) {
					dropped++
				}
			}
			all, p, texts = append(all, ps...), next, texts+next.String()
			break
		}
	}
	return all, dropped, texts
}

func TestDrawsEnoughOfBothAndRepeats(t *testing.T) {
	t.Parallel()
	const policies = 200
	ps, dropped, texts := draw(7, policies)
	if len(ps) < 20*policies || dropped*100 < 40*len(ps) || dropped*100 > 90*len(ps) {
		t.Errorf("%d packets, %d to be dropped", len(ps), dropped)
	}
	kinds := map[uint8]int{}
	v6 := 0
	for _, p := range ps {
		kinds[p.Protocol]++
		if p.V6() {
			v6++
		}
		if p.From == p.To || p.Src.Is6() != p.Dst.Is6() || p.HasPorts() && (p.SrcPort == 0 || p.DstPort == 0) {
			t.Errorf("nonsense: %s", p)
		}
	}
	for _, k := range []uint8{packetmodel.TCP, packetmodel.UDP, packetmodel.ICMP, packetmodel.ICMPv6, 89, 253} {
		if kinds[k] < policies/10 {
			t.Errorf("protocol %d: %d packets", k, kinds[k])
		}
	}
	if v6*5 < len(ps) {
		t.Errorf("only %d of %d packets are of version 6", v6, len(ps))
	}
	_, _, again := draw(7, policies)
	if _, _, other := draw(8, policies); again != texts || other == texts {
		t.Error("a seed draws the same, another seed something else")
	}
}

// Whatever leads from one policy to another ends with that other.
func TestStepsLeadThere(t *testing.T) {
	t.Parallel()
	g := New(3, guests(), []string{"s0", "s1"}, []string{"g0"})
	p := g.Empty()
	m := modelOf(p)
	for range 100 {
		next := g.Policy(p)
		for _, s := range p.Steps(next) {
			s.Do(m)
		}
		want := modelOf(next)
		for range 50 {
			if x, ok := g.packet(next); ok && m.Allowed(x) != want.Allowed(x) {
				t.Fatalf("%s after\n%s", x, next)
			}
		}
		p = next
	}
}

func TestShrinkKeepsWhatItTakes(t *testing.T) {
	t.Parallel()
	g := New(5, guests(), []string{"s0", "s1", "s2"}, []string{"g0", "g1"})
	p := g.Empty()
	for len(p.Rules["s1"].GetRules()) < 4 || len(p.Ports["A"]) < 2 {
		p = g.Policy(p)
	}
	want := p.Rules["s1"].GetRules()[2].GetRuleId()
	fails := func(c Case) bool {
		for _, r := range c.After.Rules["s1"].GetRules() {
			if r.GetRuleId() == want {
				return true
			}
		}
		return false
	}
	c := Shrink(Case{Before: p, After: p, Flow: &packetmodel.Packet{}}, 1000, fails)
	n := 0
	for _, r := range c.After.Rules {
		n += len(r.GetRules())
	}
	if !fails(c) || n != 1 || c.Flow != nil || len(c.After.Ports["A"]) != 0 {
		t.Errorf("%d rules are left:\n%s", n, c)
	}
}
