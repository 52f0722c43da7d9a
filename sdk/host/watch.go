package host

import (
	"context"
	"fmt"
	"sync"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// watcher watches one process: its reports of health, and whether it answers at all.
type watcher struct {
	s      *Supervisor
	p      *Process
	cancel context.CancelFunc
	wg     sync.WaitGroup

	once  sync.Once
	hangs chan struct{} // closed when the process hangs; why says how that is known
	why   string
}

// running notes that p serves and begins to watch it.
func (s *Supervisor) running(p *Process) *watcher {
	caps := p.Capabilities()
	s.board.update(func(st *Status) {
		st.State, st.PID, st.Reason, st.Message = StateRunning, p.PID(), "", ""
		st.Name, st.Version, st.Kinds = p.manifest.Name, p.manifest.Version, p.manifest.Kinds
		st.Capabilities, st.Attributes, st.Health = caps, nil, driverv1.HealthState_HEALTH_STATE_UNSPECIFIED
	})
	ctx, cancel := context.WithCancel(s.life)
	w := &watcher{s: s, p: p, cancel: cancel, hangs: make(chan struct{})}
	reports := make(chan struct{}, 1)
	w.wg.Go(func() { w.follow(ctx, reports) })
	w.wg.Go(func() { w.listen(ctx, reports) })
	w.wg.Go(func() { w.check(ctx) })
	return w
}

// stop ends the watch and returns when it has ended: nothing is reported of the process afterwards.
func (w *watcher) stop() {
	w.cancel()
	w.wg.Wait()
}

func (w *watcher) hang(format string, args ...any) {
	w.once.Do(func() {
		w.why = fmt.Sprintf(format, args...)
		close(w.hangs)
	})
}

// follow reads reports of health, and opens the stream again when it breaks, until ctx ends.
func (w *watcher) follow(ctx context.Context, reports chan<- struct{}) {
	retry := min(time.Second, w.s.policy.HealthTimeout/4)
	for ctx.Err() == nil {
		stream, err := driverv1.NewPluginServiceClient(w.p.conn).WatchHealth(ctx, &driverv1.WatchHealthRequest{})
		for err == nil {
			var r *driverv1.WatchHealthResponse
			if r, err = stream.Recv(); err != nil {
				break
			}
			select {
			case reports <- struct{}{}:
			default:
			}
			w.s.board.update(func(st *Status) {
				st.Health, st.Reason, st.Message, st.Attributes = r.GetState(), r.GetReason(), r.GetMessage(), r.GetAttributes()
			})
		}
		t := time.NewTimer(retry)
		select {
		case <-ctx.Done():
		case <-w.p.Done():
			t.Stop()
			return
		case <-t.C:
		}
		t.Stop()
	}
}

// listen waits for reports and declares the process hanging when none comes for too long.
func (w *watcher) listen(ctx context.Context, reports <-chan struct{}) {
	t := time.NewTimer(w.s.policy.HealthTimeout)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-reports:
			t.Reset(w.s.policy.HealthTimeout)
		case <-t.C:
			w.hang("no report of health for %s", w.s.policy.HealthTimeout)
			return
		}
	}
}

// check asks the process again and again whether it answers, and declares it hanging when it is late several times in a row.
func (w *watcher) check(ctx context.Context) {
	tick := time.NewTicker(w.s.policy.CheckInterval)
	defer tick.Stop()
	late := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		callCtx, cancel := context.WithTimeout(ctx, w.s.policy.CheckTimeout)
		err := w.p.Check(callCtx)
		cancel()
		if late++; err == nil {
			late = 0
		}
		if late >= maxLate && ctx.Err() == nil {
			w.hang("it did not answer %d checks in a row: %v", late, err)
			return
		}
	}
}
