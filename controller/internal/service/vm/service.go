package vm

import (
	"log/slog"
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
	p := vm.GetStatus().GetVmPlacement()
	if p == nil {
		return vm
	}
	node := cache.Row(state.KindNode, p.GetNodeId())
	if node == nil || !unheard(node) {
		return vm
	}
	vm.Status.Reason = fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE)
	if vm.GetMeta().GetDeleteTime() != nil {
		vm.Status.Message = "waits for node " + node.Name + ", which does not report; it ends when the node returns or is deleted with force"
		return vm
	}
	vm.Status.Phase = computev1.VMPhase_VM_PHASE_UNKNOWN
	vm.Status.Message = "node " + node.Name + " does not report; the VM may well run"
	return vm
}

// unheard reports whether nothing is known of the VMs of a node.
func unheard(node *state.Row) bool {
	return computev1.NodePhase(node.Phase) == computev1.NodePhase_NODE_PHASE_UNKNOWN
}
