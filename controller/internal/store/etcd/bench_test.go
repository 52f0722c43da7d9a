package etcd_test

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
)

// BenchmarkCreate commits what the creation of a machine does: three conditions
// and seven new keys of about 600 bytes, for 64 callers at once, durably.
func BenchmarkCreate(b *testing.B) {
	s := open(b, etcd.EmbeddedConfig{Dir: b.TempDir()})
	const callers = 64
	value := bytes.Repeat([]byte("v"), 600)
	if _, err := s.Commit(b.Context(), []store.Txn{{Ops: []store.Op{store.Put("fence", nil)}}}); err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	var slowest atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				began := time.Now()
				res, err := s.Commit(b.Context(), []store.Txn{create(i, value)})
				if err != nil || !res[0].Succeeded {
					b.Errorf("create %d: %+v, %v", i, res, err)
					return
				}
				took := int64(time.Since(began))
				for old := slowest.Load(); took > old && !slowest.CompareAndSwap(old, took); old = slowest.Load() {
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
	b.ReportMetric(float64(slowest.Load())/1e6, "slowest-ms")
}

func create(i int64, value []byte) store.Txn {
	id := fmt.Sprintf("%012d", i)
	txn := store.Txn{Conditions: []store.Condition{
		store.KeyExists("fence"),
		store.KeyAbsent("name/p/vm/" + id),
		store.KeyAbsent("req/p/" + id),
	}}
	for _, kind := range []string{"name/p/vm/", "req/p/", "vm/", "volume/", "port/", "ip/net/", "operation/"} {
		txn.Ops = append(txn.Ops, store.Put(kind+id, value))
	}
	return txn
}
