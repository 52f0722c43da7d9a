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
	for i, f := range next.GetSpec().GetForwards() {
		if slices.ContainsFunc(cur.GetSpec().GetForwards(), func(had *networkv1.NetworkForward) bool { return proto.Equal(had, f) }) {
			continue
		}
		for _, port := range s.cfg.Cache.Find(state.Query{Kind: state.KindPort, Ref: state.RefNetwork(next.GetMeta().GetId())}).Rows {
			target := s.cfg.Cache.Row(state.KindVM, port.Owner)
			node := target.VM().GetVm().GetStatus().GetVmPlacement().GetNodeId()
			if node == "" || !domain.ForwardLeadsTo(f, port.Port().GetPort()) {
				continue
			}
			for _, other := range s.cfg.Cache.Find(state.Query{Kind: state.KindVM, Node: node}).Rows {
				if other.ID != target.ID && placement.TakesHostPort(s.cfg.Cache, other.VM(), next, f) {
					v.Add(fmt.Sprintf("network.spec.forwards[%d].listen_port", i), "%s port %d of node %s, where VM %q is, leads into VM %q already: listen on another port, or move one of them",
						f.GetProtocol(), f.GetListenPort(), node, target.Name, other.Name)
				}
			}
		}
	}
}
