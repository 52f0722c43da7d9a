package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/test/ports"
)

// Ceph is a cluster of one monitor and one OSD that keeps its data in memory, on 127.0.0.1, with cephx on. It has its own configuration and keyring
// and neither reads nor writes /etc/ceph. It dies with the process that started it.
type Ceph struct {
	Dir  string
	FSID string

	port    int // of the monitor: protocol v2; v1 is the next one
	daemons map[string]*exec.Cmd
	ended   map[string]chan struct{}
}

// CephOption changes how a cluster is started.
type CephOption func(*cephOptions)

type cephOptions struct{ manager bool }

// WithManager also starts a manager daemon: without one a cluster reports no capacity, but starts in two seconds and needs 300 MiB less.
func WithManager() CephOption { return func(o *cephOptions) { o.manager = true } }

// StartCeph starts a cluster with the pool "rbd". Everything it makes is below dir, which must be short (socket paths end at 107 bytes).
func StartCeph(ctx context.Context, dir string, opts ...CephOption) (*Ceph, error) {
	var o cephOptions
	for _, opt := range opts {
		opt(&o)
	}
	if err := EnsurePackages(ctx, CephPackages...); err != nil {
		return nil, err
	}
	c := &Ceph{Dir: dir, daemons: map[string]*exec.Cmd{}, ended: map[string]chan struct{}{}}
	port, err := ports.Free(2)
	if err != nil {
		return nil, err
	}
	c.port = port[0]
	if err := c.start(ctx, o); err != nil {
		return nil, fmt.Errorf("start ceph: %w", errors.Join(err, c.Stop()))
	}
	return c, nil
}

func (c *Ceph) start(ctx context.Context, o cephOptions) error {
	for _, d := range []string{"mon", "mgr", "osd", "run", "log"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, d), 0o700); err != nil {
			return err
		}
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	c.FSID = strings.TrimSpace(string(id))
	if err := os.WriteFile(c.Conf(), []byte(c.config()), 0o600); err != nil {
		return err
	}
	keyring, monmap := c.path("keyring"), c.path("monmap")
	authtool := [][]string{
		{"--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"},
		{keyring, "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"},
		{keyring, "--gen-key", "-n", "mgr.x", "--cap", "mon", "allow profile mgr", "--cap", "osd", "allow *"},
		{keyring, "--gen-key", "-n", "osd.0", "--cap", "mon", "allow profile osd", "--cap", "osd", "allow *", "--cap", "mgr", "allow profile osd"},
	}
	for _, args := range authtool {
		if err := run(c.command(ctx, "ceph-authtool", args...)); err != nil {
			return err
		}
	}
	if err := run(c.command(ctx, "monmaptool", "--create", "--fsid", c.FSID, "--addv", "a", c.addresses(), monmap)); err != nil {
		return err
	}
	if err := run(c.command(ctx, "ceph-mon", "-c", c.Conf(), "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)); err != nil {
		return err
	}
	if err := c.StartMonitor(ctx); err != nil {
		return err
	}
	if o.manager {
		if err := c.daemon("mgr", "ceph-mgr", "-f", "-c", c.Conf(), "-i", "x"); err != nil {
			return err
		}
	}
	if _, err := c.Ceph(ctx, "osd", "new", c.FSID); err != nil { // any UUID names the OSD
		return err
	}
	if err := run(c.command(ctx, "ceph-osd", "-c", c.Conf(), "-i", "0", "--mkfs", "--osd-uuid", c.FSID)); err != nil {
		return err
	}
	if err := c.daemon("osd", "ceph-osd", "-f", "-c", c.Conf(), "-i", "0"); err != nil {
		return err
	}
	return c.CreatePool(ctx, "rbd")
}

// Conf is the cluster's configuration file, for its own tools; it names the keyring of client.admin.
func (c *Ceph) Conf() string { return c.path("ceph.conf") }

// Monitor is where the monitor listens for protocol v1, as host:port.
func (c *Ceph) Monitor() string { return fmt.Sprintf("127.0.0.1:%d", c.port+1) }

// Key returns the key of a user, without its "client." prefix.
func (c *Ceph) Key(ctx context.Context, user string) (string, error) {
	out, err := c.Ceph(ctx, "auth", "get-key", "client."+user)
	return strings.TrimSpace(out), err
}

