package conformance

import (
	"time"

	"github.com/limiquantix/limiquantix/sdk/conformance/packetgen"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

func verdict(pass bool) string {
	if pass {
		return "must pass, and is dropped"
	}
	return "must be dropped, and passes"
}

// explain reports disagreements, and the first of them as small as it goes.
func (o *oracle) explain(t T, policy int, before packetgen.Policy, wrong []*shot) {
	t.Helper()
	seed, after := o.e.o.Network.Packets.Seed, o.policy
	for _, s := range wrong {
		t.Errorf("policy %d of seed %d: %s %s", policy, seed, s.Packet, verdict(s.pass))
	}
	c := packetgen.Case{Before: before, Flow: wrong[0].flow, After: after, Probe: wrong[0].Packet}
	if wrong[0].tcp == synAck {
		c.Before = after // the flow is of this very policy
	}
	o.patience = 300 * time.Millisecond
	if !o.fails(t, c) {
		t.Errorf("alone the first of them is not seen again. The policy before:\n%sthe policy:\n%s", before, after)
		return
	}
	ends := time.Now().Add(o.e.o.Network.Packets.Shrink)
	c = packetgen.Shrink(c, 400, func(c packetgen.Case) bool { return time.Now().Before(ends) && o.fails(t, c) })
	t.Errorf("the smallest case found, in which the last packet %s:\n%s", verdict(wrong[0].pass), c)
}

// fails tries a case by itself, after a policy that allows nothing, and reports whether driver and model disagree.
func (o *oracle) fails(t T, c packetgen.Case) bool {
	t.Helper()
	o.forbidden = nil
	flow, probe := o.fresh(c)
	o.become(t, o.policy.Shut())
	p := &shot{Packet: probe, tcp: syn, flow: flow}
	if flow != nil {
		changes := len(c.Before.Steps(c.After)) > 0
		o.become(t, c.Before)
		shots := []*shot{{Packet: *flow, tcp: syn, pass: o.model.Send(*flow)}}
		if !shots[0].pass {
			return false // without its flow it is another case
		}
		o.shoot(t, shots)
		if changes {
			o.shoot(t, o.answers(shots))
		}
		switch {
		case probe.From == flow.From:
			p.tcp = dataOut
		case changes:
			p.tcp = dataBack
		default:
			p.tcp = synAck
		}
	}
	o.become(t, c.After)
	p.pass = o.model.Send(probe)
	return len(o.shoot(t, []*shot{p})) > 0
}

// fresh gives the packets of a case ports and ids that nobody has tracked yet.
func (o *oracle) fresh(c packetgen.Case) (flow *packetmodel.Packet, probe packetmodel.Packet) {
	id, probe := o.gen.Fresh(), c.Probe
	if probe.IsICMP() {
		probe.ICMPID = id
	}
	if c.Flow == nil {
		if probe.HasPorts() {
			probe.SrcPort = id
		}
		return nil, probe
	}
	f := *c.Flow
	switch {
	case f.IsICMP():
		f.ICMPID = id
	case probe.From == f.From:
		f.SrcPort, probe.SrcPort = id, id
	default:
		f.SrcPort, probe.DstPort = id, id
	}
	return &f, probe
}
