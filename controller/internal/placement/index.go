package placement

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// Index keeps the scheduler's index in step with the cache. Safe for concurrent use.
type Index struct {
	cache *state.Cache
	cfg   scheduler.Config

	mu    sync.Mutex
	sched *scheduler.Scheduler
	sub   *state.Subscription
	reach map[string][]string // node id -> ids of pools that it reaches
	nodes map[string]int64    // node id -> revision of the record that the index knows
	// assumed are claims that place has given and no commit has settled yet: news about such a VM must not take its claim away meanwhile.
	assumed map[string]scheduler.VMInfo
}

// NewIndex makes an index that fills itself from the cache when it is first asked.
func NewIndex(cache *state.Cache, cfg scheduler.Config) *Index {
	return &Index{cache: cache, cfg: cfg, sched: scheduler.New(cfg), reach: map[string][]string{}, nodes: map[string]int64{}, assumed: map[string]scheduler.VMInfo{}}
}

// Run keeps the index in step until ctx ends, so that nobody who asks has to wait for it to catch up.
func (x *Index) Run(ctx context.Context) error {
	for {
		rev := x.cache.Revision()
		x.mu.Lock()
		x.sync()
		x.mu.Unlock()
		if err := x.cache.Wait(ctx, rev+1); err != nil {
			return ctx.Err()
		}
	}
}

// Explain says where a VM would fit. volumes are those of its disks.
func (x *Index) Explain(rec *statev1.VMRecord, volumes []*statev1.VolumeRecord) *scheduler.Explanation {
	req := newRequest(x.cache, rec, volumes)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sync()
	return x.sched.Explain(req)
}

// Allocatable is what may be claimed of a node.
func (x *Index) Allocatable(n *computev1.Node) *computev1.ResourceAmount {
	x.mu.Lock()
	defer x.mu.Unlock()
	cpus, memory := x.sched.Allocatable(nodeInfo(n))
	return &computev1.ResourceAmount{Cpus: cpus, MemoryBytes: memory}
}

// place chooses a node and counts the claim there at once, until settle.
func (x *Index) place(req scheduler.Request, rules []*computev1.AffinityRule) (scheduler.Decision, *scheduler.Explanation, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	d, why, ok := x.sched.Place(req)
	if ok {
		x.assumed[req.VMID] = scheduler.VMInfo{
			ID: req.VMID, Project: req.Project, Labels: req.Labels, NodeID: d.NodeID, VCPUs: req.VCPUs, MemoryBytes: req.MemoryBytes, Rules: rules, Ports: req.Ports,
		}
		x.sched.UpsertVM(x.assumed[req.VMID])
	}
	return d, why, ok
}

// Claimed is what is counted on a node, claims on their way to a commit included.
func (x *Index) Claimed(nodeID string) (vcpus, memoryBytes int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sync()
	return x.sched.Claimed(nodeID)
}

// nodeRevision is the revision of a node's record that the index goes by; 0 for none.
func (x *Index) nodeRevision(id string) int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.nodes[id]
}

// catchUp takes in all that the cache knows.
func (x *Index) catchUp() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sync()
}

// rebuild begins anew from the cache.
func (x *Index) rebuild() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sub = nil
	x.sync()
}

// settle drops what was assumed of a VM in favour of what the cache says, which knows how the commit went.
func (x *Index) settle(vmID string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.assumed, vmID)
	x.takeVM(vmID, x.cache.Row(state.KindVM, vmID))
}

// sync applies changes since the last time, or begins anew when they are gone.
func (x *Index) sync() {
	if x.sub != nil {
		changes, err := x.sub.TryNext()
		if err == nil {
			x.apply(changes)
			return
		}
	}
	for {
		sub, err := x.cache.Subscribe(x.cache.Revision())
		if err != nil {
			continue // the cache was reloaded in between
		}
		x.sub = sub
		break
	}
	x.sched, x.reach, x.nodes = scheduler.New(x.cfg), map[string][]string{}, map[string]int64{}
	for _, p := range x.cache.Find(state.Query{Kind: state.KindPool}).Rows {
		x.takePool(nil, p)
	}
	for _, n := range x.cache.Find(state.Query{Kind: state.KindNode}).Rows {
		x.takeNode(n.ID)
	}
	for _, vm := range x.cache.Find(state.Query{Kind: state.KindVM}).Rows {
		x.takeVM(vm.ID, vm)
	}
	for id := range x.assumed {
		x.takeVM(id, x.cache.Row(state.KindVM, id))
	}
}

func (x *Index) apply(changes []state.Change) {
	nodes := map[string]bool{}
	for _, c := range changes {
		row := c.Row()
		switch row.Kind {
		case state.KindVM:
			x.takeVM(row.ID, c.New)
		case state.KindPort: // forwards lead to it by its address, or no longer
			if c.New != nil && (c.Old == nil || !slices.Equal(c.Old.Addresses, c.New.Addresses)) && row.Owner != "" {
				x.takeVM(row.Owner, x.cache.Row(state.KindVM, row.Owner))
			}
		case state.KindNetwork:
			if c.Old != nil && c.New != nil {
				x.takeForwards(c.Old, c.New)
			}
		case state.KindNode:
			nodes[row.ID] = true
		case state.KindPool:
			for _, id := range x.takePool(c.Old, c.New) {
				nodes[id] = true
			}
		case state.KindImage:
			for _, r := range []*state.Row{c.Old, c.New} {
				if r != nil {
					for _, id := range r.Nodes {
						nodes[id] = true
					}
					if !slices.ContainsFunc(r.Image().GetImage().GetStatus().GetCopies(), ofPool) {
						continue
					}
					for id, pools := range x.reach { // the copy is there for all of them
						nodes[id] = nodes[id] || slices.Contains(pools, r.InPool)
					}
				}
			}
		}
	}
	for id, is := range nodes {
		if is {
			x.takeNode(id)
		}
	}
}

