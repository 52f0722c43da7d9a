package failpoint_test

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// actOrphan puts a domain with our mark on the host that no VM knows: it cannot be adopted, since nobody knows what it was wanted as, and is removed.
func actOrphan(ctx context.Context, r *rig) error {
	model, err := r.create(ctx, machine(r.name("vm")))
	if err != nil {
		return err
	}
	orphan := fmt.Sprintf("00000000-0000-4000-8000-%012d", r.serial)
	err = r.whileAgentIsDown(ctx, syscall.SIGTERM, func() error {
		return editJournal(filepath.Join(r.dir, "journal", "j"), func(j journal) error {
			d := &driverv1.Domain{}
			if err := proto.Unmarshal(j["domain"][model], d); err != nil {
				return err
			}
			d.DomainId, d.Mark.ObjectId = orphan, orphan
			b, err := proto.Marshal(d)
			j["domain"][orphan], j["domain-spec"][orphan] = b, j["domain-spec"][model]
			return err
		})
	})
	if err != nil {
		return err
	}
	list := func(ctx context.Context) ([]*computev1.NodeOrphan, error) {
		m, err := r.nodes.ListOrphans(ctx, connect.NewRequest(&computev1.ListOrphansRequest{}))
		if err != nil {
			return nil, err
		}
		return m.Msg.GetOrphans(), nil
	}
	var confirm string
	err = r.until(ctx, "the orphan is listed", func() (bool, string) {
		orphans, err := list(ctx)
		for _, o := range orphans {
			confirm = o.GetConfirm()
		}
		return err == nil && len(orphans) == 1, fmt.Sprint(orphans, err)
	})
	if err != nil {
		return err
	}
	_, err = call(ctx, r, r.nodes.AdoptOrphan, &computev1.AdoptOrphanRequest{NodeId: nodeName, ObjectId: orphan, RequestId: r.name("adopt")})
	if reasonOf(err) != "WRONG_STATE" {
		return fmt.Errorf("adoption of what nobody knows: %w", err)
	}
	_, err = call(ctx, r, r.nodes.RemoveOrphan, &computev1.RemoveOrphanRequest{NodeId: nodeName, ObjectId: orphan, Confirm: confirm, RequestId: r.name("remove")})
	if err != nil && !isNotFound(err) {
		return err
	}
	err = r.until(ctx, "the orphan is gone", func() (bool, string) {
		orphans, err := list(ctx)
		return err == nil && len(orphans) == 0, fmt.Sprint(orphans, err)
	})
	if err != nil {
		return err
	}
	return r.remove(ctx, model)
}
