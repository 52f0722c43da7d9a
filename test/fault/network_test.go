package fault

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// The network between agents and controller is bad, under load: connections break, are refused, are late, and carry nothing one way or both, of several
// agents at once. No guest notices, and everything converges once the network is good again. 40 faults in make test.
func TestBadNetwork(t *testing.T) {
	faults, soak := count(t, 40)
	nodes := 6
	if soak {
		nodes = 24
	}
	n := seed(t)
	r := rand.New(rand.NewPCG(n, 1)) //nolint:gosec // a seed that can be given
	f := startFleet(t, shape{nodes: nodes, heartbeat: "{interval: 1s, timeout: 6s}", cpu: 64})
	l := newLedger(f)
	var steady []told
	for i := range nodes {
		if vm, ok := l.create("steady-" + f.nodes[i].name); ok {
			steady = append(steady, vm)
		}
	}
	l.settled(t, bound(soak, 30*time.Second))
	g := watch(t, f, steady)
	l.load(4, n)
	var over sync.WaitGroup
	for range faults {
		between := f.nodes[r.IntN(nodes)].net
		long := time.Duration(200+r.IntN(10_000)) * time.Millisecond // some beyond the heartbeat's timeout
		switch r.IntN(6) {
		case 0:
			between.sever()
		case 1:
			between.refuse(true)
			between.sever()
		case 2:
			between.slow(time.Duration(20+r.IntN(800)) * time.Millisecond)
		case 3:
			between.set(cutUp)
		case 4:
			between.set(cutDown)
		case 5:
			between.set(cutBoth)
		}
		over.Go(func() {
			time.Sleep(long)
			between.heal()
		})
		time.Sleep(time.Duration(100+r.IntN(700)) * time.Millisecond)
	}
	over.Wait()
	l.halt()
	last := time.Now()
	f.awaitNodes(t, bound(soak, 30*time.Second))
	l.settled(t, bound(soak, 30*time.Second)-time.Since(last))
	t.Logf("evidence: faults of the network under %d agents | %d", nodes, faults)
	t.Logf("evidence: acknowledged calls with a bad network | %d", l.calls)
	t.Logf("evidence: converged after the network was good again | %s", time.Since(last).Round(100*time.Millisecond))
	g.end(t)
	l.empty(t, bound(soak, 30*time.Second))
}
