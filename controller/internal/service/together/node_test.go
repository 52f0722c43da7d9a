package together_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func TestNodesForOperators(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	ctx := context.Background()
	reg := func(name string) error {
		_, err := r.Node.RegisterNode(ctx, connect.NewRequest(&computev1.RegisterNodeRequest{Node: &computev1.Node{Meta: &metav1.ObjectMeta{Name: name}}}))
		return err
	}
	if err := reg("early"); err != nil {
		t.Fatal(err)
	}
	if err := reg("early"); !fault.Is(err, metav1.Reason_REASON_NAME_TAKEN) {
		t.Fatalf("twice: %v", err)
	}
	if err := reg("Bad"); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
		t.Fatalf("bad name: %v", err)
	}
	got, err := r.Node.GetNode(ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: "early"}))
	if err != nil || got.Msg.GetNode().GetStatus().GetPhase() != computev1.NodePhase_NODE_PHASE_REGISTERED {
		t.Fatalf("node is %v, %v", got, err)
	}
	if _, err := r.Node.Heartbeat(ctx, connect.NewRequest(&computev1.HeartbeatRequest{NodeId: "early"})); !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Fatalf("heartbeat of an operator: %v", err)
	}
	a := r.join("n1", 4, 1024*mib)
	if _, err := r.NodeAgent.Heartbeat(a.ctx, &computev1.HeartbeatRequest{NodeId: "other"}); !fault.Is(err, metav1.Reason_REASON_FORBIDDEN) {
		t.Fatalf("heartbeat for another: %v", err)
	}
	if _, err := r.NodeAgent.GetNode(a.ctx, &computev1.GetNodeRequest{Id: "early"}); !fault.Is(err, metav1.Reason_REASON_FORBIDDEN) {
		t.Fatalf("reading another: %v", err)
	}
	if _, err := r.NodeAgent.Heartbeat(caller.WithNode(ctx, "nobody"), &computev1.HeartbeatRequest{}); !fault.Is(err, metav1.Reason_REASON_UNAUTHENTICATED) {
		t.Fatalf("heartbeat of nobody: %v", err)
	}
	// A cordoned node takes nothing new.
	for range 2 {
		if _, err := r.Node.CordonNode(ctx, connect.NewRequest(&computev1.CordonNodeRequest{Id: "n1"})); err != nil {
			t.Fatal(err)
		}
	}
	c := r.mustCreate("one", spec(64*mib))
	r.until("it waits", func() bool {
		return strings.Contains(r.vm(c.GetVm().GetMeta().GetId()).GetStatus().GetMessage(), "cordoned")
	})
	if _, err := r.Node.UncordonNode(ctx, connect.NewRequest(&computev1.UncordonNodeRequest{Id: "n1"})); err != nil {
		t.Fatal(err)
	}
	r.done(c.GetOperation().GetId())
	list, err := r.Node.ListNodes(ctx, connect.NewRequest(&computev1.ListNodesRequest{}))
	if err != nil || len(list.Msg.GetNodes()) != 2 {
		t.Fatalf("nodes are %v, %v", list, err)
	}
	for _, n := range list.Msg.GetNodes() {
		st := n.GetStatus()
		if n.GetMeta().GetName() == "n1" && (st.GetVmCount() != 1 || st.GetHeartbeatTime() == nil || st.GetClaimed().GetMemoryBytes() != 64*mib) {
			t.Errorf("node is %v", n)
		}
	}
	for range 2 {
		if _, err := r.Node.DeleteNode(ctx, connect.NewRequest(&computev1.DeleteNodeRequest{Id: got.Msg.GetNode().GetMeta().GetId()})); err != nil {
			t.Fatal(err)
		}
	}
}

