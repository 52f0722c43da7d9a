package node

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// ListOrphans lists what lies on nodes with our mark and is wanted by nobody, and what of it is on its way out.
func (s *Service) ListOrphans(_ context.Context, req *connect.Request[computev1.ListOrphansRequest]) (*connect.Response[computev1.ListOrphansResponse], error) {
	rows := s.cfg.Cache.Find(state.Query{Kind: state.KindNode}).Rows
	if id := req.Msg.GetNodeId(); id != "" {
		row, err := s.find(id)
		if err != nil {
			return nil, err
		}
		rows = []*state.Row{row}
	}
	slices.SortFunc(rows, func(a, b *state.Row) int { return strings.Compare(a.Name, b.Name) })
	resp := &computev1.ListOrphansResponse{}
	for _, row := range rows {
		resp.Orphans = append(resp.Orphans, orphansOf(row, row.Node())...)
	}
	return connect.NewResponse(resp), nil
}

// orphansOf are a node's orphans. One that is being removed is not reported any more: it is desired to be absent.
func orphansOf(row *state.Row, rec *statev1.NodeRecord) []*computev1.NodeOrphan {
	var out []*computev1.NodeOrphan
	leaving := map[string]bool{}
	for _, r := range rec.GetOrphanRemovals() {
		leaving[orphanID(r.GetOrphan())] = true
		out = append(out, listed(row, r.GetOrphan(), r.GetRequestTime()))
	}
	for _, o := range rec.GetNode().GetStatus().GetOrphans() {
		if !leaving[orphanID(o)] {
			out = append(out, listed(row, o, nil))
		}
	}
	slices.SortFunc(out, func(a, b *computev1.NodeOrphan) int {
		return cmp.Or(strings.Compare(a.GetOrphan().GetKind(), b.GetOrphan().GetKind()), strings.Compare(a.GetOrphan().GetObjectId(), b.GetOrphan().GetObjectId()))
	})
	return out
}

func orphanID(o *computev1.Orphan) string { return o.GetKind() + "/" + o.GetObjectId() }

func listed(row *state.Row, o *computev1.Orphan, removed *timestamppb.Timestamp) *computev1.NodeOrphan {
	return &computev1.NodeOrphan{
		NodeId: row.ID, NodeName: row.Name, Orphan: o, RemoveTime: removed, Confirm: cmp.Or(o.GetName(), o.GetObjectId()),
	}
}

// findOrphan is the one orphan of a node by an id and, when given, a kind.
func findOrphan(row *state.Row, rec *statev1.NodeRecord, id, kind string) (*computev1.NodeOrphan, error) {
	var found []*computev1.NodeOrphan
	for _, o := range orphansOf(row, rec) {
		if o.GetOrphan().GetObjectId() == id && (kind == "" || o.GetOrphan().GetKind() == kind) {
			found = append(found, o)
		}
	}
	switch len(found) {
	case 0:
		return nil, fault.New(metav1.Reason_REASON_NOT_FOUND, "node %s has no orphan %q", row.Name, id).WithRemedy("list orphans to see which there are")
	case 1:
		return found[0], nil
	}
	return nil, fault.Invalid(fault.Violation{Field: "kind", Description: "several orphans have this id: say which kind is meant"})
}

// RemoveOrphan notes that an orphan has to go. Its node is told through its desired set, and the note stays until it says that it is gone.
func (s *Service) RemoveOrphan(ctx context.Context, req *connect.Request[computev1.RemoveOrphanRequest]) (*connect.Response[computev1.RemoveOrphanResponse], error) {
	m := req.Msg
	call := request.Call{Method: computev1connect.NodeServiceRemoveOrphanProcedure, Body: m, RequestID: m.GetRequestId()}
	return respond(request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[*computev1.RemoveOrphanResponse], error) {
		row, err := s.find(m.GetNodeId())
		if err != nil {
			return nil, err
		}
		rec := row.Node()
		o, err := findOrphan(row, rec, m.GetObjectId(), m.GetKind())
		if err != nil {
			return nil, err
		}
		plan := &request.Plan[*computev1.RemoveOrphanResponse]{ObjectID: row.ID, Response: &computev1.RemoveOrphanResponse{Orphan: o}}
		if o.GetRemoveTime() != nil {
			return plan, nil
		}
		if m.GetConfirm() != o.GetConfirm() {
			return nil, fault.Invalid(fault.Violation{Field: "confirm", Description: "must be " + o.GetConfirm() + ": what is removed is gone for good"})
		}
		if err := s.mayRemove(row, o.GetOrphan()); err != nil {
			return nil, err
		}
		o.RemoveTime = timestamppb.New(s.cfg.Now())
		rec.OrphanRemovals = append(rec.OrphanRemovals, &statev1.OrphanRemoval{Orphan: o.GetOrphan(), RequestTime: o.GetRemoveTime()})
		var w state.Writer
		w.Same(row)
		w.Put(state.Key(state.KindNode, row.ID), rec)
		s.cfg.Log.Info("orphan is removed", "node", row.ID, "name", row.Name, "kind", o.GetOrphan().GetKind(), "id", m.GetObjectId())
		plan.Txn, err = w.Txn()
		return plan, request.Fault(err)
	}))
}

// mayRemove refuses what is wanted after all, and a volume that an orphan domain on the node may have open.
func (s *Service) mayRemove(row *state.Row, o *computev1.Orphan) error {
	if k := o.GetKind(); k != "volume" && k != "domain" {
		return fault.New(metav1.Reason_REASON_NO_CAPABILITY, "orphans of kind %s are listed and not removed", k).
			WithRemedy("remove it with the tools of its backend")
	}
	kind := state.KindVM
	if o.GetKind() == "volume" {
		kind = state.KindVolume
	}
	if r := s.cfg.Cache.Row(kind, o.GetObjectId()); r != nil && slices.Contains(r.Nodes, row.ID) {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "%s %s belongs to node %s and is no orphan", o.GetKind(), o.GetObjectId(), row.Name).
			WithRemedy("delete the VM instead")
	}
	if o.GetKind() != "volume" {
		return nil
	}
	for _, other := range row.Node().GetNode().GetStatus().GetOrphans() {
		for _, v := range s.cfg.Nodes.OrphanDetail(row.ID, other.GetObjectId()).GetVm().GetVolumes() {
			if v.GetVolumeId() == o.GetObjectId() && other.GetKind() == "domain" {
				return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is a disk of orphan %s (%s)", o.GetObjectId(), other.GetName(), other.GetObjectId()).
					WithRemedy("remove or adopt that domain first")
			}
		}
	}
	return nil
}
