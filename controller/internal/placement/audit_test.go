package placement_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/limiquantix/limiquantix/controller/internal/placement"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// audited is a VM that runs on the first of two nodes, with everything right.
type audited struct {
	*rig
	n1, n2, vm string
	sequence   int64
}

func newAudited(t *testing.T) *audited {
	t.Helper()
	a := &audited{rig: newTestRig(t, scheduler.Config{})}
	a.n1 = a.join("n1", 4, 1024*mib)
	a.vm = a.create("one", small())
	a.must(a.step.Schedule(a.ctx))
	a.n2 = a.join("n2", 4, 1024*mib)
	a.says(a.n1, a.vm, 1, computev1.VMPhase_VM_PHASE_RUNNING)
	if f := a.step.Findings(); len(f) > 0 {
		t.Fatalf("found where nothing is wrong: %v", f)
	}
	return a
}

// says is a node's word about a VM.
func (a *audited) says(node, vm string, epoch int64, phase computev1.VMPhase) {
	a.t.Helper()
	a.sequence++
	_, err := a.agents.ReportStatus(caller.WithNode(a.ctx, node), &agentv1.ReportStatusRequest{SessionId: "s", Sequence: a.sequence, Vms: []*agentv1.VMReport{{
		VmId: vm, Epoch: epoch, ObservedGeneration: 1, Status: &computev1.VMStatus{Phase: phase},
	}}})
	a.must(err)
}

func (a *audited) orphan(node string, o *computev1.Orphan) {
	a.t.Helper()
	a.sequence++
	_, err := a.agents.ReportStatus(caller.WithNode(a.ctx, node), &agentv1.ReportStatusRequest{
		SessionId: "s", Sequence: a.sequence, OrphansKnown: true, Orphans: []*computev1.Orphan{o},
	})
	a.must(err)
}

func (a *audited) editVM(edit func(*statev1.VMRecord)) {
	a.t.Helper()
	rec := a.rig.vm(a.vm)
	edit(rec)
	a.put(state.KindVM, a.vm, rec)
}

func (a *audited) editNode(edit func(*statev1.NodeRecord)) {
	a.t.Helper()
	rec := a.node(a.n1)
	edit(rec)
	a.put(state.KindNode, a.n1, rec)
}

const runs = computev1.VMPhase_VM_PHASE_RUNNING

