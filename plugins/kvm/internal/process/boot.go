package process

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// BootTime is when the host was booted. The kernel computes it anew from the clock whenever it is asked, so that it moves with every correction of the clock;
// what was found first is kept in file with the boot's id, and start times of processes stay the same for good.
func BootTime(file, bootID string) (time.Time, error) {
	if b, err := os.ReadFile(file); err == nil {
		id, text, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil && id == bootID && bootID != "" {
			return t, nil
		}
	}
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, fmt.Errorf("read boot time: %w", err)
	}
	_, rest, ok := strings.Cut(string(b), "\nbtime ")
	var sec int64
	if _, err := fmt.Sscan(rest, &sec); !ok || err != nil {
		return time.Time{}, fmt.Errorf("read boot time: no btime in /proc/stat")
	}
	t := time.Unix(sec, 0).UTC()
	if err := replace(file, bootID+" "+t.Format(time.RFC3339Nano)+"\n"); err != nil {
		return time.Time{}, fmt.Errorf("keep boot time: %w", err)
	}
	return t, nil
}

func replace(file, text string) error {
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
