// Package ovs_test runs the plugin as an agent does, against an Open vSwitch of its own: ovsdb-server and ovs-vswitchd in namespaces that the tests make, with the datapath in user
// space where the kernel has none.
package ovs_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/plugins/ovs/internal/driver"
	"github.com/limiquantix/limiquantix/sdk"
)

// inside is set in the process that has network and mount namespaces of its own.
const inside = "LQ_TEST_INSIDE"

func TestMain(m *testing.M) {
	if hs := sdk.Handshake(); os.Getenv(hs.MagicCookieKey) != "" {
		d := driver.New()
		d.BasePlugin = sdk.NewBasePlugin(sdk.Info{Name: "ovs", Version: "0.0.0-dev", Schema: driver.Schema}, d.ConfigureDriver)
		sdk.Serve(sdk.Plugin{Base: d.BasePlugin, Network: d, OnExit: d.Close})
		return
	}
	if os.Getenv(inside) == "" {
		os.Exit(isolated())
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "preparing the namespaces:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// isolated runs the tests again in namespaces of their own.
func isolated() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL} // Go makes mounts private
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in namespaces of their own (needs root):", err)
		return 1
	}
	return 0
}

// prepare gives ip netns a directory of its own and brings loopback up.
func prepare() error {
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	return exec.Command("ip", "link", "set", "lo", "up").Run()
}

// run runs a program that must succeed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// daemon is a running program; it ends with the test.
type daemon struct {
	cmd *exec.Cmd
}

func start(t testing.TB, dir, name string, args ...string) *daemon {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+dir, "OVS_LOGDIR="+dir, "OVS_DBDIR="+dir, "OVS_SYSCONFDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(filepath.Join(dir, filepath.Base(name)+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &daemon{cmd}
	t.Cleanup(d.kill)
	return d
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// openvswitch is one Open vSwitch.
type openvswitch struct {
	t            testing.TB
	dir          string
	db, vswitchd *daemon
}

func newSwitch(t testing.TB) *openvswitch {
	t.Helper()
	dir, err := os.MkdirTemp("", "lqovs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o := &openvswitch{t: t, dir: dir}
	run(t, "ovsdb-tool", "create", filepath.Join(dir, "conf.db"), "/usr/share/openvswitch/vswitch.ovsschema")
	o.startDB()
	run(t, "ovs-vsctl", "--db=unix:"+dir+"/db.sock", "--no-wait", "init")
	o.startSwitch()
	return o
}

func (o *openvswitch) startDB() {
	o.db = start(o.t, o.dir, "ovsdb-server", o.dir+"/conf.db", "--remote=punix:"+o.dir+"/db.sock", "--pidfile="+o.dir+"/ovsdb-server.pid")
	o.exists("db.sock")
}

func (o *openvswitch) startSwitch() {
	o.vswitchd = start(o.t, o.dir, "ovs-vswitchd", "unix:"+o.dir+"/db.sock", "--pidfile="+o.dir+"/ovs-vswitchd.pid")
	o.vsctl("show") // waits for the switch
}

func (o *openvswitch) exists(name string) {
	soon(o.t, name, func() error { _, err := os.Stat(filepath.Join(o.dir, name)); return err })
}

func (o *openvswitch) vsctl(args ...string) string {
	o.t.Helper()
	return run(o.t, "ovs-vsctl", append([]string{"--db=unix:" + o.dir + "/db.sock", "--timeout=30"}, args...)...)
}

func (o *openvswitch) ofctl(bridge, verb string, args ...string) string {
	o.t.Helper()
	return run(o.t, "ovs-ofctl", append([]string{"-O", "OpenFlow14", verb, "unix:" + o.dir + "/" + bridge + ".mgmt"}, args...)...)
}

// datapathEnv names the datapath that is tested: system, the kernel's, or netdev, the one in user space, which needs nothing of the kernel and is tested unless something is said.
const datapathEnv = "LIMIQUANTIX_TEST_DATAPATH"

func datapath() string {
	if d := os.Getenv(datapathEnv); d != "" {
		return d
	}
	return "netdev"
}

// config is the plugin's configuration for this switch.
func (o *openvswitch) config(more string) string {
	return `{"run_directory":"` + o.dir + `","datapath":"` + datapath() + `"` + more + `}`
}

// soon waits until f is content.
func soon(t testing.TB, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}
