package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// PoolColumns are the columns of a table of pools.
func PoolColumns(now func() time.Time) []Column[*storagev1.StoragePool] {
	type pool = *storagev1.StoragePool
	return []Column[pool]{
		{Title: "NAME", Value: func(p pool) string { return p.GetMeta().GetName() }},
		{Title: "STATUS", Value: func(p pool) string { return poolPhase(p) }},
		{Title: "DRIVER", Value: func(p pool) string { return p.GetSpec().GetDriver() }},
		{Title: "NODES", Value: poolNodes},
		{Title: "USED", Value: func(p pool) string { return ofTotal(p.GetStatus().GetUsedBytes(), p.GetStatus().GetCapacityBytes()) }},
		{Title: "PROMISED", Value: func(p pool) string { return sizeOrNone(p.GetStatus().GetProvisionedBytes()) }},
		{Title: "VOLUMES", Value: func(p pool) string { return fmt.Sprint(p.GetStatus().GetVolumeCount()) }},
		{Title: "AGE", Value: func(p pool) string { return Age(p.GetMeta().GetCreateTime(), now()) }},
		{Title: "PROJECT", Wide: true, Value: func(p pool) string { return p.GetMeta().GetProjectId() }},
		{Title: "ID", Wide: true, Value: func(p pool) string { return p.GetMeta().GetId() }},
		{Title: "MESSAGE", Wide: true, Value: func(p pool) string { return p.GetStatus().GetMessage() }},
	}
}

func poolPhase(p *storagev1.StoragePool) string {
	text := Enum(p.GetStatus().GetPhase(), "STORAGE_POOL_PHASE_")
	if p.GetSpec().GetCordoned() {
		text += ",cordoned"
	}
	return text
}

func poolNodes(p *storagev1.StoragePool) string {
	well := 0
	for _, n := range p.GetStatus().GetNodes() {
		if n.GetHealth() == storagev1.PoolHealth_POOL_HEALTH_HEALTHY {
			well++
		}
	}
	return fmt.Sprintf("%d/%d", well, len(p.GetStatus().GetNodes()))
}

func ofTotal(used, total int64) string {
	if total == 0 {
		return ""
	}
	return quantity.FormatBytes(used) + "/" + quantity.FormatBytes(total)
}

// PoolFields describe one pool.
func PoolFields(p *storagev1.StoragePool, now time.Time) []Field {
	st := p.GetStatus()
	place := "each node's own"
	if st.GetShared() {
		place = "shared by its nodes"
	}
	fields := []Field{
		{"Name", p.GetMeta().GetName()},
		{"ID", p.GetMeta().GetId()},
		{"Project", p.GetMeta().GetProjectId()},
		{"Status", poolPhase(p)},
		{"Reason", st.GetReason()},
		{"Message", st.GetMessage()},
		{"Driver", p.GetSpec().GetDriver() + ", " + place},
	}
	for _, k := range slices.Sorted(maps.Keys(p.GetSpec().GetParameters())) {
		fields = append(fields, Field{"Parameter", k + "=" + p.GetSpec().GetParameters()[k]})
	}
	fields = append(fields,
		Field{"Secrets", strings.Join(st.GetSecretNames(), ", ")},
		Field{"Node selector", Labels(p.GetSpec().GetNodeSelector())},
		Field{"Used", ofTotal(st.GetUsedBytes(), st.GetCapacityBytes())},
		Field{"Promised", sizeOrNone(st.GetProvisionedBytes())},
	)
	if o := p.GetSpec().GetOvercommit(); o > 0 {
		fields = append(fields, Field{"May promise", quantity.FormatBytes(int64(o*float64(st.GetCapacityBytes()))) + fmt.Sprintf(" (%g times its capacity)", o)})
	}
	fields = append(fields, Field{"Volumes", fmt.Sprint(st.GetVolumeCount())}, Field{"Image copies", fmt.Sprint(st.GetImageCopyCount())})
	for _, n := range st.GetNodes() {
		text := n.GetNodeName() + ": " + Enum(n.GetHealth(), "POOL_HEALTH_")
		if n.GetCapacityBytes() > 0 {
			text += ", " + ofTotal(n.GetUsedBytes(), n.GetCapacityBytes())
		}
		if n.GetMessage() != "" {
			text += ", " + n.GetReason() + ": " + n.GetMessage()
		}
		fields = append(fields, Field{"Node", text})
	}
	return append(fields, Field{"Labels", Labels(p.GetMeta().GetLabels())}, Field{"Created", withAge(Time(p.GetMeta().GetCreateTime()), Age(p.GetMeta().GetCreateTime(), now))})
}

