package state

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// Row is a record: its bytes and what is searched by. Rows are never changed once made.
type Row struct {
	Kind     Kind
	ID       string
	Project  string
	Name     string
	Labels   map[string]string
	Nodes    []string // nodes that it is on: of a VM, a volume's executor, an image's copies, a network's ports, a port
	InPool   string   // pool that a volume, a snapshot or an image lies in
	Size     int64    // of a volume or snapshot, bytes
	Owner    string   // VM that owns a volume, volume of a snapshot, VM whose NIC a port is, object of an operation
	Phase    int32    // of the kind's own enum; an operation's state
	Deleting bool
	Refs     []string // what it refers to, in words of the kind, for example images by id or name
	// Addresses are those that a port holds.
	Addresses []string
	Revision  int64
	Created   int64
	value     []byte
}

// Decode reads the record into m.
func (r *Row) Decode(m proto.Message) error {
	if err := proto.Unmarshal(r.value, m); err != nil {
		return fmt.Errorf("record %s: %w", Key(r.Kind, r.ID), err)
	}
	return nil
}

func decoded[T any, M interface {
	*T
	proto.Message
}](r *Row) M {
	m := M(new(T))
	if r == nil || r.Decode(m) != nil { // a row was decoded once to be made, so this cannot fail
		return nil
	}
	return m
}

// VM decodes the row of a VM; nil for no row.
func (r *Row) VM() *statev1.VMRecord { return decoded[statev1.VMRecord](r) }

// Node decodes the row of a node; nil for no row.
func (r *Row) Node() *statev1.NodeRecord { return decoded[statev1.NodeRecord](r) }

// Volume decodes the row of a volume; nil for no row.
func (r *Row) Volume() *statev1.VolumeRecord { return decoded[statev1.VolumeRecord](r) }

// Snapshot decodes the row of a snapshot; nil for no row.
func (r *Row) Snapshot() *statev1.SnapshotRecord { return decoded[statev1.SnapshotRecord](r) }

// Pool decodes the row of a pool; nil for no row.
func (r *Row) Pool() *statev1.StoragePoolRecord { return decoded[statev1.StoragePoolRecord](r) }

// Image decodes the row of an image; nil for no row.
func (r *Row) Image() *statev1.ImageRecord { return decoded[statev1.ImageRecord](r) }

// Network decodes the row of a network; nil for no row.
func (r *Row) Network() *statev1.NetworkRecord { return decoded[statev1.NetworkRecord](r) }

// Port decodes the row of a port; nil for no row.
func (r *Row) Port() *statev1.PortRecord { return decoded[statev1.PortRecord](r) }

// SecurityGroup decodes the row of a security group; nil for no row.
func (r *Row) SecurityGroup() *statev1.SecurityGroupRecord {
	m := decoded[statev1.SecurityGroupRecord](r)
	if m == nil || unpackSecurityGroup(m) != nil { // a row was unpacked once to be made
		return nil
	}
	return m
}

// Operation decodes the row of an operation; nil for no row.
func (r *Row) Operation() *statev1.OperationRecord { return decoded[statev1.OperationRecord](r) }

// JoinToken decodes the row of a join token; nil for no row.
func (r *Row) JoinToken() *statev1.JoinTokenRecord { return decoded[statev1.JoinTokenRecord](r) }