// wrongs are the ways in which books can disagree, and what the audit has to say of each: kind, object, node.
var wrongs = []struct {
	name string
	make func(*audited)
	want func(*audited) []placement.Finding
}{
	{"a node's sums are more than its VMs claim", func(a *audited) {
		a.editNode(func(n *statev1.NodeRecord) { n.ClaimedVcpus++ })
	}, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindClaimWithoutVM, Object: a.n1, Node: a.n1}}
	}},
	{"a VM claims where it is not placed", func(a *audited) {
		a.write(func(w *state.Writer) {
			rec, n1, n2 := a.rig.vm(a.vm), a.node(a.n1), a.node(a.n2)
			rec.Claim.NodeId = a.n2
			n1.ClaimedVcpus, n1.ClaimedMemoryBytes, n2.ClaimedVcpus, n2.ClaimedMemoryBytes = 0, 0, n1.GetClaimedVcpus(), n1.GetClaimedMemoryBytes()
			w.Put(state.Key(state.KindVM, a.vm), rec)
			w.Put(state.Key(state.KindNode, a.n1), n1)
			w.Put(state.Key(state.KindNode, a.n2), n2)
		})
	}, func(a *audited) []placement.Finding {
		return []placement.Finding{
			{Kind: placement.FindClaimWithoutVM, Object: a.vm, Node: a.n2},
			{Kind: placement.FindIndexWrong, Object: a.n1, Node: a.n1},
			{Kind: placement.FindIndexWrong, Object: a.n2, Node: a.n2},
		}
	}},
	{"a placed VM claims nothing", func(a *audited) {
		a.editVM(func(v *statev1.VMRecord) { v.Claim = nil })
		a.editNode(func(n *statev1.NodeRecord) { n.ClaimedVcpus, n.ClaimedMemoryBytes = 0, 0 })
	}, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindVMWithoutClaim, Object: a.vm, Node: a.n1}}
	}},
	{"a VM claims less than it is", func(a *audited) {
		a.editVM(func(v *statev1.VMRecord) { v.Claim.MemoryBytes -= mib })
		a.editNode(func(n *statev1.NodeRecord) { n.ClaimedMemoryBytes -= mib })
	}, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindClaimWrongSize, Object: a.vm, Node: a.n1}}
	}},
	{"a node's sums are less than its VMs claim", func(a *audited) {
		a.editNode(func(n *statev1.NodeRecord) { n.ClaimedMemoryBytes -= mib })
	}, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindClaimWrongSize, Object: a.n1, Node: a.n1}}
	}},
	{"it runs at another node as well", func(a *audited) { a.says(a.n2, a.vm, 1, runs) }, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindRunningTwice, Object: a.vm, Node: a.n2}}
	}},
	{"another node has it as a running orphan", func(a *audited) {
		a.orphan(a.n2, &computev1.Orphan{Kind: "domain", ObjectId: a.vm, Driver: "fake", Detail: "runs"})
	}, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindRunningTwice, Object: a.vm, Node: a.n2}}
	}},
	{"it runs only where it is not placed", func(a *audited) {
		a.says(a.n1, a.vm, 1, computev1.VMPhase_VM_PHASE_STARTING)
		a.says(a.n2, a.vm, 1, runs)
	}, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindRunningElsewhere, Object: a.vm, Node: a.n2}}
	}},
	{"it runs under an epoch that is over", func(a *audited) {
		a.editVM(func(v *statev1.VMRecord) { v.LastEpoch, v.Vm.Status.VmPlacement.Epoch = 2, 2 })
	}, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindRunningElsewhere, Object: a.vm, Node: a.n1}}
	}},
	{"a node speaks of a VM that nobody knows", func(a *audited) { a.says(a.n2, "ghost", 1, runs) }, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindUnknown, Object: "ghost", Node: a.n2}}
	}},
	{"a node has an orphan volume that nobody knows", func(a *audited) {
		a.orphan(a.n2, &computev1.Orphan{Kind: "volume", ObjectId: "ghost", Detail: "in pool p"})
	}, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindUnknown, Object: "ghost", Node: a.n2}}
	}},
	{"a node has an orphan port that nobody knows", func(a *audited) {
		a.orphan(a.n2, &computev1.Orphan{Kind: "port", ObjectId: "ghost", Detail: "in network n"})
	}, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindUnknown, Object: "ghost", Node: a.n2}}
	}},
	{"a node has an orphan network that nobody knows", func(a *audited) {
		a.orphan(a.n2, &computev1.Orphan{Kind: "network", ObjectId: "ghost", Detail: "br-ghost"})
	}, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindUnknown, Object: "ghost", Node: a.n2}}
	}},
	{"the index counts what is not there", func(a *audited) { a.index.Miscount(a.n1) }, func(a *audited) []placement.Finding {
		return []placement.Finding{{Kind: placement.FindIndexWrong, Object: a.n1, Node: a.n1}}
	}},
}

// Each kind of disagreement, made so, is found, and nothing else is; no kind is without a way to make it.
func TestFindings(t *testing.T) {
	t.Parallel()
	made := map[string]bool{}
	for _, w := range wrongs {
		t.Run(w.name, func(t *testing.T) {
			a := newAudited(t)
			w.make(a)
			got, want := a.step.Findings(), w.want(a)
			bare := make([]placement.Finding, len(got))
			for i, f := range got {
				bare[i] = placement.Finding{Kind: f.Kind, Object: f.Object, Node: f.Node}
				if f.Detail == "" {
					t.Errorf("%v has no detail", f)
				}
			}
			if !sameSet(bare, want) {
				t.Fatalf("found %+v, want %+v", got, want)
			}
			for _, f := range want {
				made[f.Kind] = true
			}
		})
	}
	for _, k := range placement.FindKinds {
		if !made[k] {
			t.Errorf("no wrong makes a finding of kind %s", k)
		}
	}
}

