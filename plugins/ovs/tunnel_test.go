package ovs_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// farNode is set in the process that is the other node: this program again, in a network namespace of its own; it says where the two leave word for each other.
const farNode = "LQ_TEST_FAR_NODE"

const (
	nearGuest = "eeeeeeee-0000-4000-8000-000000000001"
	openGuest = "eeeeeeee-0000-4000-8000-000000000002"
	shutGuest = "eeeeeeee-0000-4000-8000-000000000003"
)

// tunnelGuests are the guests of both nodes by interface.
var tunnelGuests = map[string]struct {
	node         int
	mac, address string
}{
	nearGuest: {0, "02:00:00:00:00:0a", "10.5.0.10"},
	openGuest: {1, "02:00:00:00:00:0b", "10.5.0.11"},
	shutGuest: {1, "02:00:00:00:00:0c", "10.5.0.12"},
}

// underlay is a node's address, by which the other one reaches its tunnels.
func underlay(node int) string { return fmt.Sprintf("192.0.2.%d", node+1) }

// tunnelled is the network as one of the two nodes has it.
func tunnelled(node int) *driverv1.NetworkSpec {
	x := &driverv1.VxlanTunnel{LocalAddress: underlay(node), Peers: []*driverv1.VxlanPeer{{NodeId: peerNode(1 - node), Address: underlay(1 - node)}}}
	for _, id := range []string{nearGuest, openGuest, shutGuest} {
		if g := tunnelGuests[id]; g.node != node {
			x.Fdb = append(x.Fdb, &driverv1.FdbEntry{Mac: g.mac, IpAddresses: []string{g.address}, PeerAddress: underlay(g.node)})
		}
	}
	return &driverv1.NetworkSpec{
		Type: driverv1.NetworkType_NETWORK_TYPE_OVS, Vni: 42, Mtu: 1450, Subnets: []*driverv1.SubnetSpec{{Cidr: "10.5.0.0/24"}}, Vxlan: x,
	}
}

func peerNode(n int) string { return fmt.Sprintf("dddddddd-0000-4000-8000-00000000001%d", n) }

// Two nodes, each with an Open vSwitch of its own: a guest reaches the one of two on the other node whose rules let it, through the tunnel, with packets as large as the network's MTU.
func TestTunnel(t *testing.T) {
	if word := os.Getenv(farNode); word != "" {
		p := tunnelNode(t, 1)
		p.guest(openGuest)
		p.guest(shutGuest)
		if err := os.WriteFile(word+"/ready", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		soon(t, "the end", func() error { _, err := os.Stat(word + "/done"); return err })
		return
	}
	run(t, "ip", "netns", "add", "far")
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", "far").Run() })
	run(t, "ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", "far")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "wire").Run() })
	run(t, "ip", "-n", "far", "link", "set", "lo", "up")
	word := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	far := exec.Command("ip", "netns", "exec", "far", "unshare", "-m", exe, "-test.run", "^TestTunnel$", "-test.v")
	far.Env = append(os.Environ(), farNode+"="+word)
	far.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &strings.Builder{}
	far.Stdout, far.Stderr = out, out
	if err := far.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- far.Wait() }()
	p := tunnelNode(t, 0)
	p.guest(nearGuest)
	soon(t, "the other node", func() error {
		select {
		case err := <-ended:
			t.Fatal("it has ended: ", err, out)
		default:
		}
		_, err := os.Stat(word + "/ready")
		return err
	})
	ping := func(to string) error { return inGuest(nearGuest, "ping", "-c1", "-W1", to).Run() }
	soon(t, "a guest on the other node answers", func() error { return ping("10.5.0.11") })
	for range 2 {
		if ping("10.5.0.12") == nil {
			t.Error("a guest whose rules let nothing in answers")
		}
	}
	if err := inGuest(nearGuest, "ping", "-c1", "-W3", "-s", "1422", "10.5.0.11").Run(); err != nil {
		t.Error("a packet of the network's MTU is lost")
	}
	p.wantClean()
	if err := os.WriteFile(word+"/done", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err, out)
	}
}

// tunnelNode makes one of the two nodes: a switch with the bridge that leads to the other, and the plugin with the network and its rules.
func tunnelNode(t *testing.T, n int) *plugin {
	t.Helper()
	o := newSwitch(t)
	o.vsctl("add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type="+datapath(), "--", "add-port", "br-phy", "wire")
	run(t, "ip", "addr", "add", underlay(n)+"/24", "dev", "br-phy")
	run(t, "ip", "link", "set", "br-phy", "up")
	run(t, "ip", "link", "set", "wire", "up")
	p := launch(t, o, o.config(""))
	for id, rules := range map[string][]*driverv1.Rule{
		group:   {{RuleId: "in", Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS}},
		friends: nil,
	} {
		if _, err := p.ApplyRuleSet(t.Context(), &driverv1.ApplyRuleSetRequest{RuleSet: &driverv1.RuleSet{RuleSetId: id, Mark: mark(id), Generation: 1, Rules: rules}}); err != nil {
			t.Fatal(err)
		}
	}
	p.ensure(tunnelled(n))
	return p
}

// guest attaches one of the guests and puts a namespace behind its port.
func (p *plugin) guest(id string) {
	p.t.Helper()
	g := tunnelGuests[id]
	rules := group
	if id == shutGuest {
		rules = friends
	}
	r, err := p.AttachInterface(p.t.Context(), &driverv1.NetworkDriverServiceAttachInterfaceRequest{InterfaceId: id, Mark: mark(id), Spec: &driverv1.InterfaceSpec{
		NetworkId: netID, Mac: g.mac, IpAddresses: []string{g.address}, RuleSetIds: []string{rules},
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	b := r.GetInterface().GetBinding().GetOvsPort()
	ns := space(id)
	run(p.t, "ip", "netns", "add", ns)
	p.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	run(p.t, "ip", "link", "add", b.GetTapName(), "type", "veth", "peer", "name", "eth0", "address", g.mac, "netns", ns)
	run(p.t, "ip", "link", "set", b.GetTapName(), "up")
	run(p.t, "ip", "-n", ns, "addr", "add", g.address+"/24", "dev", "eth0")
	run(p.t, "ip", "-n", ns, "link", "set", "eth0", "mtu", "1450", "up")
	p.o.vsctl("add-port", b.GetBridge(), b.GetTapName(), "--", "set", "interface", b.GetTapName(), "external_ids:iface-id="+b.GetInterfaceId())
	soon(p.t, "the port is up", func() error {
		r, err := p.ListInterfaces(p.t.Context(), &driverv1.ListInterfacesRequest{})
		for _, i := range r.GetInterfaces() {
			if i.GetInterfaceId() == id && i.GetState() == driverv1.InterfaceState_INTERFACE_STATE_UP {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("interfaces: %v", r.GetInterfaces()))
	})
}

func space(id string) string { return "g" + id[len(id)-1:] }

// inGuest is a command, of busybox where that is what there is, behind a guest's port.
func inGuest(id string, args ...string) *exec.Cmd {
	if _, err := exec.LookPath("busybox"); err == nil {
		args = append([]string{"busybox"}, args...)
	}
	return exec.Command("ip", append([]string{"netns", "exec", space(id)}, args...)...)
}
