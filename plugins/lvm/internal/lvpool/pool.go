// Package lvpool keeps volumes, snapshots and image copies as logical volumes of one volume group, linear or in one of its thin pools.
//
//	lq_v_<pool>_<id>   a volume              lq_s_<pool>_<id>   a snapshot, a whole copy in a linear pool, thin in a thin one
//	lq_i_<pool>_<id>   an image copy, raw    lq_t_<pool>_<id>   an image as it came, to be converted
//	lq_r_<pool>_<id>   what a volume is restored to, lq_o_<pool>_<id> what it was before
//	lq_c_<pool>_<id>   a classic snapshot of a linear volume in use, while its content is copied
//
// What they are is written on them as tags; <pool> is short for the pool's id, so that two pools may share a group. All are kept from activation by others
// (the skip flag). A volume is attached when it is active; what we activate for ourselves meanwhile is noted by a file that a reboot removes as well.
// What is not whole yet, or not any more, has the tag "state" and is not listed: the same call, issued again, or the next EnsurePool ends it.
package lvpool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/limiquantix/limiquantix/plugins/kit/filepool"
	"github.com/limiquantix/limiquantix/plugins/lvm/internal/lvm"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Granularity of volume sizes, bytes: LVM's usual extent.
const Granularity = 4 << 20

// MaxSize of a volume, bytes: 64 TiB.
const MaxSize = 64 << 40

// almostFull is the share of a thin pool, in percent, beyond which it is no longer healthy.
const almostFull = 95

// Owner is whose objects a pool lists: the cluster and node of Configure.
type Owner struct{ ClusterID, NodeID string }

// Dirs are the plugin's own directories.
type Dirs struct {
	State   string // LVM's configuration lies here
	Runtime string // what a reboot voids lies here
}

// Parameters of a pool, as EnsurePool has them.
type Parameters struct {
	VG       string
	ThinPool string   // empty = linear volumes
	Devices  []string // the only ones that LVM looks at; none = those of the group
}

// Pool is an open pool. Methods may be called at once on different objects; the caller keeps two calls off one object.
type Pool struct {
	id    string
	short string
	given Parameters
	p     Parameters // with the devices that were found, if none were given
	owner Owner
	tool  *lvm.Tool
	busy  string // directory of the notes of what we have active for ourselves

	step int64 // sizes are multiples of it

	mu   sync.Mutex
	held map[string]int // logical volumes that we have active for ourselves
}

var (
	validVG     = regexp.MustCompile(`^[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]{0,59}$`)
	validDevice = regexp.MustCompile(`^/dev/[a-zA-Z0-9/_.:+=@-]+$`)
)

// ReadParameters checks what EnsurePool was given.
func ReadParameters(params map[string]string) (Parameters, error) {
	var p Parameters
	var bad []fault.Violation
	for k, v := range params {
		switch k {
		case "vg":
			p.VG = v
		case "thin_pool":
			p.ThinPool = v
			if v != "" && (!validVG.MatchString(v) || v == "." || v == "..") {
				bad = append(bad, fault.Violation{Field: "parameters.thin_pool", Description: fmt.Sprintf("%q is no name of a logical volume", v)})
			}
		case "devices":
			for d := range strings.SplitSeq(v, ",") {
				d = strings.TrimSpace(d)
				if !validDevice.MatchString(d) || filepath.Clean(d) != d {
					bad = append(bad, fault.Violation{Field: "parameters.devices", Description: fmt.Sprintf("%q is no device below /dev; name them separated by commas", d)})
					continue
				}
				p.Devices = append(p.Devices, d)
			}
		default:
			bad = append(bad, fault.Violation{Field: "parameters." + k, Description: `unknown: the lvm driver takes "vg", "thin_pool" and "devices"`})
		}
	}
	if !validVG.MatchString(p.VG) || p.VG == "." || p.VG == ".." {
		bad = append(bad, fault.Violation{Field: "parameters.vg", Description: fmt.Sprintf("%q is no name of a volume group", p.VG)})
	}
	if bad != nil {
		slices.SortFunc(bad, func(a, b fault.Violation) int { return strings.Compare(a.Field, b.Field) })
		return Parameters{}, fault.Invalid(bad...)
	}
	return p, nil
}

