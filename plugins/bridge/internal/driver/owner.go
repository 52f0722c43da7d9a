package driver

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// owner is the one process that may change what the records describe. Two that each repair what the other did would never end.
type owner struct {
	dir  record.Dir
	lock *os.File
}

// take makes this process the owner of a directory, unless another one is.
func (o *owner) take(dir record.Dir) (bool, error) {
	if o.lock != nil && o.dir == dir {
		return true, nil
	}
	if o.lock != nil {
		_ = o.lock.Close()
		o.lock = nil
	}
	if err := os.MkdirAll(string(dir), 0o755); err != nil { //nolint:gosec // dnsmasq reads below it; records are root's alone
		return false, err
	}
	f, err := os.OpenFile(filepath.Join(string(dir), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil { //nolint:gosec // a descriptor
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, err
	}
	o.dir, o.lock = dir, f
	return true, nil
}

// begin loads the records, and, as their owner, puts them in force and watches. Needs mu.
func (d *Driver) begin(ctx context.Context) error {
	mine, err := d.owner.take(d.dir)
	if err != nil {
		return failed("records", err)
	}
	state, err := d.dir.Load()
	if err != nil {
		return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%w", err).WithRemedy("a record is damaged: what it says stays in force; remove the file, and the agent says it anew")
	}
	d.state, d.inForce, d.owned = state, nil, mine
	d.look()
	d.neighbours(ctx)
	if !mine {
		d.Health.Set(sdk.Report{
			State: driverv1.HealthState_HEALTH_STATE_DEGRADED, Reason: "ANOTHER_PLUGIN",
			Message: "another bridge plugin works in " + string(d.dir) + ": only one can change networks; stop it, or give each its own runtime_directory and network namespace",
		})
		return nil
	}
	if err := d.restore(ctx); err != nil {
		d.unwell("RESTORE_FAILED", err)
	} else {
		d.well()
	}
	d.watch()
	return nil
}

// mine refuses a change when another process is the owner; when it no longer is, this one begins, and the caller comes again. Needs mu.
func (d *Driver) mine(ctx context.Context) error {
	if d.owned {
		return nil
	}
	if err := d.begin(ctx); err != nil {
		return err
	}
	if d.owned {
		return fault.New(metav1.Reason_REASON_BUSY, "the plugin has just taken over from another one").WithRemedy("retry soon")
	}
	return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "another bridge plugin works in %s", string(d.dir)).WithRemedy("stop it")
}
