package driver

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/flow"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/pipeline"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/vswitch"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

type attachRequest = driverv1.NetworkDriverServiceAttachInterfaceRequest

// network is a network that was asked for.
type network struct {
	pipeline.Network
	req *driverv1.EnsureNetworkRequest
}

// iface is an interface that was asked for.
type iface struct {
	pipeline.Interface
	req  *attachRequest
	note string // why its port does not work, as the switch says
}

// state is all that was asked for, what the switch numbered, and the flows that follow. It is what the records say, or, for a moment within a call, will say.
type state struct {
	registry   *ruleset.Registry
	records    map[string]string // all that there should be: encoding ten thousand rules anew for each look would take longer than the look
	networks   map[string]*network
	interfaces map[string]*iface
	ids        *pipeline.Conjunctions
	table      *flow.Table
	// dirty says that the bridge may not have the flows of the table: all are sent again.
	dirty bool
}

func newState(o netspec.Owner) *state {
	s := &state{
		registry: ruleset.NewRegistry(o, maxRules), records: map[string]string{}, networks: map[string]*network{}, interfaces: map[string]*iface{},
		ids: pipeline.NewConjunctions(), table: flow.NewTable(), dirty: true,
	}
	s.table.Set("base", pipeline.Base())
	return s
}

// empty reports whether nothing was asked for: then there is no bridge either.
func (s *state) empty() bool {
	return len(s.networks) == 0 && len(s.interfaces) == 0 && len(s.registry.RuleIDs()) == 0 && len(s.registry.SetIDs()) == 0
}

// members are the interfaces of a network.
func (s *state) members(network string) (is []*pipeline.Interface) {
	for _, i := range s.interfaces {
		if i.req.GetSpec().GetNetworkId() == network {
			is = append(is, &i.Interface)
		}
	}
	return is
}

func (s *state) drawNetwork(id string) {
	n := s.networks[id]
	if n == nil {
		s.table.Set("network/"+id, nil)
		return
	}
	s.table.Set("network/"+id, n.Flows(s.members(id)))
}

func (s *state) drawInterface(id string) {
	i := s.interfaces[id]
	if i == nil || s.networks[i.req.GetSpec().GetNetworkId()] == nil {
		s.table.Set("interface/"+id, nil)
		return
	}
	s.table.Set("interface/"+id, i.Flows(&s.networks[i.req.GetSpec().GetNetworkId()].Network, s.plans(i), s.ids))
}

// plans are the rule sets of an interface.
func (s *state) plans(i *iface) (ps []*ruleset.Plan) {
	for _, id := range i.req.GetSpec().GetRuleSetIds() {
		if p := s.registry.Rules(id); p != nil {
			ps = append(ps, p)
		}
	}
	return ps
}

// drawRules renders a rule set and the interfaces that use it.
func (s *state) drawRules(id string) {
	if p := s.registry.Rules(id); p != nil {
		s.table.Set("rules/"+id, pipeline.RuleFlows(p, s.ids))
	} else {
		s.table.Set("rules/"+id, nil)
	}
	for key, i := range s.interfaces {
		if slices.Contains(i.req.GetSpec().GetRuleSetIds(), id) {
			s.drawInterface(key)
		}
	}
}

func (s *state) drawSet(id string) {
	set := s.registry.Set(id)
	if set == nil {
		s.table.Set("set/"+id, nil)
		return
	}
	var users []*ruleset.Plan
	for _, r := range s.registry.RuleIDs() {
		if p := s.registry.Rules(r); p.Uses(id) {
			users = append(users, p)
		}
	}
	s.table.Set("set/"+id, pipeline.SetFlows(set, users, s.ids))
}

// drawAll renders everything.
func (s *state) drawAll() {
	for id := range s.networks {
		s.drawNetwork(id)
	}
	for id := range s.interfaces {
		s.drawInterface(id)
	}
	for _, id := range s.registry.RuleIDs() {
		s.drawRules(id)
	}
	for _, id := range s.registry.SetIDs() {
		s.drawSet(id)
	}
}

