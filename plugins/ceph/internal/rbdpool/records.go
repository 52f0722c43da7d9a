package rbdpool

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Granularity of volume sizes, bytes.
const Granularity = 512

// MaxBytes is the largest volume, 64 TiB.
const MaxBytes = 64 << 40

// poolRecord says whose an index is.
type poolRecord struct {
	SchemaVersion int    `json:"schema_version"`
	ClusterID     string `json:"cluster_id"`
}

type markRecord struct {
	Cluster    string `json:"cluster"`
	Node       string `json:"node,omitempty"`
	Object     string `json:"object"`
	Generation int64  `json:"generation,omitempty"`
	Epoch      int64  `json:"epoch,omitempty"`
}

func recordOf(m *driverv1.OwnershipMark) markRecord {
	return markRecord{m.GetClusterId(), m.GetNodeId(), m.GetObjectId(), m.GetGeneration(), m.GetEpoch()}
}

func (m markRecord) proto() *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: m.Cluster, NodeId: m.Node, ObjectId: m.Object, Generation: m.Generation, Epoch: m.Epoch}
}

type volumeRecord struct {
	Image       string                `json:"image"` // RBD image
	Mark        markRecord            `json:"mark"`
	AskedBytes  int64                 `json:"asked_bytes"` // of the creation; 0 = the source's
	SizeBytes   int64                 `json:"size_bytes"`
	Source      string                `json:"source,omitempty"` // "image/ID", "snapshot/ID", "volume/ID"
	Depth       int                   `json:"depth,omitempty"`  // RBD images that it rests on
	Attachments map[string]attachment `json:"attachments,omitempty"`
	Snapshots   map[string]bool       `json:"snapshots,omitempty"` // ids
}

// attachment is a node's use of a volume.
type attachment struct {
	ReadOnly bool `json:"read_only,omitempty"`
	Shared   bool `json:"shared,omitempty"`
}

type snapshotRecord struct {
	Image      string     `json:"image"` // RBD image of the volume
	VolumeID   string     `json:"volume_id"`
	Mark       markRecord `json:"mark"`
	SizeBytes  int64      `json:"size_bytes"`
	Depth      int        `json:"depth,omitempty"`
	CreateTime time.Time  `json:"create_time"`
}

type imageRecord struct {
	Image        string     `json:"image"`
	Mark         markRecord `json:"mark"`
	VirtualBytes int64      `json:"virtual_bytes"`
	ContentBytes int64      `json:"content_bytes"`
	Format       string     `json:"format"`
	SHA256       string     `json:"sha256"`
}

// hiddenRecord is an RBD snapshot that no list shows.
type hiddenRecord struct {
	Intent string `json:"intent,omitempty"` // while this intent is there the snapshot is about to be cloned
}

// Names of RBD snapshots.
const imageSnapshot = "lq" // of an image copy: what volumes are cloned from

func snapshotName(id string) string { return "lq-" + id }
func cloneName(image string) string { return "lq-for-" + image }

func (p *Pool) volume(id string, r *volumeRecord) *driverv1.Volume {
	_, attached := r.Attachments[p.owner.NodeID]
	return &driverv1.Volume{
		PoolId: p.id, VolumeId: id, Mark: r.Mark.proto(), SizeBytes: r.SizeBytes, AllocationBytes: -1,
		Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW, Source: sourceOf(r.Source), Attached: attached,
	}
}

func (p *Pool) snapshot(id string, r *snapshotRecord) *driverv1.Snapshot {
	return &driverv1.Snapshot{
		PoolId: p.id, SnapshotId: id, VolumeId: r.VolumeID, Mark: r.Mark.proto(), SizeBytes: r.SizeBytes, CreateTime: timestamppb.New(r.CreateTime),
	}
}

func (p *Pool) image(id string, r *imageRecord) *driverv1.Image {
	return &driverv1.Image{
		PoolId: p.id, ImageId: id, Mark: r.Mark.proto(), VirtualSizeBytes: r.VirtualBytes, ContentBytes: r.ContentBytes,
		Format: driverv1.VolumeFormat(driverv1.VolumeFormat_value["VOLUME_FORMAT_"+r.Format]), Sha256: r.SHA256,
	}
}

// ours reports whether a record may be shown and touched here: our cluster's, and no other node's.
func (p *Pool) ours(m markRecord) bool {
	return m.Cluster == p.owner.ClusterID && (m.Node == "" || m.Node == p.owner.NodeID)
}

// checkOurs refuses a record that is not ours.
func (p *Pool) checkOurs(what, id string, m markRecord) error {
	if p.ours(m) {
		return nil
	}
	return fault.New(metav1.Reason_REASON_NOT_OURS, "%s %s carries the mark of another cluster or node", what, id)
}

// checkMark refuses a mark that is not for this object.
func (p *Pool) checkMark(id string, m *driverv1.OwnershipMark) error {
	var bad []fault.Violation
	if m.GetObjectId() != id {
		bad = append(bad, fault.Violation{Field: "mark.object_id", Description: fmt.Sprintf("must be %q, the object's own id", id)})
	}
	if m.GetClusterId() != p.owner.ClusterID {
		bad = append(bad, fault.Violation{Field: "mark.cluster_id", Description: "must be the cluster of the plugin's configuration"})
	}
	if n := m.GetNodeId(); n != "" && n != p.owner.NodeID {
		bad = append(bad, fault.Violation{Field: "mark.node_id", Description: "must be empty, since the pool is shared, or this node"})
	}
	if bad != nil {
		return fault.Invalid(bad...)
	}
	return nil
}

func sourceName(s *driverv1.VolumeSource) string {
	switch s := s.GetSource().(type) {
	case *driverv1.VolumeSource_ImageId:
		return "image/" + s.ImageId
	case *driverv1.VolumeSource_SnapshotId:
		return "snapshot/" + s.SnapshotId
	case *driverv1.VolumeSource_VolumeId:
		return "volume/" + s.VolumeId
	}
	return ""
}

func sourceOf(name string) *driverv1.VolumeSource {
	kind, id, _ := strings.Cut(name, "/")
	switch kind {
	case "image":
		return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: id}}
	case "snapshot":
		return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: id}}
	case "volume":
		return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: id}}
	}
	return nil
}

func roundUp(n int64) int64 { return (n + Granularity - 1) / Granularity * Granularity }

// checkSize refuses sizes outside 1 byte to MaxBytes.
func checkSize(n int64) error {
	if n < 1 || n > MaxBytes {
		return fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "a size of %d bytes is outside 1 to %d", n, int64(MaxBytes))
	}
	return nil
}

// CheckID refuses what is not a UUID in lower case, so that an id is always a safe part of a name.
func CheckID(field, id string) error {
	if uuid.MatchString(id) {
		return nil
	}
	return fault.Invalid(fault.Violation{Field: field, Description: fmt.Sprintf("%q is not a UUID in lower case", id)})
}