// VolumeColumns are the columns of a table of volumes.
func VolumeColumns(now func() time.Time) []Column[*storagev1.Volume] {
	type volume = *storagev1.Volume
	return []Column[volume]{
		{Title: "NAME", Value: func(v volume) string { return v.GetMeta().GetName() }},
		{Title: "STATUS", Value: func(v volume) string { return Enum(v.GetStatus().GetPhase(), "VOLUME_PHASE_") }},
		{Title: "SIZE", Value: func(v volume) string { return quantity.FormatBytes(v.GetSpec().GetSizeBytes()) }},
		{Title: "USED", Value: func(v volume) string { return allocation(v.GetStatus().GetAllocationBytes()) }},
		{Title: "USED BY", Value: volumeUser},
		{Title: "SNAPSHOTS", Value: func(v volume) string { return fmt.Sprint(v.GetStatus().GetSnapshotCount()) }},
		{Title: "AGE", Value: func(v volume) string { return Age(v.GetMeta().GetCreateTime(), now()) }},
		{Title: "ID", Value: func(v volume) string { return v.GetMeta().GetId() }},
		{Title: "POOL", Wide: true, Value: func(v volume) string { return v.GetSpec().GetPoolId() }},
		{Title: "NODE", Wide: true, Value: func(v volume) string { return v.GetStatus().GetNodeId() }},
		{Title: "PROJECT", Wide: true, Value: func(v volume) string { return v.GetMeta().GetProjectId() }},
		{Title: "MESSAGE", Wide: true, Value: func(v volume) string { return v.GetStatus().GetMessage() }},
	}
}

func allocation(n int64) string {
	if n < 0 {
		return ""
	}
	return quantity.FormatBytes(n)
}

func volumeUser(v *storagev1.Volume) string {
	var users []string
	for _, a := range v.GetStatus().GetAttachments() {
		users = append(users, a.GetVmId())
	}
	if owner := v.GetStatus().GetOwnerVmId(); owner != "" && len(users) == 0 {
		users = append(users, owner)
	}
	return strings.Join(users, ",")
}

