package fakeapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1/operationv1connect"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

type operations struct {
	operationv1connect.UnimplementedOperationServiceHandler
	*Server
}

func (o operations) find(id string) (*operationv1.Operation, error) {
	for _, op := range o.Operations {
		if op.GetId() == id {
			return op, nil
		}
	}
	return nil, fault.New(metav1.Reason_REASON_NOT_FOUND, "there is no operation %q", id)
}

func (o operations) GetOperation(_ context.Context, req *connect.Request[operationv1.GetOperationRequest]) (*connect.Response[operationv1.GetOperationResponse], error) {
	o.Lock()
	defer o.Unlock()
	op, err := o.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operationv1.GetOperationResponse{Operation: proto.CloneOf(op)}), nil
}

func (o operations) ListOperations(_ context.Context, req *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error) {
	o.Lock()
	defer o.Unlock()
	resp := &operationv1.ListOperationsResponse{}
	for _, op := range slices.Backward(o.Operations) {
		if len(req.Msg.GetStates()) == 0 || slices.Contains(req.Msg.GetStates(), op.GetState()) {
			resp.Operations = append(resp.Operations, proto.CloneOf(op))
		}
	}
	return connect.NewResponse(resp), nil
}

func (o operations) WaitOperation(ctx context.Context, req *connect.Request[operationv1.WaitOperationRequest]) (*connect.Response[operationv1.WaitOperationResponse], error) {
	ctx, cancel := context.WithTimeout(ctx, req.Msg.GetTimeout().AsDuration())
	defer cancel()
	for {
		o.Lock()
		op, err := o.find(req.Msg.GetId())
		if err != nil {
			o.Unlock()
			return nil, err
		}
		now, ch := proto.CloneOf(op), o.changed
		o.Unlock()
		if now.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING || next(ctx, ch) != nil {
			return connect.NewResponse(&operationv1.WaitOperationResponse{Operation: now}), nil
		}
	}
}

func (o operations) CancelOperation(_ context.Context, req *connect.Request[operationv1.CancelOperationRequest]) (*connect.Response[operationv1.CancelOperationResponse], error) {
	o.Lock()
	defer o.Unlock()
	op, err := o.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	if op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		return nil, fault.New(metav1.Reason_REASON_OPERATION_ENDED, "operation %s has ended", op.GetId())
	}
	op.State, op.CancelRequested = operationv1.OperationState_OPERATION_STATE_CANCELLED, true
	o.touch()
	return connect.NewResponse(&operationv1.CancelOperationResponse{Operation: proto.CloneOf(op)}), nil
}

type nodes struct {
	computev1connect.UnimplementedNodeServiceHandler
	*Server
}

func (n nodes) ListOrphans(context.Context, *connect.Request[computev1.ListOrphansRequest]) (*connect.Response[computev1.ListOrphansResponse], error) {
	n.Lock()
	defer n.Unlock()
	return connect.NewResponse(&computev1.ListOrphansResponse{Orphans: n.Orphans}), nil
}

func (n nodes) AdoptOrphan(_ context.Context, req *connect.Request[computev1.AdoptOrphanRequest]) (*connect.Response[computev1.AdoptOrphanResponse], error) {
	return connect.NewResponse(&computev1.AdoptOrphanResponse{Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Id: req.Msg.GetObjectId(), Name: req.Msg.GetName()}}}), nil
}

func (n nodes) RemoveOrphan(_ context.Context, req *connect.Request[computev1.RemoveOrphanRequest]) (*connect.Response[computev1.RemoveOrphanResponse], error) {
	n.Lock()
	defer n.Unlock()
	i := slices.IndexFunc(n.Orphans, func(o *computev1.NodeOrphan) bool { return o.GetOrphan().GetObjectId() == req.Msg.GetObjectId() })
	if i < 0 || req.Msg.GetConfirm() != n.Orphans[i].GetConfirm() {
		return nil, fault.Invalid(fault.Violation{Field: "confirm", Description: "must be the name"})
	}
	o := n.Orphans[i]
	n.Orphans = slices.Delete(n.Orphans, i, i+1)
	return connect.NewResponse(&computev1.RemoveOrphanResponse{Orphan: o}), nil
}

func (n nodes) ExplainNode(_ context.Context, req *connect.Request[computev1.ExplainNodeRequest]) (*connect.Response[computev1.ExplainNodeResponse], error) {
	n.Lock()
	defer n.Unlock()
	if _, err := n.find(req.Msg.GetId()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&computev1.ExplainNodeResponse{Explanation: n.Why}), nil
}

