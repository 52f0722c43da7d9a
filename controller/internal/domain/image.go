package domain

import (
	"fmt"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

const maxAliases = 16

// ValidateUpload notes everything that is wrong with a defaulted header of an upload, under "header.".
func ValidateUpload(v *Violations, h *storagev1.UploadImageHeader) {
	CheckName(v, "header.name", h.GetName())
	if !ValidName(h.GetProjectId()) {
		v.Add("header.project_id", nameRule)
	}
	CheckLabels(v, "header.labels", h.GetLabels())
	CheckAnnotations(v, "header.annotations", h.GetAnnotations())
	if h.GetFormat() == storagev1.ImageFormat_IMAGE_FORMAT_UNSPECIFIED {
		v.Add("header.format", "is required: RAW or QCOW2; it is never guessed")
	}
	checkEnum(v, "header.format", h.GetFormat())
	if s := h.GetSha256(); s != "" && !validSHA256(s) {
		v.Add("header.sha256", "must be 64 lower-case hex digits, or empty")
	}
	if h.GetContentBytes() < 0 {
		v.Add("header.content_bytes", "must not be negative")
	}
	if len(h.GetAliases()) > maxAliases {
		v.Add("header.aliases", "holds %d aliases, at most %d are allowed", len(h.GetAliases()), maxAliases)
	}
	seen := map[string]bool{h.GetName(): true}
	for i, a := range h.GetAliases() {
		at := fmt.Sprintf("header.aliases[%d]", i)
		if !validAlias(a) {
			v.Add(at, "must be formed as a name; '.' and ':' are allowed besides")
		} else if seen[a] {
			v.Add(at, "%q is used twice", a)
		}
		seen[a] = true
	}
	CheckRequestID(v, h.GetRequestId())
}

func validAlias(s string) bool {
	b := []byte(s)
	for i, c := range b {
		if c == '.' || c == ':' {
			b[i] = '-'
		}
	}
	return ValidName(string(b)) && !IsID(s)
}

func validSHA256(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if !isHexLower(c) {
			return false
		}
	}
	return true
}

// ReachedPools are the ids of the pools that a node can use now.
func ReachedPools(pools []*storagev1.StoragePool, nodeID string) []string {
	var out []string
	for _, p := range pools {
		if p.GetMeta().GetDeleteTime() == nil && PoolUsable(p, nodeID) {
			out = append(out, p.GetMeta().GetId())
		}
	}
	return out
}

// PoolUsable reports whether a pool works on a node.
func PoolUsable(p *storagev1.StoragePool, nodeID string) bool {
	for _, n := range p.GetStatus().GetNodes() {
		if n.GetNodeId() == nodeID {
			return n.GetHealth() == storagev1.PoolHealth_POOL_HEALTH_HEALTHY || n.GetHealth() == storagev1.PoolHealth_POOL_HEALTH_DEGRADED
		}
	}
	return false
}

// PoolWanted reports whether a node shall use a pool: its labels match, and it has the driver.
func PoolWanted(p *storagev1.StoragePool, n *computev1.Node) bool {
	for k, want := range p.GetSpec().GetNodeSelector() {
		if got, ok := n.GetMeta().GetLabels()[k]; !ok || got != want {
			return false
		}
	}
	return HasDriver(n.GetStatus().GetDrivers(), "storage", p.GetSpec().GetDriver())
}

// SettleImage derives an image's phase from its copies.
func SettleImage(img *storagev1.Image) {
	st := img.GetStatus()
	if img.GetMeta().GetDeleteTime() != nil {
		st.Phase = storagev1.ImagePhase_IMAGE_PHASE_DELETING
		return
	}
	counts := map[storagev1.ImageCopyPhase]int{}
	for _, c := range st.GetCopies() {
		counts[c.GetPhase()]++
	}
	switch {
	case counts[storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY] > 0:
		st.Phase = storagev1.ImagePhase_IMAGE_PHASE_READY
	case counts[storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_IMPORTING] > 0:
		st.Phase = storagev1.ImagePhase_IMAGE_PHASE_IMPORTING
	case counts[storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_FAILED] > 0:
		st.Phase = storagev1.ImagePhase_IMAGE_PHASE_FAILED
	}
}

// NewMeta is the identity of a new object.
func NewMeta(id, name, project string, labels, annotations map[string]string) *metav1.ObjectMeta {
	return &metav1.ObjectMeta{Id: id, Name: name, ProjectId: project, Labels: labels, Annotations: annotations, Generation: 1}
}