func sameSet(a, b []placement.Finding) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(f placement.Finding) bool { return !slices.Contains(b, f) })
}

// What waits for room says so, what is off may hold nothing, and what stopped or left is no finding.
func TestNoFindings(t *testing.T) {
	t.Parallel()
	a := newAudited(t)
	a.resize(a.vm, 8, 128*mib)
	a.must(a.step.Schedule(a.ctx))
	a.must(a.step.Notes(a.ctx))
	a.says(a.n2, a.vm, 1, computev1.VMPhase_VM_PHASE_STOPPED)
	a.orphan(a.n2, &computev1.Orphan{Kind: "domain", ObjectId: a.vm, Driver: "fake", Detail: "is off"})
	if f := a.step.Findings(); len(f) > 0 {
		t.Fatalf("found %v", f)
	}
}

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// The leader's audit shows what it finds in metrics with proper names, and names the object in its log, once; it says when it is over; an index that
// miscounts is made anew.
func TestAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, scheduler.Config{})
		defer r.close()
		registry, log := prometheus.NewRegistry(), &syncBuffer{}
		r.cfg.Audit, r.cfg.Log = placement.NewAuditMetrics(registry), slog.New(slog.NewTextHandler(log, nil))
		var err error
		r.step, err = placement.NewStepper(r.ctx, r.cfg, r.lead.Fence())
		r.must(err)
		n := r.join("n1", 4, 1024*mib)
		id := r.create("one", small())
		r.must(r.step.Schedule(r.ctx))
		ctx, cancel := context.WithCancel(r.ctx)
		var task sync.WaitGroup
		task.Go(func() { r.step.Audit(ctx) })
		defer func() { cancel(); task.Wait() }()

		rec := r.node(n)
		rec.ClaimedVcpus += 9
		r.put(state.KindNode, n, rec)
		r.index.Miscount(n)
		time.Sleep(placement.AuditPause)
		synctest.Wait()
		want := map[string]float64{placement.FindClaimWithoutVM: 1, placement.FindIndexWrong: 1}
		check := func() {
			t.Helper()
			for _, k := range placement.FindKinds {
				if got := gauge(t, registry, "limiquantix_audit_findings", k); got != want[k] {
					t.Errorf("metric of %s is %v, want %v", k, got, want[k])
				}
			}
		}
		check()
		if got := gauge(t, registry, "limiquantix_audit_overcommitted_nodes", ""); got != 1 {
			t.Errorf("%v nodes are overcommitted by the metric", got)
		}
		if text := log.String(); strings.Count(text, "kind=claim_without_vm object="+n) != 1 || !strings.Contains(text, `node is overcommitted`) {
			t.Errorf("log:\n%s", text)
		}
		if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
			t.Errorf("metrics: %v, %v", problems, err)
		}
		rec = r.node(n)
		rec.ClaimedVcpus -= 9
		r.put(state.KindNode, n, rec)
		time.Sleep(2 * placement.AuditPause)
		synctest.Wait()
		want = nil
		check()
		if text := log.String(); !strings.Contains(text, "found no longer") || strings.Count(text, "level=ERROR") != 2 {
			t.Errorf("log:\n%s", text)
		}
		if c, _ := r.index.Claimed(n); c != int64(r.vm(id).GetClaim().GetVcpus()) {
			t.Errorf("the index still counts %d CPUs", c)
		}
	})
}

// gauge is the value of a metric; kind "" for one without labels.
func gauge(t *testing.T, r *prometheus.Registry, name, kind string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if kind == "" || m.GetLabel()[0].GetValue() == kind {
				return m.GetGauge().GetValue()
			}
		}
	}
	t.Errorf("there is no metric %s of kind %q", name, kind)
	return -1
}
