package vm

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// why says why a VM is as it is: one thing, the first that has to come about.
func (s *Service) why(row *state.Row, fit *scheduler.Explanation) *computev1.Explanation {
	vm, rec := View(s.cfg.Cache, row), row.VM()
	st := vm.GetStatus()
	x := &computev1.Explanation{
		ObjectKind: domain.KindVM, ObjectId: row.ID, ObjectName: row.Name, State: phaseName(st.GetPhase()), Wanted: powerName(vm.GetSpec().GetDesiredPower()),
	}
	if row.Deleting {
		x.Wanted = "gone"
	}
	nodeID, nodeName := st.GetVmPlacement().GetNodeId(), st.GetVmPlacement().GetNodeName()
	node := s.cfg.Cache.Row(state.KindNode, nodeID)
	x.AsWanted = !row.Deleting && domain.AsWanted(rec) && st.GetObservedGeneration() >= vm.GetMeta().GetGeneration() && (node == nil || !unheard(node))
	x.Progress = s.cfg.Nodes.Progress(nodeID, agentv1.DesiredKind_DESIRED_KIND_VM, row.ID)
	if !x.GetAsWanted() {
		x.Parts = s.volumesNotReady(rec, row)
	}
	var ports []*computev1.Explanation
	if !row.Deleting {
		ports = s.portsInTrouble(rec, x.GetAsWanted())
		x.Parts = append(x.Parts, ports...)
	}
	switch connected, since := s.cfg.Nodes.Stream(nodeID); {
	case x.GetAsWanted():
		x.Summary = "is as wanted"
		if nodeName != "" {
			x.Summary += ", on node " + nodeName
		}
		if st.GetReason() == fault.ReasonName(metav1.Reason_REASON_POOL_UNHEALTHY) { // it runs, and a disk of it does not work
			x.Summary += "; " + st.GetMessage()
		}
		for _, p := range ports { // it runs, and nothing passes there
			x.Summary += "; port " + p.GetObjectId() + " is " + p.GetState() + ": " + p.GetSummary()
		}
	case row.Deleting && nodeID == "":
		x.Summary, x.WaitsFor, x.Since = deletionOf(x.GetParts()), firstOf(x.GetParts()), vm.GetMeta().GetDeleteTime()
	case nodeID == "":
		x.Summary, x.WaitsFor, x.Since = notPlaced(fit), "scheduler", rec.GetPendingSince()
	case node != nil && unheard(node):
		x.Summary, x.WaitsFor = st.GetMessage(), "node "+nodeName
	case s.cfg.Nodes.Leading() && !connected:
		x.Summary, x.WaitsFor = "the agent of node "+nodeName+" does not follow what is wanted now; it is told as soon as it connects", "node "+nodeName
		if !since.IsZero() {
			x.Since = timestamppb.New(since)
		}
	case x.GetProgress() != nil:
		x.Summary, x.WaitsFor = seam.InWords(x.GetProgress(), s.cfg.Now()), x.GetProgress().GetWaitsFor()
		x.Since = x.GetProgress().GetLastError().GetTime()
		if c := firstCall(x.GetProgress()); c != nil {
			x.WaitsFor, x.Since = "driver "+c.GetDriver()+" on node "+nodeName, c.GetStartTime()
		}
	case domain.Condition(st.GetConditions(), domain.CondRealisable).GetStatus() == metav1.ConditionStatus_CONDITION_STATUS_FALSE:
		c := domain.Condition(st.GetConditions(), domain.CondRealisable)
		x.Summary, x.WaitsFor, x.Since = "cannot be realised as it is wanted: "+c.GetMessage(), "a change of the VM", c.GetTransitionTime()
	case !row.Deleting && !domain.ClaimGranted(rec) && vm.GetSpec().GetDesiredPower() != computev1.PowerState_POWER_STATE_STOPPED:
		x.Summary, x.WaitsFor = "does not hold yet what it needs of node "+nodeName, "scheduler"
		if st.GetMessage() != "" {
			x.Summary += ": " + st.GetMessage()
		}
	default:
		x.Summary, x.WaitsFor = fmt.Sprintf("node %s is at it", nodeName), "node "+nodeName
		if st.GetMessage() != "" {
			x.Summary += ": " + st.GetMessage()
		}
	}
	if !x.GetAsWanted() && nodeID != "" && !s.cfg.Nodes.Leading() {
		x.Summary += " (what the node is at is known to the leader alone, and this controller is not the leader)"
	}
	return x
}

