package placement

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Config is what the loops need.
type Config struct {
	Store   store.Store
	Cache   *state.Cache
	Index   *Index
	Live    *state.Liveness
	History *state.History
	Seen    *state.Sightings // nil: the audit knows orphans only
	Audit   *AuditMetrics    // nil: the audit only logs
	// HeartbeatTimeout is how long a node may be silent; HeartbeatInterval how often that is looked at.
	HeartbeatTimeout, HeartbeatInterval time.Duration
	// Lease is what an answer to a heartbeat grants: so long after it a node may work on shared pools.
	Lease time.Duration
	// Uploading reports whether this process carries the upload of an image; nil: it carries none.
	Uploading func(imageID string) bool
	Now       func() time.Time
	Log       *slog.Logger
}

// Loops are the leader's loops.
type Loops struct{ cfg Config }

// New makes the loops; they rest until Run.
func New(cfg Config) *Loops { return &Loops{cfg: cfg} }

// Run does the leader's work until ctx ends or the leadership is lost. Failures of the store are logged and tried again.
func (l *Loops) Run(ctx context.Context, lead store.Leadership) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &worker{Config: l.cfg, fence: lead.Fence(), since: l.cfg.Now()}
	if err := w.begin(ctx); err != nil {
		return err
	}
	var all sync.WaitGroup
	for name, loop := range map[string]func(context.Context) error{
		"schedule": w.schedule, "monitor": w.monitor, "end": w.end, "finish": w.finish, "expire": w.expire, "audit": w.audit,
		"uploads": w.uploads, "executors": w.executors, "take over": w.takeOvers,
	} {
		all.Go(func() { w.repeat(ctx, name, loop) })
	}
	select {
	case <-ctx.Done():
	case <-lead.Done():
	}
	cancel()
	all.Wait()
	return nil
}

// worker is the leader of one term.
type worker struct {
	Config
	fence store.Condition
	since time.Time // no node is lost before a full timeout from here
	// groupWaits is, by operation on a security group, a port that it waited for last; the loop that ends operations alone uses it.
	groupWaits map[string]string
}

// repeat runs a loop again whenever it fails.
func (w *worker) repeat(ctx context.Context, name string, loop func(context.Context) error) {
	for ctx.Err() == nil {
		err := loop(ctx)
		if ctx.Err() != nil {
			return
		}
		w.Log.Warn("leader loop begins anew", "loop", name, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// begin learns all that former leaders wrote, makes what every cluster has, and ends what a former leader left half done.
func (w *worker) begin(ctx context.Context) error {
	for {
		err := w.learn(ctx)
		if err == nil {
			err = w.seed(ctx)
		}
		if err == nil {
			err = w.abandonUploads(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		w.Log.Warn("leader cannot begin yet", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// learn waits until the cache knows everything that was written before this term: rules between VMs are judged by the whole of it, and a commit is
// conditional only on the records that it changes.
func (w *worker) learn(ctx context.Context) error {
	now, err := w.Store.List(ctx, w.fence.Key, store.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	return w.Cache.Wait(ctx, now.Revision)
}

// commit writes transactions, each with the fence, and waits until the cache shows them, and also what overtook them. The results are in order.
func (w *worker) commit(ctx context.Context, ws []*state.Writer) ([]bool, error) {
	txns := make([]store.Txn, len(ws))
	for i, one := range ws {
		one.Require(w.fence)
		txn, err := one.Txn()
		if err != nil {
			return nil, err
		}
		txns[i] = txn
	}
	done := make([]bool, len(ws))
	results, err := w.Store.Commit(ctx, txns)
	if err != nil {
		return done, err
	}
	var newest int64
	for i, r := range results {
		done[i] = r.Succeeded
		newest = max(newest, r.Revision)
		for _, c := range r.Unmet() {
			if c.Condition.Key == w.fence.Key {
				return done, fault.New(metav1.Reason_REASON_NOT_LEADER, "another controller leads")
			}
		}
	}
	return done, w.Cache.Wait(ctx, newest)
}

// follow calls take with what is there and then with every change, until it fails. first runs after the subscription began, so nothing is missed.
func (w *worker) follow(ctx context.Context, first func() error, take func([]state.Change) error) error {
	sub, err := w.Cache.Subscribe(w.Cache.Revision())
	if err != nil {
		return err
	}
	if err := first(); err != nil {
		return err
	}
	for {
		changes, _, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		if err := take(changes); err != nil {
			return err
		}
	}
}
