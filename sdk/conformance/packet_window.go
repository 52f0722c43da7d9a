package conformance

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance/packet"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// Ports of UDP of the flows that are watched while rules change.
const (
	allowedPort = 4000 // by one rule or another in every generation
	memberPort  = 5000 // from members of an address set
)

// window is two guests between which allowed and forbidden packets are under way all the time while rules change.
type window struct {
	*lab
	a, b    *nic
	set     *ruleSet
	members string // an address set
	gen     int64
	at      int64 // generation of the address set
}

func newWindow(t T, e *Env) *window {
	t.Helper()
	w := &window{lab: e.newLab(t, 0), members: newID()}
	w.set = e.ruleSet(t, 0)
	w.a, w.b = w.nic(t, w.set), w.nic(t, w.set)
	w.at = 1
	req := w.next()
	req.AddressSets = []*driverv1.AddressSet{{AddressSetId: w.members, Mark: e.mark(w.members), Generation: 1, Members: w.always()}}
	call(t, e.network().ApplyRuleSet, req)
	for _, n := range []*nic{w.a, w.b} {
		n.plug(t)
		n.up(t)
	}
	w.a.ends(t, w.b)
	w.b.ends(t, w.a)
	return w
}

// always are the members that the address set has at any time.
func (w *window) always() (as []string) {
	for _, n := range []*nic{w.a, w.b} {
		for _, a := range n.Addrs {
			as = append(as, a.String())
		}
	}
	return as
}

// next is the rule set's next generation: the same flows are allowed, by other rules, among other rules that concern nobody.
func (w *window) next() *driverv1.ApplyRuleSetRequest {
	w.gen++
	s := &driverv1.RuleSet{RuleSetId: w.set.id, Mark: w.e.mark(w.set.id), Generation: w.gen, EgressDefaultDeny: true}
	ports := &driverv1.PortRange{First: allowedPort, Last: allowedPort}
	if w.gen%2 == 0 {
		ports = &driverv1.PortRange{First: allowedPort - 10, Last: allowedPort + 10}
	}
	for i, d := range []driverv1.RuleDirection{driverv1.RuleDirection_RULE_DIRECTION_INGRESS, driverv1.RuleDirection_RULE_DIRECTION_EGRESS} {
		for range 20 {
			n := len(s.Rules)
			s.Rules = append(s.Rules, &driverv1.Rule{
				RuleId: fmt.Sprintf("other-%d", n), Direction: d, Protocol: proto.Uint32(packetmodel.TCP), Ports: &driverv1.PortRange{First: uint32(n + 1), Last: uint32(n+1) + uint32(w.gen%1000)}, //nolint:gosec // small
				Remote: &driverv1.Rule_Cidr{Cidr: fmt.Sprintf("203.0.113.%d/32", (int64(n)+w.gen)%256)},
			})
		}
		s.Rules = append(s.Rules,
			&driverv1.Rule{RuleId: fmt.Sprintf("by-port-%d-%d", w.gen%2, i), Direction: d, Protocol: proto.Uint32(packetmodel.UDP), Ports: ports},
			&driverv1.Rule{
				RuleId: fmt.Sprintf("by-member-%d", i), Direction: d, Protocol: proto.Uint32(packetmodel.UDP), Ports: &driverv1.PortRange{First: memberPort, Last: memberPort},
				Remote: &driverv1.Rule_AddressSetId{AddressSetId: w.members},
			})
	}
	return &driverv1.ApplyRuleSetRequest{RuleSet: s}
}

// nextMembers adds or removes a member that concerns nobody.
func (w *window) nextMembers() *driverv1.UpdateAddressSetRequest {
	w.at++
	d := &driverv1.AddressSetDelta{BaseGeneration: w.at - 1}
	if other := []string{"203.0.113.7"}; w.at%2 == 0 {
		d.Add = other
	} else {
		d.Remove = other
	}
	return &driverv1.UpdateAddressSetRequest{
		AddressSetId: w.members, Mark: w.e.mark(w.members), Generation: w.at, Change: &driverv1.UpdateAddressSetRequest_Delta{Delta: d},
	}
}

// probe is a stream of packets of one flow.
type probe struct {
	*stream
	to      *nic
	packet  packetmodel.Packet
	allowed bool
}

