package reconcile

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// VMFigures are figures of a VM that runs.
type VMFigures struct {
	ID, Name, Project string
	Stats             *driverv1.DomainStats
}

// Stats asks all compute drivers for figures, all at once. One that does not answer is left out.
func (e *Engine) Stats(ctx context.Context) []VMFigures {
	names := e.plugins.Names("compute")
	answers := make(chan []*driverv1.DomainStats, len(names))
	n := 0
	for _, name := range names {
		if p, _ := e.plugins.Plugin(name); !p.Running {
			continue
		}
		n++
		e.wg.Go(func() {
			var list []*driverv1.DomainStats
			_ = e.call(ctx, name, "", "GetStats", shortCall, func(ctx context.Context) error { // counted; shown as missing figures
				r, err := e.plugins.Compute(name).GetStats(ctx, &driverv1.GetStatsRequest{PerDomainTimeout: durationpb.New(2 * time.Second)})
				list = r.GetDomains()
				return err
			})
			answers <- list
		})
	}
	var out []VMFigures
	for range n {
		for _, st := range <-answers {
			e.mu.Lock()
			vm := e.wants[realised.Key{Kind: realised.KindVM, ID: st.GetDomainId()}].object().GetVm()
			e.mu.Unlock()
			if vm != nil {
				out = append(out, VMFigures{ID: st.GetDomainId(), Name: vm.GetName(), Project: vm.GetProjectId(), Stats: st})
			}
		}
	}
	return out
}

// Phases counts the node's VMs by what their domains do.
func (e *Engine) Phases() map[string]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]int{}
	for k := range e.wants {
		if k.Kind != realised.KindVM {
			continue
		}
		phase := computev1.VMPhase_VM_PHASE_PROVISIONING
		if s := e.vms[k.ID]; s != nil && s.domain != nil {
			phase = phaseOf(s.domain)
		}
		out[strings.ToLower(strings.TrimPrefix(phase.String(), "VM_PHASE_"))]++
	}
	return out
}
