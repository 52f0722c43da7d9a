package conformance

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance/packet"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetgen"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// oracle holds a driver's verdicts against the model's, policy after policy, on guests that stay.
type oracle struct {
	*lab
	gen    *packetgen.Generator
	policy packetgen.Policy
	model  *packetmodel.Model
	gens   map[string]int64 // generations told, by id

	patience              time.Duration // for what must pass
	sent, dropped, resent int
	forbidden             []*shot // of the policy before, which may still be under way
}

// shot is a packet under way, and what must become of it.
type shot struct {
	packetmodel.Packet
	tcp   packet.TCP
	pass  bool
	token uint32
	flow  *packetmodel.Packet // that it belongs to
}

func newOracle(t T, e *Env) *oracle {
	t.Helper()
	o := &oracle{lab: e.newLab(t, 0), patience: 2 * time.Second, gens: map[string]int64{}, model: packetmodel.New()}
	var guests []packetgen.Guest
	for i := range 3 {
		n := o.nic(t)
		g := packetgen.Guest{Name: n.Name, Addrs: n.Addrs, Extra: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("198.18.%d.0/19", 32*i))}}
		if len(n.Addrs) > 1 {
			g.Extra = append(g.Extra, netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x::/48", 0x100+i)))
		}
		for _, c := range g.Extra {
			n.req.Spec.ExtraAddresses = append(n.req.Spec.ExtraAddresses, c.String())
		}
		guests = append(guests, g)
		n.plug(t)
		n.up(t)
	}
	ids := []string{newID(), newID(), newID(), newID(), newID(), newID(), newID()}
	o.gen = packetgen.New(e.o.Network.Packets.Seed, guests, ids[:4], ids[4:])
	e.ruleSet(t, 1) // its cleanup collects whatever nobody uses
	o.become(t, o.gen.Empty())
	for _, a := range o.nics {
		for _, b := range o.nics {
			if a != b {
				a.ends(t, b)
			}
		}
	}
	return o
}

// become leads the driver and the model to a policy, in the same steps.
func (o *oracle) become(t T, p packetgen.Policy) {
	t.Helper()
	for _, s := range o.policy.Steps(p) {
		o.do(t, s)
		s.Do(o.model)
	}
	o.policy = p
}

// do does a step on the driver, in a new generation.
func (o *oracle) do(t T, s packetgen.Step) {
	t.Helper()
	c := o.e.network()
	switch {
	case s.Set != "":
		base := o.gens[s.Set]
		o.gens[s.Set]++
		req := &driverv1.UpdateAddressSetRequest{AddressSetId: s.Set, Mark: o.e.mark(s.Set), Generation: base + 1}
		if have := o.policy.Sets[s.Set]; base > 0 && base%2 == 0 { // every other time by difference
			without := func(of, those []string) []string {
				return slices.DeleteFunc(slices.Clone(of), func(m string) bool { return slices.Contains(those, m) })
			}
			req.Change = &driverv1.UpdateAddressSetRequest_Delta{Delta: &driverv1.AddressSetDelta{
				BaseGeneration: base, Add: without(s.Members, have), Remove: without(have, s.Members),
			}}
		} else {
			req.Change = &driverv1.UpdateAddressSetRequest_Replace{Replace: &driverv1.AddressSetMembers{Members: s.Members}}
		}
		call(t, c.UpdateAddressSet, req)
	case s.Rules != nil:
		id := s.Rules.GetRuleSetId()
		o.gens[id]++
		r := proto.CloneOf(s.Rules)
		r.Mark, r.Generation = o.e.mark(id), o.gens[id]
		call(t, c.ApplyRuleSet, &driverv1.ApplyRuleSetRequest{RuleSet: r})
	default:
		n := o.byName(s.Port)
		n.req.Spec.RuleSetIds = append([]string{o.sentinel.id}, s.Sets...)
		n.attach(t)
	}
}

func (o *oracle) byName(name string) *nic {
	return o.nics[slices.IndexFunc(o.nics, func(n *nic) bool { return n.Name == name })]
}

// shoot sends a burst and returns the shots that went wrong. The burst ends with an allowed packet on each way; what must pass gets a second chance.
func (o *oracle) shoot(t T, shots []*shot) (wrong []*shot) {
	t.Helper()
	ways := map[[2]string]bool{}
	for _, s := range shots {
		o.fire(t, s)
		ways[[2]string{s.From, s.To}] = true
	}
	for w := range ways {
		o.byName(w[0]).ends(t, o.byName(w[1]))
	}
	for _, s := range shots {
		o.sent++
		if !s.pass {
			o.dropped++
		}
		if !s.pass || o.arrives(t, s) {
			continue
		}
		o.resent++
		if o.fire(t, s); !o.arrives(t, s) {
			if wrong = append(wrong, s); len(wrong) >= 3 {
				break // each costs its patience
			}
		}
	}
	for _, s := range append(shots, o.forbidden...) {
		if !s.pass && o.log.Seen(s.To, s.token) > 0 {
			wrong = append(wrong, s)
		}
	}
	return wrong
}

