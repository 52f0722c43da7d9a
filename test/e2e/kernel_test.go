package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab/guest"
	"github.com/limiquantix/limiquantix/test/stack"
)

const (
	labCluster = "11111111-1111-4111-8111-111111111111"
	labNode    = "22222222-2222-4222-8222-222222222222"
	labNetwork = "33333333-3333-4333-8333-333333333333"
	labRules   = "44444444-4444-4444-8444-444444444444"
)

// labBridge is the bridge plugin, running in a lab guest, whose kernel has what that of the machine may lack.
type labBridge struct {
	driverv1.NetworkDriverServiceClient
	g *guest.Guest
}

func (b labBridge) sh(ctx context.Context, line string) (string, error) {
	out, err := b.g.Sh(ctx, "export PATH=/usr/sbin:/usr/bin:/sbin:/bin; "+line)
	return strings.TrimSpace(out), err
}

func (b labBridge) must(t *testing.T, line string) string {
	t.Helper()
	out, err := b.sh(t.Context(), line)
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return out
}

func labMark(id string) *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: labCluster, NodeId: labNode, ObjectId: id, Generation: 1, Epoch: 1}
}

// startLabBridge starts a lab guest, prepares it and runs the plugin there.
func startLabBridge(t *testing.T, prepare string) labBridge {
	t.Helper()
	b := labBridge{g: guest.Start(t, guest.Options{})}
	b.must(t, prepare)
	built := filepath.Join(binaries, "plugins", "bridge")
	m, err := host.ReadManifest(built)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run, err := os.MkdirTemp("", "lqk") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	if err := b.g.Plugin(t.Context(), dir, filepath.Join(built, m.Executable), *m); err != nil {
		t.Fatal(err)
	}
	p, err := host.Launch(context.WithoutCancel(t.Context()), host.Spec{
		Dir: dir, RuntimeDir: run, ConfigJSON: `{"runtime_directory":"/run/limiquantix/bridge","uplinks":["up0"]}`, StartTimeout: 2 * time.Minute,
		Host: &driverv1.HostFacts{ClusterId: labCluster, NodeId: labNode, NodeName: "n", BootId: "b", StateDirectory: "/var/lib/lq", RuntimeDirectory: "/run/lq"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = p.Stop(ctx, 10*time.Second)
	})
	b.NetworkDriverServiceClient = driverv1.NewNetworkDriverServiceClient(p.Conn())
	return b
}

// rules puts a rule set in force.
func (b labBridge) rules(t *testing.T, generation int64, rules ...*driverv1.Rule) {
	t.Helper()
	if _, err := b.ApplyRuleSet(t.Context(), &driverv1.ApplyRuleSetRequest{
		RuleSet: &driverv1.RuleSet{RuleSetId: labRules, Mark: labMark(labRules), Generation: generation, Rules: rules},
	}); err != nil {
		t.Fatal(err)
	}
}

func (b labBridge) ensure(t *testing.T, spec *driverv1.NetworkSpec) {
	t.Helper()
	if _, err := b.EnsureNetwork(t.Context(), &driverv1.EnsureNetworkRequest{NetworkId: labNetwork, Mark: labMark(labNetwork), Spec: spec}); err != nil {
		t.Fatal(err)
	}
}

// plug attaches interface i with the address 10.0.0.i, and puts the namespace gI behind it.
func (b labBridge) plug(t *testing.T, i int) *driverv1.NetworkInterface {
	t.Helper()
	id := fmt.Sprintf("5555555%d-5555-4555-8555-555555555555", i)
	mac, address := fmt.Sprintf("02:00:00:00:00:0%d", i), fmt.Sprintf("10.0.0.%d", i)
	r, err := b.AttachInterface(t.Context(), &driverv1.NetworkDriverServiceAttachInterfaceRequest{InterfaceId: id, Mark: labMark(id), Spec: &driverv1.InterfaceSpec{
		NetworkId: labNetwork, Mac: mac, IpAddresses: []string{address}, RuleSetIds: []string{labRules},
	}})
	if err != nil {
		t.Fatal(err)
	}
	p := r.GetInterface().GetBinding().GetBridgePort()
	b.must(t, fmt.Sprintf("ip netns add g%d; ip link add %s type veth peer name eth0 address %s netns g%[1]d; ip link set %[2]s master %[4]s up; ip -n g%[1]d addr add %[5]s/24 dev eth0; ip -n g%[1]d link set eth0 up",
		i, p.GetTapName(), mac, p.GetBridge(), address))
	return r.GetInterface()
}

// soon waits until a command in the lab guest succeeds.
func (b labBridge) soon(t *testing.T, what, line string) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; {
		out, err := b.sh(t.Context(), line)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %s", what, out)
		}
	}
}

