package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// fakeNet is the network driver of a fake host. It holds to the contract's order, and notes what breaks it. What it has outlives its plugin.
type fakeNet struct {
	driverv1.UnimplementedNetworkDriverServiceServer
	h *fakeHost

	// Guarded by the host's mu.
	networks map[string]*driverv1.EnsureNetworkRequest
	ifaces   map[string]*driverv1.NetworkDriverServiceAttachInterfaceRequest
	rules    map[string]*driverv1.RuleSet
	sets     map[string]*driverv1.AddressSet
	stats    map[string]uint64 // bytes to the guest
	blocked  string            // why interfaces are kept shut
	observed map[string][]*driverv1.ObservedAddress
	updates  []*driverv1.UpdateAddressSetRequest
	checks   []*driverv1.CheckNetworkRequest
	drifts   []*driverv1.NetworkDrift
	order    []string // successful changes
	wrong    []string // what broke the order
}

func newNet(h *fakeHost) *fakeNet {
	return &fakeNet{
		h: h, networks: map[string]*driverv1.EnsureNetworkRequest{}, ifaces: map[string]*driverv1.NetworkDriverServiceAttachInterfaceRequest{},
		rules: map[string]*driverv1.RuleSet{}, sets: map[string]*driverv1.AddressSet{}, stats: map[string]uint64{}, observed: map[string][]*driverv1.ObservedAddress{},
	}
}

// lock holds the host until unlock; did notes what was done.
func (n *fakeNet) lock() func() { n.h.mu.Lock(); return n.h.mu.Unlock }

func (n *fakeNet) did(format string, args ...any) {
	n.order = append(n.order, fmt.Sprintf(format, args...))
}

func wrongState(format string, args ...any) error {
	return fault.New(metav1.Reason_REASON_WRONG_STATE, format, args...)
}

func (n *fakeNet) EnsureNetwork(_ context.Context, r *driverv1.EnsureNetworkRequest) (*driverv1.EnsureNetworkResponse, error) {
	defer n.lock()()
	n.networks[r.GetNetworkId()] = r
	n.did("network %s", r.GetNetworkId())
	return &driverv1.EnsureNetworkResponse{Network: n.network(r)}, nil
}

func (n *fakeNet) network(r *driverv1.EnsureNetworkRequest) *driverv1.Network {
	return &driverv1.Network{NetworkId: r.GetNetworkId(), Mark: r.GetMark(), Health: driverv1.HealthState_HEALTH_STATE_HEALTHY, Device: "br0", Mtu: 1500, Handle: []byte("n")}
}

func (n *fakeNet) DeleteNetwork(_ context.Context, r *driverv1.DeleteNetworkRequest) (*driverv1.DeleteNetworkResponse, error) {
	defer n.lock()()
	for id, i := range n.ifaces {
		if i.GetSpec().GetNetworkId() == r.GetNetworkId() {
			n.wrong = append(n.wrong, "network deleted before interface "+id)
			return nil, wrongState("interface %s is attached", id)
		}
	}
	delete(n.networks, r.GetNetworkId())
	n.did("no network %s", r.GetNetworkId())
	return &driverv1.DeleteNetworkResponse{}, nil
}

func (n *fakeNet) ListNetworks(context.Context, *driverv1.ListNetworksRequest) (*driverv1.ListNetworksResponse, error) {
	defer n.lock()()
	out := &driverv1.ListNetworksResponse{}
	for _, r := range n.networks {
		out.Networks = append(out.Networks, n.network(r))
	}
	return out, nil
}

func (n *fakeNet) AttachInterface(_ context.Context, r *driverv1.NetworkDriverServiceAttachInterfaceRequest) (*driverv1.NetworkDriverServiceAttachInterfaceResponse, error) {
	defer n.lock()()
	if n.networks[r.GetSpec().GetNetworkId()] == nil {
		n.wrong = append(n.wrong, "interface attached before its network")
		return nil, fault.New(metav1.Reason_REASON_NETWORK_NOT_FOUND, "no network")
	}
	for _, id := range r.GetSpec().GetRuleSetIds() {
		if n.rules[id] == nil {
			n.wrong = append(n.wrong, "interface attached before rule set "+id)
			return nil, wrongState("rule set %s was never applied", id)
		}
	}
	n.ifaces[r.GetInterfaceId()] = r
	n.did("port %s", r.GetInterfaceId())
	return &driverv1.NetworkDriverServiceAttachInterfaceResponse{Interface: n.iface(r)}, nil
}

