// Package process finds the QEMU processes of domains: libvirt does not tell their ids, and its pid files may lie in another namespace.
package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Process is a running QEMU.
type Process struct {
	PID   int64
	Start time.Time
}

// Finder finds processes by the UUID of their domain, and remembers them. Safe for use by several goroutines.
type Finder struct {
	root string    // "/proc"
	boot time.Time // when the host was booted

	mu    sync.Mutex
	known map[string]entry
}

type entry struct {
	pid   int64
	ticks int64 // start since boot: with the pid it names a process for good
}

// ticks of field 22 of a stat file are hundredths of a second on every architecture that Linux knows today.
const tick = 10 * time.Millisecond

// New makes a finder for a host that was booted at boot.
func New(boot time.Time) *Finder {
	return &Finder{root: "/proc", boot: boot, known: map[string]entry{}}
}

// Find returns the process of a domain, false when there is none.
func (f *Finder) Find(uuid string) (Process, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.known[uuid]
	if !ok || f.startOf(e.pid) != e.ticks {
		delete(f.known, uuid)
		f.scan()
		if e, ok = f.known[uuid]; !ok {
			return Process{}, false
		}
	}
	return Process{e.pid, f.boot.Add(time.Duration(e.ticks) * tick)}, true
}

// scan reads all processes once and remembers every QEMU among them.
func (f *Finder) scan() {
	clear(f.known)
	dirs, err := filepath.Glob(filepath.Join(f.root, "[0-9]*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		if err != nil || !strings.HasPrefix(filepath.Base(exe), "qemu-system-") { // anybody can write a UUID on a command line
			continue
		}
		uuid := uuidOf(filepath.Join(dir, "cmdline"))
		pid, err := strconv.ParseInt(filepath.Base(dir), 10, 64)
		if uuid == "" || err != nil {
			continue
		}
		if t := f.startOf(pid); t > 0 {
			f.known[uuid] = entry{pid, t}
		}
	}
}

func uuidOf(cmdline string) string {
	b, err := os.ReadFile(cmdline)
	if err != nil {
		return ""
	}
	_, rest, ok := bytes.Cut(b, []byte("\x00-uuid\x00"))
	if !ok {
		return ""
	}
	id, _, _ := bytes.Cut(rest, []byte{0})
	return string(id)
}

// startOf is when a process started, in ticks since boot; -1 when it is gone or a zombie.
func (f *Finder) startOf(pid int64) int64 {
	b, err := os.ReadFile(filepath.Join(f.root, strconv.FormatInt(pid, 10), "stat"))
	if err != nil {
		return -1
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return -1
	}
	n, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return -1
	}
	return n
}
