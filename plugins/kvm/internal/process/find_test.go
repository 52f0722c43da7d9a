package process

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const id = "0f6b1d52-6a0e-4d0e-9d2b-3c1a4f5e6a7b"

// fakeProcess writes what /proc says of a process.
func fakeProcess(t *testing.T, root string, pid int, exe, cmdline string, state string, ticks int) {
	t.Helper()
	dir := filepath.Join(root, fmt.Sprint(pid))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(dir, "exe"))
	stat := fmt.Sprintf("%d (a) b) %s 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 %d 0 0", pid, state, ticks)
	for _, err := range []error{
		os.Symlink(exe, filepath.Join(dir, "exe")),
		os.WriteFile(filepath.Join(dir, "cmdline"), []byte(cmdline), 0o600),
		os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Only a QEMU counts, whatever others write on their command lines; a pid that was given to another process is not taken for the old one.
func TestFind(t *testing.T) {
	t.Parallel()
	root, boot := t.TempDir(), time.Unix(1000, 0)
	f := New(boot)
	f.root = root
	qemu, args := "/usr/bin/qemu-system-x86_64", "qemu\x00-uuid\x00"+id+"\x00-m\x001"
	fakeProcess(t, root, 10, "/usr/bin/sleep", args, "S", 100)
	if _, ok := f.Find(id); ok {
		t.Error("another program is taken for QEMU")
	}
	fakeProcess(t, root, 20, qemu, args, "S", 250)
	want := Process{20, boot.Add(2500 * time.Millisecond)}
	if p, ok := f.Find(id); !ok || p != want {
		t.Errorf("%+v %v", p, ok)
	}
	fakeProcess(t, root, 20, qemu, "qemu\x00-uuid\x00other\x00", "S", 300)
	if p, ok := f.Find(id); ok {
		t.Errorf("reused pid: %+v", p)
	}
	fakeProcess(t, root, 21, qemu+" (deleted)", args, "S", 400) // upgraded meanwhile
	if p, ok := f.Find(id); !ok || p.PID != 21 {
		t.Errorf("%+v %v", p, ok)
	}
	fakeProcess(t, root, 21, qemu, args, "Z", 400)
	if p, ok := f.Find(id); ok {
		t.Errorf("zombie: %+v", p)
	}
}

// The boot time stays what it was found to be first, until the next boot.
func TestBootTimeStays(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "boot-time")
	first, err := BootTime(file, "b1")
	if err != nil || time.Since(first) < 0 {
		t.Fatal(first, err)
	}
	kept := first.Add(-3 * time.Second).Truncate(time.Second) // as if the clock had been set since
	if err := os.WriteFile(file, []byte("b1 "+kept.Format(time.RFC3339Nano)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := BootTime(file, "b1"); err != nil || !again.Equal(kept) {
		t.Errorf("%v, want %v: %v", again, kept, err)
	}
	if next, err := BootTime(file, "b2"); err != nil || next.Equal(kept) {
		t.Errorf("after a boot: %v %v", next, err)
	}
}
