package reference

import (
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// holderTable holds, in shared pools, the nodes that have a volume attached, one a line. Keys are POOL/VOLUME.
const holderTable = "volume-holders"

// sharedPools reports whether each pool is one for all nodes whose plugins have one journal.
func (s *storageDriver) sharedPools() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg.SharedPools
}

func (s *storageDriver) node() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.host.GetNodeId()
}

// ours reports whether a mark is this node's; in shared pools, the cluster's.
func (s *storageDriver) ours(m *driverv1.OwnershipMark) bool {
	if !s.sharedPools() {
		return s.driver.ours(m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return m.GetClusterId() == s.host.GetClusterId() && m.GetNodeId() == ""
}

// checkMark refuses a mark that is not ours or of another object.
func (s *storageDriver) checkMark(m *driverv1.OwnershipMark, id string) error {
	if s.sharedPools() && m.GetObjectId() == id {
		if !s.ours(m) {
			return fault.Invalid(fault.Violation{Field: "mark", Description: "must have the cluster of Configure, and no node"})
		}
		return nil
	}
	return s.driver.checkMark(m, id)
}

// poolKey is under what a pool is ensured: each node ensures a shared one for itself.
func (s *storageDriver) poolKey(id string) string {
	if s.sharedPools() {
		return id + "@" + s.node()
	}
	return id
}

// holders are the nodes that have a volume of a shared pool attached.
func (x *tx) holders(pool, volume string) []string {
	return strings.Fields(string(x.bytes(holderTable, pool+"/"+volume)))
}

// seen is a volume as this node tells of it.
func (s *storageDriver) seen(x *tx, v *driverv1.Volume) *driverv1.Volume {
	if v != nil && s.sharedPools() {
		v.Attached = slices.Contains(x.holders(v.GetPoolId(), v.GetVolumeId()), s.node())
	}
	return v
}

// elsewhere refuses to work on a volume that another node has attached.
func (s *storageDriver) elsewhere(x *tx, pool, id string) error {
	if i := slices.IndexFunc(x.holders(pool, id), func(n string) bool { return n != s.node() }); i >= 0 {
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached by node %s", id, x.holders(pool, id)[i])
	}
	return nil
}

// hold attaches a volume of a shared pool: alone, unless it is shared itself. What a fenced node had is void.
func (s *storageDriver) hold(x *tx, req *driverv1.AttachVolumeRequest) error {
	pool, id := req.GetPoolId(), req.GetVolumeId()
	if _, err := s.volume(x, pool, id); err != nil {
		return err
	}
	was := x.holders(pool, id)
	now := slices.DeleteFunc(slices.Clone(was), func(n string) bool { return n == req.GetFencedNodeId() && n != s.node() })
	if slices.Contains(now, s.node()) && slices.Equal(was, now) {
		return nil
	}
	x.putBytes(holderTable, pool+"/"+id, []byte(strings.Join(now, "\n")))
	if !req.GetShared() {
		if err := s.elsewhere(x, pool, id); err != nil {
			return err
		}
		if err := s.settle(x, pool, id); err != nil { // of an attachment that is void
			return err
		}
	}
	if !slices.Contains(now, s.node()) {
		now = append(now, s.node())
	}
	return s.holdAs(x, pool, id, now)
}

// letGo ends this node's attachment of a volume of a shared pool.
func (s *storageDriver) letGo(x *tx, pool, id string) error {
	was := x.holders(pool, id)
	now := slices.DeleteFunc(slices.Clone(was), func(n string) bool { return n == s.node() })
	if slices.Equal(was, now) {
		return nil
	}
	if len(now) == 0 {
		if err := s.settle(x, pool, id); err != nil {
			return err
		}
	}
	return s.holdAs(x, pool, id, now)
}

func (s *storageDriver) holdAs(x *tx, pool, id string, nodes []string) error {
	x.putBytes(holderTable, pool+"/"+id, []byte(strings.Join(nodes, "\n")))
	if len(nodes) == 0 {
		x.del(holderTable, pool+"/"+id)
	}
	v, err := s.volume(x, pool, id)
	if err != nil {
		return err
	}
	v.Attached = len(nodes) > 0 // by anybody
	return x.put(volumeTable, pool+"/"+id, v)
}
