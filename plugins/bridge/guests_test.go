package bridge_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

func indexLine(text, word string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// run runs a command and fails the test when it fails.
func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

var spaces atomic.Int32

// space is a network namespace of a test.
type space string

func newSpace(t testing.TB, what string) space {
	t.Helper()
	s := space(fmt.Sprintf("%s%d", what, spaces.Add(1)))
	run(t, "ip", "netns", "add", string(s))
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", string(s)).Run() })
	s.run(t, "ip", "link", "set", "lo", "up")
	return s
}

func (s space) command(args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", string(s)}, args...)...)
}

func (s space) run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %s: %v: %s", s, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start starts a command that ends with the test.
func (s space) start(t testing.TB, args ...string) {
	t.Helper()
	cmd := s.command(args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// network is a network under test.
type network struct {
	id   string
	spec *driverv1.NetworkSpec
	l    *launched
}

func (l *launched) network(t testing.TB, spec *driverv1.NetworkSpec) *network {
	t.Helper()
	n := &network{id: newID(), spec: spec, l: l}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := l.DeleteNetwork(ctx, &driverv1.DeleteNetworkRequest{NetworkId: n.id}); err != nil {
			t.Error(err)
		}
	})
	n.ensure(t)
	return n
}

func (n *network) ensure(t testing.TB) *driverv1.Network {
	t.Helper()
	r, err := n.l.EnsureNetwork(t.Context(), &driverv1.EnsureNetworkRequest{NetworkId: n.id, Mark: mark(n.id), Spec: n.spec})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetNetwork()
}

// natNetwork is a spec with NAT, DHCP and names.
func natNetwork(cidr, gateway string) *driverv1.NetworkSpec {
	return &driverv1.NetworkSpec{
		Type: driverv1.NetworkType_NETWORK_TYPE_BRIDGE, Egress: driverv1.EgressMode_EGRESS_MODE_NAT, DomainName: "test.internal",
		Subnets: []*driverv1.SubnetSpec{{Cidr: cidr, Gateway: gateway, Dhcp: true}},
	}
}

// guest is an interface with a namespace behind its tap.
type guest struct {
	space
	id  string
	n   *network
	req *driverv1.NetworkDriverServiceAttachInterfaceRequest
}

// attach asks for an interface; plug makes its device.
func (n *network) attach(t testing.TB, mac string, addrs []string, ruleSets ...string) *guest {
	t.Helper()
	g := &guest{id: newID(), n: n}
	g.req = &driverv1.NetworkDriverServiceAttachInterfaceRequest{
		InterfaceId: g.id, Mark: mark(g.id), Spec: &driverv1.InterfaceSpec{NetworkId: n.id, Mac: mac, IpAddresses: addrs, RuleSetIds: ruleSets},
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := n.l.DetachInterface(ctx, &driverv1.NetworkDriverServiceDetachInterfaceRequest{InterfaceId: g.id, NetworkId: n.id}); err != nil {
			t.Error(err)
		}
	})
	g.update(t)
	return g
}

func (g *guest) update(t testing.TB) *driverv1.NetworkInterface {
	t.Helper()
	r, err := g.n.l.AttachInterface(t.Context(), g.req)
	if err != nil {
		t.Fatal(err)
	}
	return r.GetInterface()
}

func (g *guest) tap() string { return name.Tap(g.id) }

// plug makes the device and a namespace with the interface's addresses behind it.
func (g *guest) plug(t testing.TB) *guest {
	t.Helper()
	g.space = newSpace(t, "g")
	spec := g.req.GetSpec()
	run(t, "ip", "link", "add", g.tap(), "type", "veth", "peer", "name", "eth0", "address", spec.GetMac(), "netns", string(g.space))
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", g.tap()).Run() })
	run(t, "ip", "link", "set", g.tap(), "master", name.Bridge(g.n.id), "up")
	g.run(t, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0")
	for _, a := range spec.GetIpAddresses() {
		bits := "/24"
		if strings.Contains(a, ":") {
			bits = "/64"
		}
		g.run(t, "ip", "addr", "add", a+bits, "dev", "eth0")
	}
	g.run(t, "ip", "link", "set", "eth0", "up")
	for _, s := range g.n.spec.GetSubnets() {
		if s.GetGateway() != "" {
			g.run(t, "ip", "route", "add", "default", "via", s.GetGateway())
		}
	}
	return g
}

// pings reports whether an answer comes.
func (s space) pings(to string) bool {
	return s.command("busybox", "ping", "-c1", "-W1", to).Run() == nil
}

func (s space) wantPing(t testing.TB, to string, want bool) {
	t.Helper()
	if !want {
		if s.pings(to) {
			t.Errorf("%s reaches %s", s, to)
		}
		return
	}
	for range 8 { // the first may be lost to address resolution
		if s.pings(to) {
			return
		}
	}
	t.Errorf("%s does not reach %s", s, to)
}

// apply puts a rule set in force.
func (l *launched) apply(t testing.TB, id string, generation int64, rules ...*driverv1.Rule) {
	t.Helper()
	for i, r := range rules {
		r.RuleId = fmt.Sprintf("r%d", i)
	}
	_, err := l.ApplyRuleSet(t.Context(), &driverv1.ApplyRuleSetRequest{RuleSet: &driverv1.RuleSet{RuleSetId: id, Mark: mark(id), Generation: generation, Rules: rules}})
	if err != nil {
		t.Fatal(err)
	}
}

// collect removes all rule sets that no interface uses.
func (l *launched) collect(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := l.CollectGarbage(ctx, &driverv1.CollectGarbageRequest{}); err != nil {
		t.Error(err)
	}
}

func ingress(protocol uint32, port uint32) *driverv1.Rule {
	r := &driverv1.Rule{Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: proto.Uint32(protocol)}
	if port != 0 {
		r.Ports = &driverv1.PortRange{First: port, Last: port}
	}
	return r
}

func (g *guest) stats(t testing.TB) *driverv1.NetworkInterfaceStats {
	t.Helper()
	r, err := g.n.l.GetNetworkStats(t.Context(), &driverv1.GetNetworkStatsRequest{InterfaceIds: []string{g.id}})
	if err != nil || len(r.GetInterfaces()) != 1 {
		t.Fatal(r, err)
	}
	return r.GetInterfaces()[0]
}

// debug prints what there is, when a test asks for it.
func debug(t testing.TB) {
	if os.Getenv("LIMIQUANTIX_TEST_DEBUG") == "" {
		return
	}
	for _, c := range []string{"iptables-nft-save -c", "nft list table bridge limiquantix", "ip -d link", "conntrack -L", "ip rule", "ip route show table all"} {
		out, _ := exec.Command("sh", "-c", c).CombinedOutput()
		t.Log(c + "\n" + string(out))
	}
}

// runQuiet runs a command whose failure does not matter.
func runQuiet(args ...string) { _ = exec.Command(args[0], args[1:]...).Run() }
