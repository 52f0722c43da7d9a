package failpoint_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// oneCall bounds one try of a call.
const oneCall = 10 * time.Second

// call makes a call and, as a client should, makes it again with the same request id while the answer says that it may have been lost.
func call[Req, Resp any](ctx context.Context, r *rig, do func(context.Context, *connect.Request[Req]) (*connect.Response[Resp], error), m *Req) (*Resp, error) {
	var out *Resp
	var final error
	err := r.until(ctx, fmt.Sprintf("an answer to %T", m), func() (bool, string) {
		once, cancel := context.WithTimeout(ctx, oneCall)
		defer cancel()
		resp, err := do(once, connect.NewRequest(m))
		if err == nil {
			out = resp.Msg
			return true, ""
		}
		if again(err) {
			return false, err.Error()
		}
		final = err
		return true, err.Error()
	})
	return out, errors.Join(final, err)
}

// again reports whether an error says nothing about the call itself.
func again(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeAborted, connect.CodeDeadlineExceeded, connect.CodeCanceled:
		return true
	case connect.CodeUnknown, connect.CodeInternal: // the connection broke, perhaps in the middle of the answer
		var wire *connect.Error
		return !errors.As(err, &wire) || !connect.IsWireError(err)
	case connect.CodeFailedPrecondition:
		return reasonOf(err) == "NOT_LEADER"
	}
	return false
}

func isNotFound(err error) bool { return connect.CodeOf(err) == connect.CodeNotFound }

func (r *rig) joinToken(ctx context.Context, node string, ttl time.Duration) (string, error) {
	m, err := call(ctx, r, r.nodes.CreateJoinToken, &computev1.CreateJoinTokenRequest{NodeName: node, Ttl: durationpb.New(ttl)})
	return m.GetToken(), err
}

// nodeReady waits until each node is ready with the plugin that runs now; what an earlier agent said does not count.
func (r *rig) nodeReady(ctx context.Context) error {
	return r.until(ctx, "the nodes are ready", func() (bool, string) {
		for name, agent := range r.agents {
			m, err := r.nodes.GetNode(ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: name}))
			if err != nil {
				return false, err.Error()
			}
			st := m.Msg.GetNode().GetStatus()
			healthy := len(st.GetDrivers()) == 1 && st.GetDrivers()[0].GetState() == "healthy" && agent.isParent(st.GetDrivers()[0].GetPid())
			if st.GetPhase() != computev1.NodePhase_NODE_PHASE_READY || !healthy {
				return false, st.String()
			}
		}
		return true, ""
	})
}

// vm waits until a VM is in a phase and what was asked for is realised.
func (r *rig) vm(ctx context.Context, id string, phase computev1.VMPhase) error {
	return r.until(ctx, fmt.Sprintf("vm %s is %s", id, phase), func() (bool, string) {
		m, err := r.vms.GetVM(ctx, connect.NewRequest(&computev1.GetVMRequest{Id: id}))
		if err != nil {
			return false, err.Error()
		}
		vm := m.Msg.GetVm()
		st := vm.GetStatus()
		return st.GetPhase() == phase && st.GetObservedGeneration() == vm.GetMeta().GetGeneration() &&
			st.GetObservedRestartGeneration() == vm.GetSpec().GetRestartGeneration(), vm.String()
	})
}

// gone waits until a VM is no more.
func (r *rig) gone(ctx context.Context, id string) error {
	return r.until(ctx, "vm "+id+" is gone", func() (bool, string) {
		m, err := r.vms.GetVM(ctx, connect.NewRequest(&computev1.GetVMRequest{Id: id}))
		return isNotFound(err), fmt.Sprint(m, err)
	})
}

// ended waits until an operation has ended and returns how.
func (r *rig) ended(ctx context.Context, op *operationv1.Operation) (operationv1.OperationState, error) {
	state := op.GetState()
	err := r.until(ctx, "operation "+op.GetVerb()+" ends", func() (bool, string) {
		m, err := r.ops.GetOperation(ctx, connect.NewRequest(&operationv1.GetOperationRequest{Id: op.GetId()}))
		if err != nil {
			return isNotFound(err), err.Error() // it was so long ago that it is forgotten
		}
		state = m.Msg.GetOperation().GetState()
		return state != operationv1.OperationState_OPERATION_STATE_RUNNING, m.Msg.String()
	})
	return state, err
}

// upload brings an image, and brings it again under the same request id until it is told that it is there.
func (r *rig) upload(ctx context.Context, name, requestID string, content []byte) (*storagev1.Image, error) {
	var img *storagev1.Image
	var final error
	err := r.until(ctx, "there is a pool", func() (bool, string) { // a cluster that has just begun gets it from its leader
		_, err := r.pools.GetStoragePool(ctx, connect.NewRequest(&storagev1.GetStoragePoolRequest{Id: "local"}))
		return err == nil, fmt.Sprint(err)
	})
	if err != nil {
		return nil, err
	}
	err = r.until(ctx, "image "+name+" is uploaded", func() (bool, string) {
		once, cancel := context.WithTimeout(ctx, oneCall)
		defer cancel()
		s := r.images.UploadImage(once)
		_ = s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Header{Header: &storagev1.UploadImageHeader{
			Name: name, Format: storagev1.ImageFormat_IMAGE_FORMAT_RAW, ContentBytes: int64(len(content)), RequestId: requestID,
		}}}) // what went wrong is in the answer
		_ = s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Data{Data: content}})
		m, err := s.CloseAndReceive()
		if err == nil {
			img = m.Msg.GetImage()
			return true, ""
		}
		// The name is taken while what is left of the last try is being removed; a node that was just started has no tunnel yet.
		if again(err) || reasonOf(err) == "NAME_TAKEN" || reasonOf(err) == "NODE_UNREACHABLE" || reasonOf(err) == "NO_TARGET" {
			return false, err.Error()
		}
		final = err
		return true, err.Error()
	})
	return img, errors.Join(final, err)
}
