package render

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// shapes are how Graphviz draws the kinds.
var shapes = map[networkv1.TopologyKind]string{topoNode: "box3d", topoNetwork: "ellipse", topoPort: "component", topoVM: "box", topoGroup: "octagon"}

// TopologyDot prints a topology as a graph for Graphviz: each node with the VMs that run on it is a cluster.
func TopologyDot(w io.Writer, resp *networkv1.GetNetworkTopologyResponse) error {
	t := newTopology(resp)
	var b strings.Builder
	b.WriteString("digraph network {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n")
	drawn := map[string]bool{}
	for i, node := range t.all(topoNode) {
		fmt.Fprintf(&b, "  subgraph cluster_%d {\n    label=%s;\n    %s\n", i, quote(t.name(node)), t.dotThing(node))
		drawn[node] = true
		for _, vm := range t.from(node, topoVM) {
			if !drawn[vm] {
				drawn[vm] = true
				fmt.Fprintf(&b, "    %s\n", t.dotThing(vm))
			}
		}
		b.WriteString("  }\n")
	}
	for _, kind := range []networkv1.TopologyKind{topoNetwork, topoPort, topoVM, topoGroup} {
		for _, id := range t.all(kind) {
			if !drawn[id] {
				fmt.Fprintf(&b, "  %s\n", t.dotThing(id))
			}
		}
	}
	for _, e := range t.edges {
		if t.things[e.GetFromId()] == nil || t.things[e.GetToId()] == nil {
			continue
		}
		attributes := []string{}
		if e.GetState() != "" {
			attributes = append(attributes, "label="+quote(lower(e.GetState())))
		}
		switch {
		case e.GetFromKind() == topoNode && e.GetToKind() == topoNode:
			attributes = append(attributes, "style=bold", "dir=both")
		case e.GetToKind() == topoGroup:
			attributes = append(attributes, "style=dashed")
		}
		fmt.Fprintf(&b, "  %s -> %s", quote(e.GetFromId()), quote(e.GetToId()))
		if len(attributes) > 0 {
			b.WriteString(" [" + strings.Join(attributes, ", ") + "]")
		}
		b.WriteString(";\n")
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *topology) dotThing(id string) string {
	v := t.things[id]
	lines := []string{kindWord(v.GetKind()) + " " + t.name(id), stateText(v)}
	for _, k := range slices.Sorted(maps.Keys(v.GetAttributes())) {
		lines = append(lines, k+" "+v.GetAttributes()[k])
	}
	style := ""
	if !v.GetLive() {
		style = ", style=dotted"
	}
	return fmt.Sprintf("%s [label=%s, shape=%s%s];", quote(id), quote(nonEmpty(lines...)...), shapes[v.GetKind()], style)
}

// quote makes lines one string of the DOT language: what others wrote cannot end it, nor be read as an escape.
func quote(lines ...string) string {
	for i, l := range lines {
		lines[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(strings.Map(func(r rune) rune {
			if r < ' ' || r >= 0x7f && r < 0xa0 {
				return ' '
			}
			return r
		}, l))
	}
	return `"` + strings.Join(lines, `\n`) + `"`
}
