package driver

import (
	"context"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/filter"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/monitor"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
)

const (
	lookEvery  = 500 * time.Millisecond // the kernel tells nobody of a sysctl, and ipset nobody of its sets
	checkEvery = 4                      // looks
	settle     = 20 * time.Millisecond  // devices change in bursts
)

// watch begins to watch the kernel, instead of a watch begun before. Needs mu.
func (d *Driver) watch() {
	if d.stop != nil {
		d.stop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	links := make(chan []string, 64)
	var wg sync.WaitGroup
	run := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil {
				d.unwell("WATCH_FAILED", err)
			}
		})
	}
	run(func() error {
		return monitor.Filter(ctx, filter.Touches, func(c monitor.Change) {
			if c.Lost || !d.kernel.Own(c.PID) {
				d.healFilter(ctx, c)
			}
		})
	})
	run(func() error {
		return monitor.Links(ctx, "lq", func(appeared []string) {
			select {
			case links <- appeared:
			case <-ctx.Done():
			}
		})
	})
	run(func() error { d.follow(ctx, links); return nil })
	d.stop = func() {
		cancel()
	}
}

// follow looks after devices when they change, and after what tells of no change, now and then.
func (d *Driver) follow(ctx context.Context, links <-chan []string) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	calm := time.NewTimer(0)
	defer calm.Stop()
	dirty := false
	for n := 1; ; {
		select {
		case <-ctx.Done():
			return
		case appeared := <-links:
			for _, dev := range appeared {
				d.appeared(dev)
			}
			if !dirty {
				dirty = true
				calm.Reset(settle)
			}
		case <-calm.C:
			dirty = false
			d.healLinks(ctx)
		case <-tick.C:
			d.lookAgain(ctx)
			if n++; n%checkEvery == 0 {
				d.healRest(ctx)
				d.healAgain(ctx)
			}
		}
	}
}

// appeared sets the limits of an interface whose device is there now. Its rules are in force already.
func (d *Driver) appeared(device string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, i := range d.state.Interfaces {
		if name.Tap(id) == device {
			if err := d.shape(i); err != nil {
				d.unwell("LIMITS_FAILED", err)
			}
		}
	}
}

// lookAgain shuts all interfaces when the first layer is no longer in force, and opens them when it is again.
func (d *Driver) lookAgain(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.look() {
		return
	}
	if err := d.filter(ctx, d.state); err != nil {
		d.unwell("FILTER_FAILED", err)
		return
	}
	d.well()
	for id := range d.state.Networks {
		d.Events.NetworkDrift(id, "bridge filter "+map[bool]string{true: "active again", false: "inactive: " + d.inactive}[d.inactive == ""])
	}
}

// healFilter puts the filter in force again when somebody else has changed what is ours in it.
func (d *Driver) healFilter(ctx context.Context, c monitor.Change) {
	// Without the second layer frames pass: it comes before all else, and does not wait for a call that changes something meanwhile. Such a call may fail then, or succeed; what is missing is
	// read afterwards. Counters begin anew.
	touched := c.Lost || c.Touches(filter.Table)
	var open error
	if touched {
		d.stale.Store(true)
		open = d.kernel.Shut(ctx)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if open != nil {
		d.failing(ctx, "REPAIR_FAILED", open)
	}
	d.stale.Store(false)
	d.inForce = nil
	d.unhealed.filter = true // until the end
	have, err := d.kernel.Read(ctx)
	if err != nil {
		d.failing(ctx, "FILTER_FAILED", err)
		return
	}
	want := model(d.state, d.inactive != "").Render()
	found := *have
	var diffs []filter.Difference
	if touched {
		found.Frames = want.Frames // as shut above, not as somebody left it
		diffs = append(diffs, filter.Difference{Where: "nft table " + filter.Table, What: "changed"})
	}
	diffs = append(filter.Differences(&found, want), diffs...)
	if len(diffs) == 0 {
		d.unhealed.filter = false
		return
	}
	d.inForce = have
	d.healSets(ctx) // rules refer to them
	if err := d.filter(ctx, d.state); err != nil {
		d.failing(ctx, "REPAIR_FAILED", err)
		return
	}
	d.unhealed.filter = false
	objects := d.objects()
	told := map[string]bool{}
	for _, x := range diffs {
		if id, _ := x.Owner(objects); id != "" && !told[id] {
			told[id] = true
			d.Events.NetworkDrift(id, x.String()+"; repaired")
		}
	}
	for id := range d.state.Networks {
		if len(told) == 0 {
			d.Events.NetworkDrift(id, diffs[0].String()+"; repaired")
		}
	}
	d.well()
}

// failing reports a failure unless the watch has ended.
func (d *Driver) failing(ctx context.Context, reason string, err error) {
	if ctx.Err() == nil {
		d.unwell(reason, err)
	}
}

// healLinks puts devices, addresses, routes and entries right.
func (d *Driver) healLinks(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	failed := d.unhealed.links
	d.unhealed.links = false
	for _, id := range record.IDs(d.state.Networks) {
		steps, err := linkNetwork(d.state.Networks[id]).Steps()
		if err != nil || len(steps) == 0 {
			continue // a device that is just going is seen again when it is gone
		}
		if err := d.ensureLinks(ctx, d.state, id); err != nil {
			d.failing(ctx, "REPAIR_FAILED", err)
			d.unhealed.links = true
			continue
		}
		d.Events.NetworkDrift(id, steps[0].Detail+"; repaired")
	}
	if failed && !d.unhealed.links {
		d.well()
	}
}

// healAgain tries again what could not be put right, although nobody tells of a change: what was missing, an uplink for example, need not be ours.
func (d *Driver) healAgain(ctx context.Context) {
	d.mu.Lock()
	again := d.unhealed
	d.mu.Unlock()
	if again.filter {
		d.healFilter(ctx, monitor.Change{})
	}
	if again.links {
		d.healLinks(ctx)
	}
}

// healSets puts address sets right. Needs mu.
func (d *Driver) healSets(ctx context.Context) {
	changed := d.sets.Changed(d.state)
	if len(changed) == 0 {
		return
	}
	if err := d.sets.Restore(d.state); err != nil {
		d.failing(ctx, "REPAIR_FAILED", err)
		return
	}
	for _, id := range changed {
		d.Events.NetworkDrift(id, "address set changed; repaired")
	}
}

// healRest looks after what tells of no change: ipsets and dnsmasq.
func (d *Driver) healRest(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.healSets(ctx)
	for _, id := range record.IDs(d.state.Networks) {
		if detail := d.serviceDrift(id); detail != "" {
			if err := d.serve(ctx, d.state, id); err != nil {
				d.failing(ctx, "REPAIR_FAILED", err)
				continue
			}
			d.Events.NetworkDrift(id, detail+"; repaired")
		}
	}
}
