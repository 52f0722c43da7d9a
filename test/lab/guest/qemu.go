package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/lab/guest/wire"
)

// commandLine is the kernel's: what a guest of minutes' life does not need is off.
const commandLine = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr no5lvl random.trust_cpu=on cryptomgr.notests audit=0 apparmor=0 net.ifnames=0 raid=noautodetect"

// qemuArgs is a machine; saving and resuming need the very same one. dir holds its sockets.
func qemuArgs(system lab.GuestOS, memoryMiB int, dir, own, share string) []string {
	in := func(name string) string { return filepath.Join(dir, name) }
	return []string{
		"-M", "pc", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg,tb-size=256", "-cpu", "max,la57=off",
		"-m", strconv.Itoa(memoryMiB), "-kernel", system.Kernel, "-initrd", system.Initrd, "-append", commandLine,
		"-chardev", "file,id=serial,path=" + in("serial"), "-serial", "chardev:serial",
		"-blockdev", "driver=file,filename=" + system.Disk + ",node-name=root,read-only=on", "-device", "virtio-blk-pci,drive=root",
		"-fsdev", "local,id=lab,path=" + own + ",security_model=none,multidevs=remap", "-device", "virtio-9p-pci,fsdev=lab,mount_tag=lab",
		"-fsdev", "local,id=host,path=" + share + ",security_model=none,multidevs=remap", "-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=go,path=" + in("go") + ",server=on,wait=off", "-device", "virtconsole,chardev=go",
		"-chardev", "socket,id=agent,path=" + in("agent") + ",server=on,wait=off", "-device", "virtserialport,chardev=agent,name=" + wire.PortName,
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
		"-chardev", "socket,id=mon,path=" + in("mon") + ",server=on,wait=off", "-mon", "chardev=mon,mode=control",
	}
}

// machine is a QEMU process.
type machine struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
}

// startQEMU starts QEMU; it dies with this process.
func startQEMU(args []string, log string) (*machine, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()                                                                                      //nolint:errcheck // QEMU has its own
	m := &machine{cmd: exec.Command("qemu-system-x86_64", args...), log: log, exited: make(chan struct{})} //nolint:gosec // made above
	m.cmd.Stdout, m.cmd.Stderr = out, out
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go func() { // the kernel sends the signal when the thread that forked ends
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.cmd.Start()
		started <- err
		if err == nil {
			_ = m.cmd.Wait()
			close(m.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	return m, nil
}

func (m *machine) kill() {
	_ = m.cmd.Process.Kill()
	<-m.exited
}

// errEnded is what waiting for a machine that has ended returns.
var errEnded = errors.New("QEMU ended")

// dialSoon connects to one of QEMU's sockets, which appear some time after its start.
func dialSoon(ctx context.Context, path string, m *machine) (net.Conn, error) {
	for {
		c, err := net.Dial("unix", path)
		if err == nil {
			return c, nil
		}
		select {
		case <-m.exited:
			text, _ := os.ReadFile(m.log)
			return nil, fmt.Errorf("%w: %s", errEnded, text)
		default:
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return nil, fmt.Errorf("connect to %s: %w", filepath.Base(path), err)
		}
	}
}

func qemuVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "qemu-system-x86_64", "--version").Output()
	return string(out), err
}
