package lvm

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// LV is a logical volume as reported.
type LV struct {
	Name            string
	SizeBytes       int64
	Tags            []string
	Active          bool
	Open            bool // by anybody; known while active
	ReadOnly        bool
	ThinPool        string  // that it lies in, if any
	Origin          string  // of a snapshot
	Classic         bool    // a classic snapshot: its origin's old content
	IsThinPool      bool    // it is one
	Zeroes          bool    // of a thin pool: new blocks are zeroed
	DataPercent     float64 // -1 = unknown
	MetadataPercent float64 // -1 = unknown
	MetadataBytes   int64   // of a thin pool
	Health          string  // as LVM says: "", "partial", "out_of_data", "metadata_read_only", "failed"
	VG              VG      // the group that it lies in
}

// VG is a volume group as reported.
type VG struct {
	ExtentBytes, SizeBytes, FreeBytes int64
	MissingPVs                        int
}

const (
	vgFields = "vg_extent_size,vg_size,vg_free,vg_missing_pv_count"
	lvFields = "lv_name,lv_size,lv_attr,lv_active,lv_device_open,lv_tags,pool_lv,origin,data_percent,metadata_percent,lv_metadata_size,lv_health_status,zero,lv_layout," + vgFields
)

type row map[string]string

// LVs reports the logical volumes of a group in one command, or only the one named.
func (t *Tool) LVs(ctx context.Context, vg string, name ...string) ([]LV, error) {
	target := vg
	if len(name) > 0 {
		target += "/" + name[0]
	}
	rows, err := t.report(ctx, "lv", "lvs", lvFields, target)
	if err != nil {
		return nil, err
	}
	out := make([]LV, 0, len(rows))
	for i, r := range rows {
		if i > 0 && rows[i-1]["lv_name"] == r["lv_name"] { // "zero" is a fact of a segment: a volume has a row for each
			continue
		}
		out = append(out, r.lv())
	}
	return out, nil
}

// LV reports one logical volume; ok is false when there is none.
func (t *Tool) LV(ctx context.Context, vg, name string) (lv LV, ok bool, err error) {
	lvs, err := t.LVs(ctx, vg, name)
	if fault.Is(err, metav1.Reason_REASON_NOT_FOUND) {
		return LV{}, false, nil
	}
	if err != nil || len(lvs) == 0 {
		return LV{}, false, err
	}
	return lvs[0], true, nil
}

// VG reports a volume group.
func (t *Tool) VG(ctx context.Context, vg string) (VG, error) {
	rows, err := t.report(ctx, "vg", "vgs", "vg_name,"+vgFields, vg)
	if err != nil {
		return VG{}, err
	}
	if len(rows) != 1 {
		return VG{}, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "lvm vgs: %d volume groups are called %s", len(rows), vg)
	}
	return rows[0].vg(), nil
}

// PVs are the devices of a volume group.
func (t *Tool) PVs(ctx context.Context, vg string) ([]string, error) {
	rows, err := t.report(ctx, "pv", "pvs", "pv_name", "-S", "vg_name="+vg)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, r := range rows {
		out = append(out, r["pv_name"])
	}
	return out, nil
}

func (t *Tool) report(ctx context.Context, kind, verb, fields string, args ...string) ([]row, error) {
	out, err := t.Run(ctx, append([]string{verb, "--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields}, args...)...)
	if err != nil {
		return nil, err
	}
	rows, err := parse(out, kind)
	if err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "lvm %s: %w", verb, err)
	}
	return rows, nil
}

func parse(out []byte, kind string) ([]row, error) {
	var r struct {
		Report []map[string][]row `json:"report"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, fmt.Errorf("its report cannot be read: %w", err)
	}
	var rows []row
	for _, part := range r.Report {
		rows = append(rows, part[kind]...)
	}
	return rows, nil
}

func (r row) lv() LV {
	lv := LV{
		Name: r["lv_name"], SizeBytes: r.number("lv_size"), Active: r["lv_active"] == "active", Open: r["lv_device_open"] == "open",
		ThinPool: r["pool_lv"], Origin: r["origin"], Zeroes: r["zero"] == "zero", Health: r["lv_health_status"],
		DataPercent: r.percent("data_percent"), MetadataPercent: r.percent("metadata_percent"), VG: r.vg(),
		MetadataBytes: r.number("lv_metadata_size"), IsThinPool: r["lv_layout"] == "thin,pool",
		ReadOnly: len(r["lv_attr"]) > 1 && strings.EqualFold(r["lv_attr"][1:2], "r"),
		Classic:  strings.HasPrefix(strings.ToLower(r["lv_attr"]), "s"),
	}
	if tags := r["lv_tags"]; tags != "" {
		lv.Tags = strings.Split(tags, ",")
	}
	return lv
}

func (r row) vg() VG {
	return VG{
		ExtentBytes: r.number("vg_extent_size"), SizeBytes: r.number("vg_size"), FreeBytes: r.number("vg_free"), MissingPVs: int(r.number("vg_missing_pv_count")),
	}
}

func (r row) number(field string) int64 {
	n, _ := strconv.ParseInt(r[field], 10, 64) // empty = 0
	return n
}

func (r row) percent(field string) float64 {
	f, err := strconv.ParseFloat(r[field], 64)
	if err != nil {
		return -1
	}
	return f
}
