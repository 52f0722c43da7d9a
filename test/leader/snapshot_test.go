package leader

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

func meta(name string) *metav1.ObjectMeta { return &metav1.ObjectMeta{Name: name} }

// snapshot is what the store holds at one revision.
type snapshot struct {
	vms   map[string]*statev1.VMRecord
	nodes map[string]*statev1.NodeRecord
	names map[string]string // of VMs -> id
}

func (k *cluster) snapshot(t *testing.T) *snapshot {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{k.etcd.endpoint}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	const names = prefix + "name/default/vm/"
	res, err := c.Txn(t.Context()).Then(clientv3.OpGet(prefix+"vm/", clientv3.WithPrefix()), clientv3.OpGet(prefix+"node/", clientv3.WithPrefix()),
		clientv3.OpGet(names, clientv3.WithPrefix())).Commit()
	if err != nil {
		t.Fatal(err)
	}
	s := &snapshot{vms: map[string]*statev1.VMRecord{}, nodes: map[string]*statev1.NodeRecord{}, names: map[string]string{}}
	for i, r := range res.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			key := string(kv.Key)
			id := key[strings.LastIndexByte(key, '/')+1:]
			var err error
			switch i {
			case 0:
				s.vms[id] = &statev1.VMRecord{}
				err = proto.Unmarshal(kv.Value, s.vms[id])
			case 1:
				s.nodes[id] = &statev1.NodeRecord{}
				err = proto.Unmarshal(kv.Value, s.nodes[id])
			default:
				s.names[id] = string(kv.Value)
			}
			if err != nil {
				t.Fatal(key, err)
			}
		}
	}
	return s
}

// consistent checks what must hold at any revision: each node's sum is that of the claims on it, and names and VMs belong to each other.
func (s *snapshot) consistent(t *testing.T, round string) {
	t.Helper()
	cpus, memory := map[string]int64{}, map[string]int64{}
	for id, vm := range s.vms {
		c, m := vm.GetClaim(), vm.GetVm().GetMeta()
		cpus[c.GetNodeId()] += int64(c.GetVcpus())
		memory[c.GetNodeId()] += c.GetMemoryBytes()
		if m.GetDeleteTime() == nil && s.names[m.GetName()] != id {
			t.Errorf("%s: the name of VM %s (%s) belongs to %q", round, m.GetName(), id, s.names[m.GetName()])
		}
		if on := vm.GetVm().GetStatus().GetVmPlacement().GetNodeId(); c != nil && c.GetNodeId() != on {
			t.Errorf("%s: VM %s claims on node %s and is placed on %q", round, id, c.GetNodeId(), on)
		}
	}
	for name, id := range s.names {
		if s.vms[id] == nil {
			t.Errorf("%s: name %s belongs to VM %s, which is not there", round, name, id)
		}
	}
	for id, n := range s.nodes {
		if n.GetClaimedVcpus() != cpus[id] || n.GetClaimedMemoryBytes() != memory[id] {
			t.Errorf("%s: node %s counts %d CPUs and %d bytes, its VMs claim %d and %d", round, id, n.GetClaimedVcpus(), n.GetClaimedMemoryBytes(), cpus[id], memory[id])
		}
	}
}

// domains are what the hypervisors have: domain -> nodes that have it.
func (k *cluster) domains(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for i := range k.agents {
		name := fmt.Sprintf("n%d", i)
		b, err := os.ReadFile(fmt.Sprintf("%s/%s/journal", k.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		var tables map[string]map[string][]byte
		if err := json.Unmarshal(b, &tables); err != nil {
			t.Fatal(err)
		}
		for id := range tables["domain"] {
			out[id] = append(out[id], name)
		}
	}
	return out
}
