package guest_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/lab/guest"
)

// One guest, all that it promises: commands with output and exit code, the shared folder, disks that come and go, sockets both ways.
func TestGuest(t *testing.T) {
	share := t.TempDir()
	began := time.Now()
	g := guest.Start(t, guest.Options{Disks: []int64{64 << 20, 32 << 20}, Share: share})
	t.Logf("started in %s", time.Since(began).Round(time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	began = time.Now()
	out, err := g.Sh(ctx, "uname -r; lvm version | head -1; cat /proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a command takes %s; %s", time.Since(began).Round(time.Millisecond), strings.ReplaceAll(out, "\n", " "))

	out, err = g.Run(ctx, "/bin/sh", "-c", "echo out; echo err >&2; exit 7")
	var exit *guest.ExitError
	if !errors.As(err, &exit) || exit.Code != 7 || !strings.Contains(out, "out") || !strings.Contains(out, "err") {
		t.Errorf("%q %v", out, err)
	}
	if _, err := g.Run(ctx, "/bin/sh", "-c", "kill -TERM $$"); !errors.As(err, &exit) || exit.Signal != syscall.SIGTERM {
		t.Errorf("%v", err)
	}
	if _, err := g.Run(ctx, "/no/such/program"); err == nil {
		t.Error("no error")
	}
	var copied strings.Builder
	big := strings.Repeat("0123456789abcdef", 1<<16)
	if err := g.Exec(ctx, guest.Cmd{Argv: []string{"cat"}, Stdin: strings.NewReader(big), Stdout: &copied}); err != nil || copied.String() != big {
		t.Errorf("%d of %d bytes came back: %v", copied.Len(), len(big), err)
	}

	if _, err := g.Sh(ctx, "sleep 4241 >/dev/null 2>&1 &"); err != nil {
		t.Error(err)
	}
	if out, err := g.Run(ctx, "pgrep", "-f", "sleep 4241"); err != nil {
		t.Errorf("what a command left running is gone: %s %v", out, err)
	}

	if err := os.WriteFile(filepath.Join(share, "a"), []byte("from the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := g.Sh(ctx, "cat /host/a; echo back >/host/b"); err != nil || out != "from the host" {
		t.Errorf("%q %v", out, err)
	}
	if b, err := os.ReadFile(filepath.Join(share, "b")); err != nil || string(b) != "back\n" {
		t.Errorf("%q %v", b, err)
	}

	if out, err := g.Run(ctx, "blockdev", "--getsize64", g.Disk(0), g.Disk(1)); err != nil || out != "67108864\n33554432\n" {
		t.Errorf("%q %v", out, err)
	}
	if err := g.RemoveDisk(ctx, 1); err != nil {
		t.Error(err)
	}
	if out, err := g.Run(ctx, "ls", "/sys/block/vdc"); err == nil {
		t.Errorf("the disk is still there: %s", out)
	}
}

// A command whose context ends is killed with all that it started.
func TestCommandEndsWithItsContext(t *testing.T) {
	g := guest.Start(t, guest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := g.Sh(ctx, "sleep 4242 & sleep 4243"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := g.Sh(ctx, "while pgrep -f '[s]leep 424'; do sleep 0.1; done"); err != nil {
		t.Errorf("it lives on: %s %v", out, err)
	}
}

// A socket in the guest is reached from the host, by Dial and by Forward.
func TestSockets(t *testing.T) {
	g := guest.Start(t, guest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if _, err := g.Dial("unix", "/run/none"); err == nil {
		t.Error("connected to nothing")
	}
	disk, err := g.AddDisk(ctx, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	// An NBD server greets whoever connects.
	if _, err := g.Sh(ctx, "qemu-nbd --fork -t -k /run/nbd -f raw "+disk); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "lq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "nbd")
	if err := g.Forward(path, "/run/nbd"); err != nil {
		t.Fatal(err)
	}
	for name, dial := range map[string]func() (net.Conn, error){
		"dial":    func() (net.Conn, error) { return g.Dial("unix", "/run/nbd") },
		"forward": func() (net.Conn, error) { return net.Dial("unix", path) },
	} {
		c, err := dial()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		hello := make([]byte, 8)
		if _, err := io.ReadFull(c, hello); err != nil || string(hello) != "NBDMAGIC" {
			t.Errorf("%s: %q %v", name, hello, err)
		}
		_ = c.Close()
	}
}

// The guest's files are seen on the host, what is mounted there too; a block device is a file, and grows as it does.
func TestMirror(t *testing.T) {
	g := guest.Start(t, guest.Options{Disks: []int64{16 << 20, 16 << 20}})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if _, err := g.Sh(ctx, "mkdir -p /run/m/in; echo outer >/run/m/a; mkfs.ext4 -q "+g.Disk(0)+"; mount "+g.Disk(0)+" /run/m/in; echo inner >/run/m/in/b"); err != nil {
		t.Fatal(err)
	}
	show := func(of string) string {
		dir := t.TempDir()
		unmount, err := g.Mirror(of, dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unmount(); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	m := show("/run/m")
	for name, want := range map[string]string{"a": "outer\n", "in/b": "inner\n"} {
		if b, err := os.ReadFile(filepath.Join(m, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	if _, err := os.Stat(filepath.Join(m, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if entries, err := os.ReadDir(m); err != nil || len(entries) != 2 {
		t.Error(entries, err)
	}
	f, err := os.OpenFile(filepath.Join(m, "in/b"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // closed below
	big := strings.Repeat("0123456789abcdef", 1<<15)
	if _, err := f.WriteAt([]byte(big), 4096); err != nil {
		t.Error(err)
	}
	piece, read := make([]byte, 4096), ""
	for off := int64(4096); off < 4096+int64(len(big)); off += 4096 { // in order: more is fetched than asked for
		if _, err := f.ReadAt(piece, off); err != nil {
			t.Fatal(err)
		}
		if read += string(piece); off == 16384 {
			if _, err := f.WriteAt([]byte("XYZ"), off+5000); err != nil { // and what is written is seen at once
				t.Fatal(err)
			}
			big = big[:off-4096+5000] + "XYZ" + big[off-4096+5003:]
		}
	}
	if read != big {
		t.Error("pieces read in order are not what was written")
	}
	if err := errors.Join(f.Sync(), f.Truncate(4096+int64(len(big))+1), f.Close()); err != nil {
		t.Error(err)
	}
	if out, err := g.Sh(ctx, "stat -c %s /run/m/in/b; tail -c +4097 /run/m/in/b | head -c -1 | sha256sum"); err != nil || !strings.HasPrefix(out, "528385\n"+fmt.Sprintf("%x", sha256.Sum256([]byte(big)))) {
		t.Errorf("the guest reads %q %v", out, err)
	}

	dev := filepath.Join(show("/dev"), filepath.Base(g.Disk(1)))
	if st, err := os.Stat(dev); err != nil || !st.Mode().IsRegular() || st.Size() != 16<<20 {
		t.Fatal(st, err)
	}
	if f, err = os.OpenFile(dev, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("on the disk")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Error(err)
	}
	if out, err := g.Sh(ctx, "head -c 11 "+g.Disk(1)); err != nil || out != "on the disk" {
		t.Errorf("%q %v", out, err)
	}
}
