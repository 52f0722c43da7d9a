package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/test/stack"
)

const (
	floodEnv    = "LIMIQUANTIX_TEST_FLOOD" // this program floods that address, by way of the device named before it, instead of testing
	floodRate   = 2000                     // packets a second, so that a late timer leaves more than 1,000
	firstGuests = 2                        // of make test; a soak has a hundredth of its count
)

// flood sends small packets to an address, by a device, until it is killed: the node's own routes may lead elsewhere.
func flood(where string) {
	dev, address, _ := strings.Cut(where, " ")
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), dev) }), err)
	}}
	conn, err := d.Dial("udp", address) //nolint:noctx // until killed
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	began, sent := time.Now(), 0
	for now := range time.Tick(time.Second / floodRate) {
		for due := min(int(now.Sub(began).Seconds()*floodRate), sent+floodRate/10); sent < due; sent++ {
			_, _ = conn.Write([]byte("first")) // refused, unreachable: go on
		}
	}
}

// Packets that are on their way to a guest before its port exists do not reach it before its groups' rules are in force, nor after; with a group that lets them in they do.
func TestFirstPacket(t *testing.T) {
	guests := firstGuests
	if n, err := strconv.Atoi(os.Getenv(stack.CountEnv)); err == nil {
		guests = max(n/100, firstGuests)
	}
	f := start(t, []string{"bridge"}, "n1")
	h := f.Hosts[0]
	lq(t, f, "sg", "create", "shut", "--rule", "in=icmp")
	lq(t, f, "sg", "create", "open", "--rule", "in=icmp", "--rule", "in=udp:9999")
	lq(t, f, "network", "create", "lan", "--subnet", "10.9.0.0/24", "--egress", "nat")
	// The network is on the node once a VM of it is.
	launch(t, f, "resident", "n1", "network=lan,sg=shut").ready()
	for i := range guests {
		first(t, f, h, fmt.Sprintf("shut%d", i), 100+i, "shut", false)
	}
	first(t, f, h, "control", 99, "open", true)
	fmt.Printf("evidence: real guests whose port a flood waited for, packets that passed | %d, 0\n", guests)
}

// first floods a guest's address from before the guest's port exists until the guest has run for a while.
func first(t *testing.T, f *stack.Fleet, h *stack.Host, name string, host int, group string, pass bool) {
	t.Helper()
	address, mac := fmt.Sprintf("10.9.0.%d", host), fmt.Sprintf("02:00:00:00:09:%02x", host)
	bridge, err := h.Sh(t.Context(), "ls /sys/class/net | grep '^lqb'")
	if err != nil {
		t.Fatal(err)
	}
	bridge = strings.TrimSpace(bridge)
	if out, err := h.Sh(t.Context(), fmt.Sprintf("ip neigh replace %s lladdr %s nud permanent dev %s", address, mac, bridge)); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	total, taps := floodCount(t, h, address)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sender := h.Node.Command(t.Context(), self)
	sender.Env = append(os.Environ(), floodEnv+"="+bridge+" "+net.JoinHostPort(address, "9999"))
	sender.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := sender.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(-sender.Process.Pid, syscall.SIGKILL); _ = sender.Wait() }()
	until(t, "the flood flows", func() bool { return total() > 100 })
	began, before := time.Now(), total()
	g := launch(t, f, name, "n1", fmt.Sprintf("network=lan,sg=%s,ip=%s,mac=%s", group, address, mac))
	g.ready()
	if pass {
		until(t, "the flood passes where the group lets it", func() bool { return taps() > 0 })
	}
	rate := float64(total()-before) / time.Since(began).Seconds()
	// What the guest's own kernel counts: datagrams to a port that nobody listens on.
	seen := g.must("grep ^Udp: /proc/net/snmp | tail -n 1 | cut -d' ' -f3")
	if got := taps() > 0; got != pass {
		t.Errorf("%s: %d packets at the guest's tap", name, taps())
	}
	if got := strings.TrimSpace(seen) != "0"; got != pass {
		t.Errorf("%s: the guest has seen %s packets", name, seen)
	}
	if os.Getenv(stack.CountEnv) != "" && rate < 1000 {
		t.Errorf("%s: only %.0f packets a second were sent", name, rate)
	}
	fmt.Printf("evidence: flood of %s: packets a second, at the tap, in the guest | %.0f, %d, %s\n", name, rate, taps(), seen)
	lq(t, f, "vm", "delete", name)
}

// floodCount counts the flood's packets on all devices of a host, and those that leave it by a tap.
func floodCount(t *testing.T, h *stack.Host, address string) (total, taps func() int64) {
	t.Helper()
	var all, tap atomic.Int64
	captureLines(t, h.Node.Command(t.Context(), "tcpdump", "-l", "-n", "-q", "-i", "any", "udp and dst port 9999 and dst host "+address), func(line string) {
		if strings.Contains(line, " lqt") {
			tap.Add(1)
		} else {
			all.Add(1)
		}
	})
	return all.Load, tap.Load
}
