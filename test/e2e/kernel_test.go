package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab/guest"
)

const (
	labCluster = "11111111-1111-4111-8111-111111111111"
	labNode    = "22222222-2222-4222-8222-222222222222"
	labNetwork = "33333333-3333-4333-8333-333333333333"
	labRules   = "44444444-4444-4444-8444-444444444444"
)

// On a kernel without br_netfilter frames on a bridge pass iptables by: each port is shut and says why, whatever its groups allow, and opens by itself when the module is loaded.
func TestNoBridgeFilter(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	g := guest.Start(t, guest.Options{})
	sh := func(line string) (string, error) {
		out, err := g.Sh(ctx, "export PATH=/usr/sbin:/usr/bin:/sbin:/bin; "+line)
		return strings.TrimSpace(out), err
	}
	must := func(line string) {
		t.Helper()
		if out, err := sh(line); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	// What iptables is told would load it.
	must("modprobe -r br_netfilter; echo 'install br_netfilter /bin/false' >/etc/modprobe.d/absent.conf; ! modprobe br_netfilter; ! ls /proc/sys/net/bridge")
	built := filepath.Join(binaries, "plugins", "bridge")
	m, err := host.ReadManifest(built)
	if err != nil {
		t.Fatal(err)
	}
	dir, run := t.TempDir(), filepath.Join("/tmp", fmt.Sprintf("lqk%d", os.Getpid()))
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(run) }()
	if err := g.Plugin(ctx, dir, filepath.Join(built, m.Executable), *m); err != nil {
		t.Fatal(err)
	}
	p, err := host.Launch(ctx, host.Spec{
		Dir: dir, RuntimeDir: run, ConfigJSON: `{"runtime_directory":"/run/limiquantix/bridge"}`, StartTimeout: 2 * time.Minute,
		Host: &driverv1.HostFacts{ClusterId: labCluster, NodeId: labNode, NodeName: "n", BootId: "b", StateDirectory: "/var/lib/lq", RuntimeDirectory: "/run/lq"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = p.Stop(ctx, 10*time.Second)
	}()
	driver := driverv1.NewNetworkDriverServiceClient(p.Conn())
	mark := func(id string) *driverv1.OwnershipMark {
		return &driverv1.OwnershipMark{ClusterId: labCluster, NodeId: labNode, ObjectId: id, Generation: 1, Epoch: 1}
	}
	if _, err := driver.ApplyRuleSet(ctx, &driverv1.ApplyRuleSetRequest{
		RuleSet: &driverv1.RuleSet{RuleSetId: labRules, Mark: mark(labRules), Generation: 1, Rules: []*driverv1.Rule{{RuleId: "in", Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS}}},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := driver.EnsureNetwork(ctx, &driverv1.EnsureNetworkRequest{NetworkId: labNetwork, Mark: mark(labNetwork), Spec: &driverv1.NetworkSpec{
		Type: driverv1.NetworkType_NETWORK_TYPE_BRIDGE, Subnets: []*driverv1.SubnetSpec{{Cidr: "10.0.0.0/24"}},
	}}); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 2; i++ {
		id := fmt.Sprintf("5555555%d-5555-4555-8555-555555555555", i)
		mac, address := fmt.Sprintf("02:00:00:00:00:0%d", i), fmt.Sprintf("10.0.0.%d", i)
		r, err := driver.AttachInterface(ctx, &driverv1.NetworkDriverServiceAttachInterfaceRequest{InterfaceId: id, Mark: mark(id), Spec: &driverv1.InterfaceSpec{
			NetworkId: labNetwork, Mac: mac, IpAddresses: []string{address}, RuleSetIds: []string{labRules},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.GetInterface(); got.GetState() != driverv1.InterfaceState_INTERFACE_STATE_BLOCKED || got.GetReason() != "BRIDGE_FILTER_INACTIVE" || !strings.Contains(got.GetMessage(), "br_netfilter") {
			t.Errorf("the interface says %v", got)
		}
		b := r.GetInterface().GetBinding().GetBridgePort()
		must(fmt.Sprintf("ip netns add g%d; ip link add %s type veth peer name eth0 address %s netns g%[1]d; ip link set %[2]s master %[4]s up; ip -n g%[1]d addr add %[5]s/24 dev eth0; ip -n g%[1]d link set eth0 up",
			i, b.GetTapName(), mac, b.GetBridge(), address))
	}
	ping := "ip netns exec g1 ping -c1 -W2 10.0.0.2"
	for range 3 {
		if out, err := sh(ping); err == nil {
			t.Fatalf("a packet passed without a filter:\n%s", out)
		}
	}
	must("rm /etc/modprobe.d/absent.conf; modprobe br_netfilter")
	for end := time.Now().Add(2 * time.Minute); ; {
		out, err := sh(ping)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("with br_netfilter nothing passes: %s", out)
		}
	}
}
