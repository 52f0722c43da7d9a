package reconcile

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// poolLook is how often a pool that works is asked for its health and capacity.
const poolLook = 30 * time.Second

// poolState is what is known of a pool. Fields are guarded by Engine.mu; its worker alone changes ensured and pool.
type poolState struct {
	ensured  uint64 // the plugin's instance that was told of it; 0 = none
	version  string // of the desired object that it was told
	pool     *driverv1.Pool
	problem  string // why it is not usable
	failures int
	timeouts int  // calls in a row that timed out
	barred   bool // quarantined for that
}

func (e *Engine) poolState(id string) *poolState {
	s := e.pools[id]
	if s == nil {
		s = &poolState{}
		e.pools[id] = s
	}
	return s
}

// poolReady returns the driver of a pool that is ensured, or why calls for it must wait.
func (e *Engine) poolReady(id string) (driver string, err error) {
	e.mu.Lock()
	w, s := e.wants[realised.Key{Kind: realised.KindPool, ID: id}], e.poolState(id)
	ensured, why := s.ensured, s.problem
	e.mu.Unlock()
	if w == nil || w.obj.GetPool().GetAbsent() {
		return "", fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "pool %s is not assigned to this node", id)
	}
	driver = w.obj.GetPool().GetPool().GetSpec().GetDriver()
	p, err := e.pluginFor(driver)
	switch {
	case err != nil:
		return driver, err
	case ensured == p.Instance && ensured != 0:
		return driver, nil
	case why != "":
		return driver, fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "pool %s is not usable: %s", poolName(w.obj.GetPool()), why)
	}
	return driver, fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "pool %s is being made usable", poolName(w.obj.GetPool()))
}

func poolName(p *agentv1.DesiredPool) string {
	if n := p.GetPool().GetMeta().GetName(); n != "" {
		return n
	}
	return p.GetPool().GetMeta().GetId()
}

// poolLost notes that the driver does not know the pool any more.
func (e *Engine) poolLost(id string) {
	e.mu.Lock()
	e.poolState(id).ensured = 0
	e.mu.Unlock()
	e.queue.add(realised.Key{Kind: realised.KindPool, ID: id})
}

// poolBarred refuses calls for a pool in quarantine.
func (e *Engine) poolBarred(id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.pools[id]; s != nil && s.barred {
		return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "pool %s is quarantined: its last %d calls timed out", id, s.timeouts)
	}
	return nil
}

// poolAnswered counts timeouts in a row.
func (e *Engine) poolAnswered(id string, timedOut bool) {
	e.mu.Lock()
	s := e.poolState(id)
	if !timedOut {
		s.timeouts, s.barred = 0, false
		e.mu.Unlock()
		return
	}
	s.timeouts++
	bar := s.timeouts >= poolTimeouts && !s.barred
	s.barred = s.barred || bar
	e.mu.Unlock()
	if bar {
		e.log.Warn("pool quarantined", "pool", id, "timeouts", poolTimeouts)
		e.reporter.Event("", "PoolQuarantined", "BACKEND_TIMEOUT", "pool "+id+" did not answer several calls in a row; it is probed until it does")
		e.queue.add(realised.Key{Kind: realised.KindPool, ID: id})
	}
}

func (e *Engine) reconcilePool(ctx context.Context, w *want) (time.Duration, string) {
	d := w.obj.GetPool()
	id, driver := d.GetPool().GetMeta().GetId(), d.GetPool().GetSpec().GetDriver()
	e.mu.Lock()
	s := e.poolState(id)
	barred := s.barred
	e.mu.Unlock()
	e.progress.doing(keyOf(w.obj.GetKey()), poolVerb(d))
	p, err := e.pluginFor(driver)
	if err == nil && d.GetAbsent() {
		err = e.call(ctx, driver, id, "ReleasePool", usualCall, func(ctx context.Context) error {
			_, err := e.plugins.Storage(driver).ReleasePool(ctx, &driverv1.ReleasePoolRequest{PoolId: id})
			return err
		})
		if err == nil {
			e.store.Delete(realised.Key{Kind: realised.KindPool, ID: id})
			e.reporter.Pool(&agentv1.PoolReport{PoolId: id, Absent: true})
			return never, resultOK
		}
	} else if err == nil {
		var pool *driverv1.Pool
		if pool, err = e.ensurePool(ctx, w, s, p, barred); err == nil {
			e.poolUsable(w, p, pool)
			return poolLook, resultOK
		}
	}
	if ctx.Err() != nil {
		return never, resultFailed
	}
	e.mu.Lock()
	s.failures++
	if kindOf(err) != failSoon {
		s.ensured = 0
	}
	tries := s.failures
	pr := problemOf(poolVerb(d), err, tries)
	s.problem = err.Error()
	e.mu.Unlock()
	if pr.retry == never {
		pr.retry = 5 * time.Minute // parameters may be right and the host not
	}
	e.progress.failed(keyOf(w.obj.GetKey()), poolVerb(d), err, tries, pr.retry)
	status := &storagev1.PoolNodeStatus{
		NodeId: e.node, Health: storagev1.PoolHealth_POOL_HEALTH_UNHEALTHY, Reason: pr.reason, Message: pr.message, ObserveTime: timestamppb.New(e.now()),
		ObservedGeneration: d.GetPool().GetMeta().GetGeneration(),
	}
	e.reporter.Pool(&agentv1.PoolReport{PoolId: id, Status: status})
	e.log.Warn("pool is not usable", "pool", id, "driver", driver, "error", err, "retry", pr.retry)
	return pr.retry, resultFailed
}

