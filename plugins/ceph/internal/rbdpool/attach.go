package rbdpool

import (
	"log/slog"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// AttachVolume enters this node as a user of a volume and says where the hypervisor finds it. One user at a time, unless all of them share: by the index, and by
// who has the RBD image open, since somebody may use it without asking us.
func (s *Session) AttachVolume(req *driverv1.AttachVolumeRequest) (*driverv1.DiskSource, error) {
	id, fencedNode := req.GetVolumeId(), req.GetFencedNodeId()
	if fencedNode == s.owner.NodeID {
		return nil, fault.Invalid(fault.Violation{Field: "fenced_node_id", Description: "is this very node"})
	}
	r, err := s.record(id)
	if err != nil {
		return nil, err
	}
	_, here := r.Attachments[s.owner.NodeID]
	_, void := r.Attachments[fencedNode]
	if err := conflict(id, r, s.owner.NodeID, req); err != nil {
		return nil, err
	}
	if !here && !req.GetShared() {
		if err := s.claim(id, r, void); err != nil {
			return nil, err
		}
	}
	if err := s.alive(); err != nil {
		return nil, err
	}
	mine := attachment{ReadOnly: req.GetReadOnly(), Shared: req.GetShared()}
	r, err = s.changeVolume(id, func(r *volumeRecord) error {
		if err := conflict(id, r, s.owner.NodeID, req); err != nil {
			return err
		}
		if r.Attachments == nil {
			r.Attachments = map[string]attachment{}
		}
		delete(r.Attachments, fencedNode)
		r.Attachments[s.owner.NodeID] = mine
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.source(r.Image), nil
}

// conflict refuses an attachment beside another node's, unless both share.
func conflict(id string, r *volumeRecord, self string, req *driverv1.AttachVolumeRequest) error {
	for node, a := range r.Attachments {
		if node == self || node == req.GetFencedNodeId() || a.Shared && req.GetShared() {
			continue
		}
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached to node %s", id, node).
			WithRemedy("detach it there; or, when that node is fenced, say so").WithMetadata("node", node)
	}
	return nil
}

// claim makes sure that nobody has a volume's RBD image open. The clients of a node that an operator declared fenced are forbidden by the cluster itself, so
// that nothing they still send is written.
func (s *Session) claim(id string, r *volumeRecord, fromFenced bool) error {
	addrs, err := s.watchers(r.Image)
	if err != nil || len(addrs) == 0 {
		return err
	}
	if !fromFenced {
		return watched(id, r.Image, addrs)
	}
	for _, addr := range addrs {
		slog.Warn("fencing a client of a node declared fenced", "volume", id, "address", addr)
		if err := s.conn.fence(addr); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) source(image string) *driverv1.DiskSource {
	p := s.conn.params
	return &driverv1.DiskSource{Source: &driverv1.DiskSource_Rbd{Rbd: &driverv1.RbdSource{
		Monitors: p.Monitors, Pool: p.Pool, Namespace: p.Namespace, Image: image, User: p.User, Key: p.Key,
	}}}
}

// DetachVolume ends this node's use of a volume.
func (s *Session) DetachVolume(id string) error {
	r, err := s.record(id)
	if fault.Is(err, metav1.Reason_REASON_VOLUME_NOT_FOUND) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, here := r.Attachments[s.owner.NodeID]; !here {
		return nil
	}
	_, err = s.changeVolume(id, func(r *volumeRecord) error {
		delete(r.Attachments, s.owner.NodeID)
		return nil
	})
	return err
}

// WantDetached refuses to go on while a volume is attached to this node.
func (s *Session) WantDetached() error {
	for after := ""; ; {
		vs, next, err := s.ListVolumes(after, pageLimit)
		if err != nil {
			return err
		}
		for _, v := range vs {
			if v.GetAttached() {
				return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s of pool %s is attached", v.GetVolumeId(), s.id).WithRemedy("detach it first")
			}
		}
		if after = next; after == "" {
			return nil
		}
	}
}
