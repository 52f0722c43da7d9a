package vm

import (
	"fmt"
	"maps"
	"slices"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/volume"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// refs are the objects that a spec refers to, as they are now.
type refs struct {
	volumes []*statev1.VolumeRecord // of the disks, in order; those that are to be made without ids
	rows    []*state.Row            // of those that exist, in the order of volumes; nil for those that are to be made
	guards  []store.Condition       // hold while the images stay
}

// resolve looks up everything that a VM refers to, and notes what does not exist.
func (s *Service) resolve(v *domain.Violations, vm *computev1.VM) refs {
	r := resolver{s: s, v: v, project: vm.GetMeta().GetProjectId(), seen: map[string]bool{}}
	if k := vm.GetSpec().GetBoot().GetKernel(); k != nil && k.GetKernelImage() != "" {
		r.image("vm.spec.boot.kernel.kernel_image", k.GetKernelImage())
		if k.GetInitrdImage() != "" {
			r.image("vm.spec.boot.kernel.initrd_image", k.GetInitrdImage())
		}
	}
	for i, d := range vm.GetSpec().GetDisks() {
		if in := d.GetInline(); in != nil {
			r.disk(fmt.Sprintf("vm.spec.disks[%d].inline", i), in)
		} else {
			r.existing(fmt.Sprintf("vm.spec.disks[%d].volume", i), d, vm.GetMeta().GetId())
		}
	}
	if n := vm.GetSpec().GetPlacement().GetNode(); n != "" && s.cfg.Cache.Resolve(state.KindNode, "", n) == nil {
		v.Add("vm.spec.placement.node", "there is no node %q", n)
	}
	return r.refs
}

type resolver struct {
	refs
	s       *Service
	v       *domain.Violations
	project string
	seen    map[string]bool
}

func (r *resolver) image(field, ref string) *storagev1.Image {
	row := r.s.cfg.Cache.Resolve(state.KindImage, r.project, ref)
	if row == nil {
		r.v.Add(field, "there is no image %q in project %q: upload it first, or list images to see which there are", ref, r.project)
		return nil
	}
	img := row.Image().GetImage()
	switch {
	case row.Deleting:
		r.v.Add(field, "image %q is being deleted", ref)
	case img.GetStatus().GetPhase() == storagev1.ImagePhase_IMAGE_PHASE_FAILED && img.GetStatus().GetSha256() == "":
		r.v.Add(field, "image %q has no content: %s", ref, img.GetStatus().GetMessage())
	}
	if !r.seen[row.ID] {
		r.seen[row.ID] = true
		r.guards = append(r.guards, store.ModRevisionEquals(state.Key(state.KindImage, row.ID), row.Revision))
	}
	return img
}

func (r *resolver) disk(field string, in *computev1.InlineVolume) {
	vol := &storagev1.Volume{
		Spec: &storagev1.VolumeSpec{
			SizeBytes: in.GetSizeBytes(),
			Format:    storagev1.VolumeFormat(in.GetFormat()), // the two enums number alike
		},
		Status: &storagev1.VolumeStatus{Phase: storagev1.VolumePhase_VOLUME_PHASE_PENDING, AllocationBytes: -1},
	}
	if pool := r.s.cfg.Cache.Resolve(state.KindPool, r.project, in.GetPool()); pool != nil && !pool.Deleting {
		vol.Spec.PoolId = pool.ID
	} else if pool := r.s.cfg.Cache.Resolve(state.KindPool, domain.DefaultProject, in.GetPool()); pool != nil && !pool.Deleting {
		vol.Spec.PoolId = pool.ID
	} else {
		r.v.Add(field+".pool", "there is no pool %q: list storage pools to see which there are", in.GetPool())
	}
	if in.GetImage() != "" {
		if img := r.image(field+".image", in.GetImage()); img != nil {
			vol.Spec.Source = &storagev1.VolumeSource{Source: &storagev1.VolumeSource_ImageId{ImageId: img.GetMeta().GetId()}}
			size := img.GetStatus().GetVirtualSizeBytes()
			if in.GetSizeBytes() == 0 {
				vol.Spec.SizeBytes = size
			} else if in.GetSizeBytes() < size {
				r.v.Add(field+".size_bytes", "is smaller than image %q, which needs %d", in.GetImage(), size)
			}
		}
	}
	r.volumes, r.rows = append(r.volumes, &statev1.VolumeRecord{SchemaVersion: 1, Volume: vol}), append(r.rows, nil)
}

// existing looks up a volume that a disk is to be.
func (r *resolver) existing(field string, d *computev1.Disk, vmID string) {
	row := r.s.cfg.Cache.Resolve(state.KindVolume, r.project, d.GetVolume())
	if row == nil || row.Project != r.project {
		r.v.Add(field, "there is no volume %q in project %q: list volumes to see which there are", d.GetVolume(), r.project)
		return
	}
	rec := row.Volume()
	if why := domain.CanAttach(rec, vmID); why != "" {
		r.v.Add(field, "volume %q %s", d.GetVolume(), why)
	}
	for _, have := range r.rows {
		if have != nil && have.ID == row.ID {
			r.v.Add(field, "volume %q is used twice", d.GetVolume())
		}
	}
	r.volumes, r.rows = append(r.volumes, rec), append(r.rows, row)
}

// takeRoom promises the room of the volumes that are to be made; only a pool that has a limit makes the commit conditional on its record, since every VM has a disk in some pool.
func (s *Service) takeRoom(w *state.Writer, found refs) error {
	more := map[string]int64{}
	for i, vol := range found.volumes {
		if found.rows[i] == nil {
			more[vol.GetVolume().GetSpec().GetPoolId()] += vol.GetVolume().GetSpec().GetSizeBytes()
		}
	}
	for _, id := range slices.Sorted(maps.Keys(more)) {
		pool := s.cfg.Cache.Row(state.KindPool, id)
		if p := pool.Pool().GetPool().GetSpec(); p.GetOvercommit() == 0 && !p.GetCordoned() {
			continue
		}
		if err := volume.TakeRoom(s.cfg.Cache, w, pool, more[id], true); err != nil {
			return err
		}
	}
	return nil
}