// ofPool reports whether a copy lies in a pool that several nodes share.
func ofPool(c *storagev1.ImageCopy) bool { return c.GetNodeId() == "" }

func (x *Index) takeVM(id string, row *state.Row) {
	if row == nil || len(row.Nodes) == 0 {
		if vm, ok := x.assumed[id]; ok {
			x.sched.UpsertVM(vm)
		} else {
			x.sched.RemoveVM(id)
		}
		return
	}
	rec := row.VM()
	x.sched.UpsertVM(scheduler.VMInfo{
		ID: id, Project: row.Project, Labels: row.Labels, NodeID: row.Nodes[0], VCPUs: rec.GetClaim().GetVcpus(),
		MemoryBytes: rec.GetClaim().GetMemoryBytes(), Rules: rec.GetVm().GetSpec().GetPlacement().GetAffinity(),
		Ports: hostPorts(x.cache, rec),
	})
}

// takeForwards looks again at the VMs of a network whose forwards changed.
func (x *Index) takeForwards(was, is *state.Row) {
	same := slices.EqualFunc(was.Network().GetNetwork().GetSpec().GetForwards(), is.Network().GetNetwork().GetSpec().GetForwards(),
		func(a, b *networkv1.NetworkForward) bool { return proto.Equal(a, b) })
	if same {
		return
	}
	for _, p := range x.cache.Find(state.Query{Kind: state.KindPort, Ref: state.RefNetwork(is.ID)}).Rows {
		if p.Owner != "" {
			x.takeVM(p.Owner, x.cache.Row(state.KindVM, p.Owner))
		}
	}
}

func (x *Index) takeNode(id string) {
	row := x.cache.Row(state.KindNode, id)
	if row == nil {
		x.sched.RemoveNode(id)
		delete(x.nodes, id)
		return
	}
	x.nodes[id] = row.Revision
	info := nodeInfo(row.Node().GetNode())
	info.Pools = x.reach[id]
	info.Images = map[string]map[string]struct{}{}
	take := func(img *state.Row, here func(*storagev1.ImageCopy) bool) {
		for _, c := range img.Image().GetImage().GetStatus().GetCopies() {
			if !here(c) || c.GetPhase() != storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY || img.Deleting {
				continue
			}
			if info.Images[c.GetPoolId()] == nil {
				info.Images[c.GetPoolId()] = map[string]struct{}{}
			}
			info.Images[c.GetPoolId()][img.ID] = struct{}{}
		}
	}
	for _, img := range x.cache.Find(state.Query{Kind: state.KindImage, Node: id}).Rows {
		take(img, func(c *storagev1.ImageCopy) bool { return c.GetNodeId() == id })
	}
	for _, pool := range info.Pools {
		if !x.cache.Row(state.KindPool, pool).Pool().GetPool().GetStatus().GetShared() {
			continue
		}
		for _, img := range x.cache.Find(state.Query{Kind: state.KindImage, Pool: pool}).Rows {
			take(img, ofPool)
		}
	}
	x.sched.UpsertNode(info)
}

// takePool notes which nodes reach a pool, and returns those for which that changed.
func (x *Index) takePool(was, is *state.Row) []string {
	var changed []string
	before, after := usable(was), usable(is)
	for id := range before {
		if !after[id] {
			x.reach[id] = slices.DeleteFunc(slices.Clone(x.reach[id]), func(p string) bool { return p == was.ID })
			changed = append(changed, id)
		}
	}
	for id := range after {
		if !before[id] || !slices.Contains(x.reach[id], is.ID) {
			x.reach[id] = append(slices.Clone(x.reach[id]), is.ID)
			changed = append(changed, id)
		}
	}
	return changed
}

// usable are the nodes on which new volumes can be put into a pool.
func usable(row *state.Row) map[string]bool {
	out := map[string]bool{}
	p := row.Pool().GetPool()
	if p == nil || p.GetMeta().GetDeleteTime() != nil || p.GetSpec().GetCordoned() {
		return out
	}
	for _, n := range p.GetStatus().GetNodes() {
		if domain.PoolUsable(p, n.GetNodeId()) {
			out[n.GetNodeId()] = true
		}
	}
	return out
}

func nodeInfo(n *computev1.Node) scheduler.NodeInfo {
	st := n.GetStatus()
	return scheduler.NodeInfo{
		ID: n.GetMeta().GetId(), Name: n.GetMeta().GetName(), Labels: n.GetMeta().GetLabels(), Taints: n.GetSpec().GetTaints(),
		Ready:    st.GetPhase() == computev1.NodePhase_NODE_PHASE_READY,
		Cordoned: n.GetSpec().GetCordoned(), NotReadyReason: st.GetMessage(),
		CPUs: st.GetResources().GetCpus(), MemoryBytes: st.GetResources().GetMemoryBytes(),
		OvercommitCPU: n.GetSpec().GetOvercommitCpu(), OvercommitMemory: n.GetSpec().GetOvercommitMemory(),
		ReservedCPUs: n.GetSpec().ReservedCpus, ReservedMemory: n.GetSpec().ReservedMemoryBytes,
		Drivers: domain.HealthyDrivers(st.GetDrivers(), "compute"), AllDrivers: st.GetDrivers(), TunnelAddress: st.GetTunnelAddress(),
	}
}
