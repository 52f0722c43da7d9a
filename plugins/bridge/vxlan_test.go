package bridge_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// farNode is the part of this file that runs as another node: the test binary again, in a namespace of its own, told what to do by its environment.
const farNode = "LQ_TEST_FAR_NODE"

// tunnelled is a VXLAN network as node i of two has it.
func tunnelled(i int) *driverv1.NetworkSpec {
	addrs := []string{"192.0.2.1", "192.0.2.2"}
	macs, ips := []string{"02:00:00:00:00:0a", "02:00:00:00:00:0b"}, []string{"10.5.0.10", "10.5.0.11"}
	o := 1 - i
	return &driverv1.NetworkSpec{
		Type: driverv1.NetworkType_NETWORK_TYPE_VXLAN, Vni: 42, Egress: driverv1.EgressMode_EGRESS_MODE_NAT, GatewayMac: "02:00:00:00:00:01",
		Subnets: []*driverv1.SubnetSpec{{Cidr: "10.5.0.0/24", Gateway: "10.5.0.1", Dhcp: true}},
		Vxlan: &driverv1.VxlanTunnel{
			LocalAddress: addrs[i], Peers: []*driverv1.VxlanPeer{{NodeId: newID(), Address: addrs[o]}},
			Fdb: []*driverv1.FdbEntry{{Mac: macs[o], IpAddresses: []string{ips[o]}, PeerAddress: addrs[o]}},
		},
	}
}

// Two nodes, each with a guest: they reach each other through the tunnel, under each node's rules; gateways and DHCP stay at home; unknown addresses are not flooded.
func TestTunnel(t *testing.T) {
	if os.Getenv(farNode) != "" {
		tunnelEnd(t, 1)
		return
	}
	run(t, "ip", "netns", "add", "far")
	t.Cleanup(func() { runQuiet("ip", "netns", "del", "far") })
	run(t, "ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", "far")
	t.Cleanup(func() { runQuiet("ip", "link", "del", "wire") })
	run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "wire")
	run(t, "ip", "link", "set", "wire", "up")
	far := space("far")
	far.run(t, "ip", "addr", "add", "192.0.2.2/24", "dev", "wire")
	far.run(t, "ip", "link", "set", "wire", "up")
	far.run(t, "ip", "link", "set", "lo", "up")
	ready, done := t.TempDir()+"/ready", t.TempDir()+"/done"
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", "far", "unshare", "-m", exe, "-test.run", "^TestTunnel$", "-test.v")
	cmd.Env = append(os.Environ(), farNode+"="+ready+","+done)
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	wait(t, ready, ended, out)
	tunnelEnd(t, 0)
	if err := os.WriteFile(done, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err, out)
	}
}

// wait waits for a file, or the end of the process that is to make it.
func wait(t *testing.T, path string, ended <-chan error, said *strings.Builder) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 6000 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case err := <-ended:
			t.Fatal(err, said)
		case <-tick.C:
		}
	}
	t.Fatal("no", path)
}

func tunnelEnd(t *testing.T, i int) {
	l := launch(t)
	t.Cleanup(func() { l.collect(t) })
	set := newID()
	l.apply(t, set, 1, ingress(1, 0))
	n := l.network(t, tunnelled(i))
	if mtu := n.ensure(t).GetMtu(); mtu != 1450 {
		t.Error("MTU", mtu)
	}
	g := n.attach(t, []string{"02:00:00:00:00:0a", "02:00:00:00:00:0b"}[i], []string{[]string{"10.5.0.10", "10.5.0.11"}[i]}, set).plug(t)
	g.run(t, "ip", "link", "set", "eth0", "mtu", "1450")
	if i == 1 { // the far end answers until it is told to end
		ready, done, _ := strings.Cut(os.Getenv(farNode), ",")
		g.start(t, "busybox", "httpd", "-f", "-p", "80")
		if err := os.WriteFile(ready, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		wait(t, done, nil, nil)
		return
	}
	wire := capture(t, "wire", "udp port 4789")
	g.wantPing(t, "10.5.0.11", true)
	if out, err := g.command("busybox", "ping", "-c", "1", "-W", "2", "-s", "1422", "10.5.0.11").CombinedOutput(); err != nil {
		t.Error("a packet of the network's MTU is lost:", string(out))
	}
	if _, ok := g.get("http://10.5.0.11/"); ok {
		t.Error("what no rule allows on the other node passes")
	}
	g.wantPing(t, "10.5.0.1", true) // the gateway is here
	g.run(t, "ip", "neigh", "add", "10.5.0.99", "lladdr", "02:00:00:00:00:99", "dev", "eth0")
	g.wantPing(t, "10.5.0.99", false) // unknown: not flooded
	g.wantPing(t, "10.5.0.98", false) // asked for by broadcast: that is copied
	_ = g.command("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "2", "-T", "1", "-s", "/bin/true").Run()
	seen := wire()
	for what, wrong := range map[string]bool{
		"no frame to the other guest": !strings.Contains(seen, "10.5.0.10 > 10.5.0.11"),
		"an unknown address flooded":  strings.Contains(seen, "> 10.5.0.99: ICMP"),
		"the gateway asked for":       strings.Contains(seen, "who-has 10.5.0.1 "),
		"DHCP in the tunnel":          strings.Contains(seen, "BOOTP"),
		"a broadcast lost":            !strings.Contains(seen, "who-has 10.5.0.98"),
		"a known address asked for":   strings.Contains(seen, "who-has 10.5.0.11 "),
	} {
		if wrong {
			t.Errorf("%s: %s", what, seen)
		}
	}
	// An entry that somebody removed comes back.
	run(t, "bridge", "fdb", "del", "02:00:00:00:00:0b", "dev", name.Tunnel(n.id), "dst", "192.0.2.2", "self")
	g.wantPing(t, "10.5.0.11", true)
}

// capture begins to listen and returns a function that ends it and says what was seen.
func capture(t testing.TB, dev, filter string, in ...space) func() string {
	t.Helper()
	args := []string{"tcpdump", "--immediate-mode", "-l", "-n", "-e", "-i", dev, filter}
	cmd := exec.Command(args[0], args[1:]...)
	if len(in) > 0 {
		cmd = in[0].command(args...)
	}
	out, errs := &strings.Builder{}, &ready{line: "listening on", is: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	select {
	case <-errs.is:
	case <-ctx.Done():
		t.Fatal("tcpdump does not start:", errs.said.String())
	}
	return func() string {
		<-time.After(time.Second) // an interrupted tcpdump drops what it has not read yet
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		return out.String()
	}
}

// ready is a writer that tells when a line came.
type ready struct {
	said strings.Builder
	line string
	is   chan struct{}
	told bool
}

func (r *ready) Write(b []byte) (int, error) {
	r.said.Write(b)
	if !r.told && strings.Contains(r.said.String(), r.line) {
		r.told = true
		close(r.is)
	}
	return len(b), nil
}
