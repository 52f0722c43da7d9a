package lvpool

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/lvm/internal/lvm"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// kind is what a logical volume of ours is, as in its name.
type kind string

const (
	aVolume   kind = "v"
	aSnapshot kind = "s"
	anImage   kind = "i"
	incoming  kind = "t"
	restored  kind = "r"
	replaced  kind = "o"
	classic   kind = "c"
)

// Values of the tag "state".
const (
	making    = "making"    // its content is not whole yet
	restoring = "restoring" // whole, and about to take the volume's name
	gone      = "gone"      // deleted, and about to be wiped
)

// object is a logical volume of ours.
type object struct {
	lvm.LV
	kind kind
	id   string
	tags lvm.Tags
}

func (p *Pool) name(k kind, id string) string { return "lq_" + string(k) + "_" + p.short + "_" + id }

// object reads a logical volume as one of this pool; ok is false when its name says that it is none.
func (p *Pool) object(lv lvm.LV) (object, bool) {
	rest, ok := strings.CutPrefix(lv.Name, "lq_")
	k, rest, ok2 := strings.Cut(rest, "_")
	short, id, ok3 := strings.Cut(rest, "_")
	if !ok || !ok2 || !ok3 || short != p.short || len(k) != 1 || checkID("id", id) != nil {
		return object{}, false
	}
	return object{LV: lv, kind: kind(k), id: id, tags: lvm.ReadTags(lv.Tags)}, true
}

// live reports whether an object is whole: what is not is listed nowhere.
func (o object) live() bool {
	s := o.tags["state"]
	return s != making && s != gone && (o.kind == aVolume || o.kind == aSnapshot || o.kind == anImage)
}

// ours reports whether an object carries the mark of this cluster and node, and this pool's.
func (p *Pool) ours(o object) bool {
	return o.tags["cluster"] == p.owner.ClusterID && o.tags["node"] == p.owner.NodeID && o.tags["pool"] == p.id && o.tags["id"] == o.id
}

func (o object) mark() *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{
		ClusterId: o.tags["cluster"], NodeId: o.tags["node"], ObjectId: o.tags["id"], Generation: o.tags.Number("generation"), Epoch: o.tags.Number("epoch"),
	}
}

// tags are the facts on an object.
func (p *Pool) tags(m *driverv1.OwnershipMark, more lvm.Tags) lvm.Tags {
	all := lvm.Tags{
		"cluster": m.GetClusterId(), "node": m.GetNodeId(), "pool": p.id, "id": m.GetObjectId(),
		"generation": strconv.FormatInt(m.GetGeneration(), 10), "epoch": strconv.FormatInt(m.GetEpoch(), 10),
	}
	maps.Copy(all, more)
	return all
}

// addTags are lvcreate's arguments that write facts on a new object.
func (p *Pool) addTags(m *driverv1.OwnershipMark, more lvm.Tags) (args []string) {
	for k, v := range p.tags(m, more) {
		if v != "" {
			args = append(args, "--addtag", lvm.Tag(k, v))
		}
	}
	return args
}

// made is an object that was just made: asking LVM for it again would take as long as making it.
func (p *Pool) made(k kind, size int64, m *driverv1.OwnershipMark, more lvm.Tags) object {
	tags := p.tags(m, more)
	delete(tags, "state")
	return object{LV: lvm.LV{Name: p.name(k, m.GetObjectId()), SizeBytes: size, ThinPool: p.p.ThinPool, DataPercent: -1}, kind: k, id: m.GetObjectId(), tags: tags}
}

// checkMark holds a mark in a request to what we would list.
func (p *Pool) checkMark(field string, m *driverv1.OwnershipMark, id string) error {
	if m.GetObjectId() != id || m.GetClusterId() != p.owner.ClusterID || m.GetNodeId() != p.owner.NodeID {
		return fault.Invalid(fault.Violation{Field: field, Description: "must carry this cluster, this node and the object's id"})
	}
	return nil
}

// all reads every object of the pool by name, in one command.
func (p *Pool) all(ctx context.Context) (map[string]object, error) {
	lvs, err := p.tool.LVs(ctx, p.p.VG)
	if err != nil {
		return nil, err
	}
	out := make(map[string]object, len(lvs))
	for _, lv := range lvs {
		if o, ok := p.object(lv); ok {
			out[lv.Name] = o
		}
	}
	return out, nil
}

// find reads one object of ours, whole or not. One that carries another mark is refused.
func (p *Pool) find(ctx context.Context, k kind, id string) (o object, ok bool, err error) {
	lv, ok, err := p.tool.LV(ctx, p.p.VG, p.name(k, id))
	if err != nil || !ok {
		return object{}, false, err
	}
	o, _ = p.object(lv)
	return o, true, p.checkOurs(o)
}

func (p *Pool) checkOurs(o object) error {
	if p.ours(o) {
		return nil
	}
	return fault.New(metav1.Reason_REASON_NOT_OURS, "logical volume %s carries another cluster's or node's mark, or none", p.path(o.Name))
}

// need is find of what must be there and whole.
func (p *Pool) need(ctx context.Context, k kind, id string) (object, error) {
	if err := checkID(fieldOf[k], id); err != nil {
		return object{}, err
	}
	o, ok, err := p.find(ctx, k, id)
	if err != nil {
		return o, err
	}
	if !ok || !o.live() {
		return o, p.absent(k, id)
	}
	return o, nil
}

var fieldOf = map[kind]string{aVolume: "volume_id", aSnapshot: "snapshot_id", anImage: "image_id"}

func (p *Pool) absent(k kind, id string) error {
	switch k {
	case aSnapshot:
		return fault.New(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "no snapshot %s in pool %s", id, p.id)
	case anImage:
		return fault.New(metav1.Reason_REASON_IMAGE_NOT_FOUND, "no image copy %s in pool %s", id, p.id)
	}
	return fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "no volume %s in pool %s", id, p.id)
}

// from is need among objects already read.
func (p *Pool) from(all map[string]object, k kind, id string) (object, error) {
	if err := checkID(fieldOf[k], id); err != nil {
		return object{}, err
	}
	o, ok := all[p.name(k, id)]
	if !ok || !o.live() {
		return o, p.absent(k, id)
	}
	return o, p.checkOurs(o)
}

// attached reports whether an object is active for somebody else than us.
func (p *Pool) attached(o object) bool { return o.Active && !p.isHeld(o.Name) }

func (p *Pool) note(name string) string { return filepath.Join(p.busy, name) }

func (p *Pool) isHeld(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[name] > 0 {
		return true
	}
	_, err := os.Lstat(p.note(name))
	return err == nil
}

// retag changes tags of an object, and more of it if args say so.
func (p *Pool) retag(ctx context.Context, name string, args ...string) error {
	_, err := p.tool.Run(ctx, append(append([]string{"lvchange", "-y"}, args...), p.path(name))...)
	return err
}
