package reconcile

import (
	"context"
	"slices"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// setState is what is known of an address set.
type setState struct {
	setback
	told map[string]toldSet // by driver
}

// toldSet is what a driver's process was told last of an address set.
type toldSet struct {
	instance   uint64
	generation int64
	members    []string
}

func (e *Engine) setState(id string) *setState {
	s := e.net.sets[id]
	if s == nil {
		s = &setState{told: map[string]toldSet{}}
		e.net.sets[id] = s
	}
	return s
}

// nextGeneration is greater than any before, also than those that were forgotten: the clock runs faster than members change.
func nextGeneration(known int64, now time.Time) int64 { return max(known+1, now.UnixMicro()) }

// countSet counts a generation of an address set for a driver, and keeps it.
func (e *Engine) countSet(id, driver string, skip int64) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	rec := e.recordOf(setKey(id))
	rec.Kind, rec.ID = realised.KindAddressSet, id
	if rec.Generations == nil {
		rec.Generations = map[string]int64{}
	}
	rec.Generations[driver] = nextGeneration(rec.Generations[driver]+skip, e.now())
	e.store.Put(rec)
	return rec.Generations[driver]
}

// noteSet notes what a driver has now. An answer that was overtaken by a newer one says nothing.
func (e *Engine) noteSet(id, driver string, t toldSet) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.setState(id)
	if old := s.told[driver]; old.instance != t.instance || old.generation < t.generation {
		s.told[driver] = t
	}
}

// addressDelta is what to add to, and to remove from, had to have want.
func addressDelta(had, want []string) (add, remove []string) {
	in := func(list []string) map[string]bool {
		m := make(map[string]bool, len(list))
		for _, a := range list {
			m[a] = true
		}
		return m
	}
	before, after := in(had), in(want)
	for _, a := range want {
		if !before[a] {
			add = append(add, a)
		}
	}
	for _, a := range had {
		if !after[a] {
			remove = append(remove, a)
		}
	}
	return add, remove
}

// reconcileAddressSet tells each driver that was told of the set how it changed. Who was not told gets it whole, with the rule set that refers to it.
func (e *Engine) reconcileAddressSet(ctx context.Context, w *want) (time.Duration, string) {
	d := w.obj.GetAddressSet()
	id, k := d.GetAddressSetId(), setKey(d.GetAddressSetId())
	e.progress.doing(k, "updating the members of security group "+id)
	e.mu.Lock()
	s := e.setState(id)
	drivers := make([]string, 0, len(s.told))
	for driver := range s.told {
		drivers = append(drivers, driver)
	}
	e.mu.Unlock()
	slices.Sort(drivers)
	err := e.each(drivers, func(driver string) error { return e.updateSet(ctx, id, driver, d.GetMembers()) })
	if ctx.Err() != nil {
		return never, resultFailed
	}
	e.mu.Lock()
	if err == nil {
		s.setback = setback{}
		e.mu.Unlock()
		if len(drivers) == 0 {
			e.dependents(k) // rule sets that waited for it
		}
		return never, resultOK
	}
	s.failures++
	tries := s.failures
	e.mu.Unlock()
	pr := problemOf("updating members", err, tries)
	if pr.retry == never {
		pr.retryIn(slowRetry)
	}
	e.progress.failed(k, "updating the members of security group "+id, err, tries, pr.retry)
	e.log.Warn("address set is not as wanted", "address_set", id, "error", err, "retry", pr.retry)
	return pr.retry, resultFailed
}

// each does something for each driver, at once, so that one that hangs delays none; it returns the first failure, by name.
func (e *Engine) each(drivers []string, f func(driver string) error) error {
	errs := make([]error, len(drivers))
	done := make(chan struct{})
	for i, driver := range drivers {
		e.wg.Go(func() { errs[i] = f(driver); done <- struct{}{} })
	}
	for range drivers {
		<-done
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) updateSet(ctx context.Context, id, driver string, members []string) error {
	e.mu.Lock()
	had := e.setState(id).told[driver]
	failures := e.setState(id).failures
	e.mu.Unlock()
	p, err := e.pluginFor(driver)
	if err != nil || had.instance != p.Instance || slices.Equal(had.members, members) {
		return nil // what does not run is told when it does, whole
	}
	add, remove := addressDelta(had.members, members)
	generation := e.countSet(id, driver, 0)
	req := &driverv1.UpdateAddressSetRequest{
		AddressSetId: id, Mark: e.mark(id, 0, 0), Generation: generation,
		Change: &driverv1.UpdateAddressSetRequest_Delta{Delta: &driverv1.AddressSetDelta{BaseGeneration: had.generation, Add: add, Remove: remove}},
	}
	call := func() error {
		return e.rulesCall(ctx, driver, id, "UpdateAddressSet", func(ctx context.Context) error {
			_, err := e.plugins.Network(driver).UpdateAddressSet(ctx, req)
			return err
		})
	}
	if err = call(); fault.Is(err, metav1.Reason_REASON_WRONG_STATE) || fault.Is(err, metav1.Reason_REASON_SPEC_CONFLICT) {
		// It has another generation than it was told, or none. A newer one than ours was told with a clock that was ahead: skip over it.
		req.Generation = e.countSet(id, driver, skipAhead(failures))
		req.Change = &driverv1.UpdateAddressSetRequest_Replace{Replace: &driverv1.AddressSetMembers{Members: members}}
		err = call()
	}
	if err == nil {
		e.noteSet(id, driver, toldSet{p.Instance, req.GetGeneration(), members})
	}
	return err
}

// skipAhead is by how much a generation is raised that was refused so often in a row: twice as far each time.
func skipAhead(failures int) int64 {
	if failures == 0 {
		return 0
	}
	return time.Hour.Microseconds() << min(failures-1, 20)
}
