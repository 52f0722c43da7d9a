package reconcile

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// seenAgain is how much later an address must be seen for that alone to be told.
const seenAgain = 5 * time.Minute

// portView is all that is told of a port.
type portView struct {
	Want  *agentv1.DesiredPort
	State portState
	// Realised is the newest generation that was put in place.
	Realised int64
	// VMOn: the domain runs, or is about to.
	VMOn  bool
	Guest *driverv1.GetGuestInfoResponse // nil = its agent says nothing
	Now   time.Time
}

// portPhase is where a port stands. What the driver does not say is up is not.
func portPhase(v portView) networkv1.PortPhase {
	i := v.State.iface
	switch {
	case v.Want.GetAbsent():
		return networkv1.PortPhase_PORT_PHASE_DELETING
	case i == nil && v.State.problem != "" && v.State.waits == "":
		return networkv1.PortPhase_PORT_PHASE_FAILED
	case i == nil:
		return networkv1.PortPhase_PORT_PHASE_BINDING
	case i.GetState() == driverv1.InterfaceState_INTERFACE_STATE_UP:
		return networkv1.PortPhase_PORT_PHASE_UP
	case i.GetState() == driverv1.InterfaceState_INTERFACE_STATE_BLOCKED:
		return networkv1.PortPhase_PORT_PHASE_BLOCKED
	case v.VMOn:
		return networkv1.PortPhase_PORT_PHASE_BINDING
	}
	return networkv1.PortPhase_PORT_PHASE_IDLE
}

// portReport is what the controller is told of a port.
func portReport(v portView) *agentv1.PortReport {
	s, d := v.State, v.Want
	st := &networkv1.PortStatus{Phase: portPhase(v), ObservedGeneration: min(v.Realised, d.GetGeneration())}
	switch {
	case s.problem != "":
		st.Reason, st.Message = s.reason, s.problem
		if s.retry.After(v.Now) {
			st.NextRetryTime = timestamppb.New(s.retry)
		}
	case s.waits != "":
		st.Reason, st.Message = "WAITING", "waits: "+s.waits
	default:
		st.Reason, st.Message = s.iface.GetReason(), s.iface.GetMessage()
	}
	if s.iface.GetDevice() != "" {
		st.Binding = &networkv1.PortBinding{Device: s.iface.GetDevice()}
	}
	for _, r := range s.iface.GetRuleSets() {
		st.SecurityGroups = append(st.SecurityGroups, &networkv1.AppliedSecurityGroup{SecurityGroupId: r.GetRuleSetId(), Generation: r.GetGeneration()})
	}
	for _, a := range s.observed {
		st.ObservedAddresses = append(st.ObservedAddresses, &networkv1.ObservedAddress{
			IpAddress: a.GetIpAddress(), Source: networkv1.ObservedAddressSource(a.GetSource()), ObserveTime: a.GetObserveTime(),
		})
	}
	st.ObservedAddresses = append(st.ObservedAddresses, guestAddresses(v.Guest, d.GetSpec().GetMac())...)
	return &agentv1.PortReport{PortId: d.GetPortId(), Epoch: d.GetEpoch(), ObservedGeneration: st.GetObservedGeneration(), Status: st}
}

// guestAddresses are those that the agent inside the guest tells of the interface with a MAC address; there is no time to them, for it is the guest's word.
func guestAddresses(g *driverv1.GetGuestInfoResponse, mac string) (out []*networkv1.ObservedAddress) {
	for _, i := range g.GetInterfaces() {
		if !strings.EqualFold(i.GetMac(), mac) {
			continue
		}
		for _, a := range i.GetAddresses() {
			p, err := netip.ParsePrefix(a)
			if err != nil || p.Addr().IsLoopback() {
				continue
			}
			out = append(out, &networkv1.ObservedAddress{
				IpAddress: p.Addr().String(), Source: networkv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_GUEST_AGENT,
			})
		}
	}
	slices.SortFunc(out, func(a, b *networkv1.ObservedAddress) int { return strings.Compare(a.GetIpAddress(), b.GetIpAddress()) })
	return out
}

// observedNow is what to tell of the addresses that a port is seen with: as it was told, unless one is new, gone, or seen again after a while.
func observedNow(was, is []*driverv1.ObservedAddress) []*driverv1.ObservedAddress {
	out := make([]*driverv1.ObservedAddress, 0, len(is))
	for _, a := range is {
		i := slices.IndexFunc(was, func(b *driverv1.ObservedAddress) bool {
			return a.GetIpAddress() == b.GetIpAddress() && a.GetSource() == b.GetSource()
		})
		if i >= 0 && a.GetObserveTime().AsTime().Sub(was[i].GetObserveTime().AsTime()) < seenAgain {
			a = was[i]
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b *driverv1.ObservedAddress) int {
		return cmp.Or(strings.Compare(a.GetIpAddress(), b.GetIpAddress()), cmp.Compare(a.GetSource(), b.GetSource()))
	})
	return out
}

