package placement

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// newRequest is what a VM asks of the scheduler.
func newRequest(cache *state.Cache, rec *statev1.VMRecord, volumes []*statev1.VolumeRecord) scheduler.Request {
	vm := rec.GetVm()
	req := scheduler.Request{
		VMID: vm.GetMeta().GetId(), Project: vm.GetMeta().GetProjectId(), Labels: vm.GetMeta().GetLabels(),
		VCPUs: vm.GetSpec().GetCpu().GetVcpus(), MemoryBytes: vm.GetSpec().GetMemoryBytes(), Placement: vm.GetSpec().GetPlacement(),
		Ports: hostPorts(cache, rec), Networks: networkNeeds(cache, rec),
	}
	for _, v := range volumes {
		spec := v.GetVolume().GetSpec()
		req.Pools = append(req.Pools, spec.GetPoolId())
		if v.GetOwnerVmId() == "" && v.GetVolume().GetMeta() != nil { // it stands by itself
			if on := v.GetVolume().GetStatus().GetNodeId(); on != "" {
				req.OnNodes = append(req.OnNodes, on)
			}
			continue
		}
		if img := spec.GetSource().GetImageId(); img != "" {
			req.Images = append(req.Images, scheduler.ImageNeed{ImageID: img, PoolID: spec.GetPoolId()})
		}
	}
	if k := vm.GetSpec().GetBoot().GetKernel(); k != nil {
		for _, ref := range []string{k.GetKernelImage(), k.GetInitrdImage()} {
			if ref == "" {
				continue
			}
			need := scheduler.ImageNeed{ImageID: ref}
			if row := cache.Resolve(state.KindImage, req.Project, ref); row != nil {
				need = scheduler.ImageNeed{ImageID: row.ID, PoolID: row.Image().GetImage().GetSpec().GetPoolId()}
			}
			req.Images = append(req.Images, need)
		}
	}
	return req
}

// shape is equal for requests that fit on the same nodes; "" for one with affinity rules, which depend on what is placed meanwhile.
func shape(req scheduler.Request) string {
	if len(req.Placement.GetAffinity()) > 0 {
		return ""
	}
	rules, err := proto.MarshalOptions{Deterministic: true}.Marshal(req.Placement)
	if err != nil {
		return ""
	}
	networks := make([]string, len(req.Networks))
	for i, n := range req.Networks {
		networks[i] = n.ID
	}
	return fmt.Sprintf("%d/%d/%v/%v/%v/%v/%v/%s/%v/%x", req.VCPUs, req.MemoryBytes, req.Ports, networks, req.Pools, req.OnNodes, req.Images, req.Project, req.Labels, rules)
}

// volumesOf are the records of a VM's volumes with their rows; ok is false when one is missing.
func volumesOf(cache *state.Cache, rec *statev1.VMRecord) (rows []*state.Row, recs []*statev1.VolumeRecord, ok bool) {
	for _, d := range rec.GetDiskVolumes() {
		row := cache.Row(state.KindVolume, d.GetVolumeId())
		if row == nil {
			return nil, nil, false
		}
		rows, recs = append(rows, row), append(recs, row.Volume())
	}
	return rows, recs, true
}

// claimOff reports whether a claim is not what it ought to be.
func claimOff(rec *statev1.VMRecord) bool {
	return rec.GetVm().GetStatus().GetVmPlacement() != nil && rec.GetVm().GetMeta().GetDeleteTime() == nil &&
		!proto.Equal(rec.GetClaim(), domain.Demand(rec))
}

func unplaced(row *state.Row) bool {
	return row != nil && len(row.Nodes) == 0 && !row.Deleting // whatever its phase says
}
