package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// process is one process of a node, as seen from outside.
type process struct {
	pid   int
	start uint64 // clock ticks after boot: with the PID it names a process for good
	comm  string
	args  []string
}

// GuestProcess is the QEMU process of a guest. Two of them are the same
// running guest exactly if PID and StartTime are equal.
type GuestProcess struct {
	UUID      string
	Name      string
	PID       int    // as seen from outside the node
	StartTime uint64 // clock ticks after the machine's boot
}

// Guests returns the guests that run on the node, ordered by name. It looks at
// processes only and does not need libvirtd.
func (n *Node) Guests() ([]GuestProcess, error) {
	procs, err := n.processes()
	if err != nil {
		return nil, err
	}
	var guests []GuestProcess
	for _, p := range procs {
		if g, ok := guestOf(p); ok {
			guests = append(guests, g)
		}
	}
	slices.SortFunc(guests, func(a, b GuestProcess) int { return strings.Compare(a.Name, b.Name) })
	return guests, nil
}

// guestOf reads a guest from QEMU's arguments. libvirt's probing QEMUs have no UUID.
func guestOf(p process) (GuestProcess, bool) {
	if len(p.args) == 0 || !strings.HasPrefix(filepath.Base(p.args[0]), "qemu-system-") {
		return GuestProcess{}, false
	}
	g := GuestProcess{PID: p.pid, StartTime: p.start}
	for i := 0; i+1 < len(p.args); i++ {
		switch p.args[i] {
		case "-uuid":
			g.UUID = p.args[i+1]
		case "-name":
			name, _, _ := strings.Cut(p.args[i+1], ",")
			g.Name = strings.TrimPrefix(name, "guest=")
		}
	}
	return g, g.UUID != ""
}

// processes lists what lives in the node's PID namespace. Processes that end
// meanwhile, and zombies, are left out.
func (n *Node) processes() ([]process, error) {
	if !n.running() {
		return nil, nil
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", n.pid))
	if err != nil {
		return nil, fmt.Errorf("processes of node %s: %w", n.Name, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("processes of node %s: %w", n.Name, err)
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		proc := filepath.Join("/proc", e.Name())
		if link, err := os.Readlink(proc + "/ns/pid"); err != nil || link != ns {
			continue
		}
		start, err := startTime(pid)
		if err != nil {
			continue
		}
		comm, err := os.ReadFile(proc + "/comm")
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(proc + "/cmdline")
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		found = append(found, process{pid, start, strings.TrimSpace(string(comm)), args})
	}
	return found, nil
}

var errGone = errors.New("process is gone")

// startTime returns when a living process started, in clock ticks after boot;
// errGone if there is none, or only a zombie.
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, errGone
	}
	return parseStat(string(text))
}

// parseStat reads field 22 of /proc/PID/stat. Field 2, the name, may hold
// blanks and parentheses, so fields count from the last parenthesis.
func parseStat(text string) (uint64, error) {
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, errGone
	}
	if state := fields[0]; state == "Z" || state == "X" {
		return 0, errGone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// waitGone returns when a killed process has ended.
func waitGone(pid int, start uint64) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 30*time.Second, errors.New("it does not end"))
	defer cancel()
	for {
		if t, err := startTime(pid); err != nil || t != start {
			return nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("killed process %d: %w", pid, err)
		}
	}
}