// newRow reads what is searched by out of a record.
func newRow(kind Kind, id string, kv store.KV) (*Row, error) {
	r := &Row{Kind: kind, ID: id, Revision: kv.ModRevision, Created: kv.CreateRevision, value: kv.Value}
	var err error
	switch kind {
	case KindVM:
		var m statev1.VMRecord
		if err = r.Decode(&m); err == nil {
			r.takeMeta(m.GetVm().GetMeta())
			r.Phase = int32(m.GetVm().GetStatus().GetPhase())
			r.takeNode(m.GetVm().GetStatus().GetVmPlacement().GetNodeId())
			r.Refs = imageRefs(m.GetVm().GetSpec())
		}
	case KindNode:
		var m statev1.NodeRecord
		if err = r.Decode(&m); err == nil {
			r.takeMeta(m.GetNode().GetMeta())
			r.Phase = int32(m.GetNode().GetStatus().GetPhase())
		}
	case KindVolume:
		var m statev1.VolumeRecord
		if err = r.Decode(&m); err == nil {
			r.takeMeta(m.GetVolume().GetMeta())
			r.Phase, r.Owner = int32(m.GetVolume().GetStatus().GetPhase()), m.GetOwnerVmId()
			r.InPool, r.Size = m.GetVolume().GetSpec().GetPoolId(), m.GetVolume().GetSpec().GetSizeBytes()
			r.takeVolume(&m)
		}
	case KindSnapshot:
		var m statev1.SnapshotRecord
		if err = r.Decode(&m); err == nil {
			r.takeMeta(m.GetSnapshot().GetMeta())
			r.Phase, r.Owner = int32(m.GetSnapshot().GetStatus().GetPhase()), m.GetSnapshot().GetSpec().GetVolumeId()
			r.InPool, r.Size = m.GetSnapshot().GetStatus().GetPoolId(), m.GetSnapshot().GetStatus().GetSizeBytes()
			r.takeNode(m.GetExecutorNodeId())
		}
	case KindPool:
		var m statev1.StoragePoolRecord
		if err = r.Decode(&m); err == nil {
			r.takeMeta(m.GetPool().GetMeta())
			r.Phase = int32(m.GetPool().GetStatus().GetPhase())
		}
	case KindImage:
		var m statev1.ImageRecord
		if err = r.Decode(&m); err == nil {
			r.takeMeta(m.GetImage().GetMeta())
			r.takeImage(&m)
		}
	case KindNetwork:
		var m statev1.NetworkRecord
		if err = r.Decode(&m); err == nil {
			r.takeMeta(m.GetNetwork().GetMeta())
			r.Phase = int32(m.GetNetwork().GetStatus().GetPhase())
			for _, n := range m.GetNetwork().GetStatus().GetNodes() {
				r.Nodes = append(r.Nodes, n.GetNodeId())
			}
			r.Refs = []string{RefNetworkType(m.GetNetwork().GetSpec().GetType())}
		}
	case KindPort:
		var m statev1.PortRecord
		if err = r.Decode(&m); err == nil {
			r.takePort(m.GetPort())
		}
	case KindSecurityGroup:
		var m statev1.SecurityGroupRecord
		if err = r.Decode(&m); err == nil {
			err = r.takeSecurityGroup(&m)
		}
	case KindOperation:
		var m statev1.OperationRecord
		if err = r.Decode(&m); err == nil {
			op := m.GetOperation()
			r.Project, r.Name, r.Owner, r.Phase = op.GetProjectId(), op.GetObjectName(), op.GetObjectId(), int32(op.GetState())
		}
	case KindJoinToken:
		var m statev1.JoinTokenRecord
		if err = r.Decode(&m); err == nil {
			r.Name = m.GetNodeName()
		}
	}
	return r, err
}

func (r *Row) takeMeta(m *metav1.ObjectMeta) {
	r.Project, r.Name, r.Labels, r.Deleting = m.GetProjectId(), m.GetName(), m.GetLabels(), m.GetDeleteTime() != nil
}

func (r *Row) takeNode(id string) {
	if id != "" {
		r.Nodes = []string{id}
	}
}

// takeVolume notes the executor first, then the nodes on which the volume is used.
func (r *Row) takeVolume(m *statev1.VolumeRecord) {
	r.takeNode(m.GetExecutorNodeId())
	for _, a := range m.GetVolume().GetStatus().GetAttachments() {
		if n := a.GetNodeId(); n != "" && !slices.Contains(r.Nodes, n) {
			r.Nodes = append(r.Nodes, n)
		}
		r.Refs = append(r.Refs, RefVM(a.GetVmId()))
	}
	switch src := m.GetVolume().GetSpec().GetSource().GetSource().(type) {
	case *storagev1.VolumeSource_ImageId:
		r.Refs = append(r.Refs, RefImage(src.ImageId))
	case *storagev1.VolumeSource_SnapshotId:
		r.Refs = append(r.Refs, RefSnapshot(src.SnapshotId))
	case *storagev1.VolumeSource_VolumeId:
		r.Refs = append(r.Refs, RefVolume(src.VolumeId))
	}
}

