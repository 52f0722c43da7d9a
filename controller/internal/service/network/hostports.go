package network

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/placement"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// checkHostPorts refuses new forwards whose port, on the node where the VM is that they lead to, leads into another VM already. VMs that are placed later are kept apart by the scheduler.
func (s *Service) checkHostPorts(v *domain.Violations, cur, next *networkv1.Network) {
	added := map[int]*networkv1.NetworkForward{}
	for i, f := range next.GetSpec().GetForwards() {
		if !slices.ContainsFunc(cur.GetSpec().GetForwards(), func(had *networkv1.NetworkForward) bool { return proto.Equal(had, f) }) {
			added[i] = f
		}
	}
	if len(added) == 0 {
		return
	}
	byNode := map[string][]*state.Row{} // VMs
	for _, row := range s.cfg.Cache.Find(state.Query{Kind: state.KindVM}).Rows {
		if node := row.VM().GetVm().GetStatus().GetVmPlacement().GetNodeId(); node != "" {
			byNode[node] = append(byNode[node], row)
		}
	}
	for node, vms := range byNode {
		for _, target := range vms {
			for i, f := range added {
				if !placement.LeadsInto(s.cfg.Cache, target.VM(), next.GetMeta().GetId(), f) {
					continue
				}
				for _, other := range vms {
					if other != target && placement.TakesHostPort(s.cfg.Cache, other.VM(), next, f) {
						v.Add(fmt.Sprintf("network.spec.forwards[%d].listen_port", i), "%s port %d of node %s, where VM %q is, leads into VM %q already: listen on another port, or move one of them",
							f.GetProtocol(), f.GetListenPort(), node, target.Name, other.Name)
					}
				}
			}
		}
	}
}
