package render

import (
	"fmt"
	"strings"
	"testing"
	"unicode"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// nasty is a name that no controller lets in, but that a topology must survive.
const nasty = "a\"]; }\\n\\\x1b[2J\nb"

// graph has two nodes with a tunnel, a VM that moves between them, and a port on no node.
func graph() *networkv1.GetNetworkTopologyResponse {
	vertex := func(id string, kind networkv1.TopologyKind, state string, live bool) *networkv1.TopologyVertex {
		return &networkv1.TopologyVertex{Id: id, Name: "the-" + id, Kind: kind, State: state, Live: live}
	}
	edge := func(from, to string, fromKind, toKind networkv1.TopologyKind, state, network string) *networkv1.TopologyEdge {
		return &networkv1.TopologyEdge{FromId: from, ToId: to, FromKind: fromKind, ToKind: toKind, State: state, NetworkId: network}
	}
	g := &networkv1.GetNetworkTopologyResponse{
		Vertices: []*networkv1.TopologyVertex{
			vertex("n1", topoNode, "READY", true), vertex("n2", topoNode, "UNKNOWN", false), vertex("net", topoNetwork, "READY", true), vertex("p1", topoPort, "UP", true),
			vertex("p2", topoPort, "IDLE", true), vertex("vm", topoVM, "MIGRATING", true), vertex("g", topoGroup, "READY", true), vertex("h", topoGroup, "APPLYING", true),
		},
		Edges: []*networkv1.TopologyEdge{
			edge("net", "n1", topoNetwork, topoNode, "HEALTHY", ""), edge("net", "n2", topoNetwork, topoNode, "UNHEALTHY", ""), edge("p1", "net", topoPort, topoNetwork, "", ""),
			edge("p2", "net", topoPort, topoNetwork, "", ""), edge("vm", "p1", topoVM, topoPort, "", ""), edge("vm", "n1", topoVM, topoNode, "", ""), edge("vm", "n2", topoVM, topoNode, "", ""),
			edge("p1", "g", topoPort, topoGroup, "", ""), edge("p1", "h", topoPort, topoGroup, "", ""), edge("g", "h", topoGroup, topoGroup, "", ""),
			edge("n1", "n2", topoNode, topoNode, "UP", "net"), edge("p1", "filtered", topoPort, topoGroup, "", ""),
		},
	}
	g.Vertices[0].Attributes = map[string]string{"address": "192.0.2.1"}
	g.Vertices[2].Message = "on host2 it is not"
	return g
}

func TestTopologyTree(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := TopologyTree(&b, graph()); err != nil {
		t.Fatal(err)
	}
	want := `the-n1 (ready) address 192.0.2.1
└─ network the-net (ready): on host2 it is not, here healthy
   ├─ port the-p1 (up), groups the-g+the-h
   │  └─ vm the-vm (migrating)
   └─ tunnel to the-n2 (up)
the-n2 (unknown, last known)
└─ network the-net (ready): on host2 it is not, here unhealthy
   ├─ port the-p1 (up), groups the-g+the-h
   │  └─ vm the-vm (migrating)
   └─ tunnel to the-n1 (up)
on no node
└─ network the-net (ready): on host2 it is not
   └─ port the-p2 (idle)
security groups
├─ security group the-g (ready), ports 1, refers to the-h
└─ security group the-h (applying), ports 1
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := TopologyTree(&b, &networkv1.GetNetworkTopologyResponse{}); err != nil || b.String() != "nothing is there\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
	g := graph()
	g.Vertices[3].Name = nasty
	b.Reset()
	if err := TopologyTree(&b, g); err != nil || strings.Contains(b.String(), "\x1b") || strings.Count(b.String(), "\n") != strings.Count(want, "\n") {
		t.Errorf("%q, %v", b.String(), err)
	}
}

// What is printed is a graph as the DOT grammar has it, with every thing and every edge once, whatever the names are.
func TestTopologyDot(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", nasty, `\`, `"`, `a\"b`, "<b>", "é", ""} {
		g := graph()
		for _, v := range g.GetVertices() {
			v.Name = name
			v.Attributes = map[string]string{"ip": name}
		}
		g.Edges[0].State = name
		var b strings.Builder
		if err := TopologyDot(&b, g); err != nil {
			t.Fatal(err)
		}
		p := &dotParser{tokens: dotTokens(t, b.String())}
		p.graph(t)
		if len(p.nodes) != len(g.GetVertices()) || len(p.edges) != len(g.GetEdges())-1 || p.clusters != 2 { // one edge leads to what is filtered out
			t.Errorf("%q: %d nodes, %d edges, %d clusters:\n%s", name, len(p.nodes), len(p.edges), p.clusters, b.String())
		}
		for _, e := range p.edges {
			if p.nodes[e[0]] != 1 || p.nodes[e[1]] != 1 {
				t.Errorf("%q: edge %v between what is not there once", name, e)
			}
		}
	}
}

