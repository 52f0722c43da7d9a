package agent

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

const (
	kindVM     = agentv1.DesiredKind_DESIRED_KIND_VM
	kindVolume = agentv1.DesiredKind_DESIRED_KIND_VOLUME
	kindPool   = agentv1.DesiredKind_DESIRED_KIND_POOL
	kindImage  = agentv1.DesiredKind_DESIRED_KIND_IMAGE
	kindSnap   = agentv1.DesiredKind_DESIRED_KIND_VOLUME_SNAPSHOT

	kindNetwork = agentv1.DesiredKind_DESIRED_KIND_NETWORK
	kindPort    = agentv1.DesiredKind_DESIRED_KIND_PORT
	kindRules   = agentv1.DesiredKind_DESIRED_KIND_RULE_SET
	kindMembers = agentv1.DesiredKind_DESIRED_KIND_ADDRESS_SET
)

// key names a desired object.
type key struct {
	kind agentv1.DesiredKind
	id   string
}

// dispatch marks what changes concern at the streams that they concern.
func (s *Service) dispatch(changes []state.Change, revision int64) {
	for _, c := range changes {
		row := c.Row()
		switch row.Kind {
		case state.KindVM:
			s.markNodes(c, key{kindVM, row.ID}, revision)
			s.dispatchPortsOf(c, revision)
			if c.New == nil || c.New.Deleting { // what becomes of its volumes follows from it
				for _, v := range s.cfg.Cache.Find(state.Query{Kind: state.KindVolume, Owner: row.ID}).Rows {
					for _, n := range v.Nodes {
						s.mark(n, key{kindVolume, v.ID}, revision)
					}
				}
			}
		case state.KindVolume:
			s.markNodes(c, key{kindVolume, row.ID}, revision)
			for _, snap := range s.cfg.Cache.Find(state.Query{Kind: state.KindSnapshot, Owner: row.ID}).Rows { // who uses the volume may have changed
				for _, n := range snap.Nodes {
					s.mark(n, key{kindSnap, snap.ID}, revision)
				}
			}
			s.markEmptied(c, revision)
			s.markWaiting(c, revision)
		case state.KindSnapshot:
			s.markNodes(c, key{kindSnap, row.ID}, revision)
			s.markWaiting(c, revision)
			s.markEmptied(c, revision)
		case state.KindNetwork:
			s.dispatchNetwork(c, revision)
		case state.KindPort:
			s.dispatchPort(c, revision)
		case state.KindSecurityGroup:
			s.dispatchGroup(c, revision)
		case state.KindImage:
			for _, k := range imageKeys(c.Old, c.New) {
				s.markNodes(c, k, revision)
			}
		case state.KindPool:
			if c.Old == nil || c.New == nil || poolWishChanged(c) {
				s.eachSession(func(ss *session) { ss.mark(key{kindPool, row.ID}, revision) })
			}
		case state.KindNode:
			s.dispatchTunnels(c, revision)
			for _, o := range append(removalsOf(c.Old), removalsOf(c.New)...) {
				s.mark(row.ID, orphanKey(o.GetOrphan()), revision)
			}
			if c.Old == nil || c.New == nil || poolsOfNodeChanged(c) {
				for _, p := range s.cfg.Cache.Find(state.Query{Kind: state.KindPool}).Rows {
					s.mark(row.ID, key{kindPool, p.ID}, revision)
				}
			}
		}
	}
}

// markEmptied looks again at a pool that is being deleted when something that lay in it is gone.
func (s *Service) markEmptied(c state.Change, revision int64) {
	if p := s.cfg.Cache.Row(state.KindPool, c.Row().InPool); c.New == nil && p != nil && p.Deleting {
		s.eachSession(func(ss *session) { ss.mark(key{kindPool, p.ID}, revision) })
	}
}

func (s *Service) markNodes(c state.Change, k key, revision int64) {
	for _, row := range []*state.Row{c.Old, c.New} {
		if row == nil {
			continue
		}
		for _, n := range row.Nodes {
			s.mark(n, k, revision)
		}
	}
}

// poolWishChanged leaves out what nodes report about a pool.
func poolWishChanged(c state.Change) bool {
	was, is := c.Old.Pool().GetPool(), c.New.Pool().GetPool()
	return c.Old.Deleting != c.New.Deleting || was.GetMeta().GetGeneration() != is.GetMeta().GetGeneration() || !proto.Equal(was.GetSpec(), is.GetSpec())
}

// poolsOfNodeChanged reports whether a node may be wanted in other pools than before.
func poolsOfNodeChanged(c state.Change) bool {
	was, is := c.Old.Node().GetNode(), c.New.Node().GetNode()
	if !maps.Equal(c.Old.Labels, c.New.Labels) {
		return true
	}
	a, b := was.GetStatus().GetDrivers(), is.GetStatus().GetDrivers()
	if len(a) != len(b) {
		return true
	}
	for i := range a {
		if a[i].GetName() != b[i].GetName() || !slices.Equal(a[i].GetKinds(), b[i].GetKinds()) {
			return true
		}
	}
	return false
}

// imageKeys are the copies of an image, as it was and as it is.
func imageKeys(rows ...*state.Row) []key {
	var out []key
	for _, row := range rows {
		for _, c := range row.Image().GetImage().GetStatus().GetCopies() {
			if k := imageKey(row.ID, c.GetPoolId()); !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	return out
}
