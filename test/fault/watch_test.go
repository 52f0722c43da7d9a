package fault

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

// guard looks at the hosts all the time: no VM is on at two of them, none that nobody touches ends or begins anew, and no node has more claimed than it
// may.
type guard struct {
	f      *fleet
	steady map[string]string // VM that nobody touches -> when its guest began

	mu    sync.Mutex
	wrong map[string]bool
	looks int
	stuck map[waiting]time.Time // since when it is seen
	named int
	stop  context.CancelFunc
	all   sync.WaitGroup
}

func watch(t *testing.T, f *fleet, steady []told) *guard {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	g := &guard{f: f, steady: map[string]string{}, wrong: map[string]bool{}, stuck: map[waiting]time.Time{}, stop: stop}
	for _, n := range f.nodes {
		domains, err := n.domains()
		if err != nil {
			t.Fatal(err)
		}
		for _, vm := range steady {
			if d := domains[vm.id]; d != nil {
				g.steady[vm.id] = d.GetStartTime().AsTime().String()
			}
		}
	}
	if len(g.steady) != len(steady) {
		t.Fatalf("%d of %d steady guests are on a host", len(g.steady), len(steady))
	}
	g.all.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				g.hosts()
				if n%10 == 0 {
					g.claims()
					g.waits(time.Now())
				}
			}
		}
	})
	return g
}

func (g *guard) say(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wrong[fmt.Sprintf(format, args...)] = true
}

func (g *guard) hosts() {
	on := map[string]string{}
	steady := 0
	for _, n := range g.f.nodes {
		domains, err := n.domains()
		if err != nil {
			g.say("%v", err)
			continue
		}
		for id, d := range domains {
			if !isOn(d) {
				continue
			}
			if other, twice := on[id]; twice {
				g.say("VM %s is on at %s and at %s", id, other, n.name)
			}
			on[id] = n.name
			if began, ok := g.steady[id]; ok {
				steady++
				if now := d.GetStartTime().AsTime().String(); now != began {
					g.say("the guest of VM %s began at %s, and again at %s", id, began, now)
				}
			}
		}
	}
	if steady != len(g.steady) {
		g.say("%d of %d steady guests are on", steady, len(g.steady))
	}
	g.mu.Lock()
	g.looks++
	g.mu.Unlock()
}

func (g *guard) claims() {
	nodes, err := g.f.list()
	if err != nil {
		return // the controller is away just now
	}
	for _, n := range nodes {
		c, a := n.GetStatus().GetClaimed(), n.GetStatus().GetAllocatable()
		if a.GetMemoryBytes() > 0 && (c.GetMemoryBytes() > a.GetMemoryBytes() || c.GetCpus() > a.GetCpus()) {
			g.say("%s: %v is claimed of %v", n.GetMeta().GetName(), c, a)
		}
	}
}

// end stops looking and tells what was seen.
func (g *guard) end(t *testing.T) {
	t.Helper()
	g.stop()
	g.all.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	for w := range g.wrong {
		t.Error(w)
	}
	if g.looks == 0 {
		t.Error("nobody looked at the hosts")
	}
	t.Logf("evidence: VMs that were on their way for more than %s, each named why | %d", longWait, g.named)
	t.Logf("evidence: looks at every host | %d", g.looks)
}
