package reconcile

import (
	"context"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// pastFenced makes a call on a volume that may still be attached by nodes that an operator declared off. Only when the driver says that it is in use is
// the call made again, with one of those nodes after the other; a node that is not among them keeps what it has.
func pastFenced(fenced []string, call func(fenced string) error) error {
	err := call("")
	for _, node := range fenced {
		if !fault.Is(err, metav1.Reason_REASON_VOLUME_IN_USE) {
			break
		}
		err = call(node)
	}
	return err
}

// endFenced ends what fenced nodes have attached of a volume on which the driver refused to work, by attaching it here. It stays attached if a VM of this node has it.
// False: nothing was ended.
func (e *Engine) endFenced(ctx context.Context, driver string, d *agentv1.DesiredVolume, keep bool) bool {
	vol := d.GetVolume()
	pool, id := vol.GetSpec().GetPoolId(), vol.GetMeta().GetId()
	if len(d.GetFencedNodeIds()) == 0 {
		return false
	}
	c := e.plugins.Storage(driver)
	err := pastFenced(d.GetFencedNodeIds(), func(fenced string) error {
		return e.poolCall(ctx, driver, pool, "AttachVolume", usualCall, func(ctx context.Context) error {
			_, err := c.AttachVolume(ctx, &driverv1.AttachVolumeRequest{PoolId: pool, VolumeId: id, Shared: vol.GetSpec().GetShared(), FencedNodeId: fenced})
			return err
		})
	})
	if err != nil {
		return false
	}
	return keep || e.poolCall(ctx, driver, pool, "DetachVolume", usualCall, func(ctx context.Context) error {
		_, err := c.DetachVolume(ctx, &driverv1.DetachVolumeRequest{PoolId: pool, VolumeId: id})
		return err
	}) == nil
}

// freeOfFenced is endFenced for a volume that nobody holds.
func (e *Engine) freeOfFenced(ctx context.Context, d *agentv1.DesiredVolume) bool {
	driver, err := e.poolReady(d.GetVolume().GetSpec().GetPoolId())
	if err != nil || len(d.GetFencedNodeIds()) == 0 {
		return false
	}
	release, user, err := e.holdVolume(d.GetVolume().GetMeta().GetId(), false, volumeKey(d.GetVolume().GetMeta().GetId()))
	if err != nil {
		return false
	}
	defer release()
	return e.endFenced(ctx, driver, d, user != nil)
}

// wantedVolume is what is wanted of a volume; nil = nothing.
func (e *Engine) wantedVolume(id string) *agentv1.DesiredVolume {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wants[realised.Key{Kind: realised.KindVolume, ID: id}].object().GetVolume()
}
