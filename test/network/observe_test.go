package network

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/limiquantix/limiquantix/test/stack"
)

// listen counts the frames on the fabric that match a filter, until the count is asked for.
func listen(t *testing.T, filter string) (count func() int64) {
	t.Helper()
	return capture(t, exec.CommandContext(t.Context(), "tcpdump", "-l", "-n", "-i", "fabric", filter)) //nolint:gosec // ours
}

// listenWire does so on the wire that hosts with Open vSwitch share.
func listenWire(t *testing.T, filter string) (count func() int64) {
	t.Helper()
	return capture(t, exec.CommandContext(t.Context(), "tcpdump", "-l", "-n", "-i", "wire", filter)) //nolint:gosec // ours
}

// listenOn does so on a device of a host.
func listenOn(t *testing.T, h *stack.Host, dev, filter string) (count func() int64) {
	t.Helper()
	return capture(t, h.Node.Command(t.Context(), "tcpdump", "-l", "-n", "-i", dev, filter))
}

// capture counts the lines of a capture.
func capture(t *testing.T, cmd *exec.Cmd) (count func() int64) {
	t.Helper()
	var frames atomic.Int64
	captureLines(t, cmd, func(string) { frames.Add(1) })
	return frames.Load
}

// captureLines starts a capture that ends with the test, and returns when it listens; each is called with its lines.
func captureLines(t *testing.T, cmd *exec.Cmd, each func(line string)) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
	listening := make(chan struct{})
	go func() { // ends with the pipe
		lines := bufio.NewScanner(said)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "listening on") {
				close(listening)
				break
			}
		}
		_, _ = io.Copy(io.Discard, said)
	}()
	go func() { // ends with the pipe
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			each(lines.Text())
		}
	}()
	select {
	case <-listening:
	case <-t.Context().Done():
		t.Fatal("the capture does not begin")
	}
}

// checkTopology compares what the topology says of each node with what the node itself has: networks by bridge, ports by tap.
func checkTopology(t *testing.T, f *stack.Fleet) {
	t.Helper()
	err := stack.Until(t.Context(), settle, "the topology is what the hosts have", func() (bool, string) {
		told, err := toldDevices(t, f)
		if err != nil {
			return false, err.Error()
		}
		var have []string
		for _, h := range f.Hosts {
			out, err := h.Sh(t.Context(), `ip -br link | cut -d' ' -f1 | cut -d@ -f1 | grep -E '^lq[bt]' || true; ovs-vsctl --timeout=5 -f csv --no-headings --columns=name list interface 2>/dev/null | grep -E '^"?lq[to]' | tr -d '"' || true`)
			if err != nil {
				return false, err.Error()
			}
			for _, dev := range strings.Fields(out) {
				have = append(have, h.Name+" "+dev)
			}
		}
		slices.Sort(have)
		have = slices.Compact(have)
		return len(have) > 0 && slices.Equal(told, have), fmt.Sprintf("told %v, on the hosts %v", told, have)
	})
	if err != nil {
		t.Error(err)
	}
}

// toldDevices are the devices of networks and ports, by node, as the topology has them.
func toldDevices(t *testing.T, f *stack.Fleet) ([]string, error) {
	out, err := f.LQCtl(t.Context(), "network", "topology", "-o", "json")
	if err != nil {
		return nil, err
	}
	var graph struct {
		Vertices []struct {
			ID, Kind, Name string
			Live           bool
			Attributes     map[string]string
		}
		Edges []struct {
			FromID, ToID, FromKind, ToKind, Device string
		}
	}
	if err := json.Unmarshal([]byte(out), &graph); err != nil {
		return nil, err
	}
	names, devices, nodeOfVM := map[string]string{}, map[string]string{}, map[string]string{}
	for _, v := range graph.Vertices {
		names[v.ID], devices[v.ID] = v.Name, v.Attributes["device"]
	}
	for _, e := range graph.Edges {
		if e.FromKind == "TOPOLOGY_KIND_VM" && e.ToKind == "TOPOLOGY_KIND_NODE" {
			nodeOfVM[e.FromID] = names[e.ToID]
		}
	}
	var told []string
	for _, e := range graph.Edges {
		switch {
		case e.FromKind == "TOPOLOGY_KIND_NETWORK" && e.ToKind == "TOPOLOGY_KIND_NODE" && e.Device != "":
			told = append(told, names[e.ToID]+" "+e.Device)
		case e.FromKind == "TOPOLOGY_KIND_VM" && e.ToKind == "TOPOLOGY_KIND_PORT":
			told = append(told, nodeOfVM[e.FromID]+" "+devices[e.ToID])
		}
	}
	slices.Sort(told)
	return slices.Compact(told), nil
}
