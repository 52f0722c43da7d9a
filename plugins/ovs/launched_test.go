package ovs_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance"
	"github.com/limiquantix/limiquantix/sdk/conformance/guest"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// pluginDir makes a plugin directory whose binary is this one.
func pluginDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plugin"), data, 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	if err := host.WriteManifest(dir, &host.Manifest{Name: "ovs", Version: "0.0.0-dev", Kinds: []string{"network"}, Executable: "plugin"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Of random policies make test tries 300 with the seed sample, so that a tree is judged alike each time, and 12 on the kernel's datapath, which is tested in a slow machine;
// LIMIQUANTIX_TEST_COUNT and LIMIQUANTIX_TEST_SEED take others.
const sample = 1

func policies() int {
	if datapath() == "system" {
		return 12
	}
	return 300
}

// disturbances are what ovs-ofctl and ovs-vsctl can take away from the driver's bridge. What somebody adds, a flow that lets pass or the failure mode "standalone", opens until it is put right (TestDrift).
func (o *openvswitch) disturbances() (all []conformance.Disturbance) {
	for _, line := range []string{
		"ovs-ofctl -O OpenFlow14 del-flows $B", "ovs-ofctl -O OpenFlow14 del-flows $B table=60", "ovs-ofctl -O OpenFlow14 del-flows $B table=0", "ovs-ofctl -O OpenFlow14 mod-flows $B table=10,actions=drop",
		"ovs-ofctl -O OpenFlow14 del-groups $B", "ovs-ofctl -O OpenFlow13 del-meters $B", "ovs-vsctl --db=unix:$D/db.sock --timeout=30 remove bridge $N external_ids limiquantix-rules-$(ovs-vsctl --db=unix:$D/db.sock get bridge $N external_ids | grep -o 'rules-[0-9a-f-]*' | head -n1 | cut -c7-)",
	} {
		all = append(all, conformance.Disturbance{Name: line, Do: func(ctx context.Context) error {
			cmd := exec.CommandContext(ctx, "sh", "-c", "D="+o.dir+"; N=$(ovs-vsctl --db=unix:$D/db.sock list-br | grep ^lqo); B=unix:$D/$N.mgmt; "+line)
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		}})
	}
	return all
}

// The contract of the SDK, seen by calls and by packets. When all is deleted nothing of ours is left in the switch.
func TestConformance(t *testing.T) {
	o := newSwitch(t)
	o.vsctl("add-br", "br-hand", "--", "set", "bridge", "br-hand", "datapath_type="+datapath(), "external_ids:somebody=else")
	conformance.Test(t, conformance.Options{
		Plugin: host.Spec{Dir: pluginDir(t), ConfigJSON: o.config("")},
		Network: conformance.NetworkOptions{
			Spec: func(n int) *driverv1.NetworkSpec {
				return &driverv1.NetworkSpec{Type: driverv1.NetworkType_NETWORK_TYPE_OVS, Subnets: []*driverv1.SubnetSpec{{Cidr: fmt.Sprintf("10.213.%d.0/24", n)}}}
			},
			Packets: &conformance.PacketOptions{Policies: policies(), Seed: sample, Disturbances: o.disturbances(), OVS: guest.OVS{Database: "unix:" + o.dir + "/db.sock", Placed: o.deepen}},
		},
		Brief: true,
	})
	if left := o.vsctl("list-br"); left != "br-hand" {
		t.Errorf("bridges are left: %s", left)
	}
}
