package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// What the demo needs of a machine.
const (
	needMemory = 1 << 30
	needDisk   = 3 << 30
)

// check says what is missing, one line with the remedy for each.
func check() error {
	var missing []string
	add := func(format string, args ...any) { missing = append(missing, fmt.Sprintf(format, args...)) }
	if os.Geteuid() != 0 {
		add("not root: run it with sudo")
	}
	b, err := os.ReadFile("/etc/os-release")
	if err != nil || !strings.Contains(string(b), "ID=debian") {
		add("not Debian: the demo installs Debian's packages; run it on Debian 12")
	}
	if out, err := exec.Command("go", "version").Output(); err != nil {
		add("no Go: install Go 1.26 or newer and put it on PATH")
	} else if v := strings.Fields(string(out)); len(v) < 3 || v[2] < "go1.26" {
		add("Go is too old (%s): install Go 1.26 or newer", strings.TrimSpace(string(out)))
	}
	var kib int64
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		for _, line := range strings.Split(string(b), "\n") {
			if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
				break
			}
		}
	}
	if kib<<10 < needMemory {
		add("%d MiB of memory are available: free 1 GiB", kib>>10)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs("/var/lib", &st); err == nil && int64(st.Bavail)*st.Bsize < needDisk { //nolint:gosec // sizes of a file system
		add("%d MiB of disk are free in /var/lib: free 3 GiB", int64(st.Bavail)*st.Bsize>>20) //nolint:gosec // sizes of a file system
	}
	if len(missing) > 0 {
		return errors.New("this machine is not ready:\n  " + strings.Join(missing, "\n  "))
	}
	fmt.Println("checked: root, Debian, Go, memory, disk")
	return nil
}
