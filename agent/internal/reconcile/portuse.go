package reconcile

import (
	"fmt"
	"slices"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// portUseView is all that the answer to whether a VM's domain may use a port depends on.
type portUseView struct {
	Port   string
	Epoch  int64              // of the port
	VM     *agentv1.DesiredVM // nil = not wanted here
	Record realised.Record    // of the VM
	Input  string             // hash of what its definition shall be made of
	// Looked: the domain, or that there is none, was seen by this run; Deleted: nothing of it is left.
	Looked, Deleted bool
	Domain          *driverv1.Domain
	Starting        bool // a call that starts the domain is under way
	// Orphan: a domain of the VM, which is not wanted, was listed; Silent names a compute plugin that may have one and was not asked since the VM was left.
	Orphan bool
	Silent string
}

// portUse says why a port must stay for a VM's domain; empty = it may go.
func portUse(v portUseView) string {
	switch {
	case v.VM == nil && !v.Record.Gone.IsZero():
		return ""
	case v.VM == nil && v.Orphan:
		return "a domain of its VM, which is not wanted, is still here"
	case v.VM == nil && v.Silent != "":
		return "plugin " + v.Silent + " was not asked yet whether a domain uses it"
	case v.VM == nil, v.Deleted, v.VM.GetAbsent() && !v.Record.Gone.IsZero():
		return ""
	case v.VM.GetAbsent():
		return "its VM is not deleted yet"
	case v.Looked && !isOn(v.Domain) && !v.Starting && v.Epoch < v.VM.GetEpoch(): // of an earlier placement: it is put in place anew before the domain starts
		return ""
	case slices.ContainsFunc(v.VM.GetPorts(), func(p *agentv1.VMPort) bool { return p.GetPortId() == v.Port }):
		return "it is a NIC of its VM"
	case !v.Looked:
		return "its VM was not looked at yet"
	case slices.Contains(v.Record.Ports, v.Port), hasInterface(v.Domain, v.Port):
		return "the domain of its VM has not let go of it"
	case v.Domain != nil && v.Record.InputHash != v.Input:
		return "the domain of its VM is defined anew first"
	}
	return ""
}

func hasInterface(d *driverv1.Domain, id string) bool {
	return slices.ContainsFunc(d.GetInterfaces(), func(i *driverv1.DomainInterfaceStatus) bool { return i.GetInterfaceId() == id })
}

// portUser says why a port that shall go must stay for now; when it may go, no domain gets it from then on.
func (e *Engine) portUser(d *agentv1.DesiredPort) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := realised.Key{Kind: realised.KindVM, ID: d.GetVmId()}
	v := portUseView{Port: d.GetPortId(), Epoch: d.GetEpoch(), VM: e.wants[k].object().GetVm(), Record: e.recordOf(k)}
	if s := e.vms[k.ID]; s != nil {
		v.Looked, v.Deleted, v.Domain, v.Starting = s.lookedOnce, s.deleted, s.domain, s.starting
	}
	if v.VM != nil {
		v.Input = e.inputHash(v.VM)
	} else {
		for _, name := range e.plugins.Names("compute") {
			listed, was := e.orphans.listed[name]
			if !was || listed <= e.orphans.left[k] {
				v.Silent = name
			}
			v.Orphan = v.Orphan || e.orphans.domains[name][k.ID] != nil
		}
	}
	why := portUse(v)
	if why == "" {
		e.portState(d.GetPortId()).detaching = true
		return ""
	}
	return fmt.Sprintf("%s (VM %s)", why, d.GetVmId())
}