func (n nodes) find(id string) (*computev1.Node, error) {
	for _, node := range n.Nodes {
		if node.GetMeta().GetId() == id || node.GetMeta().GetName() == id {
			return node, nil
		}
	}
	return nil, fault.New(metav1.Reason_REASON_NOT_FOUND, "there is no node %q", id)
}

func (n nodes) GetNode(_ context.Context, req *connect.Request[computev1.GetNodeRequest]) (*connect.Response[computev1.GetNodeResponse], error) {
	n.Lock()
	defer n.Unlock()
	node, err := n.find(req.Msg.GetId())
	return connect.NewResponse(&computev1.GetNodeResponse{Node: proto.CloneOf(node)}), err
}

func (n nodes) ListNodes(_ context.Context, req *connect.Request[computev1.ListNodesRequest]) (*connect.Response[computev1.ListNodesResponse], error) {
	n.Lock()
	defer n.Unlock()
	resp := &computev1.ListNodesResponse{}
	for _, node := range n.Nodes {
		if matches(node.GetMeta(), "", req.Msg.GetLabelSelector(), "") {
			resp.Nodes = append(resp.Nodes, proto.CloneOf(node))
		}
	}
	return connect.NewResponse(resp), nil
}

func (n nodes) cordon(id string, to bool) (*computev1.Node, error) {
	n.Lock()
	defer n.Unlock()
	node, err := n.find(id)
	if err != nil {
		return nil, err
	}
	node.Spec = &computev1.NodeSpec{Cordoned: to}
	return proto.CloneOf(node), nil
}

func (n nodes) CordonNode(_ context.Context, req *connect.Request[computev1.CordonNodeRequest]) (*connect.Response[computev1.CordonNodeResponse], error) {
	node, err := n.cordon(req.Msg.GetId(), true)
	return connect.NewResponse(&computev1.CordonNodeResponse{Node: node}), err
}

func (n nodes) UncordonNode(_ context.Context, req *connect.Request[computev1.UncordonNodeRequest]) (*connect.Response[computev1.UncordonNodeResponse], error) {
	node, err := n.cordon(req.Msg.GetId(), false)
	return connect.NewResponse(&computev1.UncordonNodeResponse{Node: node}), err
}

func (n nodes) DeleteNode(_ context.Context, req *connect.Request[computev1.DeleteNodeRequest]) (*connect.Response[computev1.DeleteNodeResponse], error) {
	n.Lock()
	defer n.Unlock()
	node, err := n.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	if node.GetStatus().GetVmCount() > 0 && !req.Msg.GetForce() {
		return nil, fault.New(metav1.Reason_REASON_NODE_IN_USE, "node %s still has %d VMs", node.GetMeta().GetName(), node.GetStatus().GetVmCount())
	}
	n.Nodes = slices.DeleteFunc(n.Nodes, func(o *computev1.Node) bool { return o == node })
	return connect.NewResponse(&computev1.DeleteNodeResponse{}), nil
}