// CreateUser makes a user with the capabilities that Ceph's documentation gives to users of RBD pools, and returns its key.
func (c *Ceph) CreateUser(ctx context.Context, user, pool string) (string, error) {
	_, err := c.Ceph(ctx, "auth", "get-or-create", "client."+user, "mon", "profile rbd", "osd", "profile rbd pool="+pool)
	if err != nil {
		return "", err
	}
	return c.Key(ctx, user)
}

// CreatePool makes a pool for RBD and returns when it can be used.
func (c *Ceph) CreatePool(ctx context.Context, name string) error {
	for _, args := range [][]string{{"osd", "pool", "create", name, "8", "8"}, {"osd", "pool", "application", "enable", name, "rbd"}} {
		if _, err := c.Ceph(ctx, args...); err != nil {
			return err
		}
	}
	_, err := c.RBD(ctx, "ls", name) // waits for the pool's placement groups
	return err
}

// Ceph runs the command ceph as client.admin and returns what it printed.
func (c *Ceph) Ceph(ctx context.Context, args ...string) (string, error) {
	return output(c.command(ctx, "ceph", append([]string{"-c", c.Conf(), "--connect-timeout", "60"}, args...)...))
}

// RBD runs the command rbd as client.admin and returns what it printed.
func (c *Ceph) RBD(ctx context.Context, args ...string) (string, error) {
	return output(c.command(ctx, "rbd", append([]string{"-c", c.Conf()}, args...)...))
}

// Rados runs the command rados as client.admin and returns what it printed.
func (c *Ceph) Rados(ctx context.Context, args ...string) (string, error) {
	return output(c.command(ctx, "rados", append([]string{"-c", c.Conf()}, args...)...))
}

// Version is what the cluster's daemons are.
func (c *Ceph) Version(ctx context.Context) (string, error) {
	out, err := output(c.command(ctx, "ceph-osd", "--version"))
	return strings.TrimSpace(out), err
}

// StartMonitor starts the monitor, for the first time or after KillMonitor, and returns when it answers.
func (c *Ceph) StartMonitor(ctx context.Context) error {
	if err := c.daemon("mon", "ceph-mon", "-f", "-c", c.Conf(), "-i", "a"); err != nil {
		return err
	}
	_, err := c.Ceph(ctx, "mon", "stat")
	return err
}

// KillMonitor kills the monitor.
func (c *Ceph) KillMonitor() error { return c.kill("mon") }

// SignalMonitor sends a signal to the monitor, such as SIGSTOP and SIGCONT.
func (c *Ceph) SignalMonitor(sig syscall.Signal) error { return c.daemons["mon"].Process.Signal(sig) }

// SignalOSD sends a signal to the OSD.
func (c *Ceph) SignalOSD(sig syscall.Signal) error { return c.daemons["osd"].Process.Signal(sig) }

// Stop kills the cluster. Its folder stays.
func (c *Ceph) Stop() error {
	return errors.Join(c.kill("osd"), c.kill("mgr"), c.kill("mon"))
}

// daemon starts a daemon in the foreground; it dies with us.
func (c *Ceph) daemon(role, name string, args ...string) error {
	log, err := os.OpenFile(c.path("log/"+role+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := c.command(context.Background(), name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it ends by a signal of ours, or kill says that it does not run
	}()
	c.daemons[role], c.ended[role] = cmd, ended
	return nil
}

func (c *Ceph) kill(role string) error {
	cmd := c.daemons[role]
	if cmd == nil {
		return nil
	}
	delete(c.daemons, role)
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill ceph's %s: %w", role, err)
	}
	select {
	case <-c.ended[role]:
		return nil
	case <-time.After(30 * time.Second):
		return fmt.Errorf("ceph's %s does not end", role)
	}
}

// command runs a tool of Ceph that sees this cluster only.
func (c *Ceph) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "CEPH_CONF="+c.Conf(), "CEPH_ARGS=", "CEPH_KEYRING="+c.path("keyring"), "LC_ALL=C")
	return cmd
}

func (c *Ceph) path(name string) string { return filepath.Join(c.Dir, name) }
