package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/limiquantix/limiquantix/test/lab"
)

// memory is what a detached stack leaves in its directory for the next one who asks.
type memory struct {
	Options                Options
	Server                 string
	AgentPort, MetricsPort int
	PIDs                   map[string]int
}

const memoryFile = "stack.json"

func (s *Stack) remember() error {
	if !s.Detached {
		return nil
	}
	m := memory{Options: s.Options, Server: s.Server, AgentPort: s.agentPort, MetricsPort: s.metricsPort, PIDs: map[string]int{}}
	for name, cmd := range s.procs {
		m.PIDs[name] = cmd.Process.Pid
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Dir, memoryFile), b, 0o600)
}

// Open finds a detached stack that runs whole, or starts one anew.
func Open(ctx context.Context, o Options) (*Stack, error) {
	s, err := Running(o.Dir)
	if err != nil {
		return nil, err
	}
	if s.Node != nil && s.alive("controller") && s.alive("agent") && s.Bin == o.Bin {
		if s.Guest, err = lab.BusyboxGuest(ctx); err != nil {
			return nil, err
		}
		return s, s.renew(ctx)
	}
	if err := s.Stop(); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(o.Dir); err != nil {
		return nil, err
	}
	return Start(ctx, o)
}

// renew restarts what runs a binary that is no longer there, or was built anew. Guests do not notice.
func (s *Stack) renew(ctx context.Context) error {
	if replaced(s.PID("controller")) {
		if err := errors.Join(s.Terminate("controller"), s.StartController(ctx)); err != nil {
			return err
		}
	}
	old := replaced(s.PID("agent"))
	for _, name := range plugins {
		pid, err := s.Plugin(name)
		old = old || err != nil || replaced(pid)
	}
	if old {
		if err := errors.Join(s.Terminate("agent"), s.StartAgent(ctx)); err != nil {
			return err
		}
	}
	return s.remember()
}

// replaced reports whether a process's program is no longer the file that it was started from.
func replaced(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err != nil || strings.HasSuffix(exe, " (deleted)")
}

// Running finds what runs of a detached stack; nothing running gives a stack whose Stop does nothing.
func Running(dir string) (*Stack, error) {
	s := &Stack{Options: Options{Dir: dir}, procs: map[string]*exec.Cmd{}}
	b, err := os.ReadFile(filepath.Join(dir, memoryFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		var m memory
		if err := json.Unmarshal(b, &m); err != nil {
			return nil, fmt.Errorf("%s: %w", memoryFile, err)
		}
		s.Options, s.Server, s.agentPort, s.metricsPort = m.Options, m.Server, m.AgentPort, m.MetricsPort
		for name, pid := range m.PIDs {
			if isOurs(pid, s.Bin) {
				p, err := os.FindProcess(pid)
				if err != nil {
					return nil, err
				}
				s.procs[name] = &exec.Cmd{Process: p}
			}
		}
	}
	if n, err := lab.OpenNode(filepath.Join(dir, "node")); err == nil {
		s.Node = n
	}
	return s, nil
}

// isOurs reports whether a process is one of our binaries, so that a pid that was used again is never signalled.
func isOurs(pid int, bin string) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.HasPrefix(exe, bin+"/")
}

func (s *Stack) alive(name string) bool {
	cmd := s.procs[name]
	return cmd != nil && isOurs(cmd.Process.Pid, s.Bin)
}

// PrintProcesses prints a table of all processes with their parents.
func (s *Stack) PrintProcesses(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "\nPROCESS\tPID\tPARENT")
	row := func(what string, pid int) {
		_, _ = fmt.Fprintf(tw, "%s\t%d\t%s\n", what, pid, parent(pid))
	}
	row("controller", s.PID("controller"))
	row("agent", s.PID("agent"))
	for _, p := range plugins {
		pid, err := s.Plugin(p)
		if err != nil {
			return err
		}
		row("plugin "+p, pid)
	}
	for _, name := range []string{"libvirtd", "virtlogd"} {
		if pid := s.inNode(name); pid != 0 {
			row(name, pid)
		}
	}
	guests, err := s.Node.Guests()
	if err != nil {
		return err
	}
	for _, g := range guests {
		row("QEMU "+g.Name, g.PID)
	}
	return tw.Flush()
}

// inNode finds a process by name in the node's pid namespace.
func (s *Stack) inNode(name string) int {
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.Node.PID()))
	if err != nil {
		return 0
	}
	comms, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, f := range comms {
		b, err := os.ReadFile(f)
		if err != nil || strings.TrimSpace(string(b)) != name {
			continue
		}
		if ns, err := os.Readlink(filepath.Join(filepath.Dir(f), "ns", "pid")); err == nil && ns == want {
			var pid int
			_, _ = fmt.Sscan(filepath.Base(filepath.Dir(f)), &pid)
			return pid
		}
	}
	return 0
}

// parent names a process's parent: pid and command.
func parent(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "gone"
	}
	var ppid int
	for _, line := range strings.Split(string(b), "\n") {
		if rest, ok := strings.CutPrefix(line, "PPid:"); ok {
			_, _ = fmt.Sscan(rest, &ppid)
		}
	}
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", ppid))
	return strings.TrimSpace(fmt.Sprintf("%d %s", ppid, comm))
}
