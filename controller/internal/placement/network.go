package placement

import (
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// portsOf are the records of a VM's ports with their rows, in the order of its NICs; ok is false when one is missing.
func portsOf(cache *state.Cache, rec *statev1.VMRecord) (rows []*state.Row, recs []*statev1.PortRecord, ok bool) {
	for _, n := range rec.GetNicPorts() {
		row := cache.Row(state.KindPort, n.GetPortId())
		if row == nil {
			return nil, nil, false
		}
		rows, recs = append(rows, row), append(recs, row.Port())
	}
	return rows, recs, true
}

// networkNeeds are the networks that a node must be able to have for a VM, each once: those of its ports, or, for a VM that is not made yet, of its spec.
func networkNeeds(cache *state.Cache, rec *statev1.VMRecord) []scheduler.NetworkNeed {
	ports := map[string]string{}
	for _, n := range rec.GetNicPorts() {
		ports[n.GetNicName()] = n.GetPortId()
	}
	project := rec.GetVm().GetMeta().GetProjectId()
	var out []scheduler.NetworkNeed
	seen := map[string]bool{}
	for _, n := range rec.GetVm().GetSpec().GetNics() {
		a := n.GetNetwork()
		if a == nil {
			continue
		}
		port := cache.Row(state.KindPort, ports[n.GetName()])
		if port == nil && a.GetPort() != "" {
			port = cache.Resolve(state.KindPort, project, a.GetPort())
		}
		ref := a.GetNetwork()
		if port != nil {
			ref = port.Port().GetPort().GetSpec().GetNetworkId()
		}
		need := scheduler.NetworkNeed{ID: ref, Name: ref}
		if row := cache.Resolve(state.KindNetwork, project, ref); row != nil {
			need = scheduler.NetworkNeed{ID: row.ID, Name: row.Name, Spec: row.Network().GetNetwork().GetSpec()}
		} else if ref == domain.DefaultNetworkName { // it is made together with the VM
			need.Spec = domain.DefaultNetworkSpec("")
		}
		if !seen[need.ID] {
			seen[need.ID] = true
			out = append(out, need)
		}
	}
	return out
}

// hostPorts are the ports of its node that lead into a VM: those that its user-mode NICs forward, and those that networks forward to its ports.
func hostPorts(cache *state.Cache, rec *statev1.VMRecord) []scheduler.HostPort {
	return hostPortsWith(cache, rec, nil)
}

// hostPortsWith are those once a network is changed; nil = none.
func hostPortsWith(cache *state.Cache, rec *statev1.VMRecord, changed *networkv1.Network) []scheduler.HostPort {
	out := scheduler.HostPorts(rec.GetVm().GetSpec())
	for _, n := range rec.GetNicPorts() {
		port := cache.Row(state.KindPort, n.GetPortId()).Port().GetPort()
		if port == nil {
			continue
		}
		net := changed
		if id := port.GetSpec().GetNetworkId(); id != changed.GetMeta().GetId() {
			net = cache.Row(state.KindNetwork, id).Network().GetNetwork()
		}
		for _, f := range net.GetSpec().GetForwards() {
			if domain.ForwardLeadsTo(f, port) {
				out = append(out, scheduler.HostPort{Protocol: f.GetProtocol(), Address: f.GetListenAddress(), Port: f.GetListenPort()})
			}
		}
	}
	return out
}

// TakesHostPort reports whether the port that a forward listens on leads into a VM once a network is changed.
func TakesHostPort(cache *state.Cache, rec *statev1.VMRecord, changed *networkv1.Network, f *networkv1.NetworkForward) bool {
	return slices.ContainsFunc(hostPortsWith(cache, rec, changed), func(p scheduler.HostPort) bool {
		return p.Protocol == f.GetProtocol() && p.Port == f.GetListenPort() && domain.ListenMeet(p.Address, f.GetListenAddress())
	})
}

// dropPort takes a port off a node that is no more, with what that means for it: the VM keeps it, or it is free, or gone.
func (w *worker) dropPort(row *state.Row) *state.Writer {
	rec := row.Port()
	var out state.Writer
	out.Same(row)
	next, remove := domain.PortLeft(rec, w.Cache.Row(state.KindVM, row.Owner).VM())
	if remove {
		state.RemovePort(&out, rec)
		return &out
	}
	if next == rec {
		domain.UnplacePort(next)
	}
	out.Put(state.Key(state.KindPort, row.ID), next)
	return &out
}

// dropNetworkNode takes out of a network what it says of a node that is no more; nil when it says nothing.
func dropNetworkNode(row *state.Row, nodeID string) *state.Writer {
	rec := row.Network()
	if domain.NetworkOn(rec.GetNetwork(), nodeID) == nil {
		return nil
	}
	domain.SetNetworkNode(rec.GetNetwork(), nodeID, nil)
	var out state.Writer
	out.Same(row)
	out.Put(state.Key(state.KindNetwork, row.ID), rec)
	return &out
}

// RemoveNetwork removes a network that is being deleted, with its VXLAN network identifier; nil while a port is in it, or a node has not let go of it.
func RemoveNetwork(cache *state.Cache, row *state.Row) *state.Writer {
	if len(row.Nodes) > 0 || cache.Count(state.Query{Kind: state.KindPort, Ref: state.RefNetwork(row.ID), Limit: 1}) > 0 {
		return nil
	}
	var out state.Writer
	out.Same(row)
	out.Delete(state.Key(state.KindNetwork, row.ID))
	if vni := row.Network().GetNetwork().GetStatus().GetVni(); vni != 0 {
		out.Delete(state.VNIKey(vni))
	}
	return &out
}

// removePort removes a port that is being deleted and is on no node; nil while it is, or while a VM's going takes it along.
func removePort(row *state.Row) *state.Writer {
	if len(row.Nodes) > 0 {
		return nil
	}
	var out state.Writer
	out.Same(row)
	state.RemovePort(&out, row.Port())
	return &out
}

// removePorts ends, in the commit that removes a VM, the bindings of its ports, and removes those that live and die with it; false while one is on a node.
func removePorts(cache *state.Cache, out *state.Writer, vmID string) bool {
	rows := cache.Find(state.Query{Kind: state.KindPort, Owner: vmID}).Rows
	for _, row := range rows {
		if len(row.Nodes) > 0 {
			return false
		}
	}
	for _, row := range rows {
		rec := row.Port()
		out.Same(row)
		if rec.GetOwnerVmId() != "" || row.Deleting {
			state.RemovePort(out, rec)
			continue
		}
		domain.FreePort(rec)
		out.Put(state.Key(state.KindPort, row.ID), rec)
	}
	return true
}

// heardNeeds are the nodes with ports of a network that are heard of.
func (w *worker) heardNeeds(networkID string) []string {
	seen := map[string]bool{}
	var out []string
	for _, p := range w.Cache.Find(state.Query{Kind: state.KindPort, Ref: state.RefNetwork(networkID)}).Rows {
		for _, n := range p.Nodes {
			if !seen[n] && w.reports(n) {
				out = append(out, n)
			}
			seen[n] = true
		}
	}
	return out
}

// waitsForPort are the network and the VM that are being deleted and may have waited for a port that changed.
func (w *worker) waitsForPort(c state.Change) []*state.Row {
	var out []*state.Row
	for _, row := range []*state.Row{c.Old, c.New} {
		if row == nil {
			continue
		}
		for _, ref := range row.Refs {
			if id, ok := strings.CutPrefix(ref, state.RefNetwork("")); ok && c.New == nil {
				if n := w.Cache.Row(state.KindNetwork, id); n != nil && n.Deleting {
					out = append(out, n)
				}
			}
		}
		if vm := w.Cache.Row(state.KindVM, row.Owner); vm != nil && vm.Deleting {
			out = append(out, vm)
		}
	}
	return out
}

// networkOperations are the running operations on the networks of a port whose nodes changed: fewer nodes have to follow, or others.
func (w *worker) networkOperations(c state.Change) []*state.Row {
	if c.Old != nil && c.New != nil && slices.Equal(c.Old.Nodes, c.New.Nodes) {
		return nil
	}
	var out []*state.Row
	for _, ref := range c.Row().Refs {
		if id, ok := strings.CutPrefix(ref, state.RefNetwork("")); ok {
			out = append(out, w.Cache.Find(state.Query{Kind: state.KindOperation, Owner: id, Phases: []int32{opRunning}}).Rows...)
		}
	}
	return out
}

// goneNodes are what networks and ports say of nodes that are no more.
func (w *worker) goneNodes(gone func(id string) bool) []*state.Writer {
	var outs []*state.Writer
	for _, row := range w.Cache.Find(state.Query{Kind: state.KindNetwork}).Rows {
		for _, n := range row.Nodes {
			if gone(n) {
				outs = append(outs, dropNetworkNode(row, n))
				break
			}
		}
	}
	return outs
}