func (n nodes) WatchNodes(ctx context.Context, _ *connect.Request[computev1.WatchNodesRequest], stream *connect.ServerStream[computev1.WatchNodesResponse]) error {
	n.Lock()
	var present []*computev1.Node
	for _, node := range n.Nodes {
		present = append(present, proto.CloneOf(node))
	}
	n.Unlock()
	for _, node := range present {
		if err := stream.Send(&computev1.WatchNodesResponse{Type: computev1.WatchEventType_WATCH_EVENT_TYPE_UPDATED, Node: node, Revision: 1}); err != nil {
			return err
		}
	}
	if err := stream.Send(&computev1.WatchNodesResponse{Type: computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK, Revision: 1}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (n nodes) CreateJoinToken(_ context.Context, req *connect.Request[computev1.CreateJoinTokenRequest]) (*connect.Response[computev1.CreateJoinTokenResponse], error) {
	n.Lock()
	defer n.Unlock()
	ttl := time.Hour
	if req.Msg.GetTtl() != nil {
		ttl = req.Msg.GetTtl().AsDuration()
	}
	t := &computev1.JoinToken{
		Id: fmt.Sprintf("token-%d", len(n.Tokens)+1), NodeName: req.Msg.GetNodeName(),
		CreateTime: timestamppb.New(Epoch), ExpireTime: timestamppb.New(Epoch.Add(ttl)),
	}
	n.Tokens = append(n.Tokens, t)
	return connect.NewResponse(&computev1.CreateJoinTokenResponse{JoinToken: t, Token: "secret-of-" + t.GetId()}), nil
}

func (n nodes) ListJoinTokens(context.Context, *connect.Request[computev1.ListJoinTokensRequest]) (*connect.Response[computev1.ListJoinTokensResponse], error) {
	n.Lock()
	defer n.Unlock()
	return connect.NewResponse(&computev1.ListJoinTokensResponse{JoinTokens: slices.Clone(n.Tokens)}), nil
}

func (n nodes) DeleteJoinToken(_ context.Context, req *connect.Request[computev1.DeleteJoinTokenRequest]) (*connect.Response[computev1.DeleteJoinTokenResponse], error) {
	n.Lock()
	defer n.Unlock()
	n.Tokens = slices.DeleteFunc(n.Tokens, func(t *computev1.JoinToken) bool { return t.GetId() == req.Msg.GetId() })
	return connect.NewResponse(&computev1.DeleteJoinTokenResponse{}), nil
}

type images struct {
	storagev1connect.UnimplementedImageServiceHandler
	*Server
}

func (i images) find(id string) (*storagev1.Image, error) {
	for _, img := range i.Images {
		if img.GetMeta().GetId() == id || img.GetMeta().GetName() == id {
			return img, nil
		}
	}
	return nil, fault.New(metav1.Reason_REASON_IMAGE_NOT_FOUND, "there is no image %q", id)
}

func (i images) UploadImage(_ context.Context, stream *connect.ClientStream[storagev1.UploadImageRequest]) (*connect.Response[storagev1.UploadImageResponse], error) {
	if !stream.Receive() {
		return nil, stream.Err()
	}
	h := stream.Msg().GetHeader()
	i.Lock()
	_, err := i.find(h.GetName())
	i.Unlock()
	if err == nil {
		return nil, fault.New(metav1.Reason_REASON_NAME_TAKEN, "the name %q is taken", h.GetName())
	}
	var content []byte
	for stream.Receive() {
		content = append(content, stream.Msg().GetData()...)
	}
	if stream.Err() != nil {
		return nil, stream.Err()
	}
	sum := sha256.Sum256(content)
	got := hex.EncodeToString(sum[:])
	if h.GetSha256() != "" && h.GetSha256() != got {
		return nil, fault.New(metav1.Reason_REASON_CHECKSUM_MISMATCH, "the content has SHA-256 %s", got)
	}
	i.Lock()
	defer i.Unlock()
	i.Content[h.GetName()] = content
	img := &storagev1.Image{
		Meta: newMeta(&metav1.ObjectMeta{Name: h.GetName(), ProjectId: h.GetProjectId(), Labels: h.GetLabels()}, fmt.Sprintf("image-%d", len(i.Images)+1)),
		Spec: &storagev1.ImageSpec{Format: h.GetFormat(), Sha256: h.GetSha256(), NodeIds: h.GetNodeIds()},
		Status: &storagev1.ImageStatus{
			Phase: storagev1.ImagePhase_IMAGE_PHASE_READY, Sha256: got, ContentBytes: int64(len(content)), VirtualSizeBytes: int64(len(content)),
			Copies: []*storagev1.ImageCopy{{PoolId: "local", NodeId: "node-1", Phase: storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY}},
		},
	}
	i.Images = append(i.Images, img)
	op := i.operate("UploadImage", "Image", img.GetMeta())
	i.touch()
	return connect.NewResponse(&storagev1.UploadImageResponse{Image: proto.CloneOf(img), Operation: proto.CloneOf(op)}), nil
}

func (i images) GetImage(_ context.Context, req *connect.Request[storagev1.GetImageRequest]) (*connect.Response[storagev1.GetImageResponse], error) {
	i.Lock()
	defer i.Unlock()
	img, err := i.find(req.Msg.GetId())
	return connect.NewResponse(&storagev1.GetImageResponse{Image: proto.CloneOf(img)}), err
}

func (i images) ListImages(context.Context, *connect.Request[storagev1.ListImagesRequest]) (*connect.Response[storagev1.ListImagesResponse], error) {
	i.Lock()
	defer i.Unlock()
	resp := &storagev1.ListImagesResponse{}
	for _, img := range i.Images {
		resp.Images = append(resp.Images, proto.CloneOf(img))
	}
	return connect.NewResponse(resp), nil
}

func (i images) DeleteImage(_ context.Context, req *connect.Request[storagev1.DeleteImageRequest]) (*connect.Response[storagev1.DeleteImageResponse], error) {
	i.Lock()
	defer i.Unlock()
	img, err := i.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	i.Images = slices.DeleteFunc(i.Images, func(o *storagev1.Image) bool { return o == img })
	op := i.operate("DeleteImage", "Image", img.GetMeta())
	return connect.NewResponse(&storagev1.DeleteImageResponse{Image: proto.CloneOf(img), Operation: proto.CloneOf(op)}), nil
}
