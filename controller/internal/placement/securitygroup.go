package placement

import (
	"strings"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

// groupOutcome decides how an operation on a security group stands. A port that it waited for last is asked first: while that one lags behind, no other has to be looked at.
func (w *worker) groupOutcome(op *operationv1.Operation) domain.Outcome {
	row := w.Cache.Row(state.KindSecurityGroup, op.GetObjectId())
	rec := row.SecurityGroup()
	waits := func(m domain.GroupMember) bool { return m.Reports && m.Behind(op.GetGeneration()) }
	if port, ok := w.groupWaits[op.GetId()]; ok && rec != nil && !row.Deleting && len(rec.GetRefusals()) == 0 {
		if m, is := w.Cache.GroupMember(row.ID, port); is && waits(m) {
			return domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_RUNNING}
		}
	}
	delete(w.groupWaits, op.GetId())
	return domain.SecurityGroupOutcome(op, rec, func(yield func(domain.GroupMember) bool) {
		for m := range w.Cache.GroupMembers(op.GetObjectId()) {
			if waits(m) {
				w.groupWaits[op.GetId()] = m.PortID
			}
			if !yield(m) {
				return
			}
		}
	})
}

// groupsOf are the groups that a port has, or that a group refers to, before and after a change.
func groupsOf(c state.Change) []string {
	seen, out := map[string]bool{}, []string(nil)
	for _, row := range []*state.Row{c.Old, c.New} {
		if row == nil {
			continue
		}
		for _, ref := range row.Refs {
			if id, is := strings.CutPrefix(ref, state.RefSecurityGroup("")); is && !seen[id] {
				seen[id] = true
				out = append(out, id)
			}
		}
	}
	return out
}

// releasedGroups are the groups under deletion that may have waited for what changed.
func (w *worker) releasedGroups(c state.Change) []*state.Row {
	if k := c.Row().Kind; k != state.KindPort && k != state.KindSecurityGroup {
		return nil
	}
	var out []*state.Row
	for _, id := range groupsOf(c) {
		if g := w.Cache.Row(state.KindSecurityGroup, id); g != nil && g.Deleting {
			out = append(out, g)
		}
	}
	return out
}

// RemoveSecurityGroup removes a group that is being deleted; nil while a port has it, or another group refers to it: whoever took it before it was marked did so unhindered.
func RemoveSecurityGroup(cache *state.Cache, row *state.Row) *state.Writer {
	if cache.Count(state.Query{Kind: state.KindPort, Ref: state.RefSecurityGroup(row.ID), Limit: 1}) > 0 ||
		cache.Count(state.Query{Kind: state.KindSecurityGroup, Ref: state.RefSecurityGroup(row.ID), Limit: 1, Keep: func(r *state.Row) bool { return r.ID != row.ID }}) > 0 {
		return nil
	}
	var out state.Writer
	out.Same(row)
	out.Delete(state.Key(state.KindSecurityGroup, row.ID))
	return &out
}