func poolVerb(d *agentv1.DesiredPool) string {
	if d.GetAbsent() {
		return "letting go of pool " + poolName(d)
	}
	return "making pool " + poolName(d) + " usable"
}

// ensurePool tells the plugin of the pool when it does not know it yet, else asks how it is.
func (e *Engine) ensurePool(ctx context.Context, w *want, s *poolState, p Plugin, barred bool) (pool *driverv1.Pool, err error) {
	d, driver := w.obj.GetPool(), p.Name
	id := d.GetPool().GetMeta().GetId()
	e.mu.Lock()
	told := s.ensured == p.Instance && s.ensured != 0
	known := told && s.version == w.obj.GetVersion()
	e.mu.Unlock()
	if known || barred && told {
		err = e.call(ctx, driver, id, "GetPool", shortCall, func(ctx context.Context) error {
			r, err := e.plugins.Storage(driver).GetPool(ctx, &driverv1.GetPoolRequest{PoolId: id})
			pool = r.GetPool()
			return err
		})
		if err == nil || !fault.Is(err, metav1.Reason_REASON_POOL_NOT_FOUND) {
			return pool, err
		}
	}
	err = e.call(ctx, driver, id, "EnsurePool", usualCall, func(ctx context.Context) error {
		r, err := e.plugins.Storage(driver).EnsurePool(ctx, &driverv1.EnsurePoolRequest{
			PoolId: id, Parameters: d.GetPool().GetSpec().GetParameters(), Secrets: d.GetSecrets(),
		})
		pool = r.GetPool()
		return err
	})
	return pool, err
}

func (e *Engine) poolUsable(w *want, p Plugin, pool *driverv1.Pool) {
	d := w.obj.GetPool()
	id := d.GetPool().GetMeta().GetId()
	e.mu.Lock()
	s := e.poolState(id)
	first := s.ensured != p.Instance
	s.ensured, s.version, s.pool, s.problem, s.failures = p.Instance, w.obj.GetVersion(), pool, "", 0
	e.mu.Unlock()
	generation := d.GetPool().GetMeta().GetGeneration()
	e.reporter.Pool(&agentv1.PoolReport{PoolId: id, Status: &storagev1.PoolNodeStatus{
		NodeId: e.node, Health: storagev1.PoolHealth(pool.GetHealth()), Reason: pool.GetReason(), Message: pool.GetMessage(),
		CapacityBytes: pool.GetCapacityBytes(), UsedBytes: pool.GetUsedBytes(), Shared: p.Capabilities.GetStorage().GetSharedPools(),
		ObservedGeneration: generation, ObserveTime: timestamppb.New(e.now()),
	}})
	if first {
		k := realised.Key{Kind: realised.KindPool, ID: id}
		if r, ok := e.store.Record(k); !ok || r.Generation != generation || r.Driver != p.Name {
			e.store.Put(realised.Record{Kind: k.Kind, ID: id, Driver: p.Name, Generation: generation, Made: true})
		}
		e.log.Info("pool is usable", "pool", id, "name", poolName(d), "driver", p.Name)
		e.dependents(k)
		e.pokeSurvey("")
	}
}

// Pools is how the pools of this node are, for metrics.
func (e *Engine) Pools() map[string]*driverv1.Pool {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]*driverv1.Pool{}
	for id, s := range e.pools {
		if s.pool != nil {
			out[id] = s.pool
		}
	}
	return out
}
