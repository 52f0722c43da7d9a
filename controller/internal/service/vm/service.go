package vm

import (
	"log/slog"
	"slices"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// Explainer says where a VM would fit; volumes are those of its disks.
type Explainer interface {
	Explain(rec *statev1.VMRecord, volumes []*statev1.VolumeRecord) *scheduler.Explanation
}

// Config is what the service needs.
type Config struct {
	Cache    *state.Cache
	Runner   *request.Runner
	Sealer   seam.Sealer
	Tunnels  func() seam.Tunnels // nil until the process has them
	History  *state.History
	Explain  Explainer
	Nodes    seam.Nodes // nil: what nodes are at is not known
	Now      func() time.Time
	Log      *slog.Logger
	Bookmark time.Duration // how often an idle watch says how far it is; 0 = 30 s
}

// Service implements computev1connect.VMServiceHandler.
type Service struct{ cfg Config }

var _ computev1connect.VMServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service {
	if cfg.Bookmark <= 0 {
		cfg.Bookmark = 30 * time.Second
	}
	if cfg.Nodes == nil {
		cfg.Nodes = seam.NoNodes{}
	}
	return &Service{cfg: cfg}
}

// find is the row of the VM that a request names. None: NOT_FOUND.
func (s *Service) find(id, project string) (*state.Row, error) {
	if id == "" {
		var v domain.Violations
		v.Add("id", "is required: a VM's id or name")
		return nil, v.Err()
	}
	row := s.cfg.Cache.Resolve(state.KindVM, domain.Project(project), id)
	if row == nil {
		return nil, notFound(id, project)
	}
	return row, nil
}

func notFound(id, project string) error {
	if domain.IsID(id) {
		return fault.New(metav1.Reason_REASON_NOT_FOUND, "there is no VM with id %s", id)
	}
	return fault.New(metav1.Reason_REASON_NOT_FOUND, "there is no VM named %q in project %q", id, domain.Project(project)).
		WithRemedy("list VMs to see which there are; names belong to a project")
}

func beingDeleted(row *state.Row) error {
	return fault.New(metav1.Reason_REASON_BEING_DELETED, "VM %s (%s) is being deleted", row.Name, row.ID).
		WithRemedy("create a new one; the name is free already")
}

// View is a VM as clients see it: with its etag, and as unknown while its node does not report.
func View(cache *state.Cache, row *state.Row) *computev1.VM {
	return view(cache, row.VM(), row.Revision)
}

func view(cache *state.Cache, rec *statev1.VMRecord, revision int64) *computev1.VM {
	vm := rec.GetVm()
	if revision > 0 {
		vm.Meta.Etag = domain.Etag(revision)
	}
	showNICs(cache, rec, vm, nil)
	on := nodesOf(cache, rec)
	reason, message := domain.Waits(rec, on)
	silent := slices.ContainsFunc(on, func(n *computev1.Node) bool {
		return n.GetStatus().GetPhase() == computev1.NodePhase_NODE_PHASE_UNKNOWN
	})
	if silent && vm.GetMeta().GetDeleteTime() == nil {
		vm.Status.Phase = computev1.VMPhase_VM_PHASE_UNKNOWN
		vm.Status.Reason = fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE)
		vm.Status.Message = "node " + on[0].GetMeta().GetName() + " does not report; the VM may well run"
		return vm
	}
	// Who is at work says more about it than we can; who is not has said nothing about the present.
	if message != "" && (silent || vm.GetStatus().GetMessage() == "" || reason != "" && vm.GetStatus().GetReason() == "") {
		vm.Status.Reason, vm.Status.Message = reason, message
	}
	return vm
}

// nodesOf are the nodes on which something of a VM lies, as far as it matters for what it waits for: where it is placed, else, while it is being deleted, those that still hold volumes or ports of it.
func nodesOf(cache *state.Cache, rec *statev1.VMRecord) []*computev1.Node {
	vm := rec.GetVm()
	var ids []string
	if p := vm.GetStatus().GetVmPlacement(); p != nil {
		ids = []string{p.GetNodeId()}
	} else if vm.GetMeta().GetDeleteTime() != nil {
		for _, v := range cache.Find(state.Query{Kind: state.KindVolume, Owner: vm.GetMeta().GetId()}).Rows {
			ids = append(ids, v.Nodes...)
		}
		for _, p := range cache.Find(state.Query{Kind: state.KindPort, Owner: vm.GetMeta().GetId()}).Rows {
			ids = append(ids, p.Nodes...)
		}
	}
	rest := domain.AtRest(rec)
	var out []*computev1.Node
	for _, id := range ids {
		if row := cache.Row(state.KindNode, id); row != nil && (!rest || unheard(row)) { // most VMs are at rest: their nodes' records are not decoded
			out = append(out, row.Node().GetNode())
		}
	}
	return out
}

// unheard reports whether nothing is known of the VMs of a node.
func unheard(node *state.Row) bool {
	return computev1.NodePhase(node.Phase) == computev1.NodePhase_NODE_PHASE_UNKNOWN
}
