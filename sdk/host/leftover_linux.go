package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	launchPrefix = "l-"
	recordName   = "process.json"
)

// record says which process a launch directory belongs to. A process id alone would not: ids are used again.
type record struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot, from /proc/PID/stat
	BootID    string `json:"boot_id"`
}

// newLaunchDir makes the private directory of one launch below runtimeDir.
func newLaunchDir(runtimeDir string) (string, error) {
	// A unix socket's path has at most 107 bytes; below runtimeDir come "/l-" and "/plugin", each with up to 10 digits.
	if !filepath.IsAbs(runtimeDir) || len(runtimeDir) > 76 {
		return "", fmt.Errorf("runtime directory %q: must be absolute and at most 76 bytes long", runtimeDir)
	}
	if err := os.MkdirAll(runtimeDir, 0o700); err != nil {
		return "", err
	}
	if err := os.Chmod(runtimeDir, 0o700); err != nil { //nolint:gosec // a directory
		return "", err
	}
	return os.MkdirTemp(runtimeDir, launchPrefix)
}

// writeRecord notes the process of a launch.
func writeRecord(dir string, pid int) error {
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	data, err := json.Marshal(record{PID: pid, StartTime: start, BootID: bootID()})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, recordName), data, 0o600)
}

// Sweep removes what launches of an earlier life of this host left below runtimeDir: sockets, and processes that somehow outlived it. It must not be called
// while a launch in the same directory lives. A process is killed only if it is the very one that was started, not another one that got its id since.
func Sweep(runtimeDir string) error {
	entries, err := os.ReadDir(runtimeDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), launchPrefix) {
			continue
		}
		dir := filepath.Join(runtimeDir, e.Name())
		if data, err := os.ReadFile(filepath.Join(dir, recordName)); err == nil { //nolint:gosec // below our own directory
			var r record
			if json.Unmarshal(data, &r) == nil {
				killRecorded(r)
			}
		}
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// killRecorded kills the process of a record and reports whether it was still there. The process is opened first and compared after, so that it cannot be
// exchanged between the two.
func killRecorded(r record) bool {
	if r.PID <= 1 || r.BootID != bootID() {
		return false
	}
	p, err := os.FindProcess(r.PID) // holds a pidfd
	if err != nil {
		return false
	}
	defer p.Release() //nolint:errcheck // nothing to do about it
	if start, err := startTime(r.PID); err != nil || start != r.StartTime {
		return false
	}
	return p.Signal(syscall.SIGKILL) == nil
}

// startTime is when a process started, in clock ticks since boot.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything; the fields after it do not.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: unknown form", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}