func (n *fakeNet) iface(r *driverv1.NetworkDriverServiceAttachInterfaceRequest) *driverv1.NetworkInterface {
	id := r.GetInterfaceId()
	i := &driverv1.NetworkInterface{
		InterfaceId: id, NetworkId: r.GetSpec().GetNetworkId(), Mark: r.GetMark(), State: driverv1.InterfaceState_INTERFACE_STATE_WAITING, Handle: []byte("i"),
		Binding:           &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_BridgePort{BridgePort: &driverv1.BridgePortBinding{Bridge: "br0", TapName: "t" + id[:8]}}},
		ObservedAddresses: n.observed[id],
	}
	for _, d := range n.h.domains {
		if d.GetPid() != 0 && d.plugged(id) {
			i.State, i.Device = driverv1.InterfaceState_INTERFACE_STATE_UP, "t"+id[:8]
		}
	}
	if n.blocked != "" {
		i.State, i.Reason, i.Message = driverv1.InterfaceState_INTERFACE_STATE_BLOCKED, n.blocked, "the kernel does not filter"
	}
	for _, rs := range r.GetSpec().GetRuleSetIds() {
		i.RuleSets = append(i.RuleSets, &driverv1.RuleSetRef{RuleSetId: rs, Generation: n.rules[rs].GetGeneration()})
	}
	return i
}

func (n *fakeNet) DetachInterface(_ context.Context, r *driverv1.NetworkDriverServiceDetachInterfaceRequest) (*driverv1.NetworkDriverServiceDetachInterfaceResponse, error) {
	defer n.lock()()
	for _, d := range n.h.domains {
		if d.plugged(r.GetInterfaceId()) || d.defines(r.GetInterfaceId()) {
			n.wrong = append(n.wrong, "interface detached while a domain had it")
		}
	}
	delete(n.ifaces, r.GetInterfaceId())
	n.did("no port %s", r.GetInterfaceId())
	return &driverv1.NetworkDriverServiceDetachInterfaceResponse{}, nil
}

func (n *fakeNet) ListInterfaces(context.Context, *driverv1.ListInterfacesRequest) (*driverv1.ListInterfacesResponse, error) {
	defer n.lock()()
	out := &driverv1.ListInterfacesResponse{}
	for _, r := range n.ifaces {
		out.Interfaces = append(out.Interfaces, n.iface(r))
	}
	return out, nil
}

func (n *fakeNet) ApplyRuleSet(_ context.Context, r *driverv1.ApplyRuleSetRequest) (*driverv1.ApplyRuleSetResponse, error) {
	defer n.lock()()
	for _, rule := range r.GetRuleSet().GetRules() {
		if rule.GetRuleId() == "bad" {
			return nil, fault.Invalid(fault.Violation{Field: "rule_set.rules[0]", Description: "is no good"})
		}
	}
	for _, s := range r.GetAddressSets() {
		if n.sets[s.GetAddressSetId()].GetGeneration() < s.GetGeneration() {
			n.sets[s.GetAddressSetId()] = proto.CloneOf(s)
		}
	}
	for _, rule := range r.GetRuleSet().GetRules() {
		if id := rule.GetAddressSetId(); id != "" && n.sets[id] == nil {
			n.wrong = append(n.wrong, "rule set before address set "+id)
			return nil, wrongState("no address set %s", id)
		}
	}
	if n.rules[r.GetRuleSet().GetRuleSetId()].GetGeneration() > r.GetRuleSet().GetGeneration() {
		return nil, wrongState("a newer generation is in force")
	}
	n.rules[r.GetRuleSet().GetRuleSetId()] = r.GetRuleSet()
	n.did("rules %s %d", r.GetRuleSet().GetRuleSetId(), r.GetRuleSet().GetGeneration())
	return &driverv1.ApplyRuleSetResponse{Generation: r.GetRuleSet().GetGeneration()}, nil
}

func (n *fakeNet) UpdateAddressSet(_ context.Context, r *driverv1.UpdateAddressSetRequest) (*driverv1.UpdateAddressSetResponse, error) {
	defer n.lock()()
	n.updates = append(n.updates, r)
	have := n.sets[r.GetAddressSetId()]
	members := map[string]bool{}
	if d := r.GetDelta(); d != nil {
		if have == nil || have.GetGeneration() != d.GetBaseGeneration() {
			return nil, wrongState("generation %d is in force", have.GetGeneration())
		}
		for _, m := range have.GetMembers() {
			members[m] = true
		}
		for _, m := range d.GetAdd() {
			members[m] = true
		}
		for _, m := range d.GetRemove() {
			delete(members, m)
		}
	} else if have.GetGeneration() > r.GetGeneration() {
		return nil, wrongState("generation %d is in force", have.GetGeneration())
	}
	for _, m := range r.GetReplace().GetMembers() {
		members[m] = true
	}
	n.sets[r.GetAddressSetId()] = &driverv1.AddressSet{
		AddressSetId: r.GetAddressSetId(), Mark: r.GetMark(), Generation: r.GetGeneration(), Members: slices.Sorted(maps.Keys(members)),
	}
	return &driverv1.UpdateAddressSetResponse{Generation: r.GetGeneration()}, nil
}

