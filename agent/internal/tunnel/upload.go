package tunnel

import (
	"context"
	"errors"
	"io"

	"github.com/limiquantix/limiquantix/agent/internal/reconcile"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// upload pipes what the controller sends into the pool. The driver checks it; nothing is left of what was not whole.
func (t *Tunnels) upload(ctx context.Context, s *stream, u *agentv1.ImageUploadTunnel) (*agentv1.ImageCopyReport, error) {
	driver, err := t.node.Pool(ctx, u.GetPoolId())
	if err != nil {
		return nil, err
	}
	ctx, done, err := t.node.Within(ctx, driver, u.GetPoolId(), "ImportImage")
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	imp, err := t.plugins.Storage(driver).ImportImage(ctx)
	if err != nil {
		return nil, err
	}
	meta, spec := u.GetImage().GetMeta(), u.GetImage().GetSpec()
	mark := t.node.Mark(meta.GetId(), meta.GetGeneration(), u.GetEpoch())
	if u.GetSharedPool() {
		mark.NodeId = "" // the cluster's
	}
	err = imp.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Header{Header: &driverv1.ImportImageHeader{
		PoolId: u.GetPoolId(), ImageId: meta.GetId(), Mark: mark,
		Format: driverv1.VolumeFormat(spec.GetFormat()), Sha256: spec.GetSha256(), ContentBytes: spec.GetContentBytes(),
	}}})
	if err == nil {
		err = fromController(ctx, s, func(b []byte) error {
			return imp.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: b}})
		})
	}
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: the driver has answered already, well or not
		cancel()
		return nil, fault.From(err)
	}
	r, err := imp.CloseAndRecv()
	if err != nil {
		return nil, fault.From(err)
	}
	t.node.Stored(r.GetImage())
	return reconcile.CopyReport(r.GetImage()), nil
}