// dotTokens splits a graph by the lexical rules of the DOT language: identifiers, quoted strings (in which only \" is an escape for the parser), "->" and punctuation.
func dotTokens(t *testing.T, text string) []string {
	t.Helper()
	var out []string
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case unicode.IsSpace(rune(c)):
			i++
		case c == '"':
			end := i + 1
			for ; end < len(text) && text[end] != '"'; end++ {
				if text[end] == '\\' {
					end++ // a quote after an even number of backslashes ends the string
				}
				if end < len(text) && text[end] < ' ' {
					t.Fatalf("a control character stands in a string: %q", text[i:end+1])
				}
			}
			if end >= len(text) {
				t.Fatalf("a string is not closed: %q", text[i:])
			}
			out = append(out, text[i:end+1])
			i = end + 1
		case strings.HasPrefix(text[i:], "->"):
			out = append(out, "->")
			i += 2
		case strings.ContainsRune("{}[];,=", rune(c)):
			out = append(out, string(c))
			i++
		case c == '_' || c < 0x80 && (unicode.IsLetter(rune(c)) || unicode.IsDigit(rune(c))):
			end := i
			for end < len(text) && (text[end] == '_' || text[end] < 0x80 && (unicode.IsLetter(rune(text[end])) || unicode.IsDigit(rune(text[end])))) {
				end++
			}
			out = append(out, text[i:end])
			i = end
		default:
			t.Fatalf("%q is no token", text[i:])
		}
	}
	return out
}

// dotParser reads digraphs: statements are attributes, nodes, edges and subgraphs, each but the last ended by a semicolon.
type dotParser struct {
	tokens   []string
	nodes    map[string]int
	edges    [][2]string
	clusters int
}

func (p *dotParser) next(t *testing.T, want string) string {
	t.Helper()
	if len(p.tokens) == 0 {
		t.Fatalf("the graph ends where %q should be", want)
	}
	tok := p.tokens[0]
	p.tokens = p.tokens[1:]
	if want == "id" && strings.Contains("{}[];,=->", tok) || want != "id" && tok != want {
		t.Fatalf("%q stands where %q should be", tok, want)
	}
	return tok
}

func (p *dotParser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *dotParser) graph(t *testing.T) {
	t.Helper()
	p.nodes = map[string]int{}
	p.next(t, "digraph")
	p.next(t, "id")
	p.body(t)
	if len(p.tokens) > 0 {
		t.Fatalf("after the graph stands %v", p.tokens)
	}
}

func (p *dotParser) body(t *testing.T) {
	t.Helper()
	p.next(t, "{")
	for p.peek() != "}" {
		id := p.next(t, "id")
		switch {
		case id == "subgraph":
			p.next(t, "id")
			p.clusters++
			p.body(t)
			continue
		case p.peek() == "=":
			p.next(t, "=")
			p.next(t, "id")
		case p.peek() == "->":
			p.next(t, "->")
			p.edges = append(p.edges, [2]string{id, p.next(t, "id")})
			p.attributes(t)
		default:
			if p.attributes(t); id != "node" {
				p.nodes[id]++
			}
		}
		p.next(t, ";")
	}
	p.next(t, "}")
}

func (p *dotParser) attributes(t *testing.T) {
	t.Helper()
	if p.peek() != "[" {
		return
	}
	p.next(t, "[")
	for i := 0; p.peek() != "]"; i++ {
		if i > 0 {
			p.next(t, ",")
		}
		p.next(t, "id")
		p.next(t, "=")
		p.next(t, "id")
	}
	p.next(t, "]")
}

// A topology of a large cluster is laid out in a time that a user does not notice.
func BenchmarkTopologyTree(b *testing.B) {
	g := &networkv1.GetNetworkTopologyResponse{}
	const nodes, each = 100, 50
	for n := range nodes {
		g.Vertices = append(g.Vertices, &networkv1.TopologyVertex{Id: fmt.Sprintf("n%d", n), Kind: topoNode, Name: fmt.Sprintf("host%d", n)})
		for i := range each {
			vm, port := fmt.Sprintf("v%d-%d", n, i), fmt.Sprintf("p%d-%d", n, i)
			g.Vertices = append(g.Vertices, &networkv1.TopologyVertex{Id: vm, Kind: topoVM, Name: vm}, &networkv1.TopologyVertex{Id: port, Kind: topoPort, Name: port})
			g.Edges = append(g.Edges, &networkv1.TopologyEdge{FromId: vm, FromKind: topoVM, ToId: port, ToKind: topoPort}, &networkv1.TopologyEdge{FromId: port, FromKind: topoPort, ToId: "net", ToKind: topoNetwork},
				&networkv1.TopologyEdge{FromId: vm, FromKind: topoVM, ToId: fmt.Sprintf("n%d", n), ToKind: topoNode})
		}
	}
	g.Vertices = append(g.Vertices, &networkv1.TopologyVertex{Id: "net", Kind: topoNetwork, Name: "net"})
	for b.Loop() {
		var out strings.Builder
		if err := TopologyTree(&out, g); err != nil {
			b.Fatal(err)
		}
	}
}
