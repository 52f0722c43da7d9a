package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/test/lab"
)

// savedState is a file with the memory of a guest that has booted and waits. It is made once for each system, QEMU and machine.
func savedState(ctx context.Context, system lab.GuestOS, memoryMiB int) (string, error) {
	version, err := qemuVersion(ctx)
	if err != nil {
		return "", fmt.Errorf("ask QEMU for its version: %w", err)
	}
	cache, err := lab.OpenCache()
	if err != nil {
		return "", err
	}
	key := lab.Key("1", version, strings.Join(qemuArgs(system, memoryMiB, "D", "O", "S"), " "))
	dir, err := cache.Folder(ctx, "gueststate", key, func(ctx context.Context, dir string) error {
		return saveState(ctx, system, memoryMiB, filepath.Join(dir, "memory"))
	})
	return filepath.Join(dir, "memory"), err
}

// saveState boots a guest and saves it.
func saveState(ctx context.Context, system lab.GuestOS, memoryMiB int, to string) error {
	fmt.Fprintln(os.Stderr, "lab: booting the lab guest once, to save its memory")
	ctx, cancel := context.WithTimeoutCause(ctx, StartTimeout, errors.New("the guest does not boot"))
	defer cancel()
	dir, err := os.MkdirTemp("", "lqg")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // temporary
	m, err := startQEMU(qemuArgs(system, memoryMiB, dir, dir, dir), filepath.Join(dir, "qemu.log"))
	if err != nil {
		return err
	}
	defer m.kill()
	q, err := dialMonitor(ctx, filepath.Join(dir, "mon"), m)
	if err != nil {
		return err
	}
	defer q.close()
	if _, err := lab.WaitLine(ctx, filepath.Join(dir, "serial"), "LABREADY"); err != nil {
		return err
	}
	// The line was printed by what runs before the read that we want to save it in; nothing shows from outside when that has begun.
	if err := pause(ctx, 1500*time.Millisecond); err != nil {
		return err
	}
	if err := q.call(ctx, "stop", nil, nil); err != nil {
		return err
	}
	if err := q.call(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": int64(4) << 30}, nil); err != nil {
		return err
	}
	if err := q.call(ctx, "migrate", map[string]any{"uri": "exec:cat > " + to}, nil); err != nil {
		return err
	}
	for {
		var st struct {
			Status    string
			ErrorDesc string `json:"error-desc"`
		}
		if err := q.call(ctx, "query-migrate", nil, &st); err != nil {
			return err
		}
		switch st.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("saving the guest's memory: %s %s", st.Status, st.ErrorDesc)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
