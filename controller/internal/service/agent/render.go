package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// render is an object as a node shall have it; nil when the node shall not have it at all. It holds nothing that nodes report, so that reports change
// no version.
func (s *Service) render(ctx context.Context, nodeID string, k key) *agentv1.DesiredObject {
	o := &agentv1.DesiredObject{Key: &agentv1.DesiredKey{Kind: k.kind, Id: k.id}}
	switch k.kind {
	case kindVM:
		vm, err := s.renderVM(ctx, nodeID, k.id)
		if err != nil {
			s.cfg.Log.Error("VM cannot be sent to its node", "vm", k.id, "node", nodeID, "error", err)
		}
		if vm == nil {
			return nil
		}
		o.Object = &agentv1.DesiredObject_Vm{Vm: vm}
	case kindVolume:
		v := s.renderVolume(nodeID, k.id)
		if v == nil {
			return nil
		}
		o.Object = &agentv1.DesiredObject_Volume{Volume: v}
	case kindSnap:
		d := s.renderSnapshot(nodeID, k.id)
		if d == nil {
			return nil
		}
		o.Object = &agentv1.DesiredObject_VolumeSnapshot{VolumeSnapshot: d}
	case kindPool:
		p, err := s.renderPool(ctx, nodeID, k.id)
		if err != nil {
			s.cfg.Log.Error("pool cannot be sent to a node", "pool", k.id, "node", nodeID, "error", err)
		}
		if p == nil {
			return nil
		}
		o.Object = &agentv1.DesiredObject_Pool{Pool: p}
	case kindImage:
		i := s.renderImage(nodeID, k.id)
		if i == nil {
			return nil
		}
		o.Object = &agentv1.DesiredObject_Image{Image: i}
	case kindNetwork:
		n := s.renderNetwork(nodeID, k.id)
		if n == nil {
			return nil
		}
		o.Object = &agentv1.DesiredObject_Network{Network: n}
	case kindPort:
		p := s.renderPort(nodeID, k.id)
		if p == nil {
			return nil
		}
		o.Object = &agentv1.DesiredObject_Port{Port: p}
	case kindRules:
		return s.renderRuleSet(nodeID, k.id)
	case kindMembers:
		return s.renderAddressSet(nodeID, k.id)
	}
	o.Version = version(o)
	return o
}

// version is a checksum of the content, so that it is the same after a restart of the controller.
func version(o *agentv1.DesiredObject) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(o)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// identity is the part of meta that a node has use for.
func identity(m *metav1.ObjectMeta) *metav1.ObjectMeta {
	return &metav1.ObjectMeta{Id: m.GetId(), Name: m.GetName(), ProjectId: m.GetProjectId(), Generation: m.GetGeneration()}
}

func (s *Service) renderVM(ctx context.Context, nodeID, id string) (*agentv1.DesiredVM, error) {
	rec := s.cfg.Cache.Row(state.KindVM, id).VM()
	p := rec.GetVm().GetStatus().GetVmPlacement()
	if p.GetNodeId() != nodeID || nodeID == "" {
		return s.renderOrphanVM(nodeID, id), nil
	}
	meta := rec.GetVm().GetMeta()
	d := &agentv1.DesiredVM{
		VmId: id, Name: meta.GetName(), ProjectId: meta.GetProjectId(), Generation: meta.GetGeneration(), Epoch: p.GetEpoch(),
		Absent: meta.GetDeleteTime() != nil, Spec: rec.GetVm().GetSpec(),
		ForceStop: rec.GetForceStop(), ForceRestartGeneration: rec.GetForceRestartGeneration(),
	}
	for _, v := range rec.GetDiskVolumes() {
		d.Volumes = append(d.Volumes, &agentv1.VMVolume{DiskName: v.GetDiskName(), VolumeId: v.GetVolumeId()})
	}
	for _, p := range rec.GetNicPorts() {
		d.Ports = append(d.Ports, &agentv1.VMPort{NicName: p.GetNicName(), PortId: p.GetPortId()})
	}
	s.resolve(d)
	if d.Absent {
		return d, nil
	}
	withinClaim(d.GetSpec(), rec.GetClaim())
	if s.mustWait(nodeID, id, rec) {
		d.Spec.DesiredPower = computev1.PowerState_POWER_STATE_STOPPED
	}
	if d.GetSpec().GetCloudInit().GetUserDataSha256() == "" {
		return d, nil
	}
	secret, err := s.secret(ctx, id, "user_data")
	if err != nil {
		return nil, err
	}
	d.UserData = secret
	return d, nil
}

// withinClaim keeps a VM from using more than it holds: one that waits for its claim stays off, one that waits for a larger one stays small.
func withinClaim(spec *computev1.VMSpec, c *statev1.Claim) {
	if c == nil {
		spec.DesiredPower = computev1.PowerState_POWER_STATE_STOPPED
		return
	}
	if c.GetVcpus() < spec.GetCpu().GetVcpus() {
		spec.Cpu.Vcpus, spec.Cpu.Sockets, spec.Cpu.Cores, spec.Cpu.Threads = c.GetVcpus(), 0, 0, 0
	}
	spec.MemoryBytes = min(spec.GetMemoryBytes(), c.GetMemoryBytes())
}

