package command

import (
	"context"
	"strings"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// lookup gives people names for ids. It asks once per kind, when a name is first needed; what cannot be asked, or is gone, keeps its id.
type lookup struct {
	ctx     context.Context
	c       *api.Client
	project string
	known   map[string]map[string]string // kind -> id -> name
	wanted  map[string]int64             // group's id -> its generation
}

func newLookup(ctx context.Context, c *api.Client, project string) *lookup {
	return &lookup{ctx: ctx, c: c, project: project, known: map[string]map[string]string{}, wanted: map[string]int64{}}
}

// learn asks for all names of a kind, once.
func learn[T object](l *lookup, kind string, ask func() ([]T, error)) map[string]string {
	if names, ok := l.known[kind]; ok {
		return names
	}
	names := map[string]string{}
	l.known[kind] = names
	items, err := ask()
	if err != nil {
		return names
	}
	for _, o := range items {
		names[o.GetMeta().GetId()] = nameOf(o)
	}
	return names
}

func nameIn(names map[string]string, id string) string {
	if n := names[id]; n != "" {
		return n
	}
	return id
}

func (l *lookup) network(id string) string {
	if id == "" {
		return ""
	}
	return nameIn(learn(l, "network", func() ([]*networkv1.Network, error) {
		return l.c.ListNetworks(l.ctx, &networkv1.ListNetworksRequest{ProjectId: l.project})
	}), id)
}

func (l *lookup) vm(id string) string {
	if id == "" {
		return ""
	}
	return nameIn(learn(l, "vm", func() ([]*computev1.VM, error) {
		return l.c.ListVMs(l.ctx, &computev1.ListVMsRequest{ProjectId: l.project})
	}), id)
}

func (l *lookup) node(id string) string {
	if id == "" {
		return ""
	}
	return nameIn(learn(l, "node", func() ([]*computev1.Node, error) { return l.c.ListNodes(l.ctx, "") }), id)
}

func (l *lookup) port(id string) string {
	if id == "" {
		return ""
	}
	if _, asked := l.known["port"]; !asked {
		l.known["port"] = map[string]string{}
		ports, err := l.c.ListPorts(l.ctx, &networkv1.ListPortsRequest{ProjectId: l.project})
		if err == nil {
			for _, p := range ports {
				l.known["port"][p.GetMeta().GetId()] = l.title(p)
			}
		}
	}
	return nameIn(l.known["port"], id)
}

// title is what a port is called by: its name, or VM/NIC where it lives with a VM, as such a port's own name is that of the NIC. See portRef.
func (l *lookup) title(p *networkv1.Port) string {
	owner := p.GetStatus().GetOwnerVmId()
	if owner == "" {
		return nameOf(p)
	}
	if vm := l.vm(owner); vm != owner {
		return vm + "/" + nameOf(p)
	}
	return p.GetMeta().GetId()
}

// portRef is the id, or the name, of the port that a user means by a name, an id, or VM/NIC.
func portRef(ctx context.Context, c *api.Client, ref, project string) (string, error) {
	name, nic, ofVM := strings.Cut(ref, "/")
	if !ofVM {
		return ref, nil
	}
	vm, err := getVM(ctx, c, name, project)
	if err != nil {
		return "", err
	}
	var have []string
	for _, n := range vm.GetStatus().GetNics() {
		if n.GetPortId() == "" {
			continue
		}
		if n.GetName() == nic {
			return n.GetPortId(), nil
		}
		have = append(have, name+"/"+n.GetName())
	}
	return "", failure.New(failure.ExitNotFound, "NOT_FOUND", "VM %s has no interface %q in a network", name, nic).WithFix("in networks it has: %s", listOr(have, "none"))
}

func (l *lookup) group(id string) string {
	if id == "" {
		return ""
	}
	return nameIn(learn(l, "group", func() ([]*networkv1.SecurityGroup, error) {
		groups, err := l.c.ListSecurityGroups(l.ctx, &networkv1.ListSecurityGroupsRequest{ProjectId: l.project})
		for _, g := range groups {
			l.wanted[g.GetMeta().GetId()] = g.GetMeta().GetGeneration()
		}
		return groups, err
	}), id)
}

// ports are the names that tables of ports need.
func (l *lookup) ports() render.PortNames {
	return render.PortNames{Port: l.title, Network: l.network, VM: l.vm, Node: l.node, Group: func(id string) (string, int64) {
		name := l.group(id)
		return name, l.wanted[id]
	}}
}

// one notes the names that one port needs, so that no list is asked for.
func (l *lookup) one(p *networkv1.Port) {
	note := func(kind, id string, ask func() (object, error)) {
		if l.known[kind] == nil {
			l.known[kind] = map[string]string{}
		}
		if id == "" {
			return
		}
		if o, err := ask(); err == nil {
			l.known[kind][id] = nameOf(o)
		}
	}
	note("network", p.GetSpec().GetNetworkId(), func() (object, error) { return getNetwork(l.ctx, l.c, p.GetSpec().GetNetworkId(), "") })
	b := p.GetStatus().GetBinding()
	for _, id := range []string{b.GetVmId(), p.GetStatus().GetOwnerVmId()} {
		if l.known["vm"][id] == "" {
			note("vm", id, func() (object, error) { return getVM(l.ctx, l.c, id, "") })
		}
	}
	for _, id := range []string{b.GetNodeId(), b.GetTargetNodeId()} {
		note("node", id, func() (object, error) {
			resp, err := l.c.Nodes.GetNode(l.ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: id}))
			if err != nil {
				return nil, err
			}
			return resp.Msg.GetNode(), nil
		})
	}
	groups := p.GetSpec().GetSecurityGroupIds()
	for _, g := range p.GetStatus().GetSecurityGroups() {
		groups = append(groups[:len(groups):len(groups)], g.GetSecurityGroupId())
	}
	note("group", "", nil)
	for _, id := range groups {
		if l.known["group"][id] != "" {
			continue
		}
		note("group", id, func() (object, error) {
			g, err := getGroup(l.ctx, l.c, id, "")
			l.wanted[id] = g.GetMeta().GetGeneration()
			return g, err
		})
	}
}
