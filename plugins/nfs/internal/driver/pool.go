package driver

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/filepool"
	"github.com/limiquantix/limiquantix/plugins/nfs/internal/mount"
	"github.com/limiquantix/limiquantix/plugins/nfs/internal/worker"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// pool is a mounted export with its worker.
type pool struct {
	id, path, lock string
	params         mount.Params
	preallocation  string
	owner          filepool.Owner
	limits         limits
	mounter        Mounter

	stop     context.CancelFunc // of the watch
	watching sync.WaitGroup
	starting chan struct{} // holds one token: whoever takes it may start a worker

	mu     sync.Mutex
	worker *worker.Worker // nil or gone = none
	state  *driverv1.Pool // as last seen
	closed bool
}

// open starts the pool's worker and its watch.
func (p *pool) open(ctx context.Context) error {
	p.starting = make(chan struct{}, 1)
	p.starting <- struct{}{}
	p.state = &driverv1.Pool{PoolId: p.id, Health: driverv1.HealthState_HEALTH_STATE_HEALTHY}
	if _, err := p.client(ctx); err != nil {
		return err
	}
	watch, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.watching.Go(func() { p.watch(watch) })
	return nil
}

// close ends the watch and the worker. The mount stays.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	w := p.worker
	p.mu.Unlock()
	if p.stop != nil {
		p.stop()
		p.watching.Wait()
	}
	if w != nil {
		w.Kill()
	}
}

// client is the pool's worker; a new one if the last is gone. A pool that does not work is refused at once.
func (p *pool) client(ctx context.Context) (*worker.Worker, error) {
	if w, err := p.current(); w != nil || err != nil {
		return w, err
	}
	select {
	case <-p.starting:
		defer func() { p.starting <- struct{}{} }()
	case <-ctx.Done():
		return nil, fault.From(ctx.Err())
	}
	if w, err := p.current(); w != nil || err != nil { // another call has started it
		return w, err
	}
	// On a directory where nothing is mounted a worker would make a pool on the node's own disk.
	if source, ok, err := p.mounter.Mounted(p.path); err != nil {
		return nil, err
	} else if !ok || source != p.params.Source() {
		return nil, p.unmounted(source)
	}
	ctx, cancel := context.WithTimeout(ctx, p.limits.mount) // it reads every record once
	defer cancel()
	w, state, err := worker.Start(ctx, worker.Pool{ID: p.id, Path: p.path, Owner: p.owner, Preallocation: p.preallocation}, p.lock)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		w.Kill()
		return nil, fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "pool %s was released", p.id)
	}
	p.worker, p.state = w, state
	return w, nil
}

func (p *pool) unmounted(source string) error {
	if source != "" {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "at %s another export is mounted: %s, not %s", p.path, source, p.params.Source()).WithRemedy("unmount it")
	}
	return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "%s is not mounted at %s any more", p.params.Source(), p.path).WithRemedy("it is mounted again when the pool is ensured again")
}

// current is the worker that runs, nil if there is none, or why the pool does not work.
func (p *pool) current() (*worker.Worker, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.GetHealth() == driverv1.HealthState_HEALTH_STATE_UNHEALTHY {
		return nil, fault.New(metav1.Reason_REASON_POOL_UNHEALTHY, "pool %s: %s: %s", p.id, p.state.GetReason(), p.state.GetMessage()).
			WithRemedy("the pool is looked at every %s and used again when it answers", p.limits.probe)
	}
	if p.worker != nil {
		select {
		case <-p.worker.Gone():
			p.worker = nil
		default:
		}
	}
	return p.worker, nil
}

// health is the pool as last seen. It asks nobody.
func (p *pool) health() *driverv1.Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return proto.CloneOf(p.state)
}

// watch looks at the pool again and again, from a child process.
func (p *pool) watch(ctx context.Context) {
	tick := time.NewTicker(p.limits.probe)
	defer tick.Stop()
	var probe worker.Probe
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		look, cancel := context.WithTimeout(ctx, p.limits.answer)
		state, err := p.look(look, &probe)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			state = p.health() // capacity stays as last seen
			state.Health, state.Reason, state.Message = driverv1.HealthState_HEALTH_STATE_UNHEALTHY, fault.ReasonName(fault.From(err).Reason), err.Error()
		}
		p.saw(state)
	}
}

func (p *pool) look(ctx context.Context, probe *worker.Probe) (*driverv1.Pool, error) {
	if source, ok, err := p.mounter.Mounted(p.path); err != nil {
		return nil, err
	} else if !ok || source != p.params.Source() {
		return nil, p.unmounted(source)
	}
	return probe.Look(ctx, p.id, p.path)
}

// saw takes over what a look has found. What calls of a pool that does not answer wait for will not come: they end with its worker.
func (p *pool) saw(state *driverv1.Pool) {
	p.mu.Lock()
	before := p.state.GetHealth()
	p.state = state
	w := p.worker
	p.mu.Unlock()
	if before == state.GetHealth() {
		return
	}
	slog.Warn("a pool's health has changed", "pool", p.id, "health", state.GetHealth().String(), "reason", state.GetReason(), "message", state.GetMessage())
	if state.GetHealth() == driverv1.HealthState_HEALTH_STATE_UNHEALTHY && w != nil {
		w.Kill()
	}
}

// answered reads a call's error: a call whose worker is gone tells why, as far as that is known.
func (p *pool) answered(ctx context.Context, w *worker.Worker, err error) error {
	f := fault.From(err)
	if f == nil {
		return nil
	}
	if f.Reason != 0 {
		return f
	}
	if ctx.Err() != nil {
		return fault.From(ctx.Err())
	}
	if f.Code == codes.DeadlineExceeded {
		return fault.From(context.DeadlineExceeded)
	}
	if f.Code == codes.Unavailable || f.Code == codes.Canceled {
		if _, broken := p.current(); broken != nil {
			return broken
		}
		return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "the worker of pool %s (process %d) ended during the call", p.id, w.PID()).WithRemedy("issue the call again")
	}
	return f
}

func lockPath(host *driverv1.HostFacts, id string) string {
	return filepath.Join(host.GetStateDirectory(), fmt.Sprintf("%s.%s.lock", id, filepath.Base(host.GetNodeId())))
}
