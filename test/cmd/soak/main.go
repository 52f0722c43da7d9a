// Command soak runs one suite at its full counts and writes what came of it to docs/evidence/SUITE.md: commit, counts, duration, versions.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/test/stack"
)

// tableEnv names a file that a suite may write a table to, for its evidence.
const tableEnv = "LIMIQUANTIX_TEST_TABLE"

// suites are what can be soaked: tests of a package below test and how often they count.
var suites = map[string]struct {
	pkg   string
	run   string
	count string // of stack.CountEnv
	what  string
}{
	"failpoints":        {"./failpoint", "TestFailpoints", "1", "every commit to the store, driver call and file write of controller and agent, found in the code by type, with every action: the process is killed before or after it, it fails, its reply is lost, it is delayed 2 s; after each everything converges within 30 s, what was acknowledged holds, claims are those of the VMs, and the reference driver's journal holds what it should and nothing else"},
	"plugin-failpoints": {"./failpoint", "TestFailpointsOfPlugins", "1", "every write of a file and run of a program in the local storage plugin, at the first two visits, one in the midst and the last of each act, while volumes, snapshots, images and streams are made, changed and deleted: the call issued again converges, content stays, nothing is left"},
	"crowd":             {"./fault", "TestCrowdThatFitsNowhere", "10000", "so many VMs that fit nowhere: each says why, the controller rests, and a node that joins takes those that came first"},
	"fault":             {"./fault ./e2e", "TestKillsAndStops|TestBadNetwork|TestGuestsOutliveEverything", "200", "kill -9 of controller, agents and plugins of a fleet at random times, each so often, and half as many stops of 15 s, under a load of calls whose answers are kept in a ledger; then as many faults of the network between agents and controller; what was done to guests, by the histories that the drivers keep, is held to what clients asked for; then kill -9 of controller, agent, plugin and libvirtd, each so often, with two real guests"},
	"network":           {"./network ../plugins/bridge ../plugins/ovs", "TestBridge|TestVXLAN|TestSpoofing|TestOpenVSwitch|TestFirstPacket|TestConformance|TestOpenWindow", "2000", "whole paths with guests on several nodes; then the drivers of bridges and of Open vSwitch against the conformance suite with real packets: so many random policies, IPv4 and IPv6, whose verdicts are compared with a model; floods that begin before the port does, over a tenth as many ports; probes of 1,000 packets a second and more during half as many updates and a twentieth as many kills of the plugin: nothing forbidden passes, nothing allowed is lost; something of the driver's flushed each second for a minute: never open, repaired each time; nft flush ruleset each second for a minute: how long it is open"},
	"partition":         {"./fault", "TestPartition", "1", "an agent cut off from the controller, both ways and one way, for 5 s and for 60 s, with the usual timeouts"},
	"kills":             {"./e2e", "TestGuestsOutliveEverything", "100", "kill -9 of agent, plugin, controller and libvirtd, and restarts of the agent, each so often, in an order drawn from the seed, with two real guests; before each, calls are acknowledged that must hold after it"},
	"leader":            {"./leader", "TestLeaderFails", "100", "two controllers on one external etcd, two agents with the reference driver, clients that create and delete through both: so often the leader is killed (kill -9), and so often it is stopped with a write of its under way, woken once the other leads, and asked for a leader's write; every acknowledged call is checked against the store, every write's fence is seen by the etcd"},
	"pools":             {"./pools", "TestHungPool|TestMonitorKilled|TestExecutorLost", "5", "a pool whose driver answers nothing any more, and a Ceph cluster whose monitor is killed, each so often, beside a pool that works: the sick pool is told within 30 s with its reason and its VM too, calls to the other pool do not fail and their p99 is at most twice that before and less than 500 ms, heartbeats come in time, all is well by itself; then executors of a shared pool that are killed (kill -9) and stopped in the middle of a volume's making, each so often: another node goes on only after the lease and when nothing of the first is under way, what the first says later changes nothing, nothing is left"},
	"slots":             {"./leader", "TestLastSlots", "1000", "64 clients create at once onto the last free slots, so often over HTTP against one controller with its own etcd, and again against two controllers on one external etcd: claims equal capacity exactly each time, and the surplus waits with a reason"},
	"storage":           {"./e2e ../plugins/local ../plugins/ceph ../plugins/nfs ../plugins/lvm", "TestStorage(Local|Ceph|NFS|LVM)|Test(Lab)?Conformance.*|TestLabServerStops", "10", "the whole path of a VM's data on each kind of pool, with real guests, and for NFS and LVM once more with backend, agent, plugins, libvirt and QEMU on one machine, the lab guest; then the storage contract at its full counts, each fault so often, on real backends"},
	"store":             {"../controller/internal/store/etcd", "Test(History.*|Kill.*|CutOff.*|Full.*)", "100", "clients of an etcd whose members are processes of their own and are killed, stopped for a moment or for long so often (for long: a tenth), and processes that write and are killed (kill -9) so often on the same data; what clients were told must be linearizable, a watch beside them complete"},
}

// figuresOf are the rows that tests print: lines that hold "evidence: ".
func figuresOf(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if _, row, ok := strings.Cut(strings.TrimSpace(line), "evidence: "); ok {
			fmt.Fprintf(&b, "| %s |\n", row)
		}
	}
	return b.String()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 || suites[os.Args[1]].run == "" {
		return fmt.Errorf("usage: make soak SUITE=%s", strings.Join(slices.Sorted(maps.Keys(suites)), "|"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name, suite := os.Args[1], suites[os.Args[1]]
	root, err := stack.Root()
	if err != nil {
		return err
	}
	table, err := os.CreateTemp("", "soak-table")
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(table.Close(), os.Remove(table.Name())) }()
	began := time.Now()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-p=1", "-count=1", "-v", "-timeout", "2h", "-run", "^(" + suite.run + ")$"}, strings.Fields(suite.pkg)...)...)
	cmd.Dir = filepath.Join(root, "test")
	seed := os.Getenv(stack.SeedEnv)
	if seed == "" {
		seed = strconv.FormatInt(began.UnixNano(), 10)
	}
	cmd.Env = append(os.Environ(), stack.CountEnv+"="+suite.count, stack.SeedEnv+"="+seed, tableEnv+"="+table.Name())
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &out), os.Stderr
	runErr := cmd.Run()
	verdict := "passed"
	if runErr != nil {
		verdict = "FAILED"
	}
	version := func(args ...string) string {
		b, _ := exec.CommandContext(ctx, args[0], args[1:]...).Output()
		line, _, _ := strings.Cut(string(b), "\n")
		return line
	}
	text := fmt.Sprintf(`# %s

%s.

| | |
|---|---|
| result | %s |
| count | %s |
| seed | %s |
| duration | %s |
| date | %s |
| commit | %s |
| libvirt | %s |
| QEMU | %s |
| Go | %s |
%s
Made by: make soak SUITE=%s
`, name, suite.what, verdict, suite.count, seed, time.Since(began).Round(time.Second), began.UTC().Format("2006-01-02"), version("git", "-C", root, "rev-parse", "HEAD"),
		version("libvirtd", "--version"), version("qemu-system-x86_64", "--version"), version("go", "version"), figuresOf(out.String()), name)
	if rows, err := io.ReadAll(table); err == nil && len(rows) > 0 {
		text += "\n" + string(rows)
	}
	if err := os.WriteFile(filepath.Join(root, "docs", "evidence", name+".md"), []byte(text), 0o644); err != nil { //nolint:gosec // a document
		return err
	}
	return runErr
}
