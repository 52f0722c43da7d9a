package reconcile

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

const (
	// poolLook is how often a pool is asked for its health and capacity, poolAnswer how long it may take to say so. Two answers in a row that do not come put a pool
	// into quarantine: a look and two answers after the last one that came, which is well under 30 s.
	poolLook   = 10 * time.Second
	poolAnswer = 6 * time.Second
	// ensureCall is how long a pool may take to be mounted, connected or made.
	ensureCall = 25 * time.Second
)

// poolState is what is known of a pool. Fields are guarded by Engine.mu; its worker alone changes ensured, version and pool.
type poolState struct {
	ensured  uint64 // the plugin's instance that was told of it; 0 = none
	version  string // of the desired object that it was told
	pool     *driverv1.Pool
	problem  string // why it is not usable
	reason   string
	failures int
	since    time.Time // of the first of them
	observed int64     // generation that was decided on, for good or ill

	timeouts int                // calls in a row that timed out
	silent   int                // looks in a row that were not answered in time
	barred   bool               // quarantined for either
	calls    map[*poolCall]bool // under way
	trouble  string             // what its VMs were last told
}

// poolSettles is how long a pool that is new or changed may fail in ways that may pass, a plugin that is just being started or an answer that was lost, before that is what came of
// the change: an operation that has failed is not taken up again when the pool works a moment later.
const poolSettles = 5 * time.Second

func (e *Engine) poolState(id string) *poolState {
	s := e.pools[id]
	if s == nil {
		s = &poolState{calls: map[*poolCall]bool{}}
		e.pools[id] = s
	}
	return s
}

// poolReady returns the driver of a pool that is ensured, or why calls for it must wait.
func (e *Engine) poolReady(id string) (driver string, err error) {
	e.mu.Lock()
	w := e.wants[realised.Key{Kind: realised.KindPool, ID: id}]
	var s poolState
	if known := e.pools[id]; known != nil {
		s = *known
	}
	e.mu.Unlock()
	if w == nil || w.obj.GetPool().GetAbsent() {
		return "", fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "pool %s is not assigned to this node", id)
	}
	driver = w.obj.GetPool().GetPool().GetSpec().GetDriver()
	p, err := e.pluginFor(driver)
	switch {
	case err != nil:
		return driver, err
	case s.barred:
		return driver, barred(id, s.problem)
	case ensured(s, p):
		return driver, nil
	case s.problem != "":
		return driver, fault.New(metav1.Reason_REASON_POOL_UNHEALTHY, "pool %s is not usable: %s", poolName(w.obj.GetPool()), s.problem)
	}
	return driver, fault.New(metav1.Reason_REASON_POOL_UNHEALTHY, "pool %s is being made usable", poolName(w.obj.GetPool()))
}

// ensured reports whether the plugin's present process was told of the pool.
func ensured(s poolState, p Plugin) bool { return s.ensured == p.Instance && s.ensured != 0 }

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

func (e *Engine) reconcilePool(ctx context.Context, w *want) (time.Duration, string) {
	d := w.obj.GetPool()
	id, driver := d.GetPool().GetMeta().GetId(), d.GetPool().GetSpec().GetDriver()
	e.progress.doing(keyOf(w.obj.GetKey()), poolVerb(d))
	p, err := e.pluginFor(driver)
	if err == nil && d.GetAbsent() {
		if err = e.releasePool(ctx, driver, id); err == nil {
			return never, resultOK
		}
	} else if err == nil {
		var pool *driverv1.Pool
		if pool, err = e.askPool(ctx, w, p); err == nil {
			e.poolUsable(w, p, pool)
			return e.poolEvery, resultOK
		}
	}
	if ctx.Err() != nil {
		return never, resultFailed
	}
	return e.poolFailed(w, p, err)
}

func (e *Engine) releasePool(ctx context.Context, driver, id string) error {
	err := e.call(ctx, driver, id, "ReleasePool", usualCall, func(ctx context.Context) error {
		_, err := e.plugins.Storage(driver).ReleasePool(ctx, &driverv1.ReleasePoolRequest{PoolId: id})
		return err
	})
	if err != nil {
		return err
	}
	e.store.Delete(realised.Key{Kind: realised.KindPool, ID: id})
	e.mu.Lock()
	delete(e.pools, id)
	e.orphans.poolGone(id)
	e.mu.Unlock()
	e.reporter.Pool(&agentv1.PoolReport{PoolId: id, Absent: true})
	return nil
}