// RefVM and the others are words in a volume's Refs: the VMs that it is attached to, and what it was made from.
func RefVM(id string) string { return "vm:" + id }

// RefImage is an image that a volume was made from.
func RefImage(id string) string { return "image:" + id }

// RefSnapshot is a snapshot that a volume was made from.
func RefSnapshot(id string) string { return "snapshot:" + id }

// RefVolume is a volume that a volume was made from.
func RefVolume(id string) string { return "volume:" + id }

// takePort notes the network and the groups of a port as what it refers to, the VM whose NIC it is, and the nodes that it is on.
func (r *Row) takePort(p *networkv1.Port) {
	r.takeMeta(p.GetMeta())
	b := p.GetStatus().GetBinding()
	r.Phase, r.Owner, r.Addresses = int32(p.GetStatus().GetPhase()), b.GetVmId(), p.GetStatus().GetIpAddresses()
	r.takeNode(b.GetNodeId())
	if n := b.GetTargetNodeId(); n != "" && !slices.Contains(r.Nodes, n) {
		r.Nodes = append(r.Nodes, n)
	}
	r.Refs = append(r.Refs, RefNetwork(p.GetSpec().GetNetworkId()))
	for _, g := range p.GetSpec().GetSecurityGroupIds() {
		r.Refs = append(r.Refs, RefSecurityGroup(g))
	}
}

// RefNetwork and RefSecurityGroup are words in the Refs of a port, and of a group whose rules refer to another.
func RefNetwork(id string) string { return "network:" + id }

// RefNetworkType is a word in the Refs of a network: its type.
func RefNetworkType(t networkv1.NetworkType) string { return "type:" + t.String() }

// RefSecurityGroup is a group that a port has, or that a group's rules refer to.
func RefSecurityGroup(id string) string { return "securitygroup:" + id }

// takeSecurityGroup notes the groups that rules refer to, each once.
func (r *Row) takeSecurityGroup(m *statev1.SecurityGroupRecord) error {
	if err := unpackSecurityGroup(m); err != nil {
		return fmt.Errorf("record %s: %w", Key(r.Kind, r.ID), err)
	}
	r.takeMeta(m.GetSecurityGroup().GetMeta())
	r.Phase = int32(m.GetSecurityGroup().GetStatus().GetPhase())
	seen := map[string]bool{}
	for _, rule := range m.GetSecurityGroup().GetSpec().GetRules() {
		if g := rule.GetSecurityGroupId(); g != "" && !seen[g] {
			seen[g] = true
			r.Refs = append(r.Refs, RefSecurityGroup(g))
		}
	}
	return nil
}

// takeImage notes the nodes of copies, and the executors of those in shared pools.
func (r *Row) takeImage(m *statev1.ImageRecord) {
	img := m.GetImage()
	r.Phase = int32(img.GetStatus().GetPhase())
	r.Refs, r.InPool = img.GetSpec().GetAliases(), img.GetSpec().GetPoolId()
	note := func(n string) {
		if n != "" && !slices.Contains(r.Nodes, n) {
			r.Nodes = append(r.Nodes, n)
		}
	}
	for _, c := range img.GetStatus().GetCopies() {
		note(c.GetNodeId())
	}
	for _, pool := range slices.Sorted(maps.Keys(m.GetExecutors())) {
		note(m.GetExecutors()[pool].GetNodeId())
	}
}

// imageRefs are the images of a spec, as they were written.
func imageRefs(s *computev1.VMSpec) []string {
	var out []string
	for _, d := range s.GetDisks() {
		if i := d.GetInline().GetImage(); i != "" {
			out = append(out, i)
		}
	}
	if k := s.GetBoot().GetKernel(); k != nil {
		out = append(out, k.GetKernelImage())
		if k.GetInitrdImage() != "" {
			out = append(out, k.GetInitrdImage())
		}
	}
	return out
}