// On a kernel without br_netfilter frames on a bridge pass iptables by: each port is shut and says why, whatever its groups allow, and opens by itself when the module is loaded.
func TestNoBridgeFilter(t *testing.T) {
	// What iptables is told would load it.
	b := startLabBridge(t, "modprobe -r br_netfilter; echo 'install br_netfilter /bin/false' >/etc/modprobe.d/absent.conf; ! modprobe br_netfilter; ! ls /proc/sys/net/bridge")
	b.rules(t, 1, &driverv1.Rule{RuleId: "in", Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS})
	b.ensure(t, &driverv1.NetworkSpec{Type: driverv1.NetworkType_NETWORK_TYPE_BRIDGE, Subnets: []*driverv1.SubnetSpec{{Cidr: "10.0.0.0/24"}}})
	for i := 1; i <= 2; i++ {
		got := b.plug(t, i)
		if got.GetState() != driverv1.InterfaceState_INTERFACE_STATE_BLOCKED || got.GetReason() != "BRIDGE_FILTER_INACTIVE" || !strings.Contains(got.GetMessage(), "br_netfilter") {
			t.Errorf("the interface says %v", got)
		}
	}
	ping := "ip netns exec g1 ping -c1 -W2 10.0.0.2"
	for range 3 {
		if out, err := b.sh(t.Context(), ping); err == nil {
			t.Fatalf("a packet passed without a filter:\n%s", out)
		}
	}
	b.must(t, "rm /etc/modprobe.d/absent.conf; modprobe br_netfilter")
	b.soon(t, "with br_netfilter nothing passes", ping)
}

// A VLAN on an uplink, on a kernel that has VLANs: what leaves is tagged, what comes in has the tag, and the guest's rules hold for it; nobody without the tag is reached or reaches the guest.
func TestVLAN(t *testing.T) {
	b := startLabBridge(t, `for ns in v7 v8 plain; do ip netns add $ns; done
ip link add up0 type veth peer name eth0 address 02:00:00:00:00:99 netns plain
ip -n plain addr add 10.0.0.8/24 dev eth0; ip -n plain link set eth0 up
for id in 7 8; do ip -n plain link add link eth0 name v$id type vlan id $id; ip -n plain link set v$id netns v$id; ip -n v$id addr add 10.0.0.9/24 dev v$id; ip -n v$id link set v$id up; done`)
	b.rules(t, 1)
	b.ensure(t, &driverv1.NetworkSpec{Type: driverv1.NetworkType_NETWORK_TYPE_VLAN, Uplink: "up0", VlanId: 7, Subnets: []*driverv1.SubnetSpec{{Cidr: "10.0.0.0/24"}}})
	b.plug(t, 1)
	ping := func(from, to string) string { return fmt.Sprintf("ip netns exec %s ping -c1 -W2 %s", from, to) }
	silent := func(what, line string) {
		t.Helper()
		for range 2 {
			if out, err := b.sh(t.Context(), line); err == nil {
				t.Errorf("%s:\n%s", what, out)
			}
		}
	}
	received := "ip netns exec v8 cat /sys/class/net/v8/statistics/rx_packets"
	before := b.must(t, received)
	b.soon(t, "the guest does not reach its VLAN", ping("g1", "10.0.0.9"))
	silent("an untagged address is reached", ping("g1", "10.0.0.8"))
	silent("the VLAN reaches a guest without rules", ping("v7", "10.0.0.1"))
	b.rules(t, 2, &driverv1.Rule{RuleId: "in", Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS})
	b.soon(t, "the VLAN does not reach a guest whose rules allow it", ping("v7", "10.0.0.1"))
	silent("another VLAN reaches the guest", ping("v8", "10.0.0.1"))
	silent("somebody without a tag reaches the guest", ping("plain", "10.0.0.1"))
	if after := b.must(t, received); after != before {
		t.Errorf("the other VLAN has received %s packets, %s before", after, before)
	}
	// Whoever takes the device away gets it back.
	b.must(t, "ip link del $(ls /sys/class/net | grep ^lqq)")
	b.soon(t, "the VLAN's device is not repaired", ping("v7", "10.0.0.1"))
	const iface = "55555551-5555-4555-8555-555555555555"
	if _, err := b.DetachInterface(t.Context(), &driverv1.NetworkDriverServiceDetachInterfaceRequest{InterfaceId: iface, NetworkId: labNetwork}); err != nil {
		t.Fatal(err)
	}
	b.must(t, "ip netns del g1")
	if _, err := b.DeleteNetwork(t.Context(), &driverv1.DeleteNetworkRequest{NetworkId: labNetwork}); err != nil {
		t.Fatal(err)
	}
	b.must(t, "ip link show up0; ! ls /sys/class/net | grep ^lq[bqt]")
}

// The ovs driver on the kernel's datapath, which this machine need not have: the tests of the driver run in the lab guest, packets and all.
func TestOVSKernelDatapath(t *testing.T) {
	share := t.TempDir()
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", filepath.Join(share, "ovs.test"), ".")
	build.Dir, build.Env = filepath.Join(root, "plugins", "ovs"), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	g := guest.Start(t, guest.Options{Share: share})
	if out, err := g.Sh(t.Context(), "export PATH=/usr/sbin:/sbin:/bin; modprobe tun; mkdir -p /dev/net; [ -c /dev/net/tun ] || mknod /dev/net/tun c 10 200"); err != nil {
		t.Fatal(out, err)
	}
	var out strings.Builder
	err = g.Exec(t.Context(), guest.Cmd{
		Argv: []string{"/host/ovs.test", "-test.v", "-test.timeout=20m", "-test.run", "^(TestConformance|TestTunnel)$/^network$/^(check|packets)$"}, Dir: "/tmp", Stdout: &out, Stderr: &out,
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LIMIQUANTIX_TEST_DATAPATH=system"},
	})
	text := out.String()
	if err != nil || !strings.Contains(text, "--- PASS: TestConformance") || !strings.Contains(text, "--- PASS: TestTunnel") || strings.Contains(text, "--- SKIP") {
		t.Fatalf("%v: %s", err, text[max(0, len(text)-8000):])
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "evidence: ") || strings.HasPrefix(line, "--- PASS") {
			t.Log("kernel datapath:", strings.TrimSpace(line))
		}
	}
}