// resolve puts ids in place of names.
func (s *Service) resolve(d *agentv1.DesiredVM) {
	image := func(ref string) string {
		if row := s.cfg.Cache.Resolve(state.KindImage, d.GetProjectId(), ref); row != nil {
			return row.ID
		}
		return ref
	}
	if k := d.GetSpec().GetBoot().GetKernel(); k != nil {
		k.KernelImage = image(k.GetKernelImage())
		if k.GetInitrdImage() != "" {
			k.InitrdImage = image(k.GetInitrdImage())
		}
	}
	for i, disk := range d.GetSpec().GetDisks() {
		if i >= len(d.GetVolumes()) {
			continue
		}
		in := disk.GetInline()
		if in == nil {
			disk.Source = &computev1.Disk_Volume{Volume: d.GetVolumes()[i].GetVolumeId()}
			continue
		}
		vol := s.cfg.Cache.Row(state.KindVolume, d.GetVolumes()[i].GetVolumeId()).Volume().GetVolume().GetSpec()
		if vol == nil {
			continue
		}
		in.Pool, in.Image, in.SizeBytes = vol.GetPoolId(), vol.GetSource().GetImageId(), vol.GetSizeBytes()
	}
}

// secret opens a sealed field of an object.
func (s *Service) secret(ctx context.Context, id, field string) ([]byte, error) {
	if s.cfg.Sealer == nil {
		return nil, fmt.Errorf("there is no key to open the secrets of %s with", id)
	}
	k := state.SecretKey(id, field)
	kv, err := s.cfg.Store.Get(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("read secret %s of %s: %w", field, id, err)
	}
	var rec statev1.SecretRecord
	if err := proto.Unmarshal(kv.Value, &rec); err != nil {
		return nil, fmt.Errorf("read secret %s of %s: %w", field, id, err)
	}
	plain, err := s.cfg.Sealer.Open(rec.GetSealed(), []byte(k))
	if err != nil {
		return nil, fmt.Errorf("open secret %s of %s: %w", field, id, err)
	}
	return plain, nil
}

// renderVolume keeps a volume of a VM that is being deleted until nothing is left of the VM itself.
func (s *Service) renderVolume(nodeID, id string) *agentv1.DesiredVolume {
	rec := s.cfg.Cache.Row(state.KindVolume, id).Volume()
	v := rec.GetVolume()
	used := false
	for _, a := range v.GetStatus().GetAttachments() {
		used = used || a.GetNodeId() == nodeID
	}
	if rec == nil || rec.GetExecutorNodeId() != nodeID && !used {
		return s.renderOrphanVolume(nodeID, id)
	}
	d := &agentv1.DesiredVolume{
		Volume: &storagev1.Volume{Meta: identity(v.GetMeta()), Spec: v.GetSpec()}, Epoch: rec.GetExecutorEpoch(),
		Absent: v.GetMeta().GetDeleteTime() != nil, Role: agentv1.VolumeRole_VOLUME_ROLE_EXECUTOR,
		SharedPool: s.cfg.Cache.Row(state.KindPool, v.GetSpec().GetPoolId()).Pool().GetPool().GetStatus().GetShared(), FencedNodeIds: rec.GetFencedNodeIds(),
	}
	if rec.GetExecutorNodeId() != nodeID {
		d.Role, d.Absent = agentv1.VolumeRole_VOLUME_ROLE_USER, false
		d.Volume.Status = &storagev1.VolumeStatus{Phase: v.GetStatus().GetPhase(), SizeBytes: v.GetStatus().GetSizeBytes(), Format: v.GetStatus().GetFormat()}
		return d
	}
	if r := rec.GetRestore(); domain.Restoring(rec) { // never one that is done: an agent that lost its memory would do it again
		d.Restore = &agentv1.VolumeRestore{SnapshotId: r.GetSnapshotId(), RestoreGeneration: r.GetRestoreGeneration()}
	}
	if m := rec.GetMove(); domain.Moving(rec) {
		d.Move = &agentv1.VolumeMove{FromPoolId: m.GetFromPoolId(), MoveGeneration: m.GetMoveGeneration()}
	}
	if owner := rec.GetOwnerVmId(); owner != "" {
		vm := s.cfg.Cache.Row(state.KindVM, owner)
		d.Absent = d.Absent || vm == nil || vm.Deleting && len(vm.Nodes) == 0
	}
	return d
}

// poolKept reports whether something lies in a pool: until that is gone nodes need the pool, whatever is wanted of it.
func (s *Service) poolKept(id string) bool {
	for _, kind := range []state.Kind{state.KindVolume, state.KindSnapshot} {
		if len(s.cfg.Cache.Find(state.Query{Kind: kind, Pool: id, Limit: 1}).Rows) > 0 {
			return true
		}
	}
	return false
}

