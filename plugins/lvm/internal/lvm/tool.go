// Package lvm runs LVM's own commands and reads their reports. It changes nothing by itself and knows nothing of pools or volumes.
//
// LVM answers nearly every failure with exit code 5; what happened is in the text, see classify.
package lvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	// atOnce bounds the commands of one Tool: those that change a volume group wait for each other anyway.
	atOnce = 8
	// stopGrace is how long a command that was told to end is waited for. It may be in a part that must not be interrupted, or in the kernel.
	stopGrace = 10 * time.Second
)

// Tool runs commands under a configuration of its own, so that they see only the devices they may see.
type Tool struct {
	dir   string
	slots chan struct{}
}

// New writes the configuration to dir, which becomes LVM_SYSTEM_DIR.
func New(dir string, c Config) (*Tool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "make LVM's configuration: %w", err)
	}
	tmp := filepath.Join(dir, ".lvm.conf")
	err := os.WriteFile(tmp, []byte(c.text()), 0o600)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, "lvm.conf"))
	}
	if err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "write LVM's configuration: %w", err)
	}
	return &Tool{dir: dir, slots: make(chan struct{}, atOnce)}, nil
}

// Run runs one command and returns what it printed. When ctx ends the command is told to end, never killed: one killed between suspending and resuming a
// device would leave that suspended. So it may outlive the call; LVM's own locks keep the next one off until it is done.
func (t *Tool) Run(ctx context.Context, args ...string) ([]byte, error) {
	select {
	case t.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, late(ctx, args)
	}
	free := func() { <-t.slots }
	out, err1 := newMemory("stdout")
	diag, err2 := newMemory("stderr")
	if err := errors.Join(err1, err2); err != nil {
		free()
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "run lvm: %w", err)
	}
	done := func() { _, _ = out.Close(), diag.Close(); free() }
	cmd := exec.Command("lvm", args...) //nolint:gosec // arguments are checked where they come from
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/",
		"LVM_SYSTEM_DIR=" + t.dir, "LVM_SUPPRESS_FD_WARNINGS=1",
	}
	// Files, not pipes: if we die, the command can print and end in good order. A group of its own: what ends us does not end it.
	cmd.Stdout, cmd.Stderr = out, diag
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		done()
		return nil, fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "run lvm: %w", err).WithRemedy("install lvm2")
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		defer done()
		return finish(ctx, args, err, out, diag)
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case err := <-ended:
		defer done()
		return finish(ctx, args, err, out, diag)
	case <-timer.C:
		go func() { // ends with the command
			<-ended
			done()
		}()
		return nil, late(ctx, args)
	}
}

func finish(ctx context.Context, args []string, err error, out, diag *os.File) ([]byte, error) {
	stdout, err1 := content(out)
	stderr, err2 := content(diag)
	if rerr := errors.Join(err1, err2); rerr != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "read what lvm %s printed: %w", args[0], rerr)
	}
	if err == nil {
		return stdout, nil
	}
	var exit *exec.ExitError
	if ctx.Err() != nil && (!errors.As(err, &exit) || exit.ExitCode() != 0) {
		return nil, late(ctx, args)
	}
	return nil, classify(args[0], string(stderr), err)
}

func late(ctx context.Context, args []string) error {
	return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "lvm %s: %w", args[0], context.Cause(ctx)).WithRemedy("issue the call again: it goes on from where this one ended")
}

// newMemory makes a file that is in memory only.
func newMemory(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate("lvm-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func content(f *os.File) ([]byte, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err := b.ReadFrom(f)
	return b.Bytes(), err
}

// Version is LVM's own, for people.
func (t *Tool) Version(ctx context.Context) (string, error) {
	out, err := t.Run(ctx, "version")
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "LVM version:")), err
}
