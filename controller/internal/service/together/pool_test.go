package together_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func admin() context.Context { return caller.WithPrincipal(context.Background(), "admin") }

func (r *rig) createPool(name string, spec *storagev1.StoragePoolSpec) (*storagev1.CreateStoragePoolResponse, error) {
	resp, err := r.Pool.CreateStoragePool(admin(), connect.NewRequest(&storagev1.CreateStoragePoolRequest{
		StoragePool: &storagev1.StoragePool{Meta: &metav1.ObjectMeta{Name: name}, Spec: spec},
	}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func (r *rig) pool(id string) *storagev1.StoragePool {
	resp, err := r.Pool.GetStoragePool(admin(), connect.NewRequest(&storagev1.GetStoragePoolRequest{Id: id}))
	if err != nil {
		return nil
	}
	return resp.Msg.GetStoragePool()
}

func (a *fakeAgent) pool(id string) *agentv1.DesiredPool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pools[id]
}

// A pool lives: its secrets reach the nodes that shall have it and nobody else, changes follow, and it goes when nothing is kept in it.
func TestPoolLife(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	made, err := r.createPool("fast", &storagev1.StoragePoolSpec{
		Driver: "local", Parameters: map[string]string{"path": "/srv/fast"}, Secrets: map[string][]byte{"key": []byte("canary"), "old": []byte("x")}, Overcommit: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	id := made.GetStoragePool().GetMeta().GetId()
	r.done(made.GetOperation().GetId())
	if d := a.pool(id); string(d.GetSecrets()["key"]) != "canary" || d.GetPool().GetSpec().GetParameters()["path"] != "/srv/fast" || len(d.GetPool().GetSpec().GetSecrets()) > 0 {
		t.Errorf("the node has %v", d)
	}
	p := r.pool(id)
	if st := p.GetStatus(); st.GetPhase() != storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_READY || strings.Join(st.GetSecretNames(), ",") != "key,old" || st.GetObservedGeneration() != 1 {
		t.Errorf("%v", st)
	}
	if strings.Contains(p.String()+made.String(), "canary") || p.GetSpec().GetOvercommit() != 2 {
		t.Errorf("a secret is shown, or the spec is another: %v", p)
	}
	kvs, err := r.store.List(t.Context(), "", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs.KVs {
		if strings.Contains(string(kv.Value), "canary") && !strings.HasPrefix(kv.Key, state.SecretPrefix) {
			t.Errorf("the secret lies in the clear at %s", kv.Key)
		}
	}

	update := func(change *storagev1.StoragePool, paths ...string) (*storagev1.UpdateStoragePoolResponse, error) {
		change.Meta = &metav1.ObjectMeta{Id: id}
		resp, err := r.Pool.UpdateStoragePool(admin(), connect.NewRequest(&storagev1.UpdateStoragePoolRequest{StoragePool: change, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}}))
		if err != nil {
			return nil, err
		}
		return resp.Msg, nil
	}
	up, err := update(&storagev1.StoragePool{Spec: &storagev1.StoragePoolSpec{Secrets: map[string][]byte{"old": {}, "new": []byte("y")}, Cordoned: true}}, "spec.secrets")
	if err != nil {
		t.Fatal(err)
	}
	r.done(up.GetOperation().GetId())
	if d := a.pool(id); len(d.GetSecrets()) != 2 || string(d.GetSecrets()["new"]) != "y" || string(d.GetSecrets()["key"]) != "canary" || d.GetPool().GetSpec().GetCordoned() {
		t.Errorf("after the change the node has %v", d)
	}
	_, err = update(&storagev1.StoragePool{Spec: &storagev1.StoragePoolSpec{Driver: "nfs"}}, "spec.driver")
	wantReason(t, err, metav1.Reason_REASON_INVALID_FIELD)

	// A node that shall not have it any more lets go of it.
	if up, err = update(&storagev1.StoragePool{Spec: &storagev1.StoragePoolSpec{NodeSelector: map[string]string{"disk": "ssd"}}}, "spec.node_selector"); err != nil {
		t.Fatal(err)
	}
	r.until("the node let go of it", func() bool { return len(r.pool(id).GetStatus().GetNodes()) == 0 })
	if up, err = update(&storagev1.StoragePool{Spec: &storagev1.StoragePoolSpec{}}, "spec.node_selector"); err != nil {
		t.Fatal(err)
	}
	r.done(up.GetOperation().GetId())

	// In use it stays; then it goes, secrets and all.
	vm := r.mustCreate("a", spec(1<<30, "d"))
	local := r.Cache.ByName(domain.DefaultProject, state.KindPool, domain.DefaultPool)
	del := func(id string) (*storagev1.DeleteStoragePoolResponse, error) {
		resp, err := r.Pool.DeleteStoragePool(admin(), connect.NewRequest(&storagev1.DeleteStoragePoolRequest{Id: id}))
		if err != nil {
			return nil, err
		}
		return resp.Msg, nil
	}
	_, err = del(local)
	wantReason(t, err, metav1.Reason_REASON_POOL_IN_USE)
	r.done(vm.GetOperation().GetId())
	gone, err := del(id)
	if err != nil {
		t.Fatal(err)
	}
	r.done(gone.GetOperation().GetId())
	if r.pool(id) != nil || r.Cache.ByName(domain.DefaultProject, state.KindPool, "fast") != "" {
		t.Error("it is still there")
	}
	if kvs, err := r.store.List(t.Context(), state.SecretPrefix, store.ListOptions{}); err != nil || len(kvs.KVs) > 0 {
		t.Errorf("secrets are left: %v, %v", kvs, err)
	}
	if again, err := del(id); err != nil || again.GetOperation() != nil {
		t.Errorf("deleted again: %v, %v", again, err)
	}
}

// While a node does not answer, a deletion waits for it by name; what is wrong is named before anything is done.
func TestPoolDeletionWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	made, err := r.createPool("slow", &storagev1.StoragePoolSpec{Driver: "local"})
	if err != nil {
		t.Fatal(err)
	}
	r.done(made.GetOperation().GetId())
	_, err = r.createPool("slow", &storagev1.StoragePoolSpec{Driver: "local"})
	wantReason(t, err, metav1.Reason_REASON_NAME_TAKEN)
	_, err = r.createPool("Bad_", &storagev1.StoragePoolSpec{Parameters: map[string]string{"a b": "x\n"}, Overcommit: -1, Secrets: map[string][]byte{"": {1}}})
	if f := fault.From(err); len(f.Violations) != 6 {
		t.Errorf("%v", f.Violations)
	}
	a.set(func(a *fakeAgent) { a.frozen = true })
	id := made.GetStoragePool().GetMeta().GetId()
	gone, err := r.Pool.DeleteStoragePool(admin(), connect.NewRequest(&storagev1.DeleteStoragePoolRequest{Id: "slow"}))
	if err != nil {
		t.Fatal(err)
	}
	r.until("it says whom it waits for", func() bool { return strings.Contains(r.pool(id).GetStatus().GetMessage(), "node n1") })
	op := r.Cache.Row(state.KindOperation, gone.Msg.GetOperation().GetId()).Operation().GetOperation()
	if op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		t.Errorf("%v", op)
	}
	if _, err := r.createPool("slow", &storagev1.StoragePoolSpec{Driver: "local"}); err != nil {
		t.Errorf("the name is free at once: %v", err)
	}
	a.report(a.ctx, &agentv1.ReportStatusRequest{Pools: []*agentv1.PoolReport{{PoolId: id, Absent: true}}})
	r.done(gone.Msg.GetOperation().GetId())
	if _, err := r.store.Get(t.Context(), state.Key(state.KindPool, id)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("its record: %v", err)
	}
}
