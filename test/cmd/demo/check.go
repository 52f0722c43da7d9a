package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// What the demo needs of a machine.
const (
	needMemory = 1 << 30
	needDisk   = 3 << 30
)

// check says what is missing, one line with the remedy for each. That Go is there and new enough the Makefile has looked at: this runs already.
func check(dir string) error {
	var missing []string
	add := func(format string, args ...any) { missing = append(missing, fmt.Sprintf(format, args...)) }
	if os.Geteuid() != 0 {
		add("not root: run it with sudo")
	}
	b, err := os.ReadFile("/etc/os-release")
	if err != nil || !strings.Contains(string(b), "ID=debian") {
		add("not Debian: the demo installs Debian's packages; run it on Debian 12")
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
	for filepath.Dir(dir) != dir { // the nearest that is there
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		add("%s: %v: set LIMIQUANTIX_DEMO_DIR to a folder for the demo", dir, err)
	} else if free := int64(st.Bavail) * st.Bsize; free < needDisk { //nolint:gosec // sizes of a file system
		add("%d MiB of disk are free at %s: free 3 GiB, or set LIMIQUANTIX_DEMO_DIR", free>>20, dir)
	}
	if len(missing) > 0 {
		return errors.New("this machine is not ready:\n  " + strings.Join(missing, "\n  "))
	}
	fmt.Println("checked: root, Debian, Go, memory, disk")
	return nil
}
