package vm

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/port"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// nics brings the ports of a VM in step with its NICs, in the VM's own commit.
type nics struct {
	s     *Service
	w     *state.Writer
	maker *port.Maker
	rec   *statev1.VMRecord
	ports map[string]*statev1.PortRecord // written by this commit, by id
}

// plug gives every NIC in a network a port: those of cur that stay keep theirs, others get one that is made for them, or take the one that they name; ports of NICs that are no
// more go, once the node has let go of them. rec holds the VM as it shall be, and the ports that it has. It returns the ports that the commit writes, by id.
func (s *Service) plug(w *state.Writer, rec *statev1.VMRecord, cur []*computev1.NIC) (map[string]*statev1.PortRecord, error) {
	vm := rec.GetVm()
	p := &nics{s: s, w: w, rec: rec, ports: map[string]*statev1.PortRecord{}, maker: port.NewMaker(s.cfg.Cache, w, vm.GetMeta().GetProjectId(), s.cfg.Now())}
	had := map[string]string{} // NIC -> port
	for _, n := range rec.GetNicPorts() {
		had[n.GetNicName()] = n.GetPortId()
	}
	var has []*statev1.NicPort
	for i, n := range vm.GetSpec().GetNics() {
		if n.GetNetwork() == nil {
			continue
		}
		at, id := fmt.Sprintf("vm.spec.nics[%d]", i), had[n.GetName()]
		var err error
		if was := domain.NICNamed(cur, n.GetName()); id != "" && was.GetNetwork() != nil {
			delete(had, n.GetName())
			err = p.stay(at, n, was, id)
		} else if n.GetNetwork().GetPort() != "" {
			id, err = p.take(at, n)
		} else {
			id, err = p.make(at, n)
		}
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(has, func(h *statev1.NicPort) bool { return h.GetPortId() == id }) {
			return nil, fault.Invalid(fault.Violation{Field: at + ".network.port", Description: "port " + n.GetNetwork().GetPort() + " is used twice"})
		}
		has = append(has, &statev1.NicPort{NicName: n.GetName(), PortId: id})
	}
	rec.NicPorts = has
	for _, id := range had {
		if !domain.HasPort(rec, id) {
			p.leave(id)
		}
	}
	for id, port := range p.ports {
		w.Put(state.Key(state.KindPort, id), port)
	}
	return p.ports, nil
}

// stay looks at a NIC that has its port: of that an update of the VM changes the groups only.
func (p *nics) stay(at string, n, was *computev1.NIC, id string) error {
	row := p.s.cfg.Cache.Row(state.KindPort, id)
	if row == nil {
		return fault.New(metav1.Reason_REASON_INTERNAL, "port %s of NIC %s is gone", id, n.GetName())
	}
	is, old := n.GetNetwork(), was.GetNetwork()
	if proto.Equal(is, old) {
		return nil
	}
	rec, project := row.Port(), p.rec.GetVm().GetMeta().GetProjectId()
	var v domain.Violations
	const other = "cannot change: take the interface out, and add one by another name"
	switch {
	case is.GetPort() != "":
		if now := p.s.cfg.Cache.Resolve(state.KindPort, project, is.GetPort()); now == nil || now.ID != id {
			v.Add(at+".network.port", other)
		}
	case old.GetPort() != "":
		v.Add(at+".network", other)
	default:
		if net := p.s.cfg.Cache.Resolve(state.KindNetwork, project, is.GetNetwork()); net == nil || net.ID != rec.GetPort().GetSpec().GetNetworkId() {
			v.Add(at+".network.network", other)
		}
		if !slices.Equal(is.GetIpAddresses(), old.GetIpAddresses()) {
			v.Add(at+".network.ip_addresses", "cannot change here: update port %s", id)
		}
	}
	if err := v.Err(); err != nil {
		return err
	}
	if slices.Equal(is.GetSecurityGroups(), old.GetSecurityGroups()) {
		return nil
	}
	before := proto.CloneOf(rec.GetPort())
	rec.Port.Spec.SecurityGroupIds = p.maker.Groups(&v, at+".network.security_groups", is.GetSecurityGroups())
	if err := v.Err(); err != nil {
		return err
	}
	if port.Realise(before, rec.GetPort()) {
		rec.Port.Meta.Generation++
		rec.Port.Meta.UpdateTime = timestamppb.New(p.s.cfg.Now())
	}
	p.w.Same(row)
	p.ports[id] = rec
	return nil
}

// make makes a port that lives and dies with the VM.
func (p *nics) make(at string, n *computev1.NIC) (string, error) {
	vm, net := p.rec.GetVm(), n.GetNetwork()
	spec := &networkv1.PortSpec{NetworkId: net.GetNetwork(), IpAddresses: net.GetIpAddresses(), SecurityGroupIds: net.GetSecurityGroups(), Mac: n.GetMac()}
	made := domain.MakeMAC(vm.GetMeta().GetId(), n.GetName())
	if spec.Mac == made { // nobody asked for it: if another port of the network has it, any other will do
		spec.Mac = ""
	}
	np := port.NewPort(&metav1.ObjectMeta{Name: n.GetName()}, spec, vm.GetMeta().GetProjectId(), p.s.cfg.Now())
	f := port.Fields{Network: at + ".network.network", MAC: at + ".mac", Addresses: at + ".network.ip_addresses", Groups: at + ".network.security_groups"}
	rec, err := p.maker.Make(f, np, made)
	if err != nil {
		return "", err
	}
	rec.OwnerVmId, rec.Port.Status.OwnerVmId = vm.GetMeta().GetId(), vm.GetMeta().GetId()
	n.Mac = rec.GetPort().GetSpec().GetMac()
	return np.GetMeta().GetId(), p.bind(at, n, rec)
}

