package domain

import (
	"fmt"
	"net/url"
	"slices"

	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

const (
	maxAliases = 16
	maxURL     = 2048
)

// ValidateUpload notes everything that is wrong with a defaulted header of an upload, under "header.".
func ValidateUpload(v *Violations, h *storagev1.UploadImageHeader) {
	validateImage(v, h, func(field string) string { return "header." + field })
	CheckRequestID(v, h.GetRequestId())
}

// validateImage notes what is wrong with a new image; at is where a field of the header stands in the request.
func validateImage(v *Violations, h *storagev1.UploadImageHeader, at func(field string) string) {
	CheckName(v, at("name"), h.GetName())
	if !ValidName(h.GetProjectId()) {
		v.Add(at("project_id"), nameRule)
	}
	CheckLabels(v, at("labels"), h.GetLabels())
	CheckAnnotations(v, at("annotations"), h.GetAnnotations())
	if h.GetFormat() == storagev1.ImageFormat_IMAGE_FORMAT_UNSPECIFIED {
		v.Add(at("format"), "is required: RAW or QCOW2; it is never guessed")
	}
	checkEnum(v, at("format"), h.GetFormat())
	if s := h.GetSha256(); s != "" && !validSHA256(s) {
		v.Add(at("sha256"), "must be 64 lower-case hex digits, or empty")
	}
	if h.GetContentBytes() < 0 {
		v.Add(at("content_bytes"), "must not be negative")
	}
	CheckAliases(v, at("aliases"), h.GetName(), h.GetAliases())
}

// CheckAliases notes what is wrong with an image's further names.
func CheckAliases(v *Violations, at, name string, aliases []string) {
	if len(aliases) > maxAliases {
		v.Add(at, "holds %d aliases, at most %d are allowed", len(aliases), maxAliases)
	}
	seen := map[string]bool{name: true}
	for i, a := range aliases {
		at := fmt.Sprintf("%s[%d]", at, i)
		if !validAlias(a) {
			v.Add(at, "must be formed as a name; '.' and ':' are allowed besides")
		} else if seen[a] {
			v.Add(at, "%q is used twice", a)
		}
		seen[a] = true
	}
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

// SettleImage derives an image's phase, and what it says, from its copies.
func SettleImage(img *storagev1.Image) {
	st := img.GetStatus()
	if img.GetMeta().GetDeleteTime() != nil {
		st.Phase = storagev1.ImagePhase_IMAGE_PHASE_DELETING
		return
	}
	counts := map[storagev1.ImageCopyPhase]int{}
	reason, message := "", ""
	for _, c := range st.GetCopies() {
		counts[c.GetPhase()]++
		if c.GetMessage() != "" {
			reason, message = c.GetReason(), c.GetMessage()
		}
	}
	switch {
	case counts[storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY] > 0:
		st.Phase = storagev1.ImagePhase_IMAGE_PHASE_READY
	case counts[storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_IMPORTING] > 0:
		st.Phase = storagev1.ImagePhase_IMAGE_PHASE_IMPORTING
	case counts[storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_FAILED] > 0:
		st.Phase = storagev1.ImagePhase_IMAGE_PHASE_FAILED
	}
	if img.GetSpec().GetSourceUrl() != "" {
		st.Reason, st.Message = reason, message
	}
}

// ImportOutcome decides how the import of an image by URL stands; img is nil when it is gone.
func ImportOutcome(img *storagev1.Image) Outcome {
	if img == nil || img.GetMeta().GetDeleteTime() != nil {
		return Outcome{operationv1.OperationState_OPERATION_STATE_SUPERSEDED, fault.ReasonName(metav1.Reason_REASON_SUPERSEDED), "the image was deleted"}
	}
	var coming, failed *storagev1.ImageCopy
	var stored int64
	for _, c := range img.GetStatus().GetCopies() {
		switch c.GetPhase() {
		case storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY:
		case storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_FAILED:
			failed = c
		default:
			coming = c
			stored = max(stored, c.GetStoredBytes())
		}
	}
	switch {
	case coming != nil && coming.GetMessage() != "":
		return Outcome{operationv1.OperationState_OPERATION_STATE_RUNNING, coming.GetReason(), coming.GetMessage()}
	case coming != nil && img.GetStatus().GetContentBytes() > 0:
		return Outcome{operationv1.OperationState_OPERATION_STATE_RUNNING, "", fmt.Sprintf("%d of %d MiB fetched", stored>>20, img.GetStatus().GetContentBytes()>>20)}
	case coming != nil:
		return Outcome{operationv1.OperationState_OPERATION_STATE_RUNNING, "", fmt.Sprintf("%d MiB fetched", stored>>20)}
	case failed != nil:
		return Outcome{operationv1.OperationState_OPERATION_STATE_FAILED, failed.GetReason(), failed.GetMessage()}
	}
	return done()
}

// ValidateImport notes everything that is wrong with a defaulted image to import by URL.
func ValidateImport(v *Violations, img *storagev1.Image, requestID string) {
	meta, spec := img.GetMeta(), img.GetSpec()
	validateImage(v, &storagev1.UploadImageHeader{
		Name: meta.GetName(), ProjectId: meta.GetProjectId(), Labels: meta.GetLabels(), Annotations: meta.GetAnnotations(),
		Format: spec.GetFormat(), Sha256: spec.GetSha256(), ContentBytes: spec.GetContentBytes(), Aliases: spec.GetAliases(),
	}, func(field string) string {
		if slices.Contains([]string{"name", "project_id", "labels", "annotations"}, field) {
			return "image.meta." + field
		}
		return "image.spec." + field
	})
	CheckRequestID(v, requestID)
	if spec.GetSha256() == "" {
		v.Add("image.spec.sha256", "is required: what comes by URL is checked")
	}
	u, err := url.Parse(spec.GetSourceUrl())
	switch {
	case spec.GetSourceUrl() == "" || len(spec.GetSourceUrl()) > maxURL:
		v.Add("image.spec.source_url", "is required, at most %d bytes", maxURL)
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		v.Add("image.spec.source_url", "must be an http or https URL")
	case u.User != nil:
		v.Add("image.spec.source_url", "must hold no user and no password: it is shown to all who read the image")
	}
}

// NewMeta is the identity of a new object.
func NewMeta(id, name, project string, labels, annotations map[string]string) *metav1.ObjectMeta {
	return &metav1.ObjectMeta{Id: id, Name: name, ProjectId: project, Labels: labels, Annotations: annotations, Generation: 1}
}

// ImagePathAllowed says which paths of an image an update can change.
func ImagePathAllowed(path string) (string, bool) {
	switch {
	case path == "spec.aliases", path == "spec.delete_protection", path == "meta.labels", path == "meta.annotations":
		return "", true
	case Under(path, "meta.labels", "meta.annotations"):
		return "reaches into a map: name the whole map", false
	case Under(path, "meta", "spec", "status"):
		return "cannot change", false
	}
	return `names no field that can change: use "spec.aliases", "spec.delete_protection", "meta.labels", "meta.annotations"`, false
}