// volumesNotReady explains the volumes of a VM that are not as they shall be.
func (s *Service) volumesNotReady(rec *statev1.VMRecord, row *state.Row) []*computev1.Explanation {
	var out []*computev1.Explanation
	for _, d := range rec.GetDiskVolumes() {
		v := s.cfg.Cache.Row(state.KindVolume, d.GetVolumeId())
		if v == nil {
			if !row.Deleting {
				out = append(out, &computev1.Explanation{
					ObjectKind: "Volume", ObjectId: d.GetVolumeId(), ObjectName: d.GetDiskName(), State: "GONE", Wanted: "READY",
					Summary: "there is no such volume any more", WaitsFor: "a change of the VM",
				})
			}
			continue
		}
		vol := v.Volume()
		st := vol.GetVolume().GetStatus()
		if st.GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY && !row.Deleting {
			continue
		}
		x := &computev1.Explanation{
			ObjectKind: "Volume", ObjectId: v.ID, ObjectName: v.Name, State: st.GetPhase().String()[len("VOLUME_PHASE_"):], Wanted: "READY",
			Progress: s.cfg.Nodes.Progress(vol.GetExecutorNodeId(), agentv1.DesiredKind_DESIRED_KIND_VOLUME, v.ID), Summary: st.GetMessage(),
		}
		if row.Deleting {
			x.Wanted = "gone"
		}
		if x.GetProgress() != nil {
			x.Summary, x.WaitsFor = seam.InWords(x.GetProgress(), s.cfg.Now()), x.GetProgress().GetWaitsFor()
		}
		if x.GetWaitsFor() == "" && vol.GetExecutorNodeId() != "" {
			x.WaitsFor = "node " + s.nodeName(vol.GetExecutorNodeId())
		}
		if x.GetSummary() == "" {
			x.Summary = "is being made"
			if row.Deleting {
				x.Summary = "waits to be removed"
			}
		}
		if p := s.poolProgress(vol); p != nil {
			x.Parts = append(x.Parts, p)
		}
		out = append(out, x)
	}
	return out
}

// poolProgress explains a volume's pool where its node has trouble with it; nil otherwise.
func (s *Service) poolProgress(vol *statev1.VolumeRecord) *computev1.Explanation {
	id := vol.GetVolume().GetSpec().GetPoolId()
	p := s.cfg.Nodes.Progress(vol.GetExecutorNodeId(), agentv1.DesiredKind_DESIRED_KIND_POOL, id)
	if p == nil {
		return nil
	}
	x := &computev1.Explanation{ObjectKind: "Pool", ObjectId: id, State: "NOT USABLE", Wanted: "usable", Progress: p, Summary: seam.InWords(p, s.cfg.Now()), WaitsFor: p.GetWaitsFor()}
	if row := s.cfg.Cache.Row(state.KindPool, id); row != nil {
		x.ObjectName = row.Name
	}
	return x
}

func (s *Service) nodeName(id string) string {
	if row := s.cfg.Cache.Row(state.KindNode, id); row != nil {
		return row.Name
	}
	return id
}

func deletionOf(parts []*computev1.Explanation) string {
	if len(parts) == 0 {
		return "its records are being removed"
	}
	return "its volumes are being removed"
}

func firstOf(parts []*computev1.Explanation) string {
	for _, p := range parts {
		if p.GetWaitsFor() != "" {
			return p.GetWaitsFor()
		}
	}
	return "controller"
}

func firstCall(p *computev1.Progress) *computev1.DriverCall {
	var first *computev1.DriverCall
	for _, c := range p.GetCalls() {
		if first == nil || c.GetStartTime().AsTime().Before(first.GetStartTime().AsTime()) {
			first = c
		}
	}
	return first
}

// notPlaced says what nodes lack: "is not placed: ... (memory fails on 3, taints fails on 1)".
func notPlaced(fit *scheduler.Explanation) string {
	var parts []string
	for _, p := range fit.Predicates {
		if p.Failed > 0 {
			parts = append(parts, fmt.Sprintf("%s fails on %d", p.Name, p.Failed))
		}
	}
	text := "is not placed: " + fit.Summary
	if len(parts) > 0 {
		text += " (of " + fmt.Sprint(fit.NodeCount) + " nodes " + strings.Join(parts, ", ") + ")"
	}
	return text
}