// take makes an existing port the NIC's.
func (p *nics) take(at string, n *computev1.NIC) (string, error) {
	var v domain.Violations
	project, ref := p.rec.GetVm().GetMeta().GetProjectId(), n.GetNetwork().GetPort()
	row := p.s.cfg.Cache.Resolve(state.KindPort, project, ref)
	if row == nil || row.Project != project {
		v.Add(at+".network.port", "there is no port %q in project %q: list ports to see which there are", ref, project)
		return "", v.Err()
	}
	rec := row.Port()
	if why := domain.CanBindPort(rec, p.rec.GetVm().GetMeta().GetId()); why != "" {
		v.Add(at+".network.port", "port %q %s", ref, why)
	}
	if mac := rec.GetPort().GetStatus().GetMac(); n.GetMac() != "" && n.GetMac() != mac {
		v.Add(at+".mac", "is not the port's, which is %s: leave it out", mac)
	}
	if err := v.Err(); err != nil {
		return "", err
	}
	n.Mac = rec.GetPort().GetStatus().GetMac()
	p.w.Same(row)
	return row.ID, p.bind(at, n, rec)
}

// bind makes a port the NIC's, on the VM's node if it has one, which must have the network or be able to.
func (p *nics) bind(at string, n *computev1.NIC, rec *statev1.PortRecord) error {
	placed := p.rec.GetVm().GetStatus().GetVmPlacement()
	domain.BindPort(rec, p.rec.GetVm().GetMeta().GetId(), n.GetName(), placed.GetNodeId(), placed.GetEpoch())
	p.ports[rec.GetPort().GetMeta().GetId()] = rec
	if placed == nil {
		return nil // the scheduler looks
	}
	net, err := p.maker.Network(at+".network", rec.GetPort().GetSpec().GetNetworkId())
	if err != nil {
		return err
	}
	node := p.s.cfg.Cache.Row(state.KindNode, placed.GetNodeId()).Node().GetNode()
	if why := domain.NetworkReach(net.GetNetwork().GetSpec(), node.GetMeta().GetLabels(), node.GetStatus().GetDrivers(), node.GetStatus().GetTunnelAddress()); why != "" {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "%s: node %s, on which the VM lies, cannot have network %s: it %s", at, placed.GetNodeName(), net.GetNetwork().GetMeta().GetName(), why).
			WithRemedy("use a network that the node has")
	}
	return nil
}

// leave takes a port from the VM: from its node first, if it is on one.
func (p *nics) leave(id string) {
	row := p.s.cfg.Cache.Row(state.KindPort, id)
	if row == nil {
		return
	}
	rec := row.Port()
	p.w.Same(row)
	onNode, owned := rec.GetPort().GetStatus().GetBinding().GetNodeId() != "", rec.GetOwnerVmId() != ""
	switch {
	case owned && !onNode:
		state.RemovePort(p.w, rec)
		return
	case owned:
		port.MarkDeleted(p.w, rec, p.s.cfg.Now())
	case !onNode:
		domain.FreePort(rec)
	}
	p.ports[id] = rec // written even if it is the same: its node has to hear of it
}

// showNICs completes what a VM's status says of NICs in networks by their ports; fresh are those that the cache does not know yet.
func showNICs(cache *state.Cache, rec *statev1.VMRecord, vm *computev1.VM, fresh map[string]*statev1.PortRecord) {
	if len(rec.GetNicPorts()) == 0 {
		return
	}
	ports := map[string]string{}
	for _, n := range rec.GetNicPorts() {
		ports[n.GetNicName()] = n.GetPortId()
	}
	said := vm.GetStatus().GetNics()
	var out []*computev1.NICStatus
	for _, n := range vm.GetSpec().GetNics() {
		i := slices.IndexFunc(said, func(s *computev1.NICStatus) bool { return s.GetName() == n.GetName() })
		id := ports[n.GetName()]
		if id == "" {
			if i >= 0 {
				out = append(out, said[i])
			}
			continue
		}
		st := &computev1.NICStatus{Name: n.GetName(), Mac: n.GetMac(), PortId: id}
		if i >= 0 {
			st.Device = said[i].GetDevice()
		}
		p := fresh[id]
		if p == nil {
			p = cache.Row(state.KindPort, id).Port()
		}
		if p != nil {
			st.Mac, st.IpAddresses = p.GetPort().GetStatus().GetMac(), p.GetPort().GetStatus().GetIpAddresses()
			if d := p.GetPort().GetStatus().GetBinding().GetDevice(); d != "" {
				st.Device = d
			}
		}
		out = append(out, st)
	}
	vm.Status.Nics = out
}
