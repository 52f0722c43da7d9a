package placement

import (
	"fmt"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// Kinds of findings, as the metric's label says them.
const (
	// FindClaimWithoutVM is a claim that nothing placed holds: a node's sums are more than its VMs claim, or a VM claims where it is not placed.
	FindClaimWithoutVM = "claim_without_vm"
	// FindVMWithoutClaim is a placed VM that claims nothing, though it may run.
	FindVMWithoutClaim = "vm_without_claim"
	// FindClaimWrongSize is a claim that is not what the VM needs, with nothing that it waits for; or a node's sums that are less than its VMs claim.
	FindClaimWrongSize = "claim_wrong_size"
	// FindRunningElsewhere is a guest that runs where it is not placed, or under an epoch that is over.
	FindRunningElsewhere = "running_where_not_placed"
	// FindRunningTwice is a VM that runs at its place and at another node.
	FindRunningTwice = "running_twice"
	// FindUnknown is an object with our mark on a node that no record knows.
	FindUnknown = "reported_but_unknown"
	// FindIndexWrong is a scheduler's index that counts otherwise than the records; it is made anew.
	FindIndexWrong = "index_wrong"
)

var findKinds = []string{
	FindClaimWithoutVM, FindVMWithoutClaim, FindClaimWrongSize, FindRunningElsewhere, FindRunningTwice, FindUnknown, FindIndexWrong,
}

// Finding is something that claims, placements and nodes do not agree on.
type Finding struct {
	Kind, Object, Node, Detail string
}

// books are all that is compared, of one revision.
type books struct {
	vms     map[string]*statev1.VMRecord
	nodes   map[string]*statev1.NodeRecord
	volumes map[string]bool
	ports   map[string]bool
	nets    map[string]bool
	seen    []state.Sighting
	indexed map[string][2]int64 // node id -> CPUs and bytes that the index counts
}

// findings compares the books. It is pure.
func findings(b books) []Finding {
	var out []Finding
	add := func(kind, object, node, format string, args ...any) {
		out = append(out, Finding{kind, object, node, fmt.Sprintf(format, args...)})
	}
	cpus, memory := map[string]int64{}, map[string]int64{}
	for id, rec := range b.vms {
		placed, c := rec.GetVm().GetStatus().GetVmPlacement().GetNodeId(), rec.GetClaim()
		cpus[c.GetNodeId()] += int64(c.GetVcpus())
		memory[c.GetNodeId()] += c.GetMemoryBytes()
		switch kind := claimTrouble(rec); kind {
		case "":
		case FindClaimWithoutVM:
			add(kind, id, c.GetNodeId(), "it claims %d CPUs and %d bytes there, and is placed on %q", c.GetVcpus(), c.GetMemoryBytes(), placed)
		default:
			want := domain.Demand(rec)
			add(kind, id, placed, "it holds %d CPUs and %d bytes, and needs %d and %d", c.GetVcpus(), c.GetMemoryBytes(), want.GetVcpus(), want.GetMemoryBytes())
		}
	}
	for id, n := range b.nodes {
		hasC, hasM := n.GetClaimedVcpus(), n.GetClaimedMemoryBytes()
		if hasC > cpus[id] || hasM > memory[id] {
			add(FindClaimWithoutVM, id, id, "its record counts %d CPUs and %d bytes, its VMs claim %d and %d", hasC, hasM, cpus[id], memory[id])
		} else if hasC != cpus[id] || hasM != memory[id] {
			add(FindClaimWrongSize, id, id, "its record counts %d CPUs and %d bytes, its VMs claim %d and %d", hasC, hasM, cpus[id], memory[id])
		}
		if x := b.indexed[id]; x != [2]int64{cpus[id], memory[id]} {
			add(FindIndexWrong, id, id, "the index counts %d CPUs and %d bytes, its VMs claim %d and %d", x[0], x[1], cpus[id], memory[id])
		}
	}
	out = append(out, strays(b)...)
	slices.SortFunc(out, func(x, y Finding) int {
		return strings.Compare(x.Kind+"/"+x.Object+"/"+x.Node+x.Detail, y.Kind+"/"+y.Object+"/"+y.Node+y.Detail)
	})
	return slices.Compact(out)
}

// claimTrouble is the kind of what is wrong with a VM's claim; "" when it is right, or the VM says what it waits for.
func claimTrouble(rec *statev1.VMRecord) string {
	st, c := rec.GetVm().GetStatus(), rec.GetClaim()
	placed := st.GetVmPlacement().GetNodeId()
	switch {
	case c != nil && c.GetNodeId() != placed:
		return FindClaimWithoutVM
	case !claimOff(rec) || st.GetReason() == unschedulable:
		return ""
	case c == nil && rec.GetVm().GetSpec().GetReleaseClaimWhenStopped() && st.GetPhase() == computev1.VMPhase_VM_PHASE_STOPPED:
		return "" // it stays off until it gets one
	case c == nil:
		return FindVMWithoutClaim
	}
	return FindClaimWrongSize
}

// strays are the VMs that nodes speak of and that are not placed so.
func strays(b books) []Finding {
	var out []Finding
	home := map[string]bool{} // VMs that run where they are placed, by their node's own word
	for _, s := range b.seen {
		p := b.vms[s.VMID].GetVm().GetStatus().GetVmPlacement()
		if s.Running && p != nil && s.NodeID == p.GetNodeId() && s.Epoch == p.GetEpoch() {
			home[s.VMID] = true
		}
	}
	look := func(s state.Sighting, words string) {
		rec := b.vms[s.VMID]
		if rec == nil {
			out = append(out, Finding{FindUnknown, s.VMID, s.NodeID, words + "; no VM has this id"})
			return
		}
		p := rec.GetVm().GetStatus().GetVmPlacement()
		if !s.Running || p != nil && s.NodeID == p.GetNodeId() && (s.Epoch == p.GetEpoch() || s.Epoch == 0) || moving(p, s.NodeID) {
			return
		}
		kind := FindRunningElsewhere
		if home[s.VMID] && s.NodeID != p.GetNodeId() {
			kind = FindRunningTwice
		}
		out = append(out, Finding{kind, s.VMID, s.NodeID, fmt.Sprintf("%s; it is placed on node %q under epoch %d", words, p.GetNodeId(), p.GetEpoch())})
	}
	for _, s := range b.seen {
		if b.nodes[s.NodeID] == nil {
			continue // its word counts no longer
		}
		look(s, fmt.Sprintf("reported by its node under epoch %d, running: %v", s.Epoch, s.Running))
	}
	for id, n := range b.nodes {
		for _, o := range n.GetNode().GetStatus().GetOrphans() {
			switch o.GetKind() {
			case "domain":
				look(state.Sighting{NodeID: id, VMID: o.GetObjectId(), Running: o.GetDetail() != "is off"}, "an orphan of its node: "+o.GetDetail())
			case "volume":
				if !b.volumes[o.GetObjectId()] {
					out = append(out, Finding{FindUnknown, o.GetObjectId(), id, "an orphan volume of its node " + o.GetDetail() + "; no volume has this id"})
				}
			case "port":
				if !b.ports[o.GetObjectId()] {
					out = append(out, Finding{FindUnknown, o.GetObjectId(), id, "an orphan port of its node " + o.GetDetail() + "; no port has this id"})
				}
			case "network":
				if !b.nets[o.GetObjectId()] {
					out = append(out, Finding{FindUnknown, o.GetObjectId(), id, "an orphan network of its node " + o.GetDetail() + "; no network has this id"})
				}
			}
		}
	}
	return out
}

// moving reports whether a VM is on its way to a node: then two may run it.
func moving(p *computev1.VMPlacement, nodeID string) bool {
	return p.GetMigration() != nil && p.GetMigration().GetTargetNodeId() == nodeID
}

// recount reads the books at one revision; ok is false while too much is written for that.
func (w *worker) recount() (b books, ok bool) {
	for range 5 {
		vms, nodes, volumes := w.Cache.Find(state.Query{Kind: state.KindVM}), w.Cache.Find(state.Query{Kind: state.KindNode}), w.Cache.Find(state.Query{Kind: state.KindVolume})
		ports, nets := w.Cache.Find(state.Query{Kind: state.KindPort}), w.Cache.Find(state.Query{Kind: state.KindNetwork})
		b = books{
			vms: map[string]*statev1.VMRecord{}, nodes: map[string]*statev1.NodeRecord{}, volumes: map[string]bool{}, ports: map[string]bool{}, nets: map[string]bool{},
			seen: w.Seen.All(), indexed: map[string][2]int64{},
		}
		for _, n := range nodes.Rows {
			b.nodes[n.ID] = n.Node()
			c, m := w.Index.Claimed(n.ID)
			b.indexed[n.ID] = [2]int64{c, m}
		}
		if vms.Revision != nodes.Revision || vms.Revision != volumes.Revision || vms.Revision != ports.Revision || vms.Revision != nets.Revision || w.Cache.Revision() != vms.Revision {
			continue
		}
		for _, v := range vms.Rows {
			b.vms[v.ID] = v.VM()
		}
		for _, v := range volumes.Rows {
			b.volumes[v.ID] = true
		}
		for _, p := range ports.Rows {
			b.ports[p.ID] = true
		}
		for _, n := range nets.Rows {
			b.nets[n.ID] = true
		}
		return b, true
	}
	return b, false
}

// same reports whether two records are equal but for what changes with every look.
func same(a, b Finding) bool { return a.Kind == b.Kind && a.Object == b.Object && a.Node == b.Node }
