package command

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

// Every flag of create arrives.
func TestCreateFlags(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	key, data := filepath.Join(dir, "k.pub"), filepath.Join(dir, "user-data")
	for path, text := range map[string]string{key: "# mine\nssh-ed25519 AAAA me\n", data: "#cloud-config\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.ok("network", "create", "lan", "--subnet", "10.0.0.0/24")
	b.ok("sg", "create", "web")
	b.ok("sg", "create", "ssh")
	b.ok("port", "create", "vip", "--network", "lan")
	b.ok("vm", "create", "web", "--cpus", "2", "--memory", "256M", "--image", "debian", "--root-size", "10G", "--disk", "size=1G,name=data,pool=fast,bus=sata,format=raw,boot-order=2,serial=S1,discard",
		"--disk", "volume=old,read-only", "--nic", "user,name=eth0,mac=52:54:00:AA:BB:CC,model=e1000e,forward=tcp:8022-22,forward=udp:127.0.0.2:53-53,forward=[::1]:80-8080",
		"--nic", "network=lan,ip=10.0.0.5,sg=web+ssh,queues=2", "--nic", "port=vip,name=front", "--nic", "network=lan,group=web,model=virtio", "--kernel", "vmlinuz", "--initrd", "initrd", "--cmdline", "console=ttyS0 a=b,c", "--ssh-key", key, "--user-data", data, "--hostname", "h",
		"--label", "app=web", "--annotation", "note=x", "--node", "host1", "--selector", "zone=a", "--affinity", "app=db", "--anti-affinity", "app=web,tier=front,soft", "--tolerate", "gpu=yes",
		"--strategy", "pack", "--run-policy", "always", "--no-guest-agent", "--vnc", "--paused", "--stop-grace", "90s", "--delete-protection", "--firmware", "bios", "--no-wait")
	golden(t, "create-all.json", b.ok("vm", "show", "web", "-o", "json"))
}

func TestCreateRefuses(t *testing.T) {
	b := newBench(t)
	private := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(private, []byte("-----BEGIN OPENSSH PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"--memory 512":                            "give a unit",
		"--disk name=a":                           "neither size, image nor volume is given",
		"--disk volume=v,size=1G":                 "volume names an existing disk",
		"--disk size=1G,boot-order=0":             "boot-order must be a number from 1",
		"--disk size=1G,discard=perhaps":          "discard must be true or false",
		"--disk size=1G,bus=ide":                  `unknown value "ide"`,
		"--nic name=x":                            "give either user or network=NAME or port=NAME",
		"--nic user,forward=22":                   "not of the form tcp:HOSTPORT-GUESTPORT",
		"--nic user,forward=tcp:0-22":             `"0" is no port`,
		"--nic user,forward=tcp:99999-22":         `"99999" is no port`,
		"--nic user,forward=icmp:1-2":             "neither tcp, udp nor an IP address",
		"--nic network=a,forward=1-2":             "for a user interface only",
		"--nic user,ip=10.0.0.1":                  "for an interface in a network only",
		"--nic user,network=a":                    "give either user or network=NAME or port=NAME",
		"--nic network=":                          "network names nothing",
		"--nic port=p,sg=web":                     "lqctl port set p",
		"--nic port=p,ip=10.0.0.1":                "lqctl port set p",
		"--nic network=a,sg=web+":                 "sg names nothing",
		"--nic network=a,ip=10.0.0":               "is no IP address",
		"--nic network=a,ip=10.0.0.1,ip=10.0.0.2": "of the same IP version",
		"--nic network=a,queues=17":               "queues must be 1-16",
		"--nic network=a,queues=2":                "2 queues are more than the VM's 1 virtual CPUs",
		"--nic network=a,queues=2,model=e1000e":   "queues are for the model virtio",
		"--nic network=a,mac=01:00:5e:00:00:01":   "a group's address",
		"--nic network=a,mac=52:54":               "is no MAC address",
		"--nic network=a,model=ne2k":              "must be virtio or e1000e",
		"--nic none --nic user":                   "exclude each other",
		"--nic user,name=a --nic user,name=a":     "twice",
		"--nic user,sg=web":                       "for an interface in a network only",
		"--nic netwrk=a":                          `did you mean "network"?`,
		"--initrd x":                              "need --kernel",
		"--root-size 1G":                          "needs --image",
		"--stopped --paused":                      "exclude each other",
		"--label web":                             "not of the form key=value",
		"--label a=b --label a=c":                 "twice",
		"--stop-grace soon":                       "not a length of time",
		"--ssh-key " + private:                    "holds a private key",
		"--memory 8M":                             "must be at least 16 MiB", // the controller's word
	} {
		b.fails(failure.ExitUsage, append([]string{"vm", "create", "web"}, strings.Fields(args)...), want)
	}
	if n := len(b.server.VMs); n != 0 {
		t.Errorf("%d VMs were created", n)
	}
}

func TestLifeOfAVM(t *testing.T) {
	b := newBench(t)
	for _, step := range []struct{ args, out string }{
		{"vm create web --dry-run", "web is valid; nothing was created\n"},
		{"vm create web", "web created (running on host1, 0s)\n"},
		{"vm pause web", "web paused (paused on host1, 0s)\n"},
		{"vm resume web", "web resumed (running on host1, 0s)\n"},
		{"vm reboot web", "web rebooted (running on host1, 0s)\n"},
		{"vm stop web --force", "web stopped (stopped on host1, 0s)\n"},
		{"vm start web -q", ""},
		{"vm stop web -o name", "web\n"},
		{"vm start web --no-wait", "op-8\n"},
		{"vm set web --memory 2G --label a=b", "web changed (running on host1, 0s)\n"},
		{"vm wait web --for running", "web is running\n"},
		{"vm delete web", "web deleted (0s)\n"},
		{"vm wait web --for deleted", "web is deleted\n"},
	} {
		if got := b.ok(strings.Fields(step.args)...); got != step.out {
			t.Errorf("%s: %q, want %q", step.args, got, step.out)
		}
	}
	b.fails(failure.ExitNotFound, []string{"vm", "delete", "web"}, `there is no VM "web"`)
	b.ok("vm", "create", "web", "--stopped")
	b.fails(failure.ExitState, []string{"vm", "pause", "web"}, "VM web is stopped", "WRONG_STATE", "start it first")
	b.fails(failure.ExitConflict, []string{"vm", "create", "web"}, "NAME_TAKEN")
	b.fails(failure.ExitForbidden, []string{"vm", "list", "--server", b.server.URL, "--token-file", "/dev/null"}, "holds no token")
}

func TestSeveralAtOnce(t *testing.T) {
	b := newBench(t)
	b.ok("vm", "create", "a", "--stopped")
	b.ok("vm", "create", "b", "--stopped")
	r := b.fails(failure.ExitNotFound, []string{"vm", "start", "a", "absent", "b"}, `there is no VM "absent"`)
	if r.out != "a started (running on host1, 0s)\nb started (running on host1, 0s)\n" {
		t.Errorf("%q", r.out)
	}
	if got := b.ok("vm", "stop", "a", "b", "--no-wait"); got != "op-5\nop-6\n" {
		t.Errorf("%q", got)
	}
	if got := b.ok("vm", "delete", "a", "b", "-o", "json"); !strings.Contains(got, `"items"`) {
		t.Error(got)
	}
}

// set keeps labels that it does not name, and repeats when the VM changed in between.
func TestSetLabels(t *testing.T) {
	b := newBench(t)
	b.ok("vm", "create", "web", "--label", "a=1", "--label", "b=2")
	b.ok("vm", "set", "web", "--label", "a-", "--label", "c=3", "--cpus", "4", "--run-policy", "manual")
	vm := b.server.VMs[0]
	if l := vm.GetMeta().GetLabels(); len(l) != 2 || l["b"] != "2" || l["c"] != "3" || vm.GetSpec().GetCpu().GetVcpus() != 4 || vm.GetSpec().GetMemoryBytes() != 512<<20 {
		t.Errorf("%v", vm)
	}
	b.server.Fail["UpdateVM"] = fault.New(metav1.Reason_REASON_STALE_ETAG, "stale")
	before := b.server.Calls["UpdateVM"]
	b.fails(failure.ExitConflict, []string{"vm", "set", "web", "--label", "d=4"}, "STALE_ETAG")
	if n := b.server.Calls["UpdateVM"] - before; n != setAttempts {
		t.Errorf("%d attempts", n)
	}
}

func TestProgressAndFailureOfAnOperation(t *testing.T) {
	b := newBench(t)
	b.server.Hold = true
	done := make(chan result, 1)
	go func() { done <- b.run("vm", "create", "web") }() // ends when the operation does, below
	b.server.WaitFor(t, func() bool { return b.server.Calls["WatchVMs"] > 0 && b.server.Calls["WaitOperation"] > 0 })
	b.server.Change("web", func(vm *computev1.VM) {
		vm.Status.Phase, vm.Status.VmPlacement = computev1.VMPhase_VM_PHASE_PROVISIONING, &computev1.VMPlacement{NodeName: "host1"}
	})
	b.server.Finish("op-1", operationv1.OperationState_OPERATION_STATE_FAILED, "NO_SPACE", "pool local is full")
	r := <-done
	if r.code != failure.ExitOperation || !strings.Contains(r.err, "error: CreateVM of web failed: pool local is full\nreason: NO_SPACE\nfix: lqctl vm events web") {
		t.Errorf("%d %s", r.code, r.err)
	}
	b.fails(failure.ExitOperation, []string{"op", "wait", "op-1"}, "pool local is full")
	for state, reason := range map[operationv1.OperationState]string{
		operationv1.OperationState_OPERATION_STATE_CANCELLED:  "OPERATION_CANCELLED",
		operationv1.OperationState_OPERATION_STATE_SUPERSEDED: "OPERATION_SUPERSEDED",
	} {
		b.server.Finish("op-1", state, "", "")
		b.fails(failure.ExitOperation, []string{"op", "wait", "op-1"}, reason)
	}
}

// Progress comes as lines where stderr is no terminal, and each change once.
func TestProgressLines(t *testing.T) {
	b := newBench(t)
	b.server.Hold = true
	var out, errs buffer
	ended := make(chan int, 1)
	app := b.app(&out, &errs)
	go func() { ended <- app.Run(t.Context(), []string{"vm", "create", "web", "--nic", "none"}) }() // ends with the operation, below
	phases := []computev1.VMPhase{computev1.VMPhase_VM_PHASE_PROVISIONING, computev1.VMPhase_VM_PHASE_STARTING, computev1.VMPhase_VM_PHASE_RUNNING}
	b.server.WaitFor(t, func() bool { return b.server.Calls["WatchVMs"] > 0 })
	waitText(t, &errs, "web: pending\n")
	for _, p := range phases {
		b.server.Change("web", func(vm *computev1.VM) { vm.Status.Phase = p })
		waitText(t, &errs, "web: "+strings.ToLower(p.String()[len("VM_PHASE_"):])+"\n")
	}
	b.server.Finish("op-1", operationv1.OperationState_OPERATION_STATE_DONE, "", "")
	if code := <-ended; code != 0 || errs.String() != "web: pending\nweb: provisioning\nweb: starting\nweb: running\n" || out.String() != "web created (running, 0s)\n" {
		t.Errorf("%d %q %q", code, errs.String(), out.String())
	}
}

// waitText waits until a command has written text, without a clock: the controller's calls go on meanwhile.
func waitText(t *testing.T, b *buffer, text string) {
	t.Helper()
	deadline, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	for !strings.Contains(b.String(), text) {
		if deadline.Err() != nil {
			t.Fatalf("waited in vain for %q in %q", text, b.String())
		}
		pauseBriefly(deadline)
	}
}

func TestInterruptDetaches(t *testing.T) {
	b := newBench(t)
	b.server.Hold = true
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	done := make(chan result, 1)
	go func() { done <- b.runContext(ctx, "vm", "create", "web") }() // ends by the interrupt
	b.server.WaitFor(t, func() bool { return b.server.Calls["WaitOperation"] > 0 })
	interrupt()
	r := <-done
	if r.code != failure.ExitInterrupted || !strings.Contains(r.err, "error: detached; operation op-1 goes on\nreason: DETACHED\nfix: lqctl op wait op-1") {
		t.Errorf("%d %s", r.code, r.err)
	}
	if st := b.server.Operations[0].GetState(); st != operationv1.OperationState_OPERATION_STATE_RUNNING {
		t.Errorf("the operation is %v", st)
	}
}

func TestTimeoutOfAWait(t *testing.T) {
	b := newBench(t)
	b.server.Hold = true
	b.fails(failure.ExitUnavailable, []string{"vm", "create", "web", "--timeout", "200ms"}, "operation op-1 goes on", "reason: TIMEOUT", "lqctl op wait op-1")
	b.server.Change("web", func(vm *computev1.VM) { vm.Status.Reason, vm.Status.Message = "UNSCHEDULABLE", "no node has room" })
	b.fails(failure.ExitExhausted, []string{"op", "wait", "op-1", "--timeout", "500ms"}, "reason: UNSCHEDULABLE", "lqctl vm explain web")
	b.fails(failure.ExitExhausted, []string{"vm", "wait", "web", "--timeout", "500ms"}, "VM web is not running yet (web: pending: no node has room)")
}

func TestWait(t *testing.T) {
	b := newBench(t)
	b.server.Hold = true
	b.ok("vm", "create", "web", "--no-wait")
	done := make(chan result, 1)
	go func() { done <- b.run("vm", "wait", "web", "--for", "condition=Placed") }() // ends once the condition is set, below
	b.server.WaitFor(t, func() bool { return b.server.Calls["WatchVMs"] > 0 })
	b.server.Change("web", func(vm *computev1.VM) {
		vm.Status.Conditions = []*metav1.Condition{{Type: "Placed", Status: metav1.ConditionStatus_CONDITION_STATUS_TRUE}}
	})
	if r := <-done; r.code != 0 || r.out != "web is condition=Placed\n" {
		t.Errorf("%+v", r)
	}
	go func() { done <- b.run("vm", "wait", "web", "--for", "deleted") }() // ends with the deletion, below
	b.server.WaitFor(t, func() bool { return b.server.Calls["WatchVMs"] > 1 })
	b.ok("vm", "delete", "web", "--no-wait")
	if r := <-done; r.code != 0 {
		t.Errorf("%+v", r)
	}
	b.ok("vm", "create", "sad", "--no-wait")
	b.server.Change("sad", func(vm *computev1.VM) {
		vm.Status.Phase, vm.Status.Reason, vm.Status.Message = computev1.VMPhase_VM_PHASE_FAILED, "IMAGE_REFUSED", "bad image"
	})
	b.fails(failure.ExitOperation, []string{"vm", "wait", "sad"}, "VM sad failed: bad image", "IMAGE_REFUSED")
}

func TestWatch(t *testing.T) {
	b := newBench(t)
	b.ok("vm", "create", "web", "--no-wait")
	b.server.Nodes = []*computev1.Node{{Meta: &metav1.ObjectMeta{Name: "host1"}}}
	for _, format := range []string{"table", "name", "json", "yaml"} {
		b.server.Change("web", func(vm *computev1.VM) { vm.Status.Phase = computev1.VMPhase_VM_PHASE_RUNNING })
		var out, errs buffer
		ctx, interrupt := context.WithCancel(t.Context())
		ended := make(chan int, 1)
		app := b.app(&out, &errs)
		go func() { ended <- app.Run(ctx, []string{"vm", "list", "-w", "-o", format}) }() // ends by the interrupt
		waitText(t, &out, "web")
		n := strings.Count(out.String(), "web")
		b.server.Change("web", func(vm *computev1.VM) { vm.Status.Phase = computev1.VMPhase_VM_PHASE_PAUSED })
		if format == "table" {
			waitText(t, &out, "paused")
		} else {
			for deadline, cancel := context.WithTimeout(t.Context(), waitLimit); ; pauseBriefly(deadline) {
				if strings.Count(out.String(), "web") > n || deadline.Err() != nil {
					cancel()
					break
				}
			}
		}
		interrupt()
		if code := <-ended; code != failure.ExitInterrupted || errs.String() != "" {
			t.Errorf("%s: %d %q", format, code, errs.String())
		}
	}
	if r := b.run("node", "list", "-w", "--timeout", "500ms"); r.code != 0 || !strings.Contains(r.out, "host1") {
		t.Errorf("%+v", r)
	}
}

func TestLogs(t *testing.T) {
	b := newBench(t)
	b.ok("vm", "create", "web")
	b.server.Print("hello\nworld\n")
	if got := b.ok("vm", "logs", "web"); got != "hello\nworld\n" {
		t.Errorf("%q", got)
	}
	if got := b.ok("vm", "logs", "web", "--tail-bytes", "6"); got != "world\n" {
		t.Errorf("%q", got)
	}
	b.fails(failure.ExitNotFound, []string{"vm", "logs", "nope"}, "NOT_FOUND")
	var out, errs buffer
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	ended := make(chan int, 1)
	app := b.app(&out, &errs)
	go func() { ended <- app.Run(ctx, []string{"vm", "logs", "web", "-f"}) }() // ends by the interrupt
	waitText(t, &out, "world\n")
	b.server.Print("more\n")
	waitText(t, &out, "more\n")
	interrupt()
	if code := <-ended; code != failure.ExitInterrupted || errs.String() != "" {
		t.Errorf("%d %q", code, errs.String())
	}
}

func TestOperations(t *testing.T) {
	b := newBench(t)
	b.ok("vm", "create", "a")
	b.server.Hold = true
	b.ok("vm", "stop", "a", "--no-wait")
	if got := b.ok("op", "list", "-o", "name"); got != "op-2\nop-1\n" {
		t.Errorf("%q", got)
	}
	if got := b.ok("op", "list", "--state", "running", "-o", "name"); got != "op-2\n" {
		t.Errorf("%q", got)
	}
	if got := b.ok("op", "cancel", "op-2"); got != "StopVM of a: cancelled\n" {
		t.Errorf("%q", got)
	}
	b.fails(failure.ExitState, []string{"op", "cancel", "op-2"}, "OPERATION_ENDED")
	b.fails(failure.ExitNotFound, []string{"op", "show", "op-9"}, "op-9")
	if got := b.ok("op", "wait", "op-1"); got != "CreateVM of a is done\n" {
		t.Errorf("%q", got)
	}
}

func TestNodes(t *testing.T) {
	b := newBench(t)
	b.populate()
	b.ok("node", "uncordon", "host1")
	if b.server.Nodes[0].GetSpec().GetCordoned() {
		t.Error("still cordoned")
	}
	if got := b.ok("node", "cordon", "host1"); got != "host1 cordoned\n" || !b.server.Nodes[0].GetSpec().GetCordoned() {
		t.Errorf("%q", got)
	}
	r := b.run("node", "token", "create", "host3", "--ttl", "2h")
	if r.out != "secret-of-token-1\n" || !strings.Contains(r.err, "host3") || !strings.Contains(r.err, "2026-01-02T05:04:05Z") {
		t.Errorf("%+v", r)
	}
	if got := b.ok("node", "token", "list"); strings.Contains(got, "secret") || !strings.Contains(got, "host3") {
		t.Error(got)
	}
	b.ok("node", "token", "delete", "token-1")
	b.fails(failure.ExitState, []string{"node", "delete", "host1"}, "NODE_IN_USE")
	b.ok("node", "delete", "host1", "--force")
	if slices.ContainsFunc(b.server.Nodes, func(n *computev1.Node) bool { return nameOf(n) == "host1" }) {
		t.Error("still there")
	}
}
