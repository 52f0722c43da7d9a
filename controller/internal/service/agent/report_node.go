package agent

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// pool takes in how a pool is on the node. Use that changes by less than a hundredth of the whole is not written.
func (r *report) pool(rep *agentv1.PoolReport) *state.Writer {
	row, node := r.s.cfg.Cache.Row(state.KindPool, rep.GetPoolId()), r.s.cfg.Cache.Row(state.KindNode, r.node)
	if row == nil || node == nil || node.Deleting {
		return nil
	}
	rec := row.Pool()
	st := rec.GetPool().GetStatus()
	i, found := slices.BinarySearchFunc(st.GetNodes(), r.node, func(n *storagev1.PoolNodeStatus, id string) int { return strings.Compare(n.GetNodeId(), id) })
	switch {
	case rep.GetAbsent() && !found:
		return nil
	case rep.GetAbsent():
		st.Nodes = slices.Delete(st.GetNodes(), i, i+1)
	default:
		next := proto.CloneOf(rep.GetStatus())
		if next == nil {
			return nil
		}
		next.NodeId, next.NodeName = r.node, r.name()
		next.ObserveTime = nil
		if found {
			was := proto.CloneOf(st.GetNodes()[i])
			was.ObserveTime = nil
			if step := was.GetCapacityBytes() / 100; abs(next.GetUsedBytes()-was.GetUsedBytes()) < step {
				next.UsedBytes = was.GetUsedBytes()
			}
			if proto.Equal(was, next) {
				return nil
			}
			st.Nodes[i] = next
		} else {
			st.Nodes = slices.Insert(st.GetNodes(), i, next)
		}
		next.ObserveTime = timestamppb.New(r.s.cfg.Now())
	}
	domain.SettlePool(rec.GetPool())
	var w state.Writer
	w.Same(row)
	w.Put(state.Key(state.KindPool, row.ID), rec)
	return &w
}

func (r *report) name() string {
	if row := r.s.cfg.Cache.Row(state.KindNode, r.node); row != nil {
		return row.Name
	}
	return ""
}

func abs(n int64) int64 { return max(n, -n) }

// image takes in how the node's copy of an image is. A copy that is being uploaded is the upload's own matter.
func (r *report) image(rep *agentv1.ImageCopyReport) *state.Writer {
	row := r.s.cfg.Cache.Row(state.KindImage, rep.GetImageId())
	if row == nil {
		return nil
	}
	rec := row.Image()
	img := rec.GetImage()
	c, epoch := copyOn(rec, r.node, rep.GetPoolId())
	if c == nil || c.GetNodeId() == "" && epoch != rep.GetEpoch() {
		return nil
	}
	i := slices.Index(img.GetStatus().GetCopies(), c)
	fetched := img.GetSpec().GetSourceUrl() != ""
	if c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_IMPORTING && !row.Deleting && !fetched {
		return nil
	}
	was := proto.CloneOf(c)
	switch {
	case rep.GetAbsent() && (row.Deleting || c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_DELETING):
		img.Status.Copies = slices.Delete(img.GetStatus().GetCopies(), i, i+1)
	case rep.GetAbsent() && !fetched:
		c.Phase, c.Message = storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_FAILED, "the copy is gone from its node: upload the image again, under another name"
	case row.Deleting:
		c.Message = rep.GetMessage()
	case rep.GetReady():
		c.Phase, c.Message, c.Reason = storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY, "", ""
		if st := img.GetStatus(); fetched {
			c.StoredBytes = rep.GetContentBytes()
			st.Sha256, st.VirtualSizeBytes, st.ContentBytes = img.GetSpec().GetSha256(), rep.GetVirtualSizeBytes(), rep.GetContentBytes()
		}
	case fetched && (rep.GetPermanentFailure() || c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_FAILED):
		if rep.GetPermanentFailure() {
			c.Phase, c.Message, c.Reason, c.StoredBytes = storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_FAILED, rep.GetMessage(), rep.GetReason(), 0
		}
	case fetched:
		c.Phase, c.Message, c.Reason, c.StoredBytes = storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_IMPORTING, rep.GetMessage(), rep.GetReason(), rep.GetStoredBytes()
		if st := img.GetStatus(); rep.GetContentBytes() > 0 && st.GetSha256() == "" {
			st.ContentBytes = rep.GetContentBytes() // as its source announces
		}
	default:
		c.Phase, c.Message = storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_FAILED, rep.GetMessage()
	}
	if !rep.GetAbsent() && proto.Equal(was, c) {
		return nil
	}
	if was.GetPhase() != c.GetPhase() {
		c.TransitionTime = timestamppb.New(r.s.cfg.Now())
	}
	domain.SettleImage(img)
	var w state.Writer
	w.Same(row)
	w.Put(state.Key(state.KindImage, row.ID), rec)
	return &w
}

// nodeFacts takes in drivers and orphans. What only the drivers' attributes tell is no transition and not written.
func (r *report) nodeFacts() *state.Writer {
	row := r.s.cfg.Cache.Row(state.KindNode, r.node)
	if row == nil || row.Deleting {
		return nil
	}
	was, rec := row.Node(), row.Node()
	if rec.Node.Status == nil {
		rec.Node.Status = &computev1.NodeStatus{}
	}
	st := rec.GetNode().GetStatus()
	if len(r.req.GetDrivers()) > 0 && !sameDrivers(st.GetDrivers(), r.req.GetDrivers()) {
		st.Drivers = r.req.GetDrivers()
	}
	if r.req.GetOrphansKnown() {
		st.Orphans = r.req.GetOrphans()
	}
	st.Phase, st.Reason, st.Message = domain.NodePhase(rec, st.GetPhase() != computev1.NodePhase_NODE_PHASE_UNKNOWN)
	if proto.Equal(was, rec) {
		return nil
	}
	var w state.Writer
	w.Same(row)
	w.Put(state.Key(state.KindNode, row.ID), rec)
	return &w
}

func sameDrivers(a, b []*computev1.DriverStatus) bool {
	return slices.EqualFunc(a, b, func(x, y *computev1.DriverStatus) bool {
		x, y = proto.CloneOf(x), proto.CloneOf(y)
		x.Attributes, y.Attributes = nil, nil
		return proto.Equal(x, y)
	})
}
