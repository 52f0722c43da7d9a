// Package nfs_test runs the plugin in processes of its own, as an agent does. This machine's kernel need not know NFS: a server's exports are directories here,
// and mounting one is a bind mount. All else is what runs in production: the workers, the probes, the mounts' list, the locks.
package nfs_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/plugins/nfs/internal/driver"
	"github.com/limiquantix/limiquantix/plugins/nfs/internal/mount"
	"github.com/limiquantix/limiquantix/plugins/nfs/internal/worker"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// inside is set in the process that has a mount namespace of its own, so that every mount ends with it.
const inside = "LQ_TEST_INSIDE"

func TestMain(m *testing.M) {
	if code, is := worker.Main(os.Args); is {
		os.Exit(code)
	}
	if hs := sdk.Handshake(); os.Getenv(hs.MagicCookieKey) != "" {
		d := driver.New(binder{})
		d.BasePlugin = sdk.NewBasePlugin(sdk.Info{Name: "nfs", Version: "0.0.0-dev", Schema: driver.Schema}, d.ConfigureDriver)
		sdk.Serve(sdk.Plugin{Base: d.BasePlugin, Storage: d, OnExit: func() { d.Close(sdk.DefaultGrace) }})
		return
	}
	if os.Getenv(inside) == "" {
		os.Exit(isolated())
	}
	os.Exit(m.Run())
}

// isolated runs the tests again in a mount namespace.
func isolated() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL} // Go makes it private
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in a mount namespace of their own (needs root):", err)
		return 1
	}
	return 0
}

// binder mounts directories: the export is the path of one.
type binder struct{}

// mounts lists targets and what is bound there: the mounted directory's path within its file system is what the kernel knows of its source.
func (binder) Mounted(target string) (source string, ok bool, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == target {
			source, ok = "server:"+f[3], true
		}
	}
	return source, ok, nil
}

func (binder) Mount(_ context.Context, p mount.Params, target string) error {
	if _, err := os.Stat(p.Export); err != nil {
		return fault.Invalid(fault.Violation{Field: "parameters.export", Description: "server has no such export"})
	}
	if err := unix.Mount(p.Export, target, "", unix.MS_BIND, ""); err != nil {
		return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "mount: %w", err)
	}
	return nil
}

func (binder) Unmount(ctx context.Context, target string) error { return mount.Unmount(ctx, target) }

// export makes a server's directory. It is a mount of its own, so that the list of mounts has its whole path whatever it lies on.
func export(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "export")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
