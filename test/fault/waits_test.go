package fault

import (
	"context"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// longWait is how long a VM may be on its way without a word.
const longWait = 5 * time.Second

// waiting is a VM that is not as wanted, and its generation.
type waiting struct {
	id         string
	generation int64
}

// waits looks at VMs that are not as wanted: what stays so says for whom or what it waits. An hour's wait is right, a silent one is not.
func (g *guard) waits(now time.Time) {
	vms, err := g.f.allVMs()
	if err != nil {
		return // the controller is away just now
	}
	seen := map[waiting]bool{}
	for _, vm := range vms {
		st := vm.GetStatus()
		if st.GetPhase() == phases[vm.GetSpec().GetDesiredPower()] && st.GetObservedGeneration() == vm.GetMeta().GetGeneration() && vm.GetMeta().GetDeleteTime() == nil {
			continue
		}
		w := waiting{vm.GetMeta().GetId(), vm.GetMeta().GetGeneration()}
		seen[w] = true
		since, known := g.stuck[w]
		switch {
		case !known:
			g.stuck[w] = now
		case now.Sub(since) > longWait:
			g.stuck[w] = now // asked about again later
			g.explained(vm)
		}
	}
	for w := range g.stuck {
		if !seen[w] {
			delete(g.stuck, w)
		}
	}
}

func (g *guard) explained(vm *computev1.VM) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	res, err := g.f.vms.ExplainVM(ctx, connect.NewRequest(&computev1.ExplainVMRequest{Id: vm.GetMeta().GetId()}))
	if err != nil {
		return // it is gone, or the controller is away
	}
	e := res.Msg.GetExplanation()
	p := e.GetProgress()
	if !e.GetAsWanted() && e.GetWaitsFor() == "" && p.GetDoing() == "" && p.GetWaitsFor() == "" && p.GetLastError() == nil {
		g.say("VM %s is not as wanted and does not say why: %v, %v", vm.GetMeta().GetName(), vm.GetStatus(), e)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.named++
}