func (s *Service) renderPool(ctx context.Context, nodeID, id string) (*agentv1.DesiredPool, error) {
	row := s.cfg.Cache.Row(state.KindPool, id)
	node := s.cfg.Cache.Row(state.KindNode, nodeID).Node().GetNode()
	p := row.Pool().GetPool()
	if p == nil || node == nil {
		return nil, nil
	}
	d := &agentv1.DesiredPool{Pool: &storagev1.StoragePool{Meta: identity(p.GetMeta()), Spec: p.GetSpec()}, Absent: row.Deleting && !s.poolKept(id)}
	if !domain.PoolWanted(p, node) {
		if domain.PoolOn(p, nodeID) == nil { // it is let go of, or never was there
			return nil, nil
		}
		d.Absent = true
	}
	if d.Absent {
		return d, nil
	}
	for _, name := range p.GetStatus().GetSecretNames() {
		plain, err := s.secret(ctx, id, domain.PoolSecretField(name))
		if err != nil {
			return nil, err
		}
		if d.Secrets == nil {
			d.Secrets = map[string][]byte{}
		}
		d.Secrets[name] = plain
	}
	return d, nil
}

// imageKey names an image's copy in a pool.
func imageKey(imageID, poolID string) key { return key{kindImage, imageID + "/" + poolID} }

// renderImage is a copy that shall be there, or has to go, for the node that has it, or for the executor of one in a shared pool. One that is being uploaded comes by its tunnel.
func (s *Service) renderImage(nodeID, id string) *agentv1.DesiredImage {
	imageID, poolID, _ := strings.Cut(id, "/")
	row := s.cfg.Cache.Row(state.KindImage, imageID)
	rec := row.Image()
	img := rec.GetImage()
	c, epoch := copyOn(rec, nodeID, poolID)
	if c == nil {
		return nil
	}
	absent := row.Deleting || c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_DELETING
	coming := c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_IMPORTING || c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_PENDING
	fetched := img.GetSpec().GetSourceUrl() != ""
	failed := c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_FAILED
	if coming && !absent && !fetched {
		return nil
	}
	d := &agentv1.DesiredImage{
		Image: &storagev1.Image{Meta: identity(img.GetMeta()), Spec: img.GetSpec(), Status: &storagev1.ImageStatus{
			Sha256: img.GetStatus().GetSha256(), VirtualSizeBytes: img.GetStatus().GetVirtualSizeBytes(), ContentBytes: img.GetStatus().GetContentBytes(),
		}},
		PoolId: c.GetPoolId(), Epoch: epoch, Absent: absent, SharedPool: c.GetNodeId() == "",
	}
	if fetched && !absent && !failed {
		d.Content = &agentv1.DesiredImage_Fetch{Fetch: true}
	}
	return d
}

// copyOn is the copy in a pool that a node answers for, and the epoch under which it does; nil = none. A copy in a pool that is each node's own is its node's for good.
func copyOn(rec *statev1.ImageRecord, nodeID, poolID string) (c *storagev1.ImageCopy, epoch int64) {
	for _, c := range rec.GetImage().GetStatus().GetCopies() {
		switch ex := rec.GetExecutors()[poolID]; {
		case c.GetPoolId() != poolID:
		case c.GetNodeId() == nodeID:
			return c, 1
		case c.GetNodeId() == "" && ex.GetNodeId() == nodeID:
			return c, ex.GetEpoch()
		}
	}
	return nil, 0
}

// renderSnapshot is a snapshot for the node that takes it, with the VM there that has the volume open.
func (s *Service) renderSnapshot(nodeID, id string) *agentv1.DesiredVolumeSnapshot {
	rec := s.cfg.Cache.Row(state.KindSnapshot, id).Snapshot()
	if rec == nil || rec.GetExecutorNodeId() != nodeID {
		return nil
	}
	snap := rec.GetSnapshot()
	d := &agentv1.DesiredVolumeSnapshot{
		Snapshot: &storagev1.Snapshot{Meta: identity(snap.GetMeta()), Spec: snap.GetSpec(), Status: &storagev1.SnapshotStatus{PoolId: snap.GetStatus().GetPoolId()}},
		Epoch:    rec.GetExecutorEpoch(), Absent: snap.GetMeta().GetDeleteTime() != nil,
		SharedPool: s.cfg.Cache.Row(state.KindPool, snap.GetStatus().GetPoolId()).Pool().GetPool().GetStatus().GetShared(),
	}
	for _, a := range s.cfg.Cache.Row(state.KindVolume, snap.GetSpec().GetVolumeId()).Volume().GetVolume().GetStatus().GetAttachments() {
		if a.GetNodeId() == nodeID {
			d.VmId = a.GetVmId()
		}
	}
	return d
}