func TestJoinTokens(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	ctx := context.Background()
	req := connect.NewRequest(&computev1.CreateJoinTokenRequest{NodeName: "n1", RequestId: "t"})
	resp, err := r.Node.CreateJoinToken(ctx, req)
	if err != nil || !strings.HasPrefix(resp.Msg.GetToken(), "lq1."+resp.Msg.GetJoinToken().GetId()+".") {
		t.Fatalf("%v, %v", resp, err)
	}
	if _, err := r.Node.CreateJoinToken(ctx, req); !fault.Is(err, metav1.Reason_REASON_REQUEST_ID_REUSED) {
		t.Fatalf("a repetition shows it again: %v", err)
	}
	if _, err := r.Node.CreateJoinToken(ctx, connect.NewRequest(&computev1.CreateJoinTokenRequest{NodeName: "n1", Ttl: durationpb.New(8 * 24 * time.Hour)})); err == nil {
		t.Fatal("8 days are taken")
	}
	count := func() int {
		list, err := r.Node.ListJoinTokens(ctx, connect.NewRequest(&computev1.ListJoinTokensRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Msg.GetJoinTokens())
	}
	if n := count(); n != 1 {
		t.Fatalf("%d tokens", n)
	}
	for range 2 {
		if _, err := r.Node.DeleteJoinToken(ctx, connect.NewRequest(&computev1.DeleteJoinTokenRequest{Id: resp.Msg.GetJoinToken().GetId()})); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(); n != 0 {
		t.Fatalf("%d tokens are left", n)
	}
}

// A watch shows all that is, then every change, and resumes without loss.
func TestWatchVMs(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	mux := http.NewServeMux()
	mux.Handle(computev1connect.NewVMServiceHandler(r.VM))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	client := computev1connect.NewVMServiceClient(srv.Client(), srv.URL)
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	t.Cleanup(cancel)
	label := func(name, value string) string {
		resp, err := r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{
			Meta: &metav1.ObjectMeta{Name: name, Labels: map[string]string{"k": value}}, Spec: spec(64 * mib),
		}})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetVm().GetMeta().GetId()
	}
	first := label("a", "yes")
	label("b", "no")
	open := func(revision int64) func() *computev1.WatchVMsResponse {
		s, err := client.WatchVMs(ctx, connect.NewRequest(&computev1.WatchVMsRequest{LabelSelector: "k=yes", Revision: revision}))
		if err != nil {
			t.Fatal(err)
		}
		return func() *computev1.WatchVMsResponse {
			if !s.Receive() {
				t.Fatal(s.Err())
			}
			return s.Msg()
		}
	}
	next := open(0)
	if ev := next(); ev.GetVm().GetMeta().GetId() != first {
		t.Fatalf("first is %v", ev)
	}
	mark := next()
	if mark.GetType() != computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK {
		t.Fatalf("then %v", mark)
	}
	label("c", "no")
	second := label("d", "yes")
	r.delete(first)
	for _, follow := range []func() *computev1.WatchVMsResponse{next, open(mark.GetRevision())} {
		seen := map[string]bool{}
		removed := false
		for rev := mark.GetRevision(); !removed || !seen[second]; {
			ev := follow()
			if ev.GetRevision() < rev {
				t.Fatalf("revision goes back to %d", ev.GetRevision())
			}
			rev = ev.GetRevision()
			seen[ev.GetVm().GetMeta().GetId()] = true
			removed = removed || ev.GetType() == computev1.WatchEventType_WATCH_EVENT_TYPE_REMOVED && ev.GetVm().GetMeta().GetId() == first
		}
		if len(seen) != 2 {
			t.Fatalf("saw %v", seen)
		}
	}
}

// A node that comes back smaller than what is claimed of it says that it is overcommitted.
func TestShrunkNodeSaysSo(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 4, 1024*mib)
	r.done(r.mustCreate("one", spec(512*mib)).GetOperation().GetId())
	over := func() metav1.ConditionStatus {
		resp, err := r.Node.GetNode(context.Background(), connect.NewRequest(&computev1.GetNodeRequest{Id: "n1"}))
		if err != nil {
			t.Fatal(err)
		}
		return domain.Condition(resp.Msg.GetNode().GetStatus().GetConditions(), "Overcommitted").GetStatus()
	}
	if got := over(); got != metav1.ConditionStatus_CONDITION_STATUS_FALSE {
		t.Fatalf("with room: %s", got)
	}
	_, err := r.NodeAgent.RegisterNode(a.ctx, &computev1.RegisterNodeRequest{Node: &computev1.Node{Status: &computev1.NodeStatus{
		Resources: &computev1.NodeResources{Cpus: 4, MemoryBytes: 256 * mib},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := over(); got != metav1.ConditionStatus_CONDITION_STATUS_TRUE {
		t.Fatalf("shrunk below its claims: %s", got)
	}
}
