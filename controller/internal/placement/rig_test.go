package placement_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/placement"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/service/agent"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/service/node"
	"github.com/limiquantix/limiquantix/controller/internal/service/operation"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/service/vm"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

const (
	mib = int64(1) << 20

	beatEvery, beatTimeout = 5 * time.Second, 30 * time.Second
)

// failer is what both testing.T and rapid.T can do.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// rig is a controller on a store in memory in which nothing happens by itself: only the cache follows its store, and everybody who writes waits for it.
type rig struct {
	t      failer
	ctx    context.Context
	store  store.Store
	losing *losing // between everybody who writes and the store
	ops    *operation.Service
	cache  *state.Cache
	leader *state.Leader
	index  *placement.Index
	vms    *vm.Service
	nodes  *node.Service
	asNode *node.Agent
	agents *agent.Service
	cfg    placement.Config
	step   *placement.Stepper
	lead   store.Leadership
	now    time.Time
	close  func()
}

func newRig(t failer, cfg scheduler.Config) *rig {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := memory.Open(memory.Options{ElectionTTL: time.Hour, History: 100_000})
	log := slog.New(slog.DiscardHandler)
	r := &rig{t: t, ctx: caller.WithPrincipal(ctx, "admin"), store: s, leader: &state.Leader{}, now: time.Now()}
	clock := func() time.Time { return r.now }
	r.losing = &losing{Store: s}
	r.cache = state.NewCache(s, log, time.Now)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.cache.Run(ctx) }()
	<-r.cache.Loaded()
	r.index = placement.NewIndex(r.cache, cfg)
	runner := &request.Runner{Store: r.losing, Cache: r.cache, Now: clock}
	history, live, seen := state.NewHistory(), state.NewLiveness(), state.NewSightings()
	r.vms = vm.New(vm.Config{Cache: r.cache, Runner: runner, History: history, Explain: r.index, Now: clock, Log: log})
	r.nodes = node.New(node.Config{
		Cache: r.cache, Runner: runner, Leader: r.leader, Live: live, Timing: seam.Timing{HeartbeatInterval: beatEvery, HeartbeatTimeout: beatTimeout},
		Allocatable: r.index.Allocatable, Now: clock, Log: log,
	})
	r.ops = operation.New(operation.Config{Cache: r.cache, Runner: runner, History: history, Now: clock})
	r.asNode = node.NewAgent(r.nodes)
	r.agents = agent.New(agent.Config{Store: r.losing, Cache: r.cache, Leader: r.leader, History: history, Seen: seen, Now: clock, Log: log})
	r.cfg = placement.Config{
		Store: r.losing, Cache: r.cache, Index: r.index, Live: live, History: history, Seen: seen, HeartbeatTimeout: beatTimeout, HeartbeatInterval: beatEvery, Lease: 3 * beatEvery, Now: clock, Log: log,
	}
	r.close = func() {
		cancel()
		<-ended
		if r.lead != nil {
			_ = r.lead.Resign(context.Background())
		}
		_ = s.Close()
	}
	r.campaign()
	return r
}

func newTestRig(t *testing.T, cfg scheduler.Config) *rig {
	t.Helper()
	r := newRig(t, cfg)
	t.Cleanup(r.close)
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%v", err)
	}
}

// campaign ends the term and begins another one.
func (r *rig) campaign() {
	r.t.Helper()
	if r.lead != nil {
		r.must(r.lead.Resign(r.ctx))
	}
	var err error
	r.lead, err = r.store.Campaign(r.ctx, "controller", "test")
	r.must(err)
	r.leader.Set(r.lead)
	r.step, err = placement.NewStepper(r.ctx, r.cfg, r.lead.Fence())
	r.must(err)
}

// write commits as somebody, and waits until the cache shows it.
func (r *rig) write(fill func(w *state.Writer)) {
	r.t.Helper()
	var w state.Writer
	fill(&w)
	txn, err := w.Txn()
	r.must(err)
	res, err := r.store.Commit(r.ctx, []store.Txn{txn})
	r.must(err)
	if !res[0].Succeeded {
		r.t.Fatalf("refused: %v", res[0].Unmet())
	}
	r.must(r.cache.Wait(r.ctx, res[0].Revision))
}

// join enrols a node, which then says what it has.
func (r *rig) join(name string, cpus int32, memory int64) string {
	r.t.Helper()
	id := domain.NewID(r.now)
	r.write(func(w *state.Writer) {
		w.Put(state.Key(state.KindNode, id), &statev1.NodeRecord{SchemaVersion: 1, Enrolled: true, CertificateSerial: "1", Node: &computev1.Node{
			Meta: domain.NewMeta(id, name, "", map[string]string{"zone": "z"}, nil), Spec: &computev1.NodeSpec{}, Status: &computev1.NodeStatus{},
		}})
		w.PutText(state.NameKey("", state.KindNode, name), id)
	})
	r.resources(id, cpus, memory)
	return id
}

func (r *rig) resources(id string, cpus int32, memory int64) {
	r.t.Helper()
	_, err := r.asNode.RegisterNode(caller.WithNode(r.ctx, id), &computev1.RegisterNodeRequest{Node: &computev1.Node{Status: &computev1.NodeStatus{
		Resources: &computev1.NodeResources{Cpus: cpus, MemoryBytes: memory},
		Drivers: []*computev1.DriverStatus{
			{Name: "fake", Kinds: []string{"compute"}, State: "healthy"}, {Name: "local", Kinds: []string{"storage"}, State: "healthy"},
		},
	}}})
	r.must(err)
}

func (r *rig) put(kind state.Kind, id string, m proto.Message) {
	r.t.Helper()
	r.write(func(w *state.Writer) { w.Put(state.Key(kind, id), m) })
}

func (r *rig) vm(id string) *statev1.VMRecord     { return r.cache.Row(state.KindVM, id).VM() }
func (r *rig) node(id string) *statev1.NodeRecord { return r.cache.Row(state.KindNode, id).Node() }
