package image

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/placement"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

const readyNode = int32(computev1.NodePhase_NODE_PHASE_READY)

// upload is one upload under way.
type upload struct {
	s      *Service
	header *storagev1.UploadImageHeader
	id     string
	image  *storagev1.Image
	op     *operationv1.Operation
	copies []*carrier
	count  *counter
	shared bool // the pool is one place for several nodes
}

// executors are the nodes that answer for copies in shared pools.
func (u *upload) executors() map[string]*statev1.Executor {
	if !u.shared {
		return nil
	}
	return map[string]*statev1.Executor{u.image.GetSpec().GetPoolId(): {NodeId: u.copies[0].node.ID, Epoch: 1}}
}

// carrier brings the content to one node.
type carrier struct {
	node   *state.Row
	tunnel seam.Tunnel
	result *agentv1.ImageCopyReport
	err    error
}

func uploadCall(h *storagev1.UploadImageHeader) request.Call {
	return request.Call{Method: storagev1connect.ImageServiceUploadImageProcedure, Body: h, RequestID: h.GetRequestId()}
}

// newUpload is an upload to nodes of which nothing is stored yet.
func (s *Service) newUpload(h *storagev1.UploadImageHeader, to targets) *upload {
	u := &upload{s: s, header: h, id: domain.NewID(s.cfg.Now()), count: newCounter(h), shared: to.shared}
	img := &storagev1.Image{
		Meta: domain.NewMeta(u.id, h.GetName(), h.GetProjectId(), h.GetLabels(), h.GetAnnotations()),
		Spec: &storagev1.ImageSpec{
			Format: h.GetFormat(), Sha256: h.GetSha256(), ContentBytes: h.GetContentBytes(), NodeIds: h.GetNodeIds(), Aliases: h.GetAliases(),
		},
	}
	s.fill(img, to, storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_IMPORTING)
	for _, n := range to.nodes {
		u.copies = append(u.copies, &carrier{node: n})
	}
	u.op, u.image = s.newOperation(domain.VerbUploadImage, img), img
	return u
}

// begin takes the names and writes the image as IMPORTING, with its operation.
func (u *upload) begin(ctx context.Context) error {
	_, err := request.Do(ctx, u.s.cfg.Runner, request.Call{Method: storagev1connect.ImageServiceUploadImageProcedure, Body: u.header},
		func(context.Context) (*request.Plan[*storagev1.UploadImageResponse], error) {
			return u.s.planBegin(u.image, u.op, u.executors())
		})
	return err
}

func (s *Service) planBegin(img *storagev1.Image, op *operationv1.Operation, executors map[string]*statev1.Executor) (*request.Plan[*storagev1.UploadImageResponse], error) {
	txn, err := s.begin(img, op, executors)
	return &request.Plan[*storagev1.UploadImageResponse]{
		Txn: txn, Response: &storagev1.UploadImageResponse{Image: proto.CloneOf(img), Operation: op},
	}, err
}

// begin writes a new image under its names, with its operation.
func (s *Service) begin(img *storagev1.Image, op *operationv1.Operation, executors map[string]*statev1.Executor) (store.Txn, error) {
	var w state.Writer
	for _, name := range append([]string{img.GetMeta().GetName()}, img.GetSpec().GetAliases()...) {
		if err := s.takeName(&w, img, name); err != nil {
			return store.Txn{}, err
		}
	}
	w.Put(state.Key(state.KindImage, img.GetMeta().GetId()), &statev1.ImageRecord{SchemaVersion: 1, Image: img, Executors: executors, OperationId: op.GetId()})
	w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
	txn, err := w.Txn()
	return txn, request.Fault(err)
}

// takeName makes a name an image's; one that is taken is refused.
func (s *Service) takeName(w *state.Writer, img *storagev1.Image, name string) error {
	project := img.GetMeta().GetProjectId()
	key := state.NameKey(project, state.KindImage, name)
	if s.cfg.Cache.ByName(project, state.KindImage, name) != "" {
		return fault.New(metav1.Reason_REASON_NAME_TAKEN, "an image named %q exists in project %q", name, project).WithRemedy("choose another name, or delete that image")
	}
	w.Require(store.KeyAbsent(key))
	w.PutText(key, img.GetMeta().GetId())
	return nil
}

// carry brings the stream to every node. A node that fails drops out; the rest goes on.
func (u *upload) carry(ctx context.Context, stream uploadStream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // what is not ended well by then breaks, and the nodes undo it
	tunnels := u.s.cfg.Tunnels()
	if tunnels == nil {
		return fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "this controller has no tunnels to nodes")
	}
	u.each(func(c *carrier) {
		c.tunnel, c.err = tunnels.Open(ctx, c.node.ID, &agentv1.OpenTunnel{Purpose: &agentv1.OpenTunnel_ImageUpload{
			ImageUpload: &agentv1.ImageUploadTunnel{Image: proto.CloneOf(u.image), PoolId: u.image.GetSpec().GetPoolId(), Epoch: 1, SharedPool: u.shared},
		}})
	})
	defer func() {
		for _, c := range u.copies {
			if c.tunnel != nil {
				c.tunnel.Close()
			}
		}
	}()
	if err := u.verdict(); err != nil {
		return err
	}
	err := parts(stream, func(data []byte) error {
		if err := u.count.add(data); err != nil {
			return err
		}
		u.each(func(c *carrier) { c.err = c.tunnel.Send(data) })
		return u.verdict()
	})
	if err == nil {
		err = u.count.end()
	}
	if err != nil {
		return err
	}
	u.each(func(c *carrier) {
		if c.err = c.tunnel.CloseSend(); c.err != nil {
			return
		}
		for c.err == nil {
			_, c.err = c.tunnel.Recv()
		}
		if errors.Is(c.err, io.EOF) {
			c.result, c.err = c.tunnel.Result(), nil
			if !c.result.GetReady() {
				c.err = fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "node %s did not keep the content: %s", c.node.Name, c.result.GetMessage())
			}
		}
	})
	return u.verdict()
}

