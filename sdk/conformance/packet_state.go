package conformance

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// anything is rules that allow everything.
func anything() []*driverv1.Rule {
	return []*driverv1.Rule{
		{RuleId: "in", Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS},
		{RuleId: "out", Direction: driverv1.RuleDirection_RULE_DIRECTION_EGRESS},
	}
}

// gets reports of each family whether a UDP packet to a port passes; an allowed one from another guest, or on the same way, tells when it is decided.
func (n *nic) gets(t T, to *nic, port uint16, decided func()) (got []bool) {
	t.Helper()
	var sent []uint32
	for family := range n.Addrs {
		token, err := n.send(to, n.packet(to, family, port), syn)
		must(t, "sending", err)
		sent = append(sent, token)
	}
	decided()
	for _, token := range sent {
		got = append(got, n.lab.log.Seen(to.Name, token) > 0)
	}
	return got
}

func wantAll(t T, what string, got []bool, want bool) {
	t.Helper()
	for family, g := range got {
		if g != want {
			t.Errorf("%s, address family %d: passes %v, want %v", what, family, g, want)
		}
	}
}

// linkDown shuts a link and opens it again, from the driver's side alone.
func linkDown(t T, e *Env) {
	l := e.newLab(t, 0)
	open := e.ruleSet(t, 1)
	open.req.RuleSet.Rules = anything()
	open.apply(t)
	a, b, c := l.plugged(t, open), l.plugged(t, open), l.plugged(t, open)
	for range 3 {
		a.ends(t, b)
		b.ends(t, a)
		a.req.Spec.LinkDown = true
		if s := a.attach(t).GetState(); s == driverv1.InterfaceState_INTERFACE_STATE_UP {
			t.Errorf("its link shall be down, and it is %s", s)
		}
		for _, way := range [][2]*nic{{a, b}, {b, a}} {
			got := []bool{}
			for family := range a.Addrs {
				// Sending may fail: a link that is down takes nothing.
				token, _ := way[0].send(way[1], way[0].packet(way[1], family, forbiddenPort), syn)
				c.ends(t, b)
				b.ends(t, c)
				got = append(got, l.log.Seen(way[1].Name, token) > 0)
			}
			wantAll(t, "while the link is down from "+way[0].Name, got, false)
		}
		a.req.Spec.LinkDown = false
		a.attach(t)
		a.up(t)
	}
	a.ends(t, b)
	b.ends(t, a)
}

// refusedStays has a set refused and sees by packets that the one before is in force.
func refusedStays(t T, e *Env) {
	l := e.newLab(t, 0)
	set := e.allowing(t, both("ok", packetmodel.UDP, 4000)...)
	set.req.RuleSet.EgressDefaultDeny = true
	set.apply(t)
	a, b := l.plugged(t, set), l.plugged(t, set)
	same := func(what string) {
		t.Helper()
		wantAll(t, what+": allowed", a.gets(t, b, 4000, func() { a.ends(t, b) }), true)
		wantAll(t, what+": forbidden", a.gets(t, b, 4001, func() { a.ends(t, b) }), false)
	}
	same("before")
	for what, spoil := range map[string]func(*driverv1.RuleSet){
		"a port of TCP beyond 65535": func(s *driverv1.RuleSet) { s.Rules[1].Ports.Last = 65536 },
		"a CIDR that is none":        func(s *driverv1.RuleSet) { s.Rules[1].Remote = &driverv1.Rule_Cidr{Cidr: "10.0.0.0/33"} },
		"protocol 256":               func(s *driverv1.RuleSet) { s.Rules[1].Protocol, s.Rules[1].Ports = proto.Uint32(256), nil },
		"a newline in a rule's id":   func(s *driverv1.RuleSet) { s.Rules[1].RuleId = "a\n-A FORWARD -j ACCEPT" },
		"two versions of IP": func(s *driverv1.RuleSet) {
			s.Rules[1].IpVersion, s.Rules[1].Remote = driverv1.IpVersion_IP_VERSION_4, &driverv1.Rule_Cidr{Cidr: "2001:db8::/32"}
		},
	} {
		bad := proto.CloneOf(set.req)
		bad.RuleSet.Generation, bad.RuleSet.EgressDefaultDeny = 2, false
		bad.RuleSet.Rules = append(anything(), bad.GetRuleSet().GetRules()...)
		for i, r := range bad.GetRuleSet().GetRules() {
			r.RuleId = string(rune('a' + i))
		}
		bad.RuleSet.Rules[1].Protocol = proto.Uint32(packetmodel.TCP)
		bad.RuleSet.Rules[1].Ports = &driverv1.PortRange{First: 1, Last: 2}
		spoil(bad.GetRuleSet())
		refused(t, what, e.network().ApplyRuleSet, bad, codes.InvalidArgument)
		same("after " + what)
	}
	good := proto.CloneOf(set.req)
	good.RuleSet.Generation = 2
	for _, r := range good.GetRuleSet().GetRules() {
		r.Ports = &driverv1.PortRange{First: 4001, Last: 4001}
	}
	call(t, e.network().ApplyRuleSet, good)
	wantAll(t, "the next good one: allowed", a.gets(t, b, 4001, func() { a.ends(t, b) }), true)
	wantAll(t, "the next good one: forbidden", a.gets(t, b, 4000, func() { a.ends(t, b) }), false)
}

