package placement_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/placement"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func (r *rig) create(name string, s *computev1.VMSpec) string {
	r.t.Helper()
	resp, err := r.vms.CreateVM(r.ctx, connect.NewRequest(&computev1.CreateVMRequest{Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Name: name}, Spec: s}}))
	r.must(err)
	return resp.Msg.GetVm().GetMeta().GetId()
}

func small() *computev1.VMSpec { return &computev1.VMSpec{MemoryBytes: 128 * mib} }

// News about a VM that is on its way to a commit does not free the place that it was given: another one of the same round would come too close to it.
func TestAssumedClaimStays(t *testing.T) {
	t.Parallel()
	r := newTestRig(t, scheduler.Config{})
	n := r.join("n1", 4, 1024*mib)
	id := r.create("one", small())
	if at, ok := r.step.Assume(id); !ok || at != n {
		t.Fatalf("placed at %q, %v", at, ok)
	}
	rec := r.vm(id)
	rec.Vm.Meta.Labels = map[string]string{"changed": "meanwhile"}
	r.put(state.KindVM, id, rec)
	if c, m := r.index.Claimed(n); c != 1 || m != 128*mib {
		t.Fatalf("the index counts %d CPUs and %d bytes", c, m)
	}
	r.step.Settle(id)
	if c, m := r.index.Claimed(n); c != 0 || m != 0 {
		t.Fatalf("after the commit failed the index counts %d CPUs and %d bytes", c, m)
	}
}

// A node that is cordoned after the index was read, and before the plan is made, gets nothing: the decision was read from another record.
func TestCordonWhileChoosing(t *testing.T) {
	t.Parallel()
	r := newTestRig(t, scheduler.Config{})
	n := r.join("n1", 4, 1024*mib)
	r.must(r.step.Schedule(r.ctx))
	id := r.create("one", small())
	r.must(r.step.ScheduleOnly(id, func() {
		_, err := r.nodes.CordonNode(r.ctx, connect.NewRequest(&computev1.CordonNodeRequest{Id: n}))
		r.must(err)
	}))
	if p := r.vm(id).GetVm().GetStatus().GetVmPlacement(); p != nil {
		t.Fatalf("placed on a cordoned node: %v", p)
	}
	r.must(r.step.Schedule(r.ctx))
	if p := r.vm(id).GetVm().GetStatus().GetVmPlacement(); p != nil {
		t.Fatalf("placed on a cordoned node: %v", p)
	}
	_, err := r.nodes.UncordonNode(r.ctx, connect.NewRequest(&computev1.UncordonNodeRequest{Id: n}))
	r.must(err)
	r.must(r.step.Schedule(r.ctx))
	if p := r.vm(id).GetVm().GetStatus().GetVmPlacement(); p.GetNodeId() != n {
		t.Fatalf("placement is %v once the node is free again", p)
	}
}

// held is a store whose watches say nothing until they may.
type held struct {
	store.Store
	free chan struct{}
}

type heldWatcher struct {
	store.Watcher
	free chan struct{}
}

func (s held) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	w, err := s.Store.Watch(ctx, prefix, from)
	return heldWatcher{w, s.free}, err
}

func (w heldWatcher) Next(ctx context.Context) (store.Batch, error) {
	select {
	case <-w.free:
		return w.Watcher.Next(ctx)
	case <-ctx.Done():
		return store.Batch{}, ctx.Err()
	}
}

// A new leader whose cache lags behind what the last one wrote does nothing before it knows all of it: its commits are conditional on single records,
// but rules between VMs are judged by all of them.
func TestNewLeaderKnowsAll(t *testing.T) {
	t.Parallel()
	r := newTestRig(t, scheduler.Config{})
	s := held{r.store, make(chan struct{})}
	cfg := r.cfg
	cfg.Store = s
	cfg.Cache = state.NewCache(s, slog.New(slog.DiscardHandler), time.Now)
	cfg.Index = placement.NewIndex(cfg.Cache, scheduler.Config{})
	ctx, cancel := context.WithCancel(r.ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cfg.Cache.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	<-cfg.Cache.Loaded()
	r.create("meanwhile", small())
	soon, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	defer stop()
	if _, err := placement.NewStepper(soon, cfg, r.lead.Fence()); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the term began at revision %d of the cache: %v", cfg.Cache.Revision(), err)
	}
	close(s.free)
	if _, err := placement.NewStepper(ctx, cfg, r.lead.Fence()); err != nil {
		t.Fatal(err)
	}
}