// each does something for every node that has not failed, at once.
func (u *upload) each(do func(*carrier)) {
	var all sync.WaitGroup
	for _, c := range u.copies {
		if c.err == nil {
			all.Go(func() { do(c) })
		}
	}
	all.Wait()
}

// verdict is nil while a node is left; otherwise the first failure.
func (u *upload) verdict() error {
	var first error
	left := false
	for _, c := range u.copies {
		c.explain()
		left = left || c.err == nil
		if first == nil {
			first = c.err
		}
	}
	if left {
		return nil
	}
	return request.Fault(first)
}

// explain finds out why a tunnel broke: its receiving side knows.
func (c *carrier) explain() {
	if c.tunnel == nil || !errors.Is(c.err, io.EOF) {
		return
	}
	if _, err := c.tunnel.Recv(); err != nil && !errors.Is(err, io.EOF) {
		c.err = err
		return
	}
	c.err = fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "node %s ended the upload early", c.node.Name)
}

// finish writes down what became of each copy, remembers the answer, and ends the operation.
func (u *upload) finish(ctx context.Context) (*storagev1.UploadImageResponse, error) {
	return request.Do(ctx, u.s.cfg.Runner, uploadCall(u.header), func(context.Context) (*request.Plan[*storagev1.UploadImageResponse], error) {
		row, opRow := u.s.cfg.Cache.Row(state.KindImage, u.id), u.s.cfg.Cache.Row(state.KindOperation, u.op.GetId())
		if row == nil || row.Deleting || opRow == nil {
			return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "image %s was deleted while it was being uploaded", u.header.GetName())
		}
		rec, op := row.Image(), opRow.Operation()
		outcome := u.settle(rec.GetImage())
		domain.EndOperation(op.Operation, outcome, u.s.cfg.Now())
		var w state.Writer
		w.Same(row)
		w.Same(opRow)
		w.Put(state.Key(state.KindImage, u.id), rec)
		w.Put(state.Key(state.KindOperation, u.op.GetId()), op)
		txn, err := w.Txn()
		return &request.Plan[*storagev1.UploadImageResponse]{
			Txn: txn, ObjectID: u.id, OperationID: u.op.GetId(),
			Response: &storagev1.UploadImageResponse{Image: proto.CloneOf(rec.GetImage()), Operation: op.GetOperation()},
		}, request.Fault(err)
	})
}

func (u *upload) settle(img *storagev1.Image) domain.Outcome {
	now := timestamppb.New(u.s.cfg.Now())
	img.Status.Sha256, img.Status.ContentBytes = u.count.hex(), u.count.bytes
	img.Status.ObservedGeneration = img.GetMeta().GetGeneration()
	var failed []string
	reason := ""
	for i, c := range u.copies {
		cp := img.Status.Copies[i]
		cp.TransitionTime = now
		if c.err != nil {
			f := fault.From(c.err)
			reason = fault.ReasonName(f.Reason)
			cp.Phase, cp.Reason, cp.Message = storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_FAILED, reason, f.Error()
			failed = append(failed, c.node.Name+": "+f.Error())
			continue
		}
		cp.Phase, cp.StoredBytes = storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY, c.result.GetContentBytes()
		img.Status.VirtualSizeBytes = c.result.GetVirtualSizeBytes()
	}
	domain.SettleImage(img)
	if len(failed) == 0 {
		return domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_DONE}
	}
	return domain.Outcome{
		State: operationv1.OperationState_OPERATION_STATE_FAILED, Reason: reason, Message: "not every copy is complete: " + strings.Join(failed, "; "),
	}
}

// undo deletes the image; the nodes remove what they may have of it.
func (u *upload) undo(ctx context.Context) error {
	_, err := request.Do(ctx, u.s.cfg.Runner, request.Call{Method: "undo of an upload", Body: u.header},
		func(context.Context) (*request.Plan[*storagev1.UploadImageResponse], error) {
			plan := &request.Plan[*storagev1.UploadImageResponse]{Response: &storagev1.UploadImageResponse{}}
			row := u.s.cfg.Cache.Row(state.KindImage, u.id)
			if row == nil || row.Deleting {
				return plan, nil
			}
			var w state.Writer
			w.Same(row)
			placement.MarkImage(&w, row.Image(), u.s.cfg.Now())
			var err error
			plan.Txn, err = w.Txn()
			return plan, request.Fault(err)
		})
	return err
}