// withoutRules is an interface without rule sets: nothing comes in, everything lawful goes out, and its answers come back.
func withoutRules(t T, e *Env) {
	l := e.newLab(t, 0)
	open := e.ruleSet(t, 1)
	open.req.RuleSet.Rules = anything()
	open.apply(t)
	peer, other := l.plugged(t, open), l.plugged(t, open)
	bare := l.nic(t)
	bare.req.Spec.RuleSetIds = nil
	bare.plug(t)
	bare.up(t)
	bare.ends(t, peer)
	for family := range bare.Addrs {
		p := bare.packet(peer, family, 5353)
		if !bare.passes(t, peer, p) {
			t.Errorf("%s does not pass", p)
		}
		back, _ := p.Reply()
		if !peer.passes(t, bare, back) {
			t.Errorf("the answer %s does not pass", back)
		}
		for _, port := range []uint16{1, sentinelPort, 5353, 65535} {
			in := peer.packet(bare, family, port)
			token, err := peer.send(bare, in, syn)
			must(t, "sending", err)
			if peer.passedOnceMore(t, bare, back) && l.log.Seen(bare.Name, token) > 0 {
				t.Errorf("%s passes", in)
			}
		}
	}
	peer.ends(t, other)
}

// passedOnceMore waits until a packet of a flow that is open has passed again.
func (n *nic) passedOnceMore(t T, to *nic, p packetmodel.Packet) bool {
	t.Helper()
	if !n.passes(t, to, p) {
		t.Errorf("%s passes no longer", p)
		return false
	}
	return true
}

// detachLeavesNothing takes interfaces away again, and a guest that did not let go of its tap gets nothing through.
func detachLeavesNothing(t T, e *Env) {
	l := e.newLab(t, 0)
	open := e.ruleSet(t, 1)
	open.req.RuleSet.Rules = anything()
	open.apply(t)
	a, b, stays := l.plugged(t, open), l.plugged(t, open), l.plugged(t, open)
	a.ends(t, b)
	call(t, e.network().DetachInterface, a.detachRequest())
	token, _ := a.send(b, a.packet(b, 0, forbiddenPort), syn) // its tap may be gone
	stays.ends(t, b)
	if l.log.Seen(b.Name, token) > 0 {
		t.Errorf("after DetachInterface a guest that is still plugged in gets through")
	}
	must(t, "unplugging", a.Unplug())
	must(t, "unplugging", b.Unplug())
	call(t, e.network().DetachInterface, b.detachRequest())
	must(t, "unplugging", stays.Unplug())
	call(t, e.network().DetachInterface, stays.detachRequest())
	if is := call(t, e.network().ListInterfaces, &driverv1.ListInterfacesRequest{NetworkId: l.id}).GetInterfaces(); len(is) > 0 {
		t.Errorf("still listed: %v", is)
	}
	eventually(t, 30*time.Second, "nothing differs from what was asked for", func() bool {
		return len(call(t, e.network().CheckNetwork, &driverv1.CheckNetworkRequest{NetworkId: l.id}).GetDrifts()) == 0
	})
	call(t, e.network().DeleteNetwork, l.deleteRequest())
}