func (w *window) probe(ctx context.Context, p packetmodel.Packet, allowed bool) *probe {
	from, to := w.a, w.b
	if p.From == w.b.Name {
		from, to = w.b, w.a
	}
	return &probe{from.stream(ctx, func(token uint32) []byte {
		return packet.Frame(to.MAC, from.MAC, p, packet.TCP{}, packet.Token(token))
	}), to, p, allowed}
}

// openWindow changes rules and kills the driver again and again under fire.
func openWindow(t T, e *Env) {
	w := newWindow(t, e)
	var probes []*probe
	for family := range w.a.Addrs {
		for _, port := range []uint16{allowedPort, memberPort} {
			p := w.a.packet(w.b, family, port)
			if !w.a.passes(t, w.b, p) {
				t.Fatalf("%s does not pass", p)
			}
			back, _ := p.Reply()
			probes = append(probes, w.probe(t.Context(), p, true), w.probe(t.Context(), back, true))
		}
		probes = append(probes, w.probe(t.Context(), w.a.packet(w.b, family, forbiddenPort), false), w.probe(t.Context(), w.b.packet(w.a, family, forbiddenPort), false))
	}
	defer func() {
		for _, p := range probes {
			p.stop()
		}
	}()
	before := w.overflows(t)
	opts := e.o.Network.Packets
	for i := range opts.Updates {
		call(t, e.network().ApplyRuleSet, w.next())
		if i%3 == 0 {
			call(t, e.network().UpdateAddressSet, w.nextMembers())
		}
	}
	for i := range opts.Kills {
		w.killed(t, time.Duration(i*7%30)*time.Millisecond)
	}
	eventually(t, 30*time.Second, "there were enough probes", func() bool { return probes[0].tried.Load() > 200 })
	for _, p := range probes {
		p.stop()
	}
	w.a.ends(t, w.b)
	w.b.ends(t, w.a)
	w.judge(t, probes, w.overflows(t)-before)
	t.Logf("evidence: updates, kills of the plugin, under fire | %d, %d", opts.Updates, opts.Kills)
	call(t, e.network().ApplyRuleSet, &driverv1.ApplyRuleSetRequest{RuleSet: &driverv1.RuleSet{
		RuleSetId: w.set.id, Mark: e.mark(w.set.id), Generation: w.gen + 1, Rules: anything(),
	}})
	for family := range w.a.Addrs {
		if p := w.a.packet(w.b, family, forbiddenPort); !w.a.passes(t, w.b, p) {
			t.Errorf("the control shows nothing: %s does not pass when it is allowed", p)
		}
	}
}

// killed kills the plugin a moment after it was told a change, launches it again and tells it again.
func (w *window) killed(t T, after time.Duration) {
	t.Helper()
	req := w.next()
	apply := func(ctx context.Context) error {
		_, err := w.e.network().ApplyRuleSet(ctx, req)
		return err
	}
	done := make(chan error, 1)
	ctx := within(t)
	go func() { done <- apply(ctx) }()
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	w.e.kill(t)
	<-done
	settle(t, apply)
}

// judge counts what passed and what did not. Packets that reached a guest's tap and found its queue full were not the driver's to lose.
func (w *window) judge(t T, probes []*probe, overflown uint64) {
	t.Helper()
	var lost, sent uint64
	for _, p := range probes {
		n := w.arrived(p.to, p.sent)
		t.Logf("%s: %d sent, %d arrived", p.packet, len(p.sent), n)
		switch {
		case !p.allowed && n > 0:
			t.Errorf("forbidden, and %d of %d passed: %s", n, len(p.sent), p.packet)
		case p.allowed:
			lost += uint64(len(p.sent) - n) //nolint:gosec // not negative
			sent += uint64(len(p.sent))
		}
	}
	if lost > overflown {
		t.Errorf("of %d packets of allowed flows %d were lost", sent, lost-overflown)
	}
}

// overflows is how many packets the taps of both guests had no room for.
func (w *window) overflows(t T) (n uint64) {
	t.Helper()
	for _, g := range []*nic{w.a, w.b} {
		link, err := netlink.LinkByName(g.Device())
		must(t, "the guest's tap", err)
		n += link.Attrs().Statistics.TxDropped
	}
	return n
}
