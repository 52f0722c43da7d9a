package driver

import (
	"context"
	"errors"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
)

// commit puts a state in force and records it. The kernel comes first: a plugin killed in between finds the old records, puts the old state in force again, and is told
// the new one again. Needs mu.
func (d *Driver) commit(ctx context.Context, next *record.State) error {
	if err := d.mine(ctx); err != nil {
		return err
	}
	old, mid := d.state, between(d.state, next)
	if err := d.sets.Add(old, mid); err != nil {
		return failed("address sets", err)
	}
	if err := d.filter(ctx, next); err != nil {
		if undo := errors.Join(d.sets.Add(mid, old), d.sets.Remove(mid, old)); undo != nil {
			err = errors.Join(err, failed("address sets", undo))
		}
		return err
	}
	if err := d.sets.Add(mid, next); err != nil {
		return failed("address sets", err)
	}
	if err := d.dir.Save(old, next); err != nil {
		return failed("records", err)
	}
	d.state = next
	d.cut(old, next)
	if err := d.sets.Remove(old, next); err != nil {
		return failed("address sets", err)
	}
	return nil
}

// between is next as its address sets stand while rules that refer to them change: with the members that both states have. So neither the old rules meet a new member, nor the new rules
// an old one, not even when the plugin is killed there.
func between(old, next *record.State) *record.State {
	mid := next
	for id, s := range next.Members {
		have := old.Members[id]
		if have == nil || have == s || !rulesChange(old, next, id) {
			continue
		}
		if mid == next {
			mid = next.Clone()
		}
		mid.Members[id] = &ruleset.Set{ID: id, Generation: s.Generation, Mark: s.Mark, Members: have.Common(s.Members)}
	}
	return mid
}

// rulesChange reports whether rules of old change that refer to an address set.
func rulesChange(old, next *record.State, set string) bool {
	for id, p := range old.Plans {
		if p != next.Plans[id] && p.Uses(set) {
			return true
		}
	}
	return false
}

// filter puts the filter of a state in force. Needs mu.
func (d *Driver) filter(ctx context.Context, next *record.State) error {
	if d.stale.Swap(false) || d.inForce == nil {
		have, err := d.kernel.Read(ctx)
		if err != nil {
			return err
		}
		d.inForce = have
	}
	want := model(next, d.inactive != "").Render()
	if err := d.kernel.Apply(ctx, d.inForce, want); err != nil {
		d.inForce = nil // whatever it is now: it is read before the next change
		return err
	}
	d.inForce = want
	return nil
}

// restore puts the records in force, as far as the kernel differs from them. Needs mu.
func (d *Driver) restore(ctx context.Context) error {
	if err := d.sets.Restore(d.state); err != nil {
		return failed("address sets", err)
	}
	d.inForce = nil
	if err := d.filter(ctx, d.state); err != nil {
		return err
	}
	for _, id := range record.IDs(d.state.Networks) {
		if err := d.ensureLinks(ctx, d.state, id); err != nil {
			return err
		}
	}
	for _, id := range record.IDs(d.state.Interfaces) {
		if err := d.shape(d.state.Interfaces[id]); err != nil {
			return failed("limits", err)
		}
	}
	d.cut(record.NewState(), d.state)
	return nil
}

// ensureLinks makes a network's devices, and what it serves. Needs mu.
func (d *Driver) ensureLinks(ctx context.Context, s *record.State, id string) error {
	n := linkNetwork(s.Networks[id])
	anew := n.Missing()
	if err := n.Ensure(); err != nil {
		return failed("network "+id, err)
	}
	if anew { // somebody removed it, and guests' devices hang loose
		for _, i := range s.InterfacesOf(id) {
			if err := n.Rejoin(name.Tap(i)); err != nil {
				return failed("interface "+i, err)
			}
		}
	}
	return d.serve(ctx, s, id)
}
