package etcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// toOp writes a transaction in etcd's terms. When it does not hold, it reads the
// keys of its conditions, so that the answer can say why.
func toOp(txn store.Txn) clientv3.Op {
	compares := make([]clientv3.Cmp, len(txn.Conditions))
	for i, c := range txn.Conditions {
		compares[i] = toCompare(c)
	}
	ops := make([]clientv3.Op, len(txn.Ops))
	for i, op := range txn.Ops {
		ops[i] = toWrite(op)
	}
	var reads []clientv3.Op
	for _, key := range conditionKeys(txn) {
		reads = append(reads, clientv3.OpGet(key))
	}
	return clientv3.OpTxn(compares, ops, reads)
}

func toCompare(c store.Condition) clientv3.Cmp {
	switch c.Kind {
	case store.CondAbsent:
		return clientv3.Compare(clientv3.CreateRevision(c.Key), "=", 0)
	case store.CondExists:
		return clientv3.Compare(clientv3.CreateRevision(c.Key), ">", 0)
	case store.CondModRevision:
		return clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Revision)
	case store.CondCreateRevision:
		return clientv3.Compare(clientv3.CreateRevision(c.Key), "=", c.Revision)
	default:
		return clientv3.Compare(clientv3.Value(c.Key), "=", string(c.Value))
	}
}

func toWrite(op store.Op) clientv3.Op {
	switch op.Kind {
	case store.OpPut:
		return clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease)))
	case store.OpDelete:
		return clientv3.OpDelete(op.Key)
	default:
		return clientv3.OpDelete(op.Key, clientv3.WithPrefix())
	}
}

// conditionKeys lists each key once, in order of appearance.
func conditionKeys(txn store.Txn) []string {
	var keys []string
	seen := make(map[string]bool, len(txn.Conditions))
	for _, c := range txn.Conditions {
		if !seen[c.Key] {
			seen[c.Key] = true
			keys = append(keys, c.Key)
		}
	}
	return keys
}

// toResult reads the outcome of the transaction that toOp wrote.
func toResult(txn store.Txn, res *pb.TxnResponse, revision int64) store.Result {
	out := store.Result{Succeeded: res.Succeeded, Revision: revision}
	if res.Succeeded {
		return out
	}
	current := map[string]*store.KV{}
	for _, r := range res.Responses {
		for _, kv := range r.GetResponseRange().GetKvs() {
			found := fromKV(kv)
			current[found.Key] = &found
		}
	}
	for _, c := range txn.Conditions {
		kv := current[c.Key]
		out.Checks = append(out.Checks, store.Check{Condition: c, Met: c.Holds(kv), Current: kv})
	}
	return out
}
