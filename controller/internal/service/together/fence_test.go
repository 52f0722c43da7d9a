package together_test

import (
	"context"
	"testing"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// A VM whose machine is gone and whose disks are not, because their node fell silent in between, is gone for good once that node is declared off; until
// then it names the node.
func TestDeleteEndsWithItsDisksNode(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 4, 1024*mib)
	c := r.mustCreate("one", spec(128*mib, "root"))
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	a.settled(id)
	a.set(func(a *fakeAgent) { a.frozen = true })
	del := r.delete(id)
	r.until("the agent is told", func() bool { return a.known(id).GetAbsent() })
	a.report(a.ctx, answerVM(a.known(id)))
	r.until("the machine is gone", func() bool { return r.vm(id).GetStatus().GetVmPlacement() == nil })
	a.stop()
	r.until("it names the node", func() bool { return r.vm(id).GetStatus().GetReason() == "NODE_UNREACHABLE" })
	if _, err := r.Node.DeleteNode(context.Background(), connect.NewRequest(&computev1.DeleteNodeRequest{Id: "n1", Force: true})); err != nil {
		t.Fatal(err)
	}
	r.until("the VM is gone", func() bool { return r.vm(id) == nil })
	r.done(del.GetOperation().GetId())
}
