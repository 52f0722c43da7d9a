package vm

import (
	"strings"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// portsInTrouble explains the ports of a VM through which nothing passes though something should: kept shut, failed, and, while the VM itself is not as wanted, not in place yet.
func (s *Service) portsInTrouble(rec *statev1.VMRecord, vmAsWanted bool) []*computev1.Explanation {
	var out []*computev1.Explanation
	for _, n := range rec.GetNicPorts() {
		row := s.cfg.Cache.Row(state.KindPort, n.GetPortId())
		p := row.Port().GetPort()
		st := p.GetStatus()
		switch phase := st.GetPhase(); {
		case p == nil, p.GetSpec().GetLinkDown() && phase == networkv1.PortPhase_PORT_PHASE_BLOCKED:
			continue
		case phase == networkv1.PortPhase_PORT_PHASE_BLOCKED, phase == networkv1.PortPhase_PORT_PHASE_FAILED:
		case phase == networkv1.PortPhase_PORT_PHASE_BINDING && !vmAsWanted:
		default:
			continue
		}
		on := st.GetBinding().GetNodeId()
		x := &computev1.Explanation{
			ObjectKind: domain.KindPort, ObjectId: row.ID, ObjectName: row.Name, State: strings.TrimPrefix(st.GetPhase().String(), "PORT_PHASE_"), Wanted: "UP",
			Summary: "NIC " + n.GetNicName() + ": " + st.GetMessage(), Progress: s.cfg.Nodes.Progress(on, agentv1.DesiredKind_DESIRED_KIND_PORT, row.ID),
		}
		if st.GetMessage() == "" {
			x.Summary = "NIC " + n.GetNicName() + ": its port is being put in place"
			if st.GetReason() != "" {
				x.Summary = "NIC " + n.GetNicName() + ": " + st.GetReason()
			}
		}
		if x.GetProgress() != nil {
			x.Summary, x.WaitsFor = "NIC "+n.GetNicName()+": "+seam.InWords(x.GetProgress(), s.cfg.Now()), x.GetProgress().GetWaitsFor()
		}
		if x.GetWaitsFor() == "" && on != "" {
			x.WaitsFor = "node " + s.nodeName(on)
		}
		out = append(out, x)
	}
	return out
}
