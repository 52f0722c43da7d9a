package agent

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// fleet is ports of one network and one group on nodes, whose rules refer to that group.
type fleet struct {
	t     testing.TB
	store store.Store
	cache *state.Cache
	s     *Service
	ports []*statev1.PortRecord
}

func newFleet(t testing.TB, nodes, ports int) *fleet {
	t.Helper()
	f := &fleet{t: t, store: memory.Open(memory.Options{})}
	log := slog.New(slog.DiscardHandler)
	f.cache = state.NewCache(f.store, log, time.Now)
	f.s = New(Config{Store: f.store, Cache: f.cache, Now: time.Now, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = f.cache.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; _ = f.store.Close() })
	<-f.cache.Loaded()
	f.write(func(w *state.Writer) {
		w.Put(state.Key(state.KindNetwork, "net"), &statev1.NetworkRecord{Network: &networkv1.Network{
			Meta: &metav1.ObjectMeta{Id: "net", Name: "net", Generation: 1}, Spec: &networkv1.NetworkSpec{Type: networkv1.NetworkType_NETWORK_TYPE_BRIDGE},
		}})
		w.PutSecurityGroup(&statev1.SecurityGroupRecord{SecurityGroup: &networkv1.SecurityGroup{
			Meta: &metav1.ObjectMeta{Id: "group", Name: "group", Generation: 1},
			Spec: &networkv1.SecurityGroupSpec{Rules: []*networkv1.SecurityRule{{
				Id: "r", Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS, Remote: &networkv1.SecurityRule_SecurityGroupId{SecurityGroupId: "group"},
			}}},
		}})
	})
	for n := range nodes {
		f.s.open(fmt.Sprintf("node-%03d", n))
	}
	for i := 0; i < ports; i += 100 {
		f.write(func(w *state.Writer) {
			for j := i; j < min(i+100, ports); j++ {
				f.put(w, f.port(j, fmt.Sprintf("node-%03d", j%nodes)))
			}
		})
	}
	return f
}

// port is a port on a node; "" = on none.
func (f *fleet) port(i int, node string) *statev1.PortRecord {
	id := fmt.Sprintf("port-%06d", i)
	rec := &statev1.PortRecord{Port: &networkv1.Port{
		Meta: &metav1.ObjectMeta{Id: id, Name: id, Generation: 1}, Spec: &networkv1.PortSpec{NetworkId: "net", SecurityGroupIds: []string{"group"}},
		Status: &networkv1.PortStatus{IpAddresses: []string{fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)}, Mac: fmt.Sprintf("52:54:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255)},
	}}
	if node != "" {
		domain.BindPort(rec, "vm-"+id, "eth0", node, 1)
	}
	return rec
}

func (f *fleet) put(w *state.Writer, rec *statev1.PortRecord) {
	w.Put(state.Key(state.KindPort, rec.GetPort().GetMeta().GetId()), rec)
}

func (f *fleet) write(fill func(*state.Writer)) {
	f.t.Helper()
	var w state.Writer
	fill(&w)
	txn, err := w.Txn()
	if err != nil {
		f.t.Fatal(err)
	}
	res, err := f.store.Commit(context.Background(), []store.Txn{txn})
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.cache.Wait(context.Background(), res[0].Revision); err != nil {
		f.t.Fatal(err)
	}
}

// changed dispatches what change writes, and returns what each node has to look at.
func (f *fleet) changed(change func(*state.Writer)) map[string][]key {
	f.t.Helper()
	sub, err := f.cache.Subscribe(f.cache.Revision())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, ss := range f.s.sessions {
		ss.take()
	}
	f.write(change)
	changes, revision, err := sub.Next(context.Background())
	if err != nil {
		f.t.Fatal(err)
	}
	f.s.dispatch(changes, revision)
	out := map[string][]key{}
	for n, ss := range f.s.sessions {
		for k := range ss.take().dirty {
			out[n] = append(out[n], k)
		}
	}
	return out
}

// One more member of a group that 500 ports on a node refer to is one thing to tell that node; its network is looked at, and is as it was.
func TestOneMoreMemberIsOneChangeForEachNode(t *testing.T) {
	f := newFleet(t, 2, 1000)
	before := f.s.render(t.Context(), "node-000", key{kindNetwork, "net"}).GetVersion()
	f.s.render(t.Context(), "node-000", key{kindMembers, "group"})
	dirty := f.changed(func(w *state.Writer) { f.put(w, f.port(1000, "")) })
	for _, n := range []string{"node-000", "node-001"} {
		if len(dirty[n]) != 2 {
			t.Errorf("node %s has to look at %v", n, dirty[n])
		}
	}
	if f.s.render(t.Context(), "node-000", key{kindNetwork, "net"}).GetVersion() != before {
		t.Error("a port that is on no node and has no name changed the network")
	}
	if got := f.s.render(t.Context(), "node-000", key{kindMembers, "group"}).GetAddressSet().GetMembers(); len(got) != 1001 {
		t.Errorf("%d members", len(got))
	}
}

// What a node says of a port concerns nobody but that port's own record.
func TestReportsOfPortsReachNoOtherNode(t *testing.T) {
	f := newFleet(t, 2, 10)
	rec := f.port(0, "node-000")
	rec.Port.Status.Phase = networkv1.PortPhase_PORT_PHASE_UP
	rec.Port.Status.SecurityGroups = []*networkv1.AppliedSecurityGroup{{SecurityGroupId: "group", Generation: 1}}
	version := f.s.render(t.Context(), "node-000", key{kindPort, "port-000000"}).GetVersion()
	dirty := f.changed(func(w *state.Writer) { f.put(w, rec) })
	if len(dirty["node-000"]) != 1 || len(dirty["node-001"]) != 0 {
		t.Errorf("nodes have to look at %v", dirty)
	}
	if f.s.render(t.Context(), "node-000", key{kindPort, "port-000000"}).GetVersion() != version {
		t.Error("a report changed what is wanted")
	}
}

// BenchmarkMember measures one more member of a group of 10,000 ports on 20 nodes: dispatched, and rendered for each node.
func BenchmarkMember(b *testing.B) {
	f := newFleet(b, 20, 10_000)
	i := 10_000
	for b.Loop() {
		for n, keys := range f.changed(func(w *state.Writer) { f.put(w, f.port(i, "")) }) {
			for _, k := range keys {
				f.s.render(b.Context(), n, k)
			}
		}
		i++
	}
}
