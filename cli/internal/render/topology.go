package render

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// The kinds of things in a topology.
const (
	topoNode    = networkv1.TopologyKind_TOPOLOGY_KIND_NODE
	topoNetwork = networkv1.TopologyKind_TOPOLOGY_KIND_NETWORK
	topoPort    = networkv1.TopologyKind_TOPOLOGY_KIND_PORT
	topoVM      = networkv1.TopologyKind_TOPOLOGY_KIND_VM
	topoGroup   = networkv1.TopologyKind_TOPOLOGY_KIND_SECURITY_GROUP
)

// topology is a graph, with its edges by their ends.
type topology struct {
	things  map[string]*networkv1.TopologyVertex
	edges   []*networkv1.TopologyEdge
	out, in map[string][]*networkv1.TopologyEdge // by the end that they leave, and by the end that they reach
	located map[string]map[string][]string       // network -> node ("" = none) -> ports, ordered by name
}

func newTopology(resp *networkv1.GetNetworkTopologyResponse) *topology {
	t := &topology{
		things: map[string]*networkv1.TopologyVertex{}, edges: resp.GetEdges(), out: map[string][]*networkv1.TopologyEdge{}, in: map[string][]*networkv1.TopologyEdge{},
		located: map[string]map[string][]string{},
	}
	for _, e := range t.edges {
		t.out[e.GetFromId()] = append(t.out[e.GetFromId()], e)
		t.in[e.GetToId()] = append(t.in[e.GetToId()], e)
	}
	for _, v := range resp.GetVertices() {
		t.things[v.GetId()] = v
	}
	return t
}

func (t *topology) byName(ids []string) []string {
	slices.SortFunc(ids, func(a, b string) int {
		return cmp.Or(cmp.Compare(t.things[a].GetName(), t.things[b].GetName()), cmp.Compare(a, b))
	})
	return slices.Compact(ids)
}

func (t *topology) all(kind networkv1.TopologyKind) []string {
	var out []string
	for id, v := range t.things {
		if v.GetKind() == kind {
			out = append(out, id)
		}
	}
	return t.byName(out)
}

// to are the things of a kind that edges lead to from id.
func (t *topology) to(id string, kind networkv1.TopologyKind) []string {
	var out []string
	for _, e := range t.out[id] {
		if e.GetToKind() == kind && t.things[e.GetToId()] != nil {
			out = append(out, e.GetToId())
		}
	}
	return t.byName(out)
}

// from are the things of a kind that edges lead from to id.
func (t *topology) from(id string, kind networkv1.TopologyKind) []string {
	var out []string
	for _, e := range t.in[id] {
		if e.GetFromKind() == kind && t.things[e.GetFromId()] != nil {
			out = append(out, e.GetFromId())
		}
	}
	return t.byName(out)
}

// places is where a port is: the nodes of the VMs that use it; none = "".
func (t *topology) places(port string) []string {
	var out []string
	for _, vm := range t.from(port, topoVM) {
		out = append(out, t.to(vm, topoNode)...)
	}
	if len(out) == 0 {
		return []string{""}
	}
	return t.byName(out)
}

// portsOn are the ports of a network on a node.
func (t *topology) portsOn(network, node string) []string {
	by := t.located[network]
	if by == nil {
		by = map[string][]string{}
		for _, port := range t.from(network, topoPort) {
			for _, place := range t.places(port) {
				by[place] = append(by[place], port)
			}
		}
		called := map[string]string{}
		for _, port := range slices.Concat(slices.Collect(maps.Values(by))...) {
			called[port] = t.name(port)
		}
		for _, ports := range by {
			slices.SortFunc(ports, func(a, b string) int { return cmp.Or(cmp.Compare(called[a], called[b]), cmp.Compare(a, b)) })
		}
		t.located[network] = by
	}
	return by[node]
}

// branch is a line of the tree with those below it.
type branch struct {
	text  string
	below []branch
}

