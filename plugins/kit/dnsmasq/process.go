package dnsmasq

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startTimeout = 10 * time.Second
	stopTimeout  = 3 * time.Second
	poll         = 5 * time.Millisecond
)

// marker says which process it is. An id alone would not: ids are used again.
type marker struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start_time"` // clock ticks since boot
}

// Ensure makes a dnsmasq serve what c says. One that runs is told of new hosts and names, and started again only when something else changed.
func Ensure(ctx context.Context, c Config) error {
	if err := c.Check(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil { //nolint:gosec // its user reads it
		return err
	}
	hosts, err := c.write(dhcpFile, c.hosts())
	if err != nil {
		return err
	}
	names, err := c.write(hostsFile, c.names())
	if err != nil {
		return err
	}
	m, alive := running(c.Dir)
	if alive && c.same(confFile, c.conf()) {
		if hosts || names {
			return syscall.Kill(m.PID, syscall.SIGHUP)
		}
		return nil
	}
	if err := Stop(ctx, c.Dir); err != nil {
		return err
	}
	if _, err := c.write(confFile, c.conf()); err != nil {
		return err
	}
	return c.start(ctx)
}

// Differs says how what runs differs from c; empty = not at all.
func Differs(c Config) string {
	if _, alive := running(c.Dir); !alive {
		return "dnsmasq of " + c.Interface + " does not run"
	}
	for name, content := range map[string]string{confFile: c.conf(), dhcpFile: c.hosts(), hostsFile: c.names()} {
		if !c.same(name, content) {
			return "dnsmasq of " + c.Interface + " has other " + name
		}
	}
	return ""
}

func (c *Config) same(name, content string) bool {
	b, err := os.ReadFile(c.path(name))
	return err == nil && string(b) == content
}

// write replaces a file in one step, and reports whether it changed.
func (c *Config) write(name, content string) (changed bool, err error) {
	if c.same(name, content) {
		return false, nil
	}
	next := c.path(name + ".new")
	if err := os.WriteFile(next, []byte(content), 0o644); err != nil { //nolint:gosec // its user reads it
		return false, err
	}
	return true, os.Rename(next, c.path(name))
}

// command is dnsmasq with its user and capabilities; under systemd in a scope of its own, so that the end of the agent's service is not its end.
func (c *Config) command() []string {
	id := strconv.FormatUint(uint64(c.UID), 10)
	caps := "+net_admin,+net_raw,+net_bind_service,+dac_read_search" // the last because directories above its own may be root's alone
	args := []string{
		"setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--inh-caps", caps, "--ambient-caps", caps,
		"dnsmasq", "--keep-in-foreground", "--conf-file=" + c.path(confFile),
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		args = append([]string{"systemd-run", "--scope", "--quiet", "--collect", "--slice=limiquantix.slice"}, args...)
	}
	return args
}

func (c *Config) start(ctx context.Context) error {
	for _, name := range []string{leasesFile, logFile} {
		f, err := os.OpenFile(c.path(name), os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // no secrets
		if err != nil {
			return err
		}
		if name == logFile {
			err = f.Truncate(0)
		}
		if err = errors.Join(err, f.Chown(int(c.UID), int(c.UID)), f.Close()); err != nil {
			return err
		}
	}
	args := c.command()
	cmd := exec.Command(args[0], args[1:]...) //nolint:gosec // our own arguments
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var said bytes.Buffer
	errs, err := os.CreateTemp(c.Dir, "start-")
	if err != nil {
		return err
	}
	defer os.Remove(errs.Name())
	defer errs.Close()
	cmd.Stderr = errs
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start dnsmasq: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // reaps it while we live; it may outlive us
	start, err := startTime(cmd.Process.Pid)
	if err != nil {
		return fmt.Errorf("dnsmasq ended at once: %w", err)
	}
	b, err := json.Marshal(marker{cmd.Process.Pid, start})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path(markerFile), b, 0o644); err != nil { //nolint:gosec // no secrets
		_ = cmd.Process.Kill()
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		log, _ := os.ReadFile(c.path(logFile))
		if bytes.Contains(log, []byte("started, version")) {
			return nil
		}
		select {
		case err := <-ended:
			b, _ := os.ReadFile(errs.Name())
			said.Write(b)
			return fmt.Errorf("dnsmasq of %s does not start: %w: %.400s", c.Interface, err, bytes.TrimSpace(append(said.Bytes(), log...)))
		case <-ctx.Done():
			return fmt.Errorf("dnsmasq of %s does not start: %w", c.Interface, ctx.Err())
		case <-tick.C:
		}
	}
}

// running is the process that the marker names, if it still is that process.
func running(dir string) (m marker, alive bool) {
	b, err := os.ReadFile(filepath.Join(dir, markerFile)) //nolint:gosec // our own directory
	if err != nil || json.Unmarshal(b, &m) != nil || m.PID <= 1 {
		return m, false
	}
	if start, err := startTime(m.PID); err != nil || start != m.Start {
		return m, false
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.PID))
	return m, err == nil && bytes.Contains(cmdline, []byte(filepath.Join(dir, confFile)))
}

// startTime is when a process started, in clock ticks since boot; an error when it is gone or only waits to be reaped.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, after, ok := strings.Cut(string(b), ") ")
	f := strings.Fields(after)
	if !ok || len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0, fs.ErrNotExist
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// Stop ends the dnsmasq of a directory; its leases stay. None there: nothing to do.
func Stop(ctx context.Context, dir string) error {
	m, alive := running(dir)
	if !alive {
		return nil
	}
	fd, err := unix.PidfdOpen(m.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return err
	}
	defer unix.Close(fd)
	if again, alive := running(dir); !alive || again != m { // its id is held now, and is still its own
		return nil
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor
		if n, _ := unix.Poll(fds, int(stopTimeout.Milliseconds())); n > 0 {
			return os.Remove(filepath.Join(dir, markerFile))
		}
	}
	return errors.Join(ctx.Err(), fmt.Errorf("dnsmasq %d does not end", m.PID))
}

// Remove ends the dnsmasq of a directory and removes the directory.
func Remove(ctx context.Context, dir string) error {
	if err := Stop(ctx, dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
