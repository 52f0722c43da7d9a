package agent

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// told is what a node told that is never stored: it is lost with this process, and told again to the next leader.
type told struct {
	progress map[key]*computev1.Progress
	orphans  map[string]*agentv1.OrphanDetail // by VM
	ports    map[string]*agentv1.PortStats    // counters, by port
	since    time.Time                        // of its stream, or of the end of that
}

var _ seam.Nodes = (*Service)(nil)

// told is what is known of a node; mu is held.
func (s *Service) toldBy(nodeID string) *told {
	t := s.told[nodeID]
	if t == nil {
		t = &told{progress: map[key]*computev1.Progress{}, orphans: map[string]*agentv1.OrphanDetail{}, ports: map[string]*agentv1.PortStats{}}
		s.told[nodeID] = t
	}
	return t
}

// keepTold takes in what a report says beside what is stored.
func (s *Service) keepTold(nodeID string, req *agentv1.ReportStatusRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.toldBy(nodeID)
	for _, p := range req.GetProgress() {
		k := key{p.GetKey().GetKind(), p.GetKey().GetId()}
		if p.GetProgress() == nil {
			delete(t.progress, k)
		} else {
			t.progress[k] = p.GetProgress()
		}
	}
	if len(req.GetPortStats()) > 0 || slices.ContainsFunc(req.GetPorts(), (*agentv1.PortReport).GetAbsent) {
		s.keepPortStats(nodeID, t, req.GetPortStats())
	}
	if req.GetOrphansKnown() {
		clear(t.orphans)
		for _, d := range req.GetOrphanDetails() {
			t.orphans[d.GetVm().GetVmId()] = d
		}
	}
}

// Leading implements seam.Nodes.
func (s *Service) Leading() bool { return s.cfg.Leader.Leading() }

// Stream implements seam.Nodes.
func (s *Service) Stream(nodeID string) (bool, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.told[nodeID]
	if t == nil {
		return s.sessions[nodeID] != nil, time.Time{}
	}
	return s.sessions[nodeID] != nil, t.since
}

// Progress implements seam.Nodes.
func (s *Service) Progress(nodeID string, kind agentv1.DesiredKind, id string) *computev1.Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.told[nodeID]
	if t == nil || t.progress[key{kind, id}] == nil {
		return nil
	}
	return proto.CloneOf(t.progress[key{kind, id}])
}

// OrphanDetail implements seam.Nodes.
func (s *Service) OrphanDetail(nodeID, vmID string) *agentv1.OrphanDetail {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.told[nodeID]
	if t == nil || t.orphans[vmID] == nil {
		return nil
	}
	return proto.CloneOf(t.orphans[vmID])
}