// TopologyTree prints a topology: nodes, the networks on each, the ports in them with their groups, the VMs that use them; then what is on no node.
func TopologyTree(w io.Writer, resp *networkv1.GetNetworkTopologyResponse) error {
	t := newTopology(resp)
	var roots []branch
	for _, node := range t.all(topoNode) {
		roots = append(roots, branch{t.line(node), t.networksOn(node)})
	}
	if aside := t.networksOn(""); len(aside) > 0 {
		roots = append(roots, branch{"on no node", aside})
	}
	if groups := t.all(topoGroup); len(groups) > 0 {
		b := branch{text: "security groups"}
		for _, g := range groups {
			b.below = append(b.below, branch{text: t.groupLine(g)})
		}
		roots = append(roots, b)
	}
	var b strings.Builder
	for _, r := range roots {
		b.WriteString(oneLine(r.text) + "\n")
		grow(&b, r.below, "")
	}
	if len(roots) == 0 {
		b.WriteString("nothing is there\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func grow(b *strings.Builder, below []branch, indent string) {
	for i, x := range below {
		fork, next := "├─ ", "│  "
		if i == len(below)-1 {
			fork, next = "└─ ", "   "
		}
		b.WriteString(indent + fork + oneLine(x.text) + "\n")
		grow(b, x.below, indent+next)
	}
}

// networksOn are the networks on a node with their ports there; "" = what is on no node.
func (t *topology) networksOn(node string) []branch {
	var out []branch
	for _, network := range t.all(topoNetwork) {
		var ports []branch
		for _, port := range t.portsOn(network, node) {
			ports = append(ports, t.portBranch(port, node))
		}
		on := t.to(network, topoNode)
		here := slices.Contains(on, node)
		if node == "" {
			here = len(on) == 0
		}
		if !here && len(ports) == 0 {
			continue
		}
		text := t.line(network)
		for _, e := range t.out[network] {
			if e.GetToId() == node && e.GetState() != "" {
				text += ", here " + lower(e.GetState())
			}
		}
		out = append(out, branch{text, append(ports, t.tunnels(node, network)...)})
	}
	return out
}

func (t *topology) portBranch(port, node string) branch {
	b := branch{text: t.line(port)}
	var groups []string
	for _, g := range t.to(port, topoGroup) {
		groups = append(groups, t.things[g].GetName())
	}
	if len(groups) > 0 {
		b.text += ", groups " + strings.Join(groups, "+")
	}
	for _, vm := range t.from(port, topoVM) {
		if on := t.to(vm, topoNode); slices.Contains(on, node) || len(on) == 0 {
			b.below = append(b.below, branch{text: t.line(vm)})
		}
	}
	return b
}

func (t *topology) tunnels(node, network string) []branch {
	var out []branch
	for _, e := range slices.Concat(t.out[node], t.in[node]) {
		if e.GetFromKind() != topoNode || e.GetToKind() != topoNode || e.GetNetworkId() != network {
			continue
		}
		other := e.GetToId()
		if other == node {
			other = e.GetFromId()
		}
		text := "tunnel to " + t.name(other)
		if e.GetState() != "" {
			text += " (" + lower(e.GetState()) + ")"
		}
		out = append(out, branch{text: text})
	}
	slices.SortFunc(out, func(a, b branch) int { return cmp.Compare(a.text, b.text) })
	return slices.CompactFunc(out, func(a, b branch) bool { return a.text == b.text })
}

func (t *topology) groupLine(g string) string {
	text := t.line(g)
	if n := len(t.from(g, topoPort)); n > 0 {
		text += fmt.Sprintf(", ports %d", n)
	}
	var to []string
	for _, other := range t.to(g, topoGroup) {
		to = append(to, t.things[other].GetName())
	}
	if len(to) > 0 {
		text += ", refers to " + strings.Join(to, "+")
	}
	return text
}

// name is what a thing is called by; a port that lives with a VM, and has the name of its NIC, as VM/NIC.
func (t *topology) name(id string) string {
	v := t.things[id]
	if v.GetKind() == topoPort && v.GetName() != "" && v.GetAttributes()["nic"] == v.GetName() {
		if users := t.from(id, topoVM); len(users) == 1 {
			return t.name(users[0]) + "/" + v.GetName()
		}
	}
	if v.GetName() != "" {
		return v.GetName()
	}
	return id
}

// line says what a thing is, its state, and the facts about it.
func (t *topology) line(id string) string {
	v := t.things[id]
	text := kindWord(v.GetKind()) + " " + t.name(id)
	if v.GetKind() == topoNode {
		text = t.name(id)
	}
	if s := stateText(v); s != "" {
		text += " (" + s + ")"
	}
	var facts []string
	for _, k := range slices.Sorted(maps.Keys(v.GetAttributes())) {
		facts = append(facts, k+" "+v.GetAttributes()[k])
	}
	if len(facts) > 0 {
		text += " " + strings.Join(facts, ", ")
	}
	if v.GetMessage() != "" {
		text += ": " + v.GetMessage()
	}
	return text
}

// stateText is a thing's state; one that was not reported lately is said to be the last known.
func stateText(v *networkv1.TopologyVertex) string {
	text := lower(v.GetState())
	if text != "" && !v.GetLive() {
		text += ", last known"
	}
	return text
}

func kindWord(k networkv1.TopologyKind) string {
	return strings.ReplaceAll(Enum(k, "TOPOLOGY_KIND_"), "-", " ")
}