// reportPort tells how a port stands, unless nothing is known of it yet that was not told before the agent started.
func (e *Engine) reportPort(w *want) {
	d := w.obj.GetPort()
	vm := realised.Key{Kind: realised.KindVM, ID: d.GetVmId()}
	e.mu.Lock()
	s := e.portState(d.GetPortId())
	rec := e.recordOf(portKey(d.GetPortId()))
	if s.iface == nil && rec.Made && !d.GetAbsent() && time.Since(e.begun) < settleIn {
		e.mu.Unlock()
		return
	}
	s.observed = observedNow(s.observed, s.iface.GetObservedAddresses())
	v := portView{Want: d, State: *s, Realised: rec.Generation, Now: e.now()}
	if want := e.wants[vm].object().GetVm(); want != nil {
		v.VMOn = wantsOn(want) && !want.GetAbsent()
	}
	if m := e.vms[vm.ID]; m != nil {
		v.VMOn = v.VMOn || isOn(m.domain)
		if m.domain.GetGuestAgentConnected() {
			v.Guest = m.guest
		}
	}
	e.mu.Unlock()
	if e.current(w) {
		e.reporter.Port(portReport(v))
	}
}

// reportPortsOf tells of a VM's ports again.
func (e *Engine) reportPortsOf(vm string) {
	e.mu.Lock()
	var list []*want
	for _, w := range e.wants {
		if p := w.obj.GetPort(); p.GetVmId() == vm && p != nil {
			list = append(list, w)
		}
	}
	e.mu.Unlock()
	for _, w := range list {
		e.reportPort(w)
	}
}

// sameInterface reports whether nothing about an interface changed but when its addresses were seen.
func sameInterface(a, b *driverv1.NetworkInterface) bool {
	strip := func(i *driverv1.NetworkInterface) *driverv1.NetworkInterface {
		i = proto.CloneOf(i)
		i.ObservedAddresses = nil
		return i
	}
	return proto.Equal(strip(a), strip(b))
}

// portsWait says which port of a VM is not in place, and when that is looked at again.
func (e *Engine) portsWait(d *agentv1.DesiredVM) volumesWait {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := portIDs(d)
	for _, nic := range d.GetSpec().GetNics() {
		id, name := names[nic.GetName()], nic.GetName()
		if nic.GetUser() != nil {
			continue
		}
		s, w := e.net.ports[id], e.wants[portKey(id)]
		wait := volumesWait{Reason: "WAITS_FOR_PORT"}
		switch {
		case id == "":
			wait.Message = "NIC \"" + name + "\" waits for its port to be made"
			return wait
		case w == nil:
			wait.Message = "NIC \"" + name + "\" waits for its port " + id + " to be assigned to this node"
			return wait
		case w.obj.GetPort().GetAbsent():
			wait.Message = "NIC \"" + name + "\": its port " + id + " is being removed from this node"
			return wait
		case s == nil || !e.inPlace(s):
			wait.Message = "NIC \"" + name + "\": its port is being put in place"
			if s != nil && s.problem != "" {
				wait.Message, wait.Reason, wait.Retry = "NIC \""+name+"\": "+s.problem, s.reason, s.retry
			} else if s != nil && s.waits != "" {
				wait.Message = "NIC \"" + name + "\": its port waits: " + s.waits
			}
			return wait
		}
	}
	return volumesWait{}
}

// inPlace reports whether the driver's present process, or the last one that ran, has the port in place: its binding is known, and it was not refused anew. mu is held.
func (e *Engine) inPlace(s *portState) bool {
	p, _ := e.plugins.Plugin(s.driver)
	return s.iface.GetBinding() != nil && s.told.instance == p.Instance
}

// portTrouble names the first NIC of a VM whose port is kept shut, and why; empty = none is.
func (e *Engine) portTrouble(d *agentv1.DesiredVM) (reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range d.GetPorts() {
		s := e.net.ports[p.GetPortId()]
		down := e.wants[portKey(p.GetPortId())].object().GetPort().GetSpec().GetLinkDown()
		if s == nil || down || s.iface.GetState() != driverv1.InterfaceState_INTERFACE_STATE_BLOCKED {
			continue
		}
		reason = s.iface.GetReason()
		if reason == "" {
			reason = fault.ReasonName(metav1.Reason_REASON_BACKEND_FAILED)
		}
		return reason, "NIC \"" + p.GetNicName() + "\": its port is kept shut: " + s.iface.GetMessage()
	}
	return "", ""
}
