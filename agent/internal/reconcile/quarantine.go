package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	// poolTimeouts in a row put a pool into quarantine: its calls are refused until it answers a look.
	poolTimeouts = 3
	// poolSilences are as many looks that were not answered in time.
	poolSilences = 2
)

// poolCall is a call for a pool that is under way.
type poolCall struct{ cancel context.CancelCauseFunc }

// errBarred is why a call ends whose pool was put into quarantine meanwhile.
var errBarred = errors.New("its pool was put into quarantine")

func barred(id, why string) error {
	if why == "" {
		why = "it does not answer"
	}
	return fault.New(metav1.Reason_REASON_POOL_UNHEALTHY, "pool %s is quarantined: %s", id, why).WithRemedy("it is looked at until it answers")
}

// isLook reports whether a call finds out how a pool is: it is let through to one in quarantine, and takes nobody's place.
func isLook(method string) bool {
	return slices.Contains([]string{"GetPool", "EnsurePool", "ReleasePool"}, method)
}

// enterPool notes a call for a pool, unless that is in quarantine: it is cancelled when that happens later.
func (e *Engine) enterPool(ctx context.Context, id, method string) (context.Context, func(), error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.pools[id]
	switch {
	case s == nil || isLook(method):
		return ctx, func() {}, nil
	case s.barred:
		return nil, nil, barred(id, s.problem)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c := &poolCall{cancel}
	s.calls[c] = true
	return ctx, func() {
		e.mu.Lock()
		delete(s.calls, c)
		e.mu.Unlock()
		cancel(nil)
	}, nil
}

// cancelCalls ends what is under way for a pool. Engine.mu is held.
func (s *poolState) cancelCalls() {
	for c := range s.calls {
		c.cancel(errBarred)
	}
}

// poolAnswered counts what was not answered in time. A look that is answered ends the quarantine.
func (e *Engine) poolAnswered(id, method string, late bool) {
	e.mu.Lock()
	s, look := e.pools[id], isLook(method)
	if s == nil { // let go of meanwhile
		e.mu.Unlock()
		return
	}
	was := s.barred
	switch {
	case look && late:
		s.silent++
	case look:
		s.silent, s.barred = 0, false
		if was {
			s.timeouts = 0
		}
	case late:
		s.timeouts++
	default:
		s.timeouts = 0
	}
	bar := !s.barred && (s.silent >= poolSilences || s.timeouts >= poolTimeouts || late && method == "EnsurePool")
	if bar {
		s.barred = true
		s.cancelCalls()
	}
	is := s.barred
	e.mu.Unlock()
	k := realised.Key{Kind: realised.KindPool, ID: id}
	switch {
	case bar:
		e.log.Warn("pool quarantined", "pool", id)
		e.reporter.Event("", "PoolQuarantined", "BACKEND_TIMEOUT", "pool "+id+" did not answer several calls in a row; it is looked at until it does")
		e.queue.add(k)
	case was && !is:
		e.log.Info("pool answers again", "pool", id)
		e.reporter.Event("", "PoolRecovered", "", "pool "+id+" answers again")
		e.dependents(k)
	case !look && late:
		e.queue.add(k) // find out at once
	}
}

// poolTrouble says what is wrong with a pool that was usable; empty = nothing. mu is held.
func (e *Engine) poolTrouble(id string) string {
	s := e.pools[id]
	name := poolName(e.wants[realised.Key{Kind: realised.KindPool, ID: id}].object().GetPool())
	switch {
	case s == nil || s.pool == nil: // never worked: what waits for it says so itself
		return ""
	case s.barred:
		return fmt.Sprintf("pool %s does not answer", name)
	case s.problem != "" && !strings.HasPrefix(s.reason, "PLUGIN_"): // disks do without the plugin
		return fmt.Sprintf("pool %s does not work: %s", name, s.problem)
	case s.pool.GetHealth() == driverv1.HealthState_HEALTH_STATE_UNHEALTHY:
		return fmt.Sprintf("pool %s does not work: %s", name, s.pool.GetMessage())
	}
	return ""
}

// tellUsers has VMs report again whose disks lie in a pool that stopped working, or works again.
func (e *Engine) tellUsers(id string) {
	e.mu.Lock()
	s, now := e.poolState(id), e.poolTrouble(id)
	var keys []realised.Key
	if (s.trouble == "") != (now == "") {
		for k, w := range e.wants {
			if k.Kind == realised.KindVM && slices.ContainsFunc(w.obj.GetVm().GetVolumes(), func(v *agentv1.VMVolume) bool { return e.poolOf(v.GetVolumeId()) == id }) {
				keys = append(keys, k)
			}
		}
	}
	s.trouble = now
	e.mu.Unlock()
	for _, k := range keys {
		e.queue.add(k)
	}
}

// poolOf is the pool that a volume shall lie in; mu is held.
func (e *Engine) poolOf(volume string) string {
	return e.wants[realised.Key{Kind: realised.KindVolume, ID: volume}].object().GetVolume().GetVolume().GetSpec().GetPoolId()
}

// diskTrouble names the first disk of a VM whose pool does not work, and what is wrong with that; empty = all work.
func (e *Engine) diskTrouble(d *agentv1.DesiredVM) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range d.GetVolumes() {
		if t := e.poolTrouble(e.poolOf(v.GetVolumeId())); t != "" {
			return fmt.Sprintf("disk %q: %s", v.GetDiskName(), t)
		}
	}
	return ""
}
