package state

import (
	"sync"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// Sighting is what a node said last of a VM, whether or not the VM is placed there.
type Sighting struct {
	NodeID, VMID string
	Epoch        int64
	Running      bool
}

// Sightings remember what nodes say, also what changes no record: a VM that runs where it is not placed is news for the audit alone. Agents say all
// of it again to a new leader, so it is never stored.
type Sightings struct {
	mu    sync.Mutex
	nodes map[string]*seenBy
}

type seenBy struct {
	session string
	vms     map[string]Sighting
}

// NewSightings makes an empty memory.
func NewSightings() *Sightings { return &Sightings{nodes: map[string]*seenBy{}} }

// Note takes in a report. A new session of an agent says everything anew, so what the last one said is forgotten. A nil memory remembers nothing.
func (s *Sightings) Note(nodeID, session string, reports []*agentv1.VMReport) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[nodeID]
	if n == nil || n.session != session {
		n = &seenBy{session: session, vms: map[string]Sighting{}}
		s.nodes[nodeID] = n
	}
	for _, r := range reports {
		if r.GetAbsent() {
			delete(n.vms, r.GetVmId())
			continue
		}
		n.vms[r.GetVmId()] = Sighting{NodeID: nodeID, VMID: r.GetVmId(), Epoch: r.GetEpoch(), Running: alive(r.GetStatus())}
	}
}

// Forget drops a node.
func (s *Sightings) Forget(nodeID string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nodes, nodeID)
}

// All are all sightings, in no order.
func (s *Sightings) All() []Sighting {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Sighting
	for _, n := range s.nodes {
		for _, v := range n.vms {
			out = append(out, v)
		}
	}
	return out
}

// alive reports whether a status speaks of a guest that is in memory.
func alive(st *computev1.VMStatus) bool {
	switch st.GetPhase() {
	case computev1.VMPhase_VM_PHASE_RUNNING, computev1.VMPhase_VM_PHASE_PAUSED, computev1.VMPhase_VM_PHASE_STOPPING, computev1.VMPhase_VM_PHASE_MIGRATING:
		return true
	}
	return st.GetPid() > 0
}
