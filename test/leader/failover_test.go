package leader

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/test/stack"
)

// failover is how soon another controller must serve writes, a leader's own included, in the soak.
const failover = 10 * time.Second

func number(t *testing.T, env string, usual int64) int64 {
	t.Helper()
	text := os.Getenv(env)
	if text == "" {
		return usual
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a number", env, text)
	}
	return n
}

// bound is d in a soak, ten times that in make test, which may share the machine with anything.
func bound(d time.Duration) time.Duration {
	if os.Getenv(stack.CountEnv) != "" {
		return d
	}
	return 10 * d
}

func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := number(t, stack.SeedEnv, time.Now().UnixNano())
	t.Logf("seed %d: run again with %s=%d", seed, stack.SeedEnv, seed)
	return uint64(seed) //nolint:gosec // positive
}

// The leader is killed, and another time stopped until another leads and then woken, again and again under load: the other serves writes in time, the
// one that was deposed writes nothing more, and of what clients were told nothing is lost and nothing done twice.
func TestLeaderFails(t *testing.T) {
	k := startCluster(t, config{members: 2, agents: 2, overcommitCPU: 100})
	l := load(t, k, 4, seedOf(t))
	defer l.halt()
	var killed, stopped time.Duration
	rounds := int(number(t, stack.CountEnv, 3))
	for round := range rounds {
		killed = max(killed, k.kill(t, l, fmt.Sprintf("kill %d", round)))
		stopped = max(stopped, k.pause(t, l, fmt.Sprintf("stop %d", round)))
		if t.Failed() {
			return
		}
	}
	l.halt()
	l.check(t, "the end")
	l.repeat(t, 20)
	k.converge(t, l)
	w := k.etcd.steer(t, "witness")
	for _, keys := range w.Bare {
		t.Errorf("written without a leader's fence and without a client's request: %s", keys)
	}
	if w.Refused < rounds {
		t.Errorf("%d writes with a former leader's fence were refused, in %d rounds", w.Refused, rounds)
	}
	t.Logf("evidence: leaders elected | %d", w.Terms)
	t.Logf("evidence: slowest failover after kill -9, to a VM placed | %v", killed.Round(time.Millisecond))
	t.Logf("evidence: slowest failover after SIGSTOP, to a VM placed | %v", stopped.Round(time.Millisecond))
	t.Logf("evidence: creations and deletions acknowledged | %d", l.calls)
	t.Logf("evidence: leaders' writes done, each with its fence | %d", w.Fenced)
	t.Logf("evidence: writes with a former leader's fence, all refused | %d", w.Refused)
}

// served returns how long it takes from began until a controller serves a write of a client's and, as the leader, one of its own: a VM is made and placed.
func (k *cluster) served(t *testing.T, by *controller, name string, began time.Time) time.Duration {
	t.Helper()
	limit := bound(failover)
	var vm *computev1.VM
	var last error
	for vm == nil && time.Since(began) < limit {
		ctx, cancel := context.WithTimeout(t.Context(), limit-time.Since(began))
		res, err := by.vms.CreateVM(ctx, connect.NewRequest(createRequest(name)))
		cancel()
		if last = err; err == nil {
			vm = res.Msg.GetVm()
		}
	}
	for vm != nil && vm.GetStatus().GetVmPlacement() == nil && time.Since(began) < limit {
		ctx, cancel := context.WithTimeout(t.Context(), limit-time.Since(began))
		res, err := by.vms.GetVM(ctx, connect.NewRequest(&computev1.GetVMRequest{Id: vm.GetMeta().GetId()}))
		cancel()
		if last = err; err == nil {
			vm = res.Msg.GetVm()
		}
		if err == nil && vm.GetStatus().GetVmPlacement() == nil {
			time.Sleep(10 * time.Millisecond) // the interval of this poll
		}
	}
	took := time.Since(began)
	if vm == nil || vm.GetStatus().GetVmPlacement() == nil {
		t.Fatalf("%s: %s did not serve within %v of the leader's end: %v, %v", name, by.name, limit, vm, last)
	}
	if _, err := by.vms.DeleteVM(t.Context(), connect.NewRequest(&computev1.DeleteVMRequest{Id: vm.GetMeta().GetId(), RequestId: "delete-" + name})); err != nil {
		t.Fatal(err)
	}
	return took
}

// kill ends the leader that /api/v1/info names by SIGKILL.
func (k *cluster) kill(t *testing.T, l *ledger, round string) time.Duration {
	t.Helper()
	leads, other := k.leader(t)
	began := time.Now()
	leads.end(t, syscall.SIGKILL)
	took := k.served(t, other, strings.ReplaceAll(round, " ", "-"), began)
	if now := other.info().Leader.ID; now != other.id {
		t.Errorf("%s: %s served a leader's write and names %q as the leader", round, other.id, now)
	}
	leads.up(t)
	k.heard(t, other, began)
	l.check(t, round)
	return took
}