func (o *oracle) fire(t T, s *shot) {
	t.Helper()
	var err error
	s.token, err = o.byName(s.From).send(o.byName(s.To), s.Packet, s.tcp)
	must(t, "sending", err)
}

func (o *oracle) arrives(t T, s *shot) bool {
	if o.log.Seen(s.To, s.token) > 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), o.patience)
	defer cancel()
	return o.log.Wait(ctx, s.To, s.token)
}

// Segments of a connection, as far as connection tracking looks at them.
var (
	syn       = packet.TCP{Flags: packet.SYN, Seq: 1000}
	synAck    = packet.TCP{Flags: packet.SYN | packet.ACK, Seq: 5000, Ack: 1001}
	dataOut   = packet.TCP{Flags: packet.ACK, Seq: 1001, Ack: 5001}
	dataBack  = packet.TCP{Flags: packet.ACK, Seq: 5001, Ack: 1001}
	mostFlows = 12 // of the policy before, that are tried again
)

// flows are the flows of the model, in an order that the seed repeats.
func (o *oracle) flows() []packetmodel.Packet {
	return slices.SortedFunc(slices.Values(o.model.Flows()), func(a, b packetmodel.Packet) int {
		return strings.Compare(a.String()+fmt.Sprint(a.ICMPID), b.String()+fmt.Sprint(b.ICMPID))
	})
}

// again are shots at flows that were let through before: both ways.
func (o *oracle) again(flows []packetmodel.Packet) (shots []*shot) {
	for _, f := range flows[:min(mostFlows, len(flows))] {
		back, _ := f.Reply()
		// The answer first: a packet of the asker may begin the flow anew. When the flow was cut but is allowed again, some drivers let it live on; when a rule would let the
		// answer begin a flow, trackers differ on whether it does.
		// Echoes may be cut when they need not: not every list of flows tells their type, and the next request begins them anew.
		if kept := o.model.Flow(f); kept && !f.IsICMP() || !kept && !o.model.Allowed(f) && !o.model.Allowed(back) {
			shots = append(shots, &shot{Packet: back, tcp: dataBack, pass: o.model.Send(back), flow: &f})
		}
		shots = append(shots, &shot{Packet: f, tcp: dataOut, pass: o.model.Send(f), flow: &f})
	}
	return shots
}

// answers are the answers to what passed.
func (o *oracle) answers(shots []*shot) (out []*shot) {
	for _, s := range shots {
		if back, ok := s.Reply(); ok && s.pass && s.flow == nil {
			out = append(out, &shot{Packet: back, tcp: synAck, pass: o.model.Send(back), flow: &s.Packet})
		}
	}
	return out
}

// randomPolicies tries random policies.
func randomPolicies(t T, e *Env) {
	o := newOracle(t, e)
	opts := e.o.Network.Packets
	began := time.Now()
	for i := range opts.Policies {
		before, flows := o.policy, o.flows()
		next := o.gen.Policy(o.policy)
		packets := o.draw(next)
		for packets == nil {
			next = o.gen.Policy(o.policy)
			packets = o.draw(next)
		}
		o.become(t, next)
		shots := o.again(flows)
		for _, p := range packets {
			shots = append(shots, &shot{Packet: p, tcp: syn, pass: o.model.Send(p)})
		}
		wrong := o.shoot(t, shots)
		if len(wrong) == 0 {
			wrong = o.shoot(t, o.answers(shots))
		}
		if len(wrong) > 0 {
			o.explain(t, i, before, wrong)
			return
		}
		o.remember(shots)
	}
	t.Logf("evidence: random policies; packets, of which dropped, of which sent twice; seed; seconds | %d; %d, %d, %d; %d; %.0f",
		opts.Policies, o.sent, o.dropped, o.resent, opts.Seed, time.Since(began).Seconds())
	if o.resent > o.sent/100 {
		t.Errorf("%d of %d packets had to be sent twice", o.resent, o.sent)
	}
}

// remember keeps what is still looked for, what was forbidden a moment ago, and forgets the rest.
func (o *oracle) remember(shots []*shot) {
	o.forbidden = slices.DeleteFunc(slices.Clone(shots), func(s *shot) bool { return s.pass })
	keep := map[uint32]bool{}
	for _, s := range o.forbidden {
		keep[s.token] = true
	}
	o.log.Keep(keep)
}

// draw draws packets for a policy that is not in force yet.
func (o *oracle) draw(p packetgen.Policy) []packetmodel.Packet {
	m := packetmodel.New()
	for _, s := range (packetgen.Policy{}).Steps(p) {
		s.Do(m)
	}
	return o.gen.Packets(p, m)
}