// poolFailed says why a pool is not usable. One whose first look merely was not answered in time is looked at again before anything is said.
func (e *Engine) poolFailed(w *want, p Plugin, err error) (time.Duration, string) {
	d := w.obj.GetPool()
	id, driver, k := d.GetPool().GetMeta().GetId(), d.GetPool().GetSpec().GetDriver(), keyOf(w.obj.GetKey())
	late := fault.From(err).Code == codes.DeadlineExceeded
	e.mu.Lock()
	s := e.poolState(id)
	if late && !s.barred && s.pool != nil && !d.GetAbsent() {
		e.mu.Unlock()
		return 50 * time.Millisecond, resultFailed
	}
	if s.failures++; s.failures == 1 {
		s.since = e.now()
	}
	if kindOf(err) != failSoon {
		s.ensured = 0
	}
	tries := s.failures
	pr := problemOf(poolVerb(d), err, tries)
	s.problem, s.reason = err.Error(), pr.reason
	switch {
	case pr.retry == never:
		pr.retryIn(5 * time.Minute) // parameters may be right and the host not
	case late:
		pr.retryIn(min(delay(failRetry, tries, 0)+time.Second, e.poolEvery))
	case pr.kind != failSlow:
		pr.retryIn(min(pr.retry, e.poolEvery))
	}
	if pr.permanent || pr.kind == failSlow || e.now().Sub(s.since) >= poolSettles {
		s.observed = d.GetPool().GetMeta().GetGeneration()
	}
	status := &storagev1.PoolNodeStatus{
		NodeId: e.node, Health: storagev1.PoolHealth_POOL_HEALTH_UNHEALTHY, Reason: pr.reason, Message: pr.message, ObserveTime: timestamppb.New(e.now()),
		ObservedGeneration: s.observed, Shared: p.Capabilities.GetStorage().GetSharedPools(),
		CapacityBytes: s.pool.GetCapacityBytes(), UsedBytes: s.pool.GetUsedBytes(),
	}
	e.mu.Unlock()
	e.progress.failed(k, poolVerb(d), err, tries, pr.retry)
	if e.current(w) {
		e.reporter.Pool(&agentv1.PoolReport{PoolId: id, Status: status})
	}
	e.tellUsers(id)
	e.log.Warn("pool is not usable", "pool", id, "driver", driver, "error", err, "retry", pr.retry)
	return pr.retry, resultFailed
}

func poolVerb(d *agentv1.DesiredPool) string {
	if d.GetAbsent() {
		return "letting go of pool " + poolName(d)
	}
	return "making pool " + poolName(d) + " usable"
}

// askPool tells the plugin of the pool when it does not know it yet, else asks how it is.
func (e *Engine) askPool(ctx context.Context, w *want, p Plugin) (pool *driverv1.Pool, err error) {
	d, driver := w.obj.GetPool(), p.Name
	id := d.GetPool().GetMeta().GetId()
	e.mu.Lock()
	s := e.poolState(id)
	told := ensured(*s, p)
	known := told && (s.version == w.obj.GetVersion() || s.barred)
	e.mu.Unlock()
	if known {
		err = e.call(ctx, driver, id, "GetPool", e.poolAnswer, func(ctx context.Context) error {
			r, err := e.plugins.Storage(driver).GetPool(ctx, &driverv1.GetPoolRequest{PoolId: id})
			pool = r.GetPool()
			return err
		})
		if err == nil || !fault.Is(err, metav1.Reason_REASON_POOL_NOT_FOUND) {
			return pool, err
		}
	}
	err = e.call(ctx, driver, id, "EnsurePool", ensureCall, func(ctx context.Context) error {
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
	first := s.ensured != p.Instance || s.problem != ""
	generation := d.GetPool().GetMeta().GetGeneration()
	s.ensured, s.version, s.pool, s.problem, s.reason, s.failures, s.observed = p.Instance, w.obj.GetVersion(), pool, "", "", 0, generation
	e.mu.Unlock()
	if e.current(w) {
		e.reporter.Pool(&agentv1.PoolReport{PoolId: id, Status: &storagev1.PoolNodeStatus{
			NodeId: e.node, Health: storagev1.PoolHealth(pool.GetHealth()), Reason: pool.GetReason(), Message: pool.GetMessage(),
			CapacityBytes: pool.GetCapacityBytes(), UsedBytes: pool.GetUsedBytes(), Shared: p.Capabilities.GetStorage().GetSharedPools(),
			ObservedGeneration: generation, ObserveTime: timestamppb.New(e.now()),
		}})
	}
	k := realised.Key{Kind: realised.KindPool, ID: id}
	if r, ok := e.store.Record(k); !ok || r.Generation != generation || r.Driver != p.Name {
		e.store.Put(realised.Record{Kind: k.Kind, ID: id, Driver: p.Name, Generation: generation, Made: true})
	}
	if first {
		e.log.Info("pool is usable", "pool", id, "name", poolName(d), "driver", p.Name)
		e.dependents(k)
		e.pokeSurvey("")
	}
	e.tellUsers(id)
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
