package conformance

import (
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance/packet"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

const (
	limitBits  = 8_000_000
	limitBurst = 64 << 10
	limitFor   = 2 * time.Second
)

// limits sends four times what a limit lets through, either way, and looks what arrives.
func limits(t T, e *Env) {
	l := e.newLab(t, 0)
	open := e.ruleSet(t, 1)
	open.req.RuleSet.Rules = anything()
	open.apply(t)
	a, b := l.plugged(t, open), l.plugged(t, open)
	a.ends(t, b)
	b.ends(t, a)
	for what, x := range map[string]struct {
		limits   *driverv1.InterfaceLimits
		from, to *nic
		limited  bool
	}{
		"out of the guest":                {&driverv1.InterfaceLimits{EgressBitsPerSecond: limitBits, BurstBytes: limitBurst}, a, b, true},
		"into the guest":                  {&driverv1.InterfaceLimits{IngressBitsPerSecond: limitBits, BurstBytes: limitBurst}, b, a, true},
		"the way that has no limit":       {&driverv1.InterfaceLimits{IngressBitsPerSecond: limitBits, BurstBytes: limitBurst}, a, b, false},
		"when the limits are taken again": {nil, a, b, false},
	} {
		a.req.Spec.Limits = x.limits
		a.attach(t)
		sent, got, took := l.blast(t, x.from, x.to)
		most := int(float64(limitBits/8)*took.Seconds()*1.3) + 4*limitBurst
		switch {
		case x.limited && (got > most || got < limitBits/8/4):
			t.Errorf("%s: of %d bytes in %s %d arrived, the limit would be %d", what, sent, took, got, most)
		case !x.limited && got < sent/2:
			t.Errorf("%s: of %d bytes only %d arrived", what, sent, got)
		}
		t.Logf("%s: of %d bytes in %s %d arrived", what, sent, took.Round(time.Millisecond), got)
	}
}

// blast sends for a while and returns the bytes sent, and those that arrived until everything was decided.
func (l *lab) blast(t T, from, to *nic) (sent, got int, took time.Duration) {
	t.Helper()
	const size, perTick = 1400, 15 // each 5 ms: 33 Mbit/s
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var all []uint32
	p := from.packet(to, 0, 6000)
	p.Protocol = packetmodel.UDP
	for time.Since(began) < limitFor {
		for range perTick {
			token := tokens.Add(1)
			payload := append(packet.Token(token), make([]byte, size-70)...)
			if from.Send(packet.Frame(to.MAC, from.MAC, p, packet.TCP{}, payload)) == nil {
				all = append(all, token)
			}
		}
		<-tick.C
	}
	from.ends(t, to)
	took = time.Since(began)
	return len(all) * size, l.arrived(to, all) * size, took
}
