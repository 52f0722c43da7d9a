package failpoint_test

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// change alters an object of the backend by hand, as somebody on the host may.
func change[M proto.Message](r *rig, table, key string, m M, f func(M)) error {
	return editJournal(filepath.Join(r.dir, "journal", "j"), func(j journal) error {
		if err := proto.Unmarshal(j[table][key], m); err != nil {
			return err
		}
		f(m)
		b, err := proto.Marshal(m)
		j[table][key] = b
		return err
	})
}

// actGuestAgent lets a guest's agent connect.
func actGuestAgent(ctx context.Context, r *rig) error {
	id, err := r.create(ctx, machine(r.name("vm")))
	if err != nil {
		return err
	}
	err = r.whileAgentIsDown(ctx, syscall.SIGTERM, func() error {
		return change(r, "domain", id, &driverv1.Domain{}, func(d *driverv1.Domain) { d.GuestAgentConnected = true })
	})
	if err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	return r.remove(ctx, id)
}

// actShrunk makes a volume smaller than it was asked for, before it is attached: its VM waits for the other disk's image.
func actShrunk(ctx context.Context, r *rig) error {
	id, err := r.create(ctx, machine(r.name("vm"), disk("data", "", diskSize)))
	if err != nil {
		return err
	}
	got, err := call(ctx, r, r.vms.GetVM, &computev1.GetVMRequest{Id: id})
	if err != nil {
		return err
	}
	volume := got.GetVm().GetStatus().GetDisks()[0].GetVolumeId()
	j, err := r.journal()
	if err != nil {
		return err
	}
	err = r.whileAgentIsDown(ctx, syscall.SIGTERM, func() error {
		for key := range j["volume"] {
			if filepath.Base(key) == volume {
				return change(r, "volume", key, &driverv1.Volume{}, func(v *driverv1.Volume) { v.SizeBytes, v.Attached = 1<<20, false })
			}
		}
		return fmt.Errorf("volume %s is not in the journal", volume)
	})
	if err != nil {
		return err
	}
	err = r.until(ctx, "the volume is as large as it was asked for", func() (bool, string) {
		j, err := r.journal()
		for key := range j["volume"] {
			v := &driverv1.Volume{}
			if filepath.Base(key) == volume && proto.Unmarshal(j["volume"][key], v) == nil && v.GetSizeBytes() == diskSize {
				return true, ""
			}
		}
		return false, fmt.Sprint(err)
	})
	if err != nil {
		return err
	}
	return r.remove(ctx, id)
}