// index is a number for a new object: the smallest that is free.
func index(used func(int) bool) int {
	for n := 1; ; n++ {
		if !used(n) {
			return n
		}
	}
}

func (s *state) freeNetwork() int {
	return index(func(n int) bool {
		for _, x := range s.networks {
			if x.Index == n {
				return true
			}
		}
		return false
	})
}

func (s *state) freeInterface() int {
	used := make(map[int]bool, len(s.interfaces))
	for _, x := range s.interfaces {
		used[x.Index] = true
	}
	return index(func(n int) bool { return used[n] })
}

// freeZone is a conntrack zone for a network: the one asked for, or one that follows from its id.
func (s *state) zone(id string, want uint32) int {
	if want != 0 {
		return int(want)
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	zone := int(h.Sum32()%65534) + 1
	for taken := true; taken; {
		taken = false
		for other, n := range s.networks {
			if other != id && n.Zone == zone {
				taken, zone = true, zone%65535+1
			}
		}
	}
	return zone
}

// markIDs are the external_ids that say whose something is.
func markIDs(m *driverv1.OwnershipMark) map[string]string {
	return map[string]string{
		"limiquantix-cluster": m.GetClusterId(), "limiquantix-node": m.GetNodeId(), "limiquantix-object": m.GetObjectId(),
		"limiquantix-generation": fmt.Sprint(m.GetGeneration()), "limiquantix-epoch": fmt.Sprint(m.GetEpoch()),
	}
}

// Names of ports.
func tapName(id string) string    { return netspec.DeviceName("lqt", id) }
func tunnelName(id string) string { return netspec.DeviceName("lqv", id) }
func patchName(id string) string  { return netspec.DeviceName("lqp", id) } // in our bridge
func uplinkName(id string) string { return netspec.DeviceName("lqu", id) } // in the operator's

// plugs are the ports that a network needs.
func (d *Driver) plugs(n *network) (ps []vswitch.Plug) {
	id, spec, marks := n.ID, n.Spec, markIDs(n.req.GetMark())
	if spec.GetVni() != 0 {
		t := spec.GetVxlan()
		port := t.GetPort()
		if port == 0 {
			port = 4789
		}
		ps = append(ps, vswitch.Plug{Bridge: d.bridgeName(), Name: tunnelName(id), Type: "vxlan", IDs: marks, Options: map[string]string{
			"remote_ip": "flow", "local_ip": t.GetLocalAddress(), "key": fmt.Sprint(spec.GetVni()), "dst_port": fmt.Sprint(port),
		}})
	}
	if spec.GetUplink() != "" {
		var tag *int
		if v := int(spec.GetVlanId()); v != 0 {
			tag = &v
		}
		ps = append(ps,
			vswitch.Plug{Bridge: d.bridgeName(), Name: patchName(id), Type: "patch", IDs: marks, Options: map[string]string{"peer": uplinkName(id)}},
			vswitch.Plug{Bridge: d.cfg.Uplinks[spec.GetUplink()], Name: uplinkName(id), Type: "patch", Tag: tag, IDs: marks, Options: map[string]string{"peer": patchName(id)}})
	}
	return ps
}

// portNames are all names of ports that a network may have.
func portNames(id string) []string { return []string{tunnelName(id), patchName(id), uplinkName(id)} }

// sameText compares messages.
func sameText(a, b proto.Message) bool { return proto.Equal(a, b) }

func mtuOf(s *driverv1.NetworkSpec) uint32 {
	switch {
	case s.GetMtu() != 0:
		return s.GetMtu()
	case s.GetVni() != 0 && strings.Contains(s.GetVxlan().GetLocalAddress(), ":"):
		return 1430
	case s.GetVni() != 0:
		return 1450
	}
	return 1500
}