func (n *fakeNet) GetNetworkStats(context.Context, *driverv1.GetNetworkStatsRequest) (*driverv1.GetNetworkStatsResponse, error) {
	defer n.lock()()
	out := &driverv1.GetNetworkStatsResponse{}
	for id, r := range n.ifaces {
		out.Interfaces = append(out.Interfaces, &driverv1.NetworkInterfaceStats{InterfaceId: id, NetworkId: r.GetSpec().GetNetworkId(), ReceiveBytes: n.stats[id], SpoofedPackets: 3})
	}
	return out, nil
}

func (n *fakeNet) CheckNetwork(_ context.Context, r *driverv1.CheckNetworkRequest) (*driverv1.CheckNetworkResponse, error) {
	defer n.lock()()
	n.checks = append(n.checks, r)
	out := &driverv1.CheckNetworkResponse{Drifts: n.drifts}
	n.drifts = nil
	return out, nil
}

func (n *fakeNet) CollectGarbage(_ context.Context, r *driverv1.CollectGarbageRequest) (*driverv1.CollectGarbageResponse, error) {
	defer n.lock()()
	used, out := map[string]bool{}, &driverv1.CollectGarbageResponse{}
	for _, i := range n.ifaces {
		for _, id := range i.GetSpec().GetRuleSetIds() {
			used[id] = true
		}
	}
	for id, rs := range n.rules {
		if !used[id] && !slices.Contains(r.GetRuleSetIds(), id) {
			delete(n.rules, id)
			out.Objects = append(out.Objects, &driverv1.NetworkGarbage{ObjectId: id, Kind: driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_RULE_SET, Removed: true})
			continue
		}
		for _, rule := range rs.GetRules() {
			used[rule.GetAddressSetId()] = true
		}
	}
	for id := range n.sets {
		if !used[id] && !slices.Contains(r.GetAddressSetIds(), id) {
			delete(n.sets, id)
		}
	}
	return out, nil
}

// plugged reports whether a domain runs with an interface.
func (d *domain) plugged(id string) bool {
	return slices.ContainsFunc(d.Interfaces, func(i *driverv1.DomainInterfaceStatus) bool { return i.GetInterfaceId() == id })
}

func (d *domain) defines(id string) bool {
	return slices.ContainsFunc(d.spec.GetInterfaces(), func(i *driverv1.DomainInterface) bool { return i.GetInterfaceId() == id })
}

// start plugs all that is defined in, whatever is not attached is noted. The host's mu is held.
func (n *fakeNet) start(d *domain) {
	d.Interfaces = nil
	for _, i := range d.spec.GetInterfaces() {
		if i.GetBinding().GetUserMode() == nil {
			n.plug(d, i)
		}
	}
}

func (n *fakeNet) plug(d *domain, i *driverv1.DomainInterface) {
	if n.ifaces[i.GetInterfaceId()] == nil {
		n.wrong = append(n.wrong, "a domain got an interface that no network has")
	}
	d.Interfaces = append(d.Interfaces, &driverv1.DomainInterfaceStatus{InterfaceId: i.GetInterfaceId(), Device: i.GetBinding().GetBridgePort().GetTapName(), LinkUp: !i.GetLinkDown()})
}

func (h *fakeHost) AttachInterface(_ context.Context, r *driverv1.AttachInterfaceRequest) (*driverv1.AttachInterfaceResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.domain(r.GetDomainId())
	if err != nil {
		return nil, err
	}
	if !d.plugged(r.GetInterface().GetInterfaceId()) {
		h.net.plug(d, r.GetInterface())
	}
	return &driverv1.AttachInterfaceResponse{Domain: d.answer()}, nil
}

func (h *fakeHost) DetachInterface(_ context.Context, r *driverv1.DetachInterfaceRequest) (*driverv1.DetachInterfaceResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.domain(r.GetDomainId())
	if err != nil {
		return nil, err
	}
	d.Interfaces = slices.DeleteFunc(d.Interfaces, func(i *driverv1.DomainInterfaceStatus) bool { return i.GetInterfaceId() == r.GetInterfaceId() })
	return &driverv1.DetachInterfaceResponse{Domain: d.answer()}, nil
}

func (h *fakeHost) SetLink(_ context.Context, r *driverv1.SetLinkRequest) (*driverv1.SetLinkResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.domain(r.GetDomainId())
	if err != nil {
		return nil, err
	}
	for _, i := range d.Interfaces {
		if i.GetInterfaceId() == r.GetInterfaceId() {
			i.LinkUp = r.GetUp()
		}
	}
	return &driverv1.SetLinkResponse{}, nil
}

func (h *fakeHost) GetGuestInfo(_ context.Context, r *driverv1.GetGuestInfoRequest) (*driverv1.GetGuestInfoResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.guest == nil {
		return nil, fault.New(metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE, "no agent")
	}
	return h.guest, nil
}
