// Package follow waits for what was asked of a controller to become so, and shows how far it is.
package follow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/progress"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

const (
	// turn is how long one WaitOperation asks the controller to wait. Other objects than VMs show their progress only at its end.
	turn, shortTurn = 30 * time.Second, 2 * time.Second
	// patience is how long a wait goes on while the controller cannot be reached.
	patience = 2 * time.Minute
)

// Ended reports whether an operation has.
func Ended(op *operationv1.Operation) bool {
	return op == nil || op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING &&
		op.GetState() != operationv1.OperationState_OPERATION_STATE_UNSPECIFIED
}

// Operation waits for the end of an operation. It returns the operation as last seen, and an error unless it ended DONE: a *failure.Error that names
// the operation where that goes on.
func Operation(ctx context.Context, c *api.Client, op *operationv1.Operation, rep progress.Reporter) (*operationv1.Operation, error) {
	if Ended(op) {
		return op, Verdict(op)
	}
	w := &waiter{c: c, op: op, rep: rep}
	watchCtx, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	if op.GetObjectKind() == "VM" {
		watch.Go(func() { w.watchVM(watchCtx) })
	}
	err := w.wait(ctx)
	stop()
	watch.Wait()
	if err != nil {
		return w.op, w.detached(ctx, err)
	}
	return w.op, Verdict(w.op)
}

type waiter struct {
	c   *api.Client
	op  *operationv1.Operation
	rep progress.Reporter

	mu     sync.Mutex
	reason string // why it is not so yet, as last heard
}

func (w *waiter) wait(ctx context.Context) error {
	var lostSince time.Time
	for {
		long := turn
		if w.op.GetObjectKind() != "VM" {
			long = shortTurn
		}
		call, cancel := context.WithTimeout(ctx, long+15*time.Second)
		resp, err := w.c.Operations.WaitOperation(call, connect.NewRequest(&operationv1.WaitOperationRequest{
			Id: w.op.GetId(), Timeout: durationpb.New(long),
		}))
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			lostSince = time.Time{}
			w.op = resp.Msg.GetOperation()
			if Ended(w.op) {
				return nil
			}
			if r := w.op.GetReason(); r != "" {
				w.heard(r)
			}
			if w.op.GetObjectKind() != "VM" {
				w.rep.Update(describe(w.op))
			}
		case failure.IsCode(err, codes.Unavailable) || failure.IsCode(err, codes.DeadlineExceeded):
			if lostSince.IsZero() {
				lostSince = time.Now()
			}
			if time.Since(lostSince) > patience {
				return err
			}
			w.rep.Update(w.op.GetObjectName() + ": the controller cannot be reached; trying again")
			if !sleep(ctx, time.Second) {
				return ctx.Err()
			}
		default:
			return err
		}
	}
}

// watchVM shows the VM's phases as they change. Its failure is none: the wait itself goes another way.
func (w *waiter) watchVM(ctx context.Context) {
	_ = w.c.WatchVMs(ctx, &computev1.WatchVMsRequest{Id: w.op.GetObjectId()}, func(e *computev1.WatchVMsResponse) error {
		if e.GetType() == computev1.WatchEventType_WATCH_EVENT_TYPE_UPDATED {
			w.heard(e.GetVm().GetStatus().GetReason())
			w.rep.Update(VMLine(e.GetVm()))
		}
		return nil
	})
}

func (w *waiter) heard(reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reason = reason
}

// detached says that the wait ended before the operation did.
func (w *waiter) detached(ctx context.Context, err error) error {
	id := w.op.GetId()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		e := failure.New(failure.ExitUnavailable, failure.ReasonTimeout, "%s of %s is not done yet; operation %s goes on", w.op.GetVerb(), w.op.GetObjectName(), id)
		e = e.WithFix("lqctl op wait %s; or lqctl op cancel %s to undo", id, id)
		if w.reason == "UNSCHEDULABLE" {
			e.Exit, e.Reason = failure.ExitExhausted, w.reason
			e = e.WithFix("lqctl vm explain %s says what is missing; operation %s goes on", w.op.GetObjectName(), id)
		}
		e.Operation = id
		return e
	case ctx.Err() != nil:
		e := failure.New(failure.ExitInterrupted, failure.ReasonDetached, "detached; operation %s goes on", id).
			WithFix("lqctl op wait %s to follow it again; lqctl op cancel %s to undo", id, id)
		e.Operation = id
		return e
	}
	e := failure.From(err)
	e.Message = fmt.Sprintf("lost sight of operation %s: %s", id, e.Message)
	e.Operation = id
	return e
}

// Verdict is nil for an operation that ended DONE, else why not.
func Verdict(op *operationv1.Operation) error {
	if op == nil || op.GetState() == operationv1.OperationState_OPERATION_STATE_DONE {
		return nil
	}
	state := strings.ToLower(strings.TrimPrefix(op.GetState().String(), "OPERATION_STATE_"))
	text := fmt.Sprintf("%s of %s is %s", op.GetVerb(), op.GetObjectName(), state)
	if op.GetState() == operationv1.OperationState_OPERATION_STATE_FAILED {
		text = fmt.Sprintf("%s of %s failed", op.GetVerb(), op.GetObjectName())
	}
	if op.GetMessage() != "" {
		text += ": " + op.GetMessage()
	}
	reason := op.GetReason()
	if reason == "" {
		reason = "OPERATION_" + strings.ToUpper(state)
	}
	e := failure.New(failure.ExitOperation, reason, "%s", text)
	if reason == "UNSCHEDULABLE" {
		e.Exit = failure.ExitExhausted
	}
	e.Operation = op.GetId()
	if op.GetObjectKind() == "VM" {
		return e.WithFix("lqctl vm events %s and lqctl op show %s say more", op.GetObjectName(), op.GetId())
	}
	return e.WithFix("lqctl op show %s says more", op.GetId())
}

func describe(op *operationv1.Operation) string {
	text := op.GetObjectName() + ": " + op.GetVerb() + " under way"
	if op.GetMessage() != "" {
		text = op.GetObjectName() + ": " + op.GetMessage()
	}
	return text
}

// VMLine is where a VM stands, in one line.
func VMLine(vm *computev1.VM) string {
	st := vm.GetStatus()
	text := vm.GetMeta().GetName() + ": " + strings.ToLower(strings.TrimPrefix(st.GetPhase().String(), "VM_PHASE_"))
	if n := st.GetVmPlacement().GetNodeName(); n != "" {
		text += " on " + n
	}
	if st.GetMessage() != "" {
		text += ": " + st.GetMessage()
	}
	return text
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
