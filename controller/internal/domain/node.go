package domain

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// ValidateNode notes everything that is wrong with what an operator says of a node, under "node.".
func ValidateNode(v *Violations, n *computev1.Node) {
	CheckMeta(v, "node.meta", n.GetMeta(), false)
	if n.GetMeta().GetProjectId() != "" {
		v.Add("node.meta.project_id", "must be empty: nodes belong to no project")
	}
	s := n.GetSpec()
	for i, t := range s.GetTaints() {
		at := fmt.Sprintf("node.spec.taints[%d]", i)
		if !ValidLabelKey(t.GetKey()) {
			v.Add(at+".key", labelKeyRule)
		}
		if !ValidLabelValue(t.GetValue()) {
			v.Add(at+".value", labelValRule)
		}
		if t.GetEffect() == computev1.TaintEffect_TAINT_EFFECT_UNSPECIFIED {
			v.Add(at+".effect", "is required: NO_SCHEDULE or PREFER_NO_SCHEDULE")
		}
		checkEnum(v, at+".effect", t.GetEffect())
	}
	checkRatio(v, "node.spec.overcommit_cpu", s.GetOvercommitCpu())
	checkRatio(v, "node.spec.overcommit_memory", s.GetOvercommitMemory())
	if r := s.GetReservedCpus(); r < 0 || math.IsNaN(r) || math.IsInf(r, 0) {
		v.Add("node.spec.reserved_cpus", "must not be negative")
	}
	if s.GetReservedMemoryBytes() < 0 {
		v.Add("node.spec.reserved_memory_bytes", "must not be negative")
	}
}

func checkRatio(v *Violations, field string, r float64) {
	if !(r == 0 || r >= 0.01 && r <= 1000) {
		v.Add(field, "must be from 0.01 to 1000, or 0 for the controller's")
	}
}

// UpdateNode is cur with the fields of the mask taken from change, validated.
func UpdateNode(cur, change *computev1.Node, mask *fieldmaskpb.FieldMask) (next *computev1.Node, specChanged bool, err error) {
	var v Violations
	next = proto.CloneOf(cur)
	ApplyMask(&v, next, change, mask, func(path string) (string, bool) {
		switch {
		case Under(path, "spec"), path == "meta.labels", path == "meta.annotations":
			return "", true
		case Under(path, "meta.labels", "meta.annotations"):
			return "reaches into a map: name the whole map", false
		}
		return "cannot change: use paths under \"spec\", \"meta.labels\", \"meta.annotations\"", false
	})
	if err := v.Err(); err != nil {
		return nil, false, err
	}
	if next.Spec == nil {
		next.Spec = &computev1.NodeSpec{}
	}
	ValidateNode(&v, next)
	return next, !proto.Equal(cur.GetSpec(), next.GetSpec()), v.Err()
}

// NodePhase decides where a node stands, by its record and by whether its agent is heard of.
func NodePhase(rec *statev1.NodeRecord, alive bool) (phase computev1.NodePhase, reason, message string) {
	n := rec.GetNode()
	switch {
	case n.GetMeta().GetDeleteTime() != nil:
		return computev1.NodePhase_NODE_PHASE_DELETING, "", "its VMs are being placed anew"
	case !rec.GetEnrolled():
		return computev1.NodePhase_NODE_PHASE_REGISTERED, "", "no agent has enrolled: give one a join token for this name"
	case !alive:
		return computev1.NodePhase_NODE_PHASE_UNKNOWN, fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE),
			"its agent does not report; its VMs may well run: look after the host, or, if it is off for good, delete the node with force"
	case n.GetStatus().GetResources() == nil && len(n.GetStatus().GetDrivers()) == 0:
		return computev1.NodePhase_NODE_PHASE_NOT_READY, "", "its agent has not said yet what the host has"
	}
	// The compute driver's trouble first: without one the agent cannot say what the host has.
	if reason, message := computeTrouble(n.GetStatus().GetDrivers()); message != "" {
		return computev1.NodePhase_NODE_PHASE_NOT_READY, reason, message
	}
	if n.GetStatus().GetResources() == nil {
		return computev1.NodePhase_NODE_PHASE_NOT_READY, "", "its agent has not said yet what the host has"
	}
	return computev1.NodePhase_NODE_PHASE_READY, "", ""
}

// computeTrouble says why no compute driver works; "" when one does.
func computeTrouble(drivers []*computev1.DriverStatus) (reason, message string) {
	if len(HealthyDrivers(drivers, "compute")) > 0 {
		return "", ""
	}
	reason = fault.ReasonName(metav1.Reason_REASON_PLUGIN_MISSING)
	var texts []string
	for _, d := range drivers {
		if slices.Contains(d.GetKinds(), "compute") || len(d.GetKinds()) == 0 {
			if d.GetReason() != "" {
				reason = d.GetReason()
			}
			texts = append(texts, strings.TrimSuffix(fmt.Sprintf("%s is %s: %s", d.GetName(), d.GetState(), d.GetMessage()), ": "))
		}
	}
	if len(texts) == 0 {
		return reason, "it has no compute driver: install a plugin, for example limiquantix-plugin-kvm"
	}
	return reason, "no compute driver works: " + strings.Join(texts, "; ")
}

// HealthyDrivers names the drivers of a kind that can be used.
func HealthyDrivers(drivers []*computev1.DriverStatus, kind string) []string {
	var out []string
	for _, d := range drivers {
		if slices.Contains(d.GetKinds(), kind) && (d.GetState() == "healthy" || d.GetState() == "degraded") {
			out = append(out, d.GetName())
		}
	}
	return out
}

// HasDriver reports whether a node has a driver of a kind at all, whatever its health.
func HasDriver(drivers []*computev1.DriverStatus, kind, name string) bool {
	return slices.ContainsFunc(drivers, func(d *computev1.DriverStatus) bool {
		return d.GetName() == name && slices.Contains(d.GetKinds(), kind)
	})
}
