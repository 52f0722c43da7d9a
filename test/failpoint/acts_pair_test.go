package failpoint_test

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// onFirst has something chosen for the first of two nodes, by cordoning the other.
func (r *rig) onFirst(ctx context.Context, do func() error) error {
	if _, err := call(ctx, r, r.nodes.CordonNode, &computev1.CordonNodeRequest{Id: secondName, RequestId: r.name("cordon")}); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	_, err := call(ctx, r, r.nodes.UncordonNode, &computev1.UncordonNodeRequest{Id: secondName, RequestId: r.name("uncordon")})
	return err
}

// leave deletes the first node, for good.
func (r *rig) leave(ctx context.Context, force bool) error {
	delete(r.agents, nodeName)
	_, err := call(ctx, r, r.nodes.DeleteNode, &computev1.DeleteNodeRequest{Id: nodeName, Force: force, RequestId: r.name("delete")})
	if err != nil && !isNotFound(err) {
		return err
	}
	return r.until(ctx, "the node is gone", func() (bool, string) {
		m, err := r.nodes.GetNode(ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: nodeName}))
		return isNotFound(err), fmt.Sprint(m, err)
	})
}

// actExecutorLost kills the agent of the node that acts for a volume in a shared pool: the other one goes on after its lease. It comes back, and leaves.
func actExecutorLost(ctx context.Context, r *rig) error {
	if err := r.up(ctx); err != nil {
		return err
	}
	o := &order{ctx: ctx, r: r}
	var kept, gone, snap string
	err := r.onFirst(ctx, func() error {
		kept, gone = o.volume(&storagev1.VolumeSpec{SizeBytes: diskSize}), o.volume(&storagev1.VolumeSpec{SizeBytes: diskSize})
		snap = o.snapshot(kept)
		return o.err
	})
	if err != nil {
		return err
	}
	err = r.whileAgentIsDown(ctx, syscall.SIGKILL, func() error {
		o.dropSnapshot(snap)
		ask(o, r.volumes.ResizeVolume, &storagev1.ResizeVolumeRequest{Id: kept, SizeBytes: 2 * diskSize, RequestId: r.name("resize")})
		o.dropVolume(gone)
		return o.err
	})
	if err != nil {
		return err
	}
	o.dropVolume(kept)
	if o.err != nil {
		return o.err
	}
	if err := r.agent.stop(syscall.SIGTERM); err != nil {
		return err
	}
	return r.leave(ctx, false)
}

// actFencedUser declares a node off that has volumes of a shared pool attached: what they are still needed for is done elsewhere.
func actFencedUser(ctx context.Context, r *rig) error {
	if err := r.up(ctx); err != nil {
		return err
	}
	o := &order{ctx: ctx, r: r}
	var vms, volumes [3]string
	err := r.onFirst(ctx, func() error {
		for i := range vms {
			vms[i], volumes[i] = o.runningWith()
		}
		return o.err
	})
	if err != nil {
		return err
	}
	if err := r.agent.stop(syscall.SIGKILL); err != nil {
		return err
	}
	err = editJournal(filepath.Join(r.dir, "journal", "j"), func(j journal) error { // its host is off
		for _, vm := range vms {
			delete(j["domain"], vm)
			delete(j["domain-spec"], vm)
			delete(j["console"], vm)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, vm := range vms[:2] { // they shall go, wherever they are
		if _, err := call(ctx, r, r.vms.DeleteVM, &computev1.DeleteVMRequest{Id: vm, RequestId: r.name("delete")}); err != nil {
			return err
		}
	}
	if err := r.leave(ctx, true); err != nil {
		return err
	}
	for _, vm := range vms[:2] {
		if err := r.gone(ctx, vm); err != nil {
			return err
		}
	}
	o.dropVolume(volumes[0])
	o.dropSnapshot(o.snapshot(volumes[1]))
	o.dropVolume(volumes[1])
	if o.err != nil {
		return o.err
	}
	if err := r.vm(ctx, vms[2], computev1.VMPhase_VM_PHASE_RUNNING); err != nil { // on the other node
		return err
	}
	o.opens(vms[2], o.id(volumes[2]))
	return o.ends(vms[2], volumes[2])
}
