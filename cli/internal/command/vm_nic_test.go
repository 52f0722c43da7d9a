package command

import (
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Without --nic a VM is in the project's default network, where a node that it may run on has a network driver.
func TestDefaultNIC(t *testing.T) {
	b := newBench(t)
	nics := func(args ...string) int {
		t.Helper()
		b.ok(append([]string{"vm", "create", "web"}, args...)...)
		n := len(b.server.VMs[0].GetSpec().GetNics())
		b.ok("vm", "delete", "web")
		return n
	}
	if r := b.run("vm", "create", "web"); r.code != 0 || r.err != "web gets no network interface: no node that it may run on has a network driver (--nic user, or --nic none to say so)\n" {
		t.Errorf("%+v", r)
	}
	b.ok("vm", "delete", "web")
	if r := b.run("vm", "create", "web", "-q"); r.err != "" {
		t.Errorf("%q", r.err)
	}
	b.ok("vm", "delete", "web")
	b.withDriver()
	b.server.Nodes = append(b.server.Nodes, &computev1.Node{Meta: &metav1.ObjectMeta{Id: "node-2", Name: "host2", Labels: map[string]string{"zone": "b"}}})
	b.ok("vm", "create", "web")
	if n := b.server.VMs[0].GetSpec().GetNics(); len(n) != 1 || n[0].GetNetwork().GetNetwork() != "default" || n[0].GetName() != "nic0" || b.server.Ports[0].GetMeta().GetName() != "nic0" {
		t.Errorf("%v", n)
	}
	b.ok("vm", "delete", "web")
	for args, want := range map[string]int{
		"--nic none": 0, "--nic user": 1, "--nic network=default": 1, "--node host1": 1, "--node node-1": 1, "--node host2": 0, "--selector zone=a": 1, "--selector zone=b": 0,
	} {
		if got := nics(strings.Fields(args)...); got != want {
			t.Errorf("%s: %d interfaces, want %d", args, got, want)
		}
	}
	asked := b.server.Calls["ListNodes"]
	nics("--nic", "none")
	if b.server.Calls["ListNodes"] != asked {
		t.Error("nodes are asked about where it does not matter")
	}
	b.server.Fail["ListNodes"] = fault.New(metav1.Reason_REASON_STORE_UNAVAILABLE, "no")
	b.fails(failure.ExitUnavailable, []string{"vm", "create", "web"}, "STORE_UNAVAILABLE")
	if len(b.server.VMs) != 0 {
		t.Error("a VM was made")
	}
}

func TestNICs(t *testing.T) {
	b := newBench(t)
	b.lan()
	b.ok("port", "create", "vip", "--network", "lan", "--ip", "10.4.0.50")
	if got := b.ok("vm", "nic", "add", "web", "network=lan,sg=web,ip=10.4.0.9"); got != "web has interface nic1 (running on host1, 0s)\n" {
		t.Errorf("%q", got)
	}
	b.ok("vm", "nic", "add", "web", "port=vip,name=front")
	golden(t, "vm-nic-list.txt", b.ok("vm", "nic", "list", "web"))
	golden(t, "vm-show-nics.txt", b.ok("vm", "show", "web"))
	golden(t, "vm-list-nics.txt", b.ok("vm", "list", "-o", "wide"))
	if got := b.ok("vm", "nic", "remove", "web", "nic0"); got != "web is without interface nic0 (running on host1, 0s)\n" {
		t.Errorf("%q", got)
	}
	b.ok("vm", "nic", "add", "web", "user") // the name that is free again
	if got := b.ok("vm", "nic", "list", "web", "-o", "name"); got != "nic1\nfront\nnic0\n" {
		t.Errorf("%q", got)
	}
	b.ok("vm", "nic", "remove", "web", "front")
	if got := b.ok("port", "list", "-o", "name"); got != "db/nic0\nvip\nweb/nic1\n" {
		t.Errorf("%q", got)
	}
	b.fails(failure.ExitConflict, []string{"vm", "nic", "add", "web", "user,name=nic1"}, "has an interface \"nic1\" already")
	b.fails(failure.ExitNotFound, []string{"vm", "nic", "remove", "web", "nic9"}, "it has: nic1, nic0")
	b.fails(failure.ExitNotFound, []string{"vm", "nic", "add", "web", "network=absent"}, "NETWORK_NOT_FOUND")
	b.fails(failure.ExitNotFound, []string{"vm", "nic", "add", "absent", "user"}, `no VM "absent"`)
	b.fails(failure.ExitUsage, []string{"vm", "nic", "add", "web", "netwrok=lan"}, `did you mean "network"?`)
	b.fails(failure.ExitUsage, []string{"vm", "nic", "add", "web"}, "NIC is missing")
	b.server.Fail["UpdateVM"] = fault.New(metav1.Reason_REASON_STALE_ETAG, "stale")
	before := b.server.Calls["UpdateVM"]
	b.fails(failure.ExitConflict, []string{"vm", "nic", "remove", "web", "nic1"}, "STALE_ETAG")
	if n := b.server.Calls["UpdateVM"] - before; n != setAttempts {
		t.Errorf("%d attempts", n)
	}
}
