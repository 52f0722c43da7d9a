package bridge_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// build makes a plugin directory with the binary and its manifest.
func build(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir, "./cmd/limiquantix-plugin-bridge")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := host.WriteManifest(dir, &host.Manifest{Name: "bridge", Version: "0.0.0-dev", Kinds: []string{"network"}, Executable: "limiquantix-plugin-bridge"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

const (
	clusterID = "11111111-1111-4111-8111-111111111111"
	nodeID    = "22222222-2222-4222-8222-222222222222"
)

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func mark(id string) *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: clusterID, NodeId: nodeID, ObjectId: id, Generation: 1, Epoch: 1}
}

// launched is a running plugin.
type launched struct {
	*host.Process
	driverv1.NetworkDriverServiceClient
	spec host.Spec
}

func launch(t testing.TB) *launched {
	t.Helper()
	return launchWith(t, `{"runtime_directory":"/run/limiquantix/bridge"}`)
}

func launchWith(t testing.TB, config string) *launched {
	t.Helper()
	run, err := os.MkdirTemp("", "lq")
	if err != nil {
		t.Fatal(err)
	}
	l := &launched{spec: host.Spec{
		Dir: build(t), RuntimeDir: run, ConfigJSON: config,
		Host: &driverv1.HostFacts{ClusterId: clusterID, NodeId: nodeID, NodeName: "n", BootId: "b", StateDirectory: run, RuntimeDirectory: run},
	}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = l.Stop(ctx, time.Second)
		_ = os.RemoveAll(run)
	})
	l.start(t)
	return l
}

func (l *launched) start(t testing.TB) {
	t.Helper()
	p, err := host.Launch(context.WithoutCancel(t.Context()), l.spec)
	if err != nil {
		t.Fatal(err)
	}
	l.Process, l.NetworkDriverServiceClient = p, driverv1.NewNetworkDriverServiceClient(p.Conn())
}

// kill ends the plugin with kill -9.
func (l *launched) kill(t testing.TB) {
	t.Helper()
	if err := syscall.Kill(l.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-l.Done()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = l.Stop(ctx, 0)
}

// sample is the seed of the 300 policies that make test tries, so that a tree is judged alike each time; LIMIQUANTIX_TEST_COUNT and LIMIQUANTIX_TEST_SEED take others.
const sample = 1

// The contract of the SDK, against the real kernel.
func TestConformance(t *testing.T) {
	conformance.Test(t, conformance.Options{
		Plugin: host.Spec{Dir: build(t)}, Brief: true, Network: conformance.NetworkOptions{Packets: &conformance.PacketOptions{Policies: 300, Seed: sample, Disturbances: disturbances()}},
	})
	if left := leftovers(t); left != "" {
		t.Error("left behind:", left)
	}
}

// disturbances are what iptables, nft and ipset can do to the first layer; of the second, which alone drops, TestOpenWindow takes everything.
func disturbances() (all []conformance.Disturbance) {
	for _, line := range []string{
		"iptables-nft -F; iptables-nft -t mangle -F", "ip6tables-nft -t mangle -F", "iptables-nft -t raw -F; ip6tables-nft -t raw -F",
		"iptables-nft -t mangle -F LQ-PRE", "iptables-nft -t mangle -D FORWARD -j LQ-FWD", "for s in $(ipset list -n | grep ^lq); do ipset flush $s; done",
		"iptables-nft -t mangle -F; ip6tables-nft -t mangle -F; for s in $(ipset list -n | grep ^lq); do ipset destroy $s; done", "conntrack -F 2>/dev/null",
	} {
		all = append(all, conformance.Disturbance{Name: line, Do: func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, "sh", "-c", line).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		}})
	}
	return all
}

// leftovers is what in the namespace is ours.
func leftovers(t testing.TB) (left string) {
	t.Helper()
	for _, args := range [][]string{{"ip", "-o", "link"}, {"iptables-nft-save"}, {"ip6tables-nft-save"}, {"nft", "list", "tables"}, {"ipset", "list", "-n"}, {"ip", "rule"}, {"ip", "-6", "rule"}} {
		out, _ := exec.Command(args[0], args[1:]...).CombinedOutput()
		for _, mine := range []string{name.BridgePrefix, name.TunnelPrefix, name.VLANPrefix, name.ShaperPrefix, "LQ", "bridge limiquantix", "lq4-", "lq6-", "512000"} {
			if i := indexLine(string(out), mine); i != "" {
				left += args[0] + ": " + i + "\n"
			}
		}
	}
	return left
}
