package mount

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Kernel mounts by mount(8).
type Kernel struct{}

// Mount mounts an export at a directory, and ends by SIGKILL with ctx: a client that waits for a server heeds no other signal.
func (Kernel) Mount(ctx context.Context, p Params, target string) error {
	text, err := run(ctx, "mount", "-t", "nfs", "-o", p.argument(), "--", p.Source(), target)
	if err != nil {
		return classify(ctx, err, p, text)
	}
	return nil
}

// Unmount ends a mount.
func (Kernel) Unmount(ctx context.Context, target string) error { return Unmount(ctx, target) }

// Mounted says what is mounted at a directory.
func (Kernel) Mounted(target string) (source string, ok bool, err error) {
	source, fstype, ok, err := find(target)
	if ok && !strings.HasPrefix(fstype, "nfs") {
		return "", false, fault.New(metav1.Reason_REASON_WRONG_STATE, "at %s a file system of type %s is mounted, from %s", target, fstype, source).WithRemedy("unmount it")
	}
	return source, ok, err
}

// Unmount ends a mount by umount(8), which is told not to ask the server.
func Unmount(ctx context.Context, target string) error {
	text, err := run(ctx, "umount", "-c", "--", target)
	switch {
	case err == nil, strings.Contains(text, "not mounted"):
		return nil
	case strings.Contains(text, "busy"):
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "the mount at %s is in use: %s", target, text).WithRemedy("end the processes that have files open there (fuser -m)")
	case ctx.Err() != nil:
		return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "umount %s: %w", target, ctx.Err())
	}
	return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "umount %s: %s (%w)", target, text, err)
}

// run runs a program in a process group of its own, all of which is killed when ctx ends, and returns what it said on standard error.
func run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stderr = &out
	err := cmd.Run()
	return strings.ReplaceAll(strings.TrimSpace(out.String()), "\n", "; "), err
}

// classify turns a failure of mount.nfs into a reason by what it said.
func classify(ctx context.Context, err error, p Params, text string) error {
	has := func(parts ...string) bool {
		for _, s := range parts {
			if strings.Contains(text, s) {
				return true
			}
		}
		return false
	}
	switch {
	case errors.Is(err, exec.ErrNotFound), has("bad option", "unknown filesystem type"):
		return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "this node cannot mount NFS: %s (%w)", text, err).WithRemedy("install nfs-common")
	case has("access denied", "Permission denied", "Operation not permitted"):
		return fault.New(metav1.Reason_REASON_ACCESS_DENIED, "server %s does not let this node mount %s: %s", p.Server, p.Export, text).
			WithRemedy("export it to this node, for reading and writing, with no_root_squash")
	case has("No such file or directory"):
		return fault.Invalid(fault.Violation{Field: "parameters.export", Description: "server " + p.Server + " has no export " + p.Export})
	case has("requested NFS version", "Protocol not supported"):
		return fault.Invalid(fault.Violation{Field: "parameters.version", Description: "server " + p.Server + " does not speak NFS " + p.Version + ": " + text})
	case has("incorrect mount option", "Invalid argument"):
		return fault.Invalid(fault.Violation{Field: "parameters.options", Description: text})
	case ctx.Err() != nil:
		return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "server %s does not answer: %w", p.Server, ctx.Err()).WithRemedy("look at the server and at the network to it")
	case has("refused", "timed out", "No route", "unreachable", "resolve", "not known", "rpc.statd"):
		return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "server %s cannot be reached: %s", p.Server, text).WithRemedy("look at the server and at the network to it")
	}
	return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "mount %s: %s (%w)", p.Source(), text, err)
}

// find reads what is mounted at a directory from the kernel's list, which asks no server.
func find(target string) (source, fstype string, ok bool, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", false, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "read the list of mounts: %w", err)
	}
	source, fstype, ok = findIn(string(b), target)
	return source, fstype, ok, nil
}

// findIn looks for the last mount at a directory: it hides those before.
func findIn(mountinfo, target string) (source, fstype string, ok bool) {
	for line := range strings.Lines(mountinfo) {
		mount, device, cut := strings.Cut(line, " - ")
		fields, what := strings.Fields(mount), strings.Fields(device)
		if cut && len(fields) >= 5 && len(what) >= 2 && unescape(fields[4]) == target {
			fstype, source, ok = what[0], unescape(what[1]), true
		}
	}
	return source, fstype, ok
}

// unescape reads the octal escapes of the kernel's list.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