// pause stops the leader that /api/v1/info names with a write of its under way, lets the other lead, lets the write arrive, and wakes the leader.
func (k *cluster) pause(t *testing.T, l *ledger, round string) time.Duration {
	t.Helper()
	leads, other := k.leader(t)
	conn, err := grpc.NewClient("passthrough:///"+leads.agents, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}))) //nolint:gosec // ours
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	agents := agentv1.NewAgentServiceClient(conn)
	if _, err := agents.Enrol(t.Context(), &agentv1.EnrolRequest{}); err == nil { // it connects
		t.Fatal("an empty enrolment was taken")
	}
	k.etcd.steer(t, "hold")
	await(t, time.Minute, "the leader writes something", func() (bool, string) { return k.etcd.steer(t, "witness").Held, "" })
	began := time.Now()
	leads.signal(t, syscall.SIGSTOP)
	took := k.served(t, other, strings.ReplaceAll(round, " ", "-"), began)

	k.etcd.steer(t, "release")
	await(t, time.Minute, "the write that was held is judged", func() (bool, string) {
		w := k.etcd.steer(t, "witness")
		if w.Outcome == "done" {
			t.Errorf("%s: a write of the deposed leader was done", round)
		}
		return w.Outcome != "", fmt.Sprint(w)
	})
	// The first thing that it meets when it wakes is a request for a leader's write.
	name := "late-" + strings.ReplaceAll(round, " ", "-")
	enrol := enrolment(t, other, name)
	answer := make(chan error, 1)
	go func() {
		_, err := agents.Enrol(context.Background(), enrol)
		answer <- err
	}()
	leads.signal(t, syscall.SIGCONT)
	select {
	case err := <-answer:
		if fault.From(err) == nil || fault.From(err).Reason != metav1.Reason_REASON_NOT_LEADER {
			t.Errorf("%s: the deposed leader answers %v", round, err)
		}
	case <-time.After(time.Minute):
		t.Fatalf("%s: the deposed leader does not answer", round)
	}
	await(t, bound(failover), "the deposed leader names the other", func() (bool, string) {
		_, err := agents.Enrol(t.Context(), enrol)
		f := fault.From(err)
		return f != nil && f.Reason == metav1.Reason_REASON_NOT_LEADER && f.Metadata["leader"] == other.agents, fmt.Sprint(err)
	})
	k.enrolsAtLeader(t, other, enrol, name)
	await(t, bound(failover), "the deposed leader says so", func() (bool, string) {
		lead := leads.metric("limiquantix_controller_leader")
		return lead == 0 && leads.info().Leader.ID == other.id, fmt.Sprint(lead, leads.info())
	})
	k.heard(t, other, began)
	l.check(t, round)
	return took
}

// heard waits until the new leader hears of every node.
func (k *cluster) heard(t *testing.T, leads *controller, after time.Time) {
	t.Helper()
	await(t, bound(15*time.Second), "every agent has found the leader", func() (bool, string) {
		res, err := leads.nodes.ListNodes(t.Context(), connect.NewRequest(&computev1.ListNodesRequest{}))
		if err != nil {
			return false, err.Error()
		}
		n := 0
		for _, node := range res.Msg.GetNodes() {
			if node.GetStatus().GetPhase() == computev1.NodePhase_NODE_PHASE_READY && node.GetStatus().GetHeartbeatTime().AsTime().After(after) {
				n++
			}
		}
		return n == len(k.agents), fmt.Sprint(res.Msg.GetNodes())
	})
}

func enrolment(t *testing.T, by *controller, name string) *agentv1.EnrolRequest {
	t.Helper()
	token, err := by.nodes.CreateJoinToken(t.Context(), connect.NewRequest(&computev1.CreateJoinTokenRequest{NodeName: name, RequestId: name}))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &agentv1.EnrolRequest{Token: token.Msg.GetToken(), CertificateRequest: csr}
}

// enrolsAtLeader shows that the deposed leader did not use the token up, and removes the node again.
func (k *cluster) enrolsAtLeader(t *testing.T, leads *controller, enrol *agentv1.EnrolRequest, name string) {
	t.Helper()
	if res, err := leads.nodes.GetNode(t.Context(), connect.NewRequest(&computev1.GetNodeRequest{Id: name})); connect.CodeOf(err) != connect.CodeNotFound {
		t.Fatalf("the deposed leader made a node: %v, %v", res, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+leads.agents, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}))) //nolint:gosec // ours
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := agentv1.NewAgentServiceClient(conn).Enrol(t.Context(), enrol); err != nil {
		t.Fatalf("the leader refuses the token that the deposed one refused: %v", err)
	}
	if _, err := leads.nodes.DeleteNode(t.Context(), connect.NewRequest(&computev1.DeleteNodeRequest{Id: name, Force: true, RequestId: "delete-" + name})); err != nil {
		t.Fatal(err)
	}
}

// converge waits until both controllers and the hypervisors agree on exactly the VMs that clients were told of, each running once.
func (k *cluster) converge(t *testing.T, l *ledger) {
	t.Helper()
	live, _ := l.known()
	want := map[string]string{}
	for _, m := range live {
		want[m.id] = m.name
	}
	for _, c := range k.members {
		await(t, bound(30*time.Second), c.name+" knows exactly the VMs that were acknowledged, and all run", func() (bool, string) {
			res, err := c.vms.ListVMs(t.Context(), connect.NewRequest(&computev1.ListVMsRequest{PageSize: 500}))
			if err != nil {
				return false, err.Error()
			}
			for _, vm := range res.Msg.GetVms() {
				if want[vm.GetMeta().GetId()] != vm.GetMeta().GetName() || vm.GetStatus().GetPhase() != computev1.VMPhase_VM_PHASE_RUNNING {
					return false, fmt.Sprint(vm)
				}
			}
			return len(res.Msg.GetVms()) == len(want), fmt.Sprintf("%d of %d", len(res.Msg.GetVms()), len(want))
		})
	}
	await(t, bound(30*time.Second), "the hypervisors have each VM once", func() (bool, string) {
		have := k.domains(t)
		for id, on := range have {
			if len(on) != 1 || want[id] == "" {
				return false, fmt.Sprintf("%s (%s) on %v", id, want[id], on)
			}
		}
		return len(have) == len(want), fmt.Sprintf("%d of %d", len(have), len(want))
	})
	k.snapshot(t).consistent(t, "at rest")
}