// Equal reports whether two sets of parameters mean the same pool.
func (p Parameters) Equal(o Parameters) bool {
	return p.VG == o.VG && p.ThinPool == o.ThinPool && slices.Equal(p.Devices, o.Devices)
}

// Open looks whether group and thin pool are there and fit, and ends what an earlier process left half-done.
func Open(ctx context.Context, id string, params Parameters, owner Owner, dirs Dirs) (*Pool, error) {
	sum := sha256.Sum256([]byte(id))
	p := &Pool{
		id: id, short: hex.EncodeToString(sum[:4]), given: params, owner: owner, held: map[string]int{},
		busy: filepath.Join(dirs.Runtime, "lvm", owner.NodeID, id),
	}
	if err := os.MkdirAll(p.busy, 0o700); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "make the plugin's runtime directory: %w", err)
	}
	conf := filepath.Join(dirs.State, "lvm", owner.NodeID, id)
	udev := lvm.UdevRuns()
	var err error
	if len(params.Devices) == 0 { // look once at all, then only at those of the group
		if p.tool, err = lvm.New(conf, lvm.Config{Udev: udev}); err != nil {
			return nil, err
		}
		if params.Devices, err = p.tool.PVs(ctx, params.VG); err != nil {
			return nil, err
		}
	}
	if p.tool, err = lvm.New(conf, lvm.Config{Devices: params.Devices, Udev: udev}); err != nil {
		return nil, err
	}
	p.p = params
	vg, err := p.tool.VG(ctx, params.VG)
	if err != nil {
		return nil, err
	}
	p.step = lcm(Granularity, max(vg.ExtentBytes, 1))
	if err := p.checkThin(ctx); err != nil {
		return nil, err
	}
	return p, p.sweep(ctx)
}

// checkThin looks at the thin pool and activates it: how full it is can be read only then.
func (p *Pool) checkThin(ctx context.Context) error {
	if !p.thin() {
		return nil
	}
	lv, ok, err := p.tool.LV(ctx, p.p.VG, p.p.ThinPool)
	name := p.path(p.p.ThinPool)
	switch {
	case err != nil:
		return err
	case !ok || !lv.IsThinPool:
		return fault.Invalid(fault.Violation{Field: "parameters.thin_pool", Description: name + " is no thin pool; make one with: lvcreate --type thin-pool -L SIZE -n " + p.p.ThinPool + " " + p.p.VG})
	case !lv.Zeroes:
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "thin pool %s does not zero new blocks: a deleted volume's bytes could be read in a later one", name).
			WithRemedy("lvchange -Zy %s", name)
	case !lv.Active:
		_, err := p.tool.Run(ctx, "lvchange", "-ay", name)
		return err
	}
	return nil
}

// Close lets go of the pool unless a volume of it is attached; nothing is deleted.
func (p *Pool) Close(ctx context.Context) error {
	all, err := p.all(ctx)
	if fault.Is(err, metav1.Reason_REASON_DEVICE_MISSING) {
		return nil // nothing is there to be let go
	}
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.kind == aVolume && p.ours(o) && p.attached(o) {
			return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s of pool %s is attached", o.id, p.id)
		}
	}
	if p.thin() { // it stays when other volumes of it are in use
		_, err := p.tool.Run(ctx, "lvchange", "-an", p.path(p.p.ThinPool))
		if err != nil && !fault.Is(err, metav1.Reason_REASON_VOLUME_IN_USE) {
			return err
		}
	}
	return nil
}

// Asked are the parameters that the pool was opened with.
func (p *Pool) Asked() Parameters { return p.given }