// VolumeFields describe one volume.
func VolumeFields(v *storagev1.Volume, now time.Time) []Field {
	st, spec := v.GetStatus(), v.GetSpec()
	fields := []Field{
		{"Name", v.GetMeta().GetName()},
		{"ID", v.GetMeta().GetId()},
		{"Project", v.GetMeta().GetProjectId()},
		{"Status", Enum(st.GetPhase(), "VOLUME_PHASE_")},
		{"Reason", st.GetReason()},
		{"Message", st.GetMessage()},
		{"Size", quantity.FormatBytes(spec.GetSizeBytes())},
		{"Takes", allocation(st.GetAllocationBytes())},
		{"Format", Enum(st.GetFormat(), "VOLUME_FORMAT_")},
		{"Pool", spec.GetPoolId()},
		{"Node", st.GetNodeId()},
	}
	switch src := spec.GetSource().GetSource().(type) {
	case *storagev1.VolumeSource_ImageId:
		fields = append(fields, Field{"Made from", "image " + src.ImageId})
	case *storagev1.VolumeSource_SnapshotId:
		fields = append(fields, Field{"Made from", "snapshot " + src.SnapshotId})
	case *storagev1.VolumeSource_VolumeId:
		fields = append(fields, Field{"Made from", "volume " + src.VolumeId})
	}
	if owner := st.GetOwnerVmId(); owner != "" {
		fields = append(fields, Field{"Lives with", "VM " + owner})
	}
	for _, a := range st.GetAttachments() {
		text := "VM " + a.GetVmId() + ", " + Enum(a.GetMode(), "VOLUME_ATTACHMENT_MODE_")
		if !a.GetAttached() {
			text += ", not confirmed"
		}
		fields = append(fields, Field{"Attached to", text})
	}
	if q := spec.GetQos(); q.GetIops() > 0 || q.GetBytesPerSecond() > 0 {
		fields = append(fields, Field{"Limits", strings.Join(nonEmpty(limit(q.GetIops(), "operations/s"), limit(q.GetBytesPerSecond(), "bytes/s")), ", ")})
	}
	return append(fields,
		Field{"Snapshots", fmt.Sprint(st.GetSnapshotCount())}, Field{"Labels", Labels(v.GetMeta().GetLabels())},
		Field{"Created", withAge(Time(v.GetMeta().GetCreateTime()), Age(v.GetMeta().GetCreateTime(), now))},
	)
}

func limit(n int64, unit string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", n, unit)
}

// SnapshotColumns are the columns of a table of snapshots.
func SnapshotColumns(now func() time.Time) []Column[*storagev1.Snapshot] {
	type snapshot = *storagev1.Snapshot
	return []Column[snapshot]{
		{Title: "NAME", Value: func(s snapshot) string { return s.GetMeta().GetName() }},
		{Title: "STATUS", Value: func(s snapshot) string { return Enum(s.GetStatus().GetPhase(), "SNAPSHOT_PHASE_") }},
		{Title: "SIZE", Value: func(s snapshot) string { return sizeOrNone(s.GetStatus().GetSizeBytes()) }},
		{Title: "QUIESCED", Value: func(s snapshot) string { return map[bool]string{true: "yes", false: "no"}[s.GetStatus().GetQuiesced()] }},
		{Title: "TAKEN", Value: func(s snapshot) string { return Age(s.GetStatus().GetSnapshotTime(), now()) }},
		{Title: "VOLUME", Value: func(s snapshot) string { return s.GetSpec().GetVolumeId() }},
		{Title: "PROJECT", Wide: true, Value: func(s snapshot) string { return s.GetMeta().GetProjectId() }},
		{Title: "ID", Wide: true, Value: func(s snapshot) string { return s.GetMeta().GetId() }},
		{Title: "MESSAGE", Wide: true, Value: func(s snapshot) string { return s.GetStatus().GetMessage() }},
	}
}

// SnapshotFields describe one snapshot.
func SnapshotFields(s *storagev1.Snapshot, now time.Time) []Field {
	st := s.GetStatus()
	return []Field{
		{"Name", s.GetMeta().GetName()},
		{"ID", s.GetMeta().GetId()},
		{"Project", s.GetMeta().GetProjectId()},
		{"Status", Enum(st.GetPhase(), "SNAPSHOT_PHASE_")},
		{"Reason", st.GetReason()},
		{"Message", st.GetMessage()},
		{"Volume", s.GetSpec().GetVolumeId()},
		{"Size", sizeOrNone(st.GetSizeBytes())},
		{"Consistency", Enum(s.GetSpec().GetConsistency(), "SNAPSHOT_CONSISTENCY_")},
		{"Quiesced", map[bool]string{true: "yes", false: "no"}[st.GetQuiesced()]},
		{"Taken", withAge(Time(st.GetSnapshotTime()), Age(st.GetSnapshotTime(), now))},
		{"Pool", st.GetPoolId()},
		{"Node", st.GetNodeId()},
		{"Labels", Labels(s.GetMeta().GetLabels())},
	}
}
