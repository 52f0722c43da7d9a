package agent

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

// maxPortStats is of how many ports of one node counters are kept; a node has fewer.
const maxPortStats = 16_384

// keepPortStats takes in counters of ports that are bound to the node; mu is held. What of other ports was kept goes when there is no room.
func (s *Service) keepPortStats(nodeID string, t *told, reports []*agentv1.PortStats) {
	here := func(id string) bool {
		row := s.cfg.Cache.Row(state.KindPort, id)
		return row != nil && slices.Contains(row.Nodes, nodeID)
	}
	for _, p := range reports {
		if _, known := t.ports[p.GetPortId()]; !here(p.GetPortId()) || !known && len(t.ports) >= maxPortStats {
			continue
		}
		t.ports[p.GetPortId()] = p
	}
	if len(t.ports) > s.cfg.Cache.CountOn(state.KindPort, nodeID) {
		for id := range t.ports {
			if !here(id) {
				delete(t.ports, id)
			}
		}
	}
}

// PortStats implements seam.Nodes.
func (s *Service) PortStats(nodeID, portID string) *agentv1.PortStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.told[nodeID]
	if t == nil || t.ports[portID] == nil {
		return nil
	}
	return proto.CloneOf(t.ports[portID])
}
