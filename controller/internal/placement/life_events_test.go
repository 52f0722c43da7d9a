package placement_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

// event is something that happens to a VM. What is refused changes nothing, and that is fine too.
type event struct {
	name string
	do   func(w *world, l *life, request string)
}

// methods are the changes that the public API offers; nil for methods that change no VM that exists. A new method has to be put here.
var methods = map[string]func(w *world, id, request string){
	"CreateVM": nil, "GetVM": nil, "ListVMs": nil, "WatchVMs": nil, "ListVMEvents": nil, "ExplainVM": nil, "OpenConsole": nil, "GetConsoleLog": nil,
	"StartVM": func(w *world, id, request string) {
		_, _ = w.vms.StartVM(w.ctx, connect.NewRequest(&computev1.StartVMRequest{Id: id, RequestId: request}))
	},
	"StopVM": func(w *world, id, request string) {
		_, _ = w.vms.StopVM(w.ctx, connect.NewRequest(&computev1.StopVMRequest{Id: id, RequestId: request}))
	},
	"RebootVM": func(w *world, id, request string) {
		_, _ = w.vms.RebootVM(w.ctx, connect.NewRequest(&computev1.RebootVMRequest{Id: id, RequestId: request}))
	},
	"PauseVM": func(w *world, id, request string) {
		_, _ = w.vms.PauseVM(w.ctx, connect.NewRequest(&computev1.PauseVMRequest{Id: id, RequestId: request}))
	},
	"ResumeVM": func(w *world, id, request string) {
		_, _ = w.vms.ResumeVM(w.ctx, connect.NewRequest(&computev1.ResumeVMRequest{Id: id, RequestId: request}))
	},
	"UpdateVM": func(w *world, id, request string) {
		_, _ = w.vms.UpdateVM(w.ctx, connect.NewRequest(&computev1.UpdateVMRequest{
			Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Id: id}, Spec: &computev1.VMSpec{MemoryBytes: 256 * mib}}, RequestId: request,
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.memory_bytes"}},
		}))
	},
	"DeleteVM": func(w *world, id, request string) {
		_, _ = w.vms.DeleteVM(w.ctx, connect.NewRequest(&computev1.DeleteVMRequest{Id: id, RequestId: request}))
	},
}

// events are the methods of the API, the cancelling of each, and every word of a node that there is.
func events(t *testing.T) []event {
	t.Helper()
	out := []event{{"nothing", func(*world, *life, string) {}}}
	list := computev1.File_limiquantix_compute_v1_vm_service_proto.Services().ByName("VMService").Methods()
	for i := range list.Len() {
		name := string(list.Get(i).Name())
		call, known := methods[name]
		if !known {
			t.Fatalf("method %s is new: say here how it changes a VM, or that it changes none", name)
		}
		if call == nil {
			continue
		}
		out = append(out, event{name, func(w *world, l *life, request string) { call(w, l.id, request) }},
			event{name + ", cancelled", func(w *world, l *life, request string) {
				call(w, l.id, request)
				for _, o := range w.cache.Find(state.Query{Kind: state.KindOperation, Owner: l.id}).Rows {
					_, _ = w.ops.CancelOperation(w.ctx, connect.NewRequest(&operationv1.CancelOperationRequest{Id: o.ID}))
				}
			}})
	}
	for _, number := range slices.Sorted(maps.Keys(computev1.VMPhase_name)) {
		phase := computev1.VMPhase(number)
		for _, v := range []struct {
			name string
			edit func(*agentv1.VMReport)
		}{
			{"", func(*agentv1.VMReport) {}},
			{", of the last generation", func(r *agentv1.VMReport) { r.ObservedGeneration = 1 }},
			{", of an older epoch", func(r *agentv1.VMReport) { r.Epoch = 0 }},
			{", ended by the guest", func(r *agentv1.VMReport) { r.GuestStopped = true }},
			{", and can never be", func(r *agentv1.VMReport) {
				r.PermanentFailure, r.Status.Reason, r.Status.Message = true, "IMAGE_REFUSED", "its image is refused"
			}},
			{", and nothing is left", func(r *agentv1.VMReport) { r.Absent = true }},
		} {
			out = append(out, event{"report " + phase.String() + v.name, func(w *world, l *life, _ string) {
				if !l.placed || !reports(l.node) {
					return
				}
				rep := &agentv1.VMReport{VmId: l.id, Epoch: 1, ObservedGeneration: 2, AttemptedGeneration: 2, Status: &computev1.VMStatus{Phase: phase}}
				v.edit(rep)
				w.report(w.nodes[l.node], &agentv1.ReportStatusRequest{Vms: []*agentv1.VMReport{rep}})
			}})
		}
	}
	return out
}

// reports leaves out nodes whose reports the gate refuses.
func reports(p computev1.NodePhase) bool { return p != computev1.NodePhase_NODE_PHASE_DELETING }

// failures are what can go wrong about an event. It may be lost, and then nobody asks again: that is a state to get out of, too.
var failures = []struct {
	name string
	do   func(w *world, ev event, l *life, request string)
	then func(w *world)
}{
	{"nothing fails", func(w *world, ev event, l *life, request string) { ev.do(w, l, request) }, nil},
	{"it comes twice", func(w *world, ev event, l *life, request string) { ev.do(w, l, request); ev.do(w, l, request) }, nil},
	{"the store refuses it", func(w *world, ev event, l *life, request string) {
		w.losing.next = "refuse"
		ev.do(w, l, request)
		w.losing.next = ""
	}, nil},
	{"the store's reply is lost, and it comes again", func(w *world, ev event, l *life, request string) {
		w.losing.next = "lose the reply"
		ev.do(w, l, request)
		w.losing.next = ""
		st, err := w.store.Status(w.ctx)
		w.must(err)
		w.must(w.cache.Wait(w.ctx, st.Revision))
		ev.do(w, l, request)
	}, nil},
	{"another controller leads then", func(w *world, ev event, l *life, request string) { ev.do(w, l, request) }, func(w *world) { w.campaign() }},
}

// From every state of a VM, after every event and every failure of it, a VM comes to rest by itself, is gone, or names whom it waits for; so does every
// operation. There are two ends: no node says anything any more, and then: those answer that can.
// With LIMIQUANTIX_TEST_COUNT set it is the whole product; else every event meets an eighth of the states, and one failure, in turn.
func TestEveryStateEnds(t *testing.T) {
	t.Parallel()
	for phase := range computev1.NodePhase_name {
		if _, known := answers[computev1.NodePhase(phase)]; !known {
			t.Fatalf("phase %v of a node is new: say in answers whether its agent does what is wanted", computev1.NodePhase(phase))
		}
	}
	part := 8
	if os.Getenv("LIMIQUANTIX_TEST_COUNT") != "" {
		part = 1
	}
	for i, ev := range events(t) {
		for j, f := range failures {
			if part > 1 && j != i%len(failures) {
				continue
			}
			t.Run(fmt.Sprintf("%s, %s", ev.name, f.name), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, part, i)
				w.t = t
				for n, l := range w.lives {
					f.do(w, ev, l, fmt.Sprint("r", n))
				}
				if f.then != nil {
					f.then(w)
				}
				w.pass(false)
				w.check(t, false)
				w.pass(true)
				w.check(t, true)
			})
		}
	}
}
