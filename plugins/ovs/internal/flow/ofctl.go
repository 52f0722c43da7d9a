package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Bridge speaks OpenFlow with one bridge, by ovs-ofctl and the bridge's management socket. Every call has a time limit of its own.
type Bridge struct {
	Socket  string // RUNDIR/BRIDGE.mgmt
	Program string // "ovs-ofctl" when empty
	Limit   time.Duration
}

func (b Bridge) command(ctx context.Context, args ...string) *exec.Cmd {
	program := b.Program
	if program == "" {
		program = "ovs-ofctl"
	}
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // arguments are ours
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs ovs-ofctl with a protocol of OpenFlow.
func (b Bridge) run(ctx context.Context, stdin, of, verb string, args ...string) (string, error) {
	limit := b.Limit
	if limit == 0 {
		limit = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := b.command(ctx, append([]string{"-O", of, verb, "unix:" + b.Socket}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", fmt.Errorf("ovs-ofctl %s: no answer within %s", verb, limit)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && verb == "diff-flows" && exit.ExitCode() == 2 {
		return out.String(), nil
	}
	if err != nil {
		return "", fmt.Errorf("ovs-ofctl %s: %w: %.500s", verb, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// Replace makes flows all that the bridge has, in one bundle.
func (b Bridge) Replace(ctx context.Context, flows string) error {
	_, err := b.run(ctx, flows, "OpenFlow14", "replace-flows", "--bundle", "-")
	return err
}

// Difference is a flow that is in the bridge and should not be, or the other way round.
type Difference struct {
	Extra  bool // it is in the bridge
	Line   string
	Cookie uint64
}

var cookieField = regexp.MustCompile(`cookie=(0x[0-9a-f]+|0)`)

// Differences compares the bridge with flows, reading both the switch's way.
func (b Bridge) Differences(ctx context.Context, flows string) (ds []Difference, err error) {
	out, err := b.run(ctx, flows, "OpenFlow14", "diff-flows", "/proc/self/fd/0") // it takes "-" for a switch
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] != '+' && line[0] != '-' {
			continue
		}
		// The bridge is the first source: what only it has comes with '-'.
		ds = append(ds, Difference{Extra: line[0] == '-', Line: line[1:], Cookie: cookieOf(line)})
	}
	return ds, nil
}

func cookieOf(line string) uint64 {
	if m := cookieField.FindStringSubmatch(line); m != nil {
		c, _ := strconv.ParseUint(m[1], 0, 64)
		return c
	}
	return 0
}

// Counters are the packets that flows of some classes dropped, by their match.
func (b Bridge) Counters(ctx context.Context, c Class) (map[string]uint64, error) {
	out, err := b.run(ctx, "", "OpenFlow14", "dump-flows", CookieMask(c))
	if err != nil {
		return nil, err
	}
	counts := map[string]uint64{}
	for line := range strings.Lines(out) {
		m := counterLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		n, _ := strconv.ParseUint(m[1], 10, 64)
		counts[m[2]] += n
	}
	return counts, nil
}

var counterLine = regexp.MustCompile(`n_packets=(\d+),.*reg[0-9]+=(0x[0-9a-f]+)`)

// PortCounters are what a bridge counts of a port, seen from the switch.
type PortCounters struct {
	RxPackets, RxBytes, RxDropped, TxPackets, TxBytes, TxDropped uint64
}

var (
	portLine = regexp.MustCompile(`port +"?([^":]+)"?: rx pkts=(\d+|\?), bytes=(\d+|\?), drop=(\d+|\?)`)
	txLine   = regexp.MustCompile(`tx pkts=(\d+|\?), bytes=(\d+|\?), drop=(\d+|\?)`)
)

// Ports reads the counters of all ports, by number.
func (b Bridge) Ports(ctx context.Context) (map[int]PortCounters, error) {
	out, err := b.run(ctx, "", "OpenFlow14", "dump-ports")
	if err != nil {
		return nil, err
	}
	ports, last := map[int]PortCounters{}, 0
	num := func(s string) uint64 { n, _ := strconv.ParseUint(s, 10, 64); return n }
	for line := range strings.Lines(out) {
		if m := portLine.FindStringSubmatch(line); m != nil {
			last, err = strconv.Atoi(m[1])
			if err != nil {
				last = -1 // LOCAL
			}
			ports[last] = PortCounters{RxPackets: num(m[2]), RxBytes: num(m[3]), RxDropped: num(m[4])}
		}
		if m := txLine.FindStringSubmatch(line); m != nil {
			p := ports[last]
			p.TxPackets, p.TxBytes, p.TxDropped = num(m[1]), num(m[2]), num(m[3])
			ports[last] = p
		}
	}
	return ports, nil
}

// Meter limits what passes it, in kbit/s, with a burst in kbit.
func (b Bridge) Meter(ctx context.Context, id uint32, rate, burst int64) error {
	if burst == 0 {
		burst = max(rate/10, 100)
	}
	spec := fmt.Sprintf("meter=%d,kbps,burst,band=type=drop,rate=%d,burst_size=%d", id, max(rate, 1), burst)
	if _, err := b.run(ctx, "", "OpenFlow13", "add-meter", spec); err == nil {
		return nil
	}
	_, err := b.run(ctx, "", "OpenFlow13", "mod-meter", spec)
	return err
}

// DeleteMeter removes a meter; one that is absent is no error.
func (b Bridge) DeleteMeter(ctx context.Context, id uint32) error {
	_, err := b.run(ctx, "", "OpenFlow13", "del-meters", fmt.Sprintf("meter=%d", id))
	return err
}