func (p *Pool) thin() bool { return p.p.ThinPool != "" }

// State reads health and capacity. A backend that does not answer is an unhealthy pool, not an error.
func (p *Pool) State(ctx context.Context) *driverv1.Pool {
	out := &driverv1.Pool{PoolId: p.id, Health: driverv1.HealthState_HEALTH_STATE_HEALTHY}
	vg, err := lvm.VG{}, error(nil)
	var lv lvm.LV
	if p.thin() {
		var ok bool
		if lv, ok, err = p.tool.LV(ctx, p.p.VG, p.p.ThinPool); err == nil && !ok {
			err = fault.New(metav1.Reason_REASON_DEVICE_MISSING, "thin pool %s is gone", p.path(p.p.ThinPool))
		}
		vg = lv.VG
		out.CapacityBytes, out.UsedBytes = lv.SizeBytes, int64(max(lv.DataPercent, 0)/100*float64(lv.SizeBytes))
	} else {
		vg, err = p.tool.VG(ctx, p.p.VG)
		out.CapacityBytes, out.UsedBytes = vg.SizeBytes, vg.SizeBytes-vg.FreeBytes
	}
	set := func(h driverv1.HealthState, r metav1.Reason, format string, args ...any) {
		out.Health, out.Reason, out.Message = h, fault.ReasonName(r), fmt.Sprintf(format, args...)
	}
	const degraded, unhealthy = driverv1.HealthState_HEALTH_STATE_DEGRADED, driverv1.HealthState_HEALTH_STATE_UNHEALTHY
	switch {
	case err != nil:
		set(unhealthy, fault.From(err).Reason, "%v", err)
	case vg.MissingPVs > 0:
		set(unhealthy, metav1.Reason_REASON_DEVICE_MISSING, "%d devices of volume group %s are missing", vg.MissingPVs, p.p.VG)
	case lv.Health == "failed" || lv.Health == "metadata_read_only":
		set(unhealthy, metav1.Reason_REASON_BACKEND_FAILED, "thin pool %s needs repair (%s): lvconvert --repair", p.path(p.p.ThinPool), lv.Health)
	case lv.Health == "out_of_data" || lv.DataPercent >= almostFull:
		set(degraded, metav1.Reason_REASON_NO_SPACE, "thin pool %s is %.0f %% full: extend it (lvextend -L +SIZE), or delete volumes", p.path(p.p.ThinPool), lv.DataPercent)
	case p.thin() && lv.MetadataPercent >= metadataLimit(lv.MetadataBytes):
		set(degraded, metav1.Reason_REASON_NO_SPACE, "the metadata of thin pool %s is %.0f %% full: lvextend --poolmetadatasize +SIZE", p.path(p.p.ThinPool), lv.MetadataPercent)
	case !p.thin() && vg.SizeBytes > 0 && float64(out.UsedBytes) > almostFull/100.*float64(out.CapacityBytes):
		set(degraded, metav1.Reason_REASON_NO_SPACE, "less than %d %% of volume group %s is free", 100-almostFull, p.p.VG)
	}
	return out
}

// metadataLimit is how full, in percent, a thin pool's metadata may be before LVM refuses to make volumes in it: 4 MiB must be free, or a quarter of it if that
// is less (pool_metadata_min_threshold in LVM's thin_manip.c).
func metadataLimit(size int64) float64 {
	return 100 - min(25, 100*float64(4<<20)/float64(max(size, 1)))
}

// path is a logical volume as LVM's commands take it.
func (p *Pool) path(name string) string { return p.p.VG + "/" + name }

// device is the block device of an active logical volume.
func (p *Pool) device(name string) string { return "/dev/" + p.p.VG + "/" + name }

func (p *Pool) roundUp(size int64) int64 { return (size + p.step - 1) / p.step * p.step }

func lcm(a, b int64) int64 {
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}

// checkID refuses what is no UUID.
func checkID(field, id string) error { return filepool.CheckID(field, id) }
