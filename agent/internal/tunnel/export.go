package tunnel

import (
	"context"
	"errors"
	"io"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// export sends content of a pool to the controller. Nothing is kept of it here.
func (t *Tunnels) export(ctx context.Context, s *stream, x *agentv1.ExportTunnel) error {
	driver, err := t.node.Pool(ctx, x.GetPoolId())
	if err != nil {
		return err
	}
	ctx, done, err := t.node.Within(ctx, driver, x.GetPoolId(), "ExportVolume")
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req := &driverv1.ExportVolumeRequest{PoolId: x.GetPoolId(), Offset: x.GetOffset()}
	switch sub := x.GetSubject().(type) {
	case *agentv1.ExportTunnel_VolumeId:
		req.Subject = &driverv1.ExportVolumeRequest_VolumeId{VolumeId: sub.VolumeId}
	case *agentv1.ExportTunnel_SnapshotId:
		req.Subject = &driverv1.ExportVolumeRequest_SnapshotId{SnapshotId: sub.SnapshotId}
	case *agentv1.ExportTunnel_ImageId:
		req.Subject = &driverv1.ExportVolumeRequest_ImageId{ImageId: sub.ImageId}
	}
	out, err := t.plugins.Storage(driver).ExportVolume(ctx, req)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	t.wg.Go(func() {
		ended <- fromController(ctx, s, func([]byte) error { return nil })
		cancel() // whoever reads has gone
	})
	for {
		m, err := out.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			select {
			case endErr := <-ended:
				return errors.Join(endErr, ctx.Err())
			default:
			}
			return fault.From(err)
		}
		if err := s.send(&agentv1.TunnelRequest{Message: &agentv1.TunnelRequest_Data{Data: m.GetData()}, Offset: m.GetOffset(), HoleBytes: m.GetHoleBytes()}); err != nil {
			return err
		}
	}
}
