package conformance_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance"
	"github.com/limiquantix/limiquantix/sdk/conformance/internal/enforcer"
)

// nodeEnv is set in a test process that has a network of its own.
const nodeEnv = "CONFORMANCE_TEST_NODE"

// onNode reports whether this process has a network of its own. If not, it runs the test in one that does.
func onNode(t *testing.T) bool {
	t.Helper()
	if os.Getenv(nodeEnv) != "" {
		return true
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--net", "--mount", "--", exe, "-test.run=^" + t.Name() + "$", "-test.timeout=20m"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.CommandContext(t.Context(), "unshare", args...)
	cmd.Env = append(os.Environ(), nodeEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // unshare executes the test in its own place
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v", err)
	}
	if err != nil || testing.Verbose() {
		t.Logf("%s", out)
	}
	return false
}

// enforcing are options for the driver that really filters, with defects.
func enforcing(t *testing.T, defects string) conformance.Options {
	t.Helper()
	o := options(t, map[string]any{})
	o.Plugin.Env = []string{
		enforcer.StateEnv + "=" + filepath.Join(t.TempDir(), "state"), enforcer.DefectsEnv + "=" + defects, "PATH=" + os.Getenv("PATH"),
	}
	o.Network.Packets = &conformance.PacketOptions{Policies: 30, Ports: 5, Updates: 15, Kills: 2, Shrink: 5 * time.Second}
	o.Network.Spec = func(n int) *driverv1.NetworkSpec {
		return &driverv1.NetworkSpec{
			Type:    driverv1.NetworkType_NETWORK_TYPE_BRIDGE,
			Subnets: []*driverv1.SubnetSpec{{Cidr: fmt.Sprintf("10.213.%d.0/24", n)}, {Cidr: fmt.Sprintf("fd42:213:%x::/64", n)}},
		}
	}
	o.Only = []string{"network/packets/*"}
	return o
}

// A driver that filters as it should passes all checks of packets.
func TestPacketsPass(t *testing.T) {
	if onNode(t) {
		conformance.Test(t, enforcing(t, ""))
	}
}

// Each way to let a packet through, or to lose one, must be noticed by the check that is there for it.
func TestPacketDefectsAreNoticed(t *testing.T) {
	if !onNode(t) {
		return
	}
	for defects, check := range map[string]string{
		"late":               "network/packets/first",
		"no-anti-spoof":      "network/packets/first",
		"no-anti-spoof,":     "network/packets/spoofing",
		"drops-a-rule":       "network/packets/policies",
		"swaps-ports":        "network/packets/policies",
		"no-egress-deny":     "network/packets/policies",
		"no-cut":             "network/packets/policies",
		"forgets-sets":       "network/packets/policies",
		"opens-when-refused": "network/packets/refused-set",
		"ignores-link-down":  "network/packets/link-down",
		"flushes":            "network/packets/window",
		"opens-on-detach":    "network/packets/detach",
		"opens-when-flushed": "network/packets/disturbed",
	} {
		t.Run(defects, func(t *testing.T) {
			o := enforcing(t, defects)
			o.Only = []string{check}
			o.Network.Packets.Seconds, o.Network.Packets.Disturbances = 2, []conformance.Disturbance{{Name: "rules flushed", Do: func(ctx context.Context) error {
				return exec.CommandContext(ctx, "iptables-nft", "-F").Run() // which the driver never looks after
			}}}
			ran := 0
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := conformance.Run(ctx, o, func(r conformance.Result) {
				ran++
				t.Logf("%s: %s %.2000s", r.Check.Name, r.Outcome, r.Detail)
				if r.Outcome != conformance.Failed {
					t.Errorf("%s was not noticed", defects)
				}
			})
			if err != nil || ran != 1 {
				t.Errorf("%d checks ran: %v", ran, err)
			}
		})
	}
}
