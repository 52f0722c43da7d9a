package conformance

import (
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// disturbed lets somebody spoil what is the driver's, once a second, while forbidden packets are under way: none passes, and what is allowed passes again each time.
func disturbed(t T, e *Env) {
	w := newWindow(t, e)
	opts := e.o.Network.Packets
	var probes []*probe
	for family := range w.a.Addrs {
		probes = append(probes, w.probe(t.Context(), w.a.packet(w.b, family, forbiddenPort), false), w.probe(t.Context(), w.b.packet(w.a, family, forbiddenPort), false))
	}
	defer func() {
		for _, p := range probes {
			p.stop()
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var slowest time.Duration
	for i := range opts.Seconds {
		d := opts.Disturbances[i%len(opts.Disturbances)]
		must(t, d.Name, d.Do(within(t)))
		began := time.Now()
		eventually(t, 30*time.Second, d.Name+" is put right", func() bool {
			return len(call(t, e.network().CheckNetwork, &driverv1.CheckNetworkRequest{}).GetDrifts()) == 0
		})
		slowest = max(slowest, time.Since(began))
		for family := range w.a.Addrs {
			for _, port := range []uint16{allowedPort, memberPort} {
				if p := w.a.packet(w.b, family, port); !w.a.passes(t, w.b, p) {
					t.Errorf("after %s what is allowed does not pass any more: %s", d.Name, p)
				}
			}
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
		}
	}
	for _, p := range probes {
		p.stop()
	}
	w.a.ends(t, w.b)
	w.b.ends(t, w.a)
	w.judge(t, probes, 0)
	t.Logf("evidence: disturbances, one a second; put right within, ms | %d; %d", opts.Seconds, slowest.Milliseconds())
	call(t, e.network().ApplyRuleSet, &driverv1.ApplyRuleSetRequest{RuleSet: &driverv1.RuleSet{
		RuleSetId: w.set.id, Mark: e.mark(w.set.id), Generation: w.gen + 1, Rules: anything(),
	}})
	for family := range w.a.Addrs {
		if p := w.a.packet(w.b, family, forbiddenPort); !w.a.passes(t, w.b, p) {
			t.Errorf("the control shows nothing: %s does not pass when it is allowed", p)
		}
	}
}
