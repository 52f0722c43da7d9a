package failpoint_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// stay is what outlives every fault: an image, and a VM that runs from it. Empty in rigs that have none.
type stay struct{ image, vm string }

// converged waits until nothing is under way, what shall be there is there, and nothing else is: by the controller's word and by the journal, which is
// what is really there.
func (r *rig) converged(ctx context.Context, s stay) error {
	since := time.Now()
	return r.until(ctx, "everything converges", func() (bool, string) {
		err := r.look(ctx, s, since)
		return err == nil, fmt.Sprint(err)
	})
}

// look says what is not as it should be. What was said before since does not count.
func (r *rig) look(ctx context.Context, s stay, since time.Time) error {
	nodes, err := r.nodes.ListNodes(ctx, connect.NewRequest(&computev1.ListNodesRequest{}))
	if err != nil {
		return err
	}
	pools, err := r.pools.ListStoragePools(ctx, connect.NewRequest(&storagev1.ListStoragePoolsRequest{}))
	if err != nil {
		return err
	}
	vms, err := r.vms.ListVMs(ctx, connect.NewRequest(&computev1.ListVMsRequest{}))
	if err != nil {
		return err
	}
	images, err := r.images.ListImages(ctx, connect.NewRequest(&storagev1.ListImagesRequest{}))
	if err != nil {
		return err
	}
	networks, err := r.networks.ListNetworks(ctx, connect.NewRequest(&networkv1.ListNetworksRequest{}))
	if err != nil {
		return err
	}
	ports, err := r.ports.ListPorts(ctx, connect.NewRequest(&networkv1.ListPortsRequest{}))
	if err != nil {
		return err
	}
	groups, err := r.groups.ListSecurityGroups(ctx, connect.NewRequest(&networkv1.ListSecurityGroupsRequest{}))
	if err != nil {
		return err
	}
	open, err := r.ops.ListOperations(ctx, connect.NewRequest(&operationv1.ListOperationsRequest{
		States: []operationv1.OperationState{operationv1.OperationState_OPERATION_STATE_RUNNING},
	}))
	if err != nil {
		return err
	}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	have := map[string]bool{}
	var held computev1.ResourceAmount
	for _, node := range nodes.Msg.GetNodes() {
		name, st := node.GetMeta().GetName(), node.GetStatus()
		have[node.GetMeta().GetId()] = true
		held.Cpus += st.GetClaimed().GetCpus()
		held.MemoryBytes += st.GetClaimed().GetMemoryBytes()
		if st.GetPhase() != computev1.NodePhase_NODE_PHASE_READY || node.GetSpec().GetCordoned() {
			wrong("node %s is %s: %s", name, st.GetPhase(), st.GetMessage())
		}
		if !st.GetHeartbeatTime().AsTime().After(since) {
			wrong("node %s was last heard at %s", name, st.GetHeartbeatTime().AsTime())
		}
		if d := st.GetDrivers(); len(d) != 1 || d[0].GetState() != "healthy" || r.agents[name] == nil || !r.agents[name].isParent(d[0].GetPid()) {
			wrong("drivers of node %s: %v", name, d)
		}
		if len(st.GetOrphans()) > 0 {
			wrong("orphans of node %s: %v", name, st.GetOrphans())
		}
	}
	if len(have) != len(r.agents) {
		wrong("there are nodes %v", have)
	}
	for _, pool := range pools.Msg.GetStoragePools() {
		for _, n := range pool.GetStatus().GetNodes() {
			if !have[n.GetNodeId()] || n.GetHealth() != storagev1.PoolHealth_POOL_HEALTH_HEALTHY {
				wrong("pool %s on a node: %s", pool.GetMeta().GetName(), n)
			}
		}
		if n := len(pool.GetStatus().GetNodes()); n != len(have) {
			wrong("pool %s is on %d nodes", pool.GetMeta().GetName(), n)
		}
	}
	for _, op := range open.Msg.GetOperations() {
		wrong("operation under way: %s", op)
	}
	var claimed computev1.ResourceAmount
	var wantVMs, wantVolumes, wantImages []string
	for _, vm := range vms.Msg.GetVms() {
		if vm.GetMeta().GetId() != s.vm || vm.GetStatus().GetPhase() != computev1.VMPhase_VM_PHASE_RUNNING ||
			vm.GetStatus().GetObservedGeneration() != vm.GetMeta().GetGeneration() {
			wrong("vm: %s", vm)
		}
		claimed.Cpus += float64(vm.GetSpec().GetCpu().GetVcpus())
		claimed.MemoryBytes += vm.GetSpec().GetMemoryBytes()
		wantVMs = append(wantVMs, vm.GetMeta().GetId())
		for _, d := range vm.GetStatus().GetDisks() {
			wantVolumes = append(wantVolumes, d.GetVolumeId())
		}
	}
	if s.vm != "" && !slices.Contains(wantVMs, s.vm) {
		wrong("the VM that was there all the time is gone")
	}
	if held.GetCpus() != claimed.GetCpus() || held.GetMemoryBytes() != claimed.GetMemoryBytes() {
		wrong("claims of the nodes are %v, of the VMs %v", &held, &claimed)
	}
	for _, img := range images.Msg.GetImages() {
		if img.GetMeta().GetId() != s.image || img.GetStatus().GetPhase() != storagev1.ImagePhase_IMAGE_PHASE_READY {
			wrong("image: %s", img)
		}
		wantImages = append(wantImages, img.GetMeta().GetId())
	}
	if s.image != "" && !slices.Contains(wantImages, s.image) {
		wrong("the image that was there all the time is gone")
	}
	for _, n := range networks.Msg.GetNetworks() {
		wrong("network: %s", n)
	}
	for _, p := range ports.Msg.GetPorts() {
		wrong("port: %s", p)
	}
	for _, g := range groups.Msg.GetSecurityGroups() {
		if g.GetMeta().GetName() != "default" || g.GetStatus().GetPhase() != networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_READY {
			wrong("security group: %s", g)
		}
	}
	j, err := r.journal()
	if err != nil {
		return err
	}
	for _, t := range []struct {
		name string
		want []string
	}{{"domain", wantVMs}, {"domain-spec", wantVMs}, {"volume", wantVolumes}, {"volume-bytes", wantVolumes}, {"image", wantImages}, {"image-bytes", wantImages}, {"snapshot", nil}, {"volume-holders", nil}, {"volume-pending", nil}, {"overlay", nil}, {"domain-frozen", nil}, {"network", nil}, {"interface", nil}, {"rule-set", nil}, {"address-set", nil}} {
		if got := j.ids(t.name); !slices.Equal(got, sorted(t.want)) {
			wrong("the host has %s %v, wanted are %v", t.name, got, t.want)
		}
	}
	return errors.Join(errs...)
}

func sorted(s []string) []string { s = slices.Clone(s); slices.Sort(s); return s }

// journal is the state of the reference plugin's backend: tables of objects.
type journal map[string]map[string][]byte

func (r *rig) journal() (journal, error) {
	data, err := os.ReadFile(filepath.Join(r.dir, "journal", "j"))
	if errors.Is(err, fs.ErrNotExist) {
		return journal{}, nil
	}
	j := journal{}
	if err == nil {
		err = json.Unmarshal(data, &j)
	}
	return j, err
}

// ids are the keys of a table, without the pool that some begin with, in order.
func (j journal) ids(table string) []string {
	var out []string
	for key := range maps.Keys(j[table]) {
		_, id, found := strings.Cut(key, "/")
		if !found {
			id = key
		}
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func reasonOf(err error) string {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return ""
	}
	for _, d := range ce.Details() {
		if m, err := d.Value(); err == nil {
			if info, ok := m.(*errdetails.ErrorInfo); ok {
				return info.GetReason()
			}
		}
	}
	return ""
}
