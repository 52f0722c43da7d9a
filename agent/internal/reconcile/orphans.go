package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// reportOrphans reports what carries our mark and nobody wants, once a controller has said all that is wanted, with what it was wanted as where that is
// still known. It is never touched: an operator has it adopted or removed, and then it is wanted, or wanted absent.
func (e *Engine) reportOrphans() {
	e.mu.Lock()
	if !e.synced || len(e.orphans.domains)+len(e.orphans.volumes)+len(e.orphans.kept)+len(e.orphans.networks) == 0 {
		e.mu.Unlock()
		return
	}
	list, details := e.listOrphans()
	told := ""
	for _, o := range list {
		told += fmt.Sprintln(o.GetKind(), o.GetObjectId(), o.GetDetail(), o.GetName(), o.GetEpoch(), o.GetAdoptable())
	}
	for _, d := range details { // a volume that was left just now is not among what is remembered yet
		told += fmt.Sprintln(d.GetVm().GetVmId(), d.GetVm().GetGeneration(), len(d.GetVolumes()))
	}
	news := told != e.orphans.told
	e.orphans.told = told
	e.orphans.forgetTurns()
	e.mu.Unlock()
	if err := e.store.KeepFormer(e.mayBeThere); err != nil {
		e.log.Error("state file cannot be written", "error", err)
	}
	if news {
		if len(list) > 0 {
			e.log.Warn("objects with our mark that nobody wants are on this host; they are reported and not touched", "count", len(list))
		}
		e.reporter.Orphans(list, details)
	}
}

// listOrphans works out the list; mu is held.
func (e *Engine) listOrphans() (list []*computev1.Orphan, details []*agentv1.OrphanDetail) {
	now := e.now()
	add := func(o *computev1.Orphan, k realised.Key) {
		at, ok := e.orphans.since[o.GetKind()+"/"+o.GetObjectId()]
		if !ok {
			at = now
			e.orphans.since[o.GetKind()+"/"+o.GetObjectId()] = at
		}
		o.FirstSeenTime = timestamppb.New(at)
		if r, ok := e.store.Record(k); ok {
			o.Epoch = max(o.GetEpoch(), r.Epoch)
		}
		list = append(list, o)
	}
	for driver, m := range e.orphans.domains {
		for id, d := range m {
			k := realised.Key{Kind: realised.KindVM, ID: id}
			if e.wants[k] != nil {
				continue
			}
			o := &computev1.Orphan{Kind: "domain", ObjectId: id, Driver: driver, Detail: domainWords(d), Epoch: d.GetMark().GetEpoch()}
			if detail := e.formerVM(id); detail != nil {
				o.Name, o.Adoptable = detail.GetVm().GetName(), true
				details = append(details, detail)
			}
			add(o, k)
		}
	}
	for pool, m := range e.orphans.volumes {
		for id, v := range m {
			k := realised.Key{Kind: realised.KindVolume, ID: id}
			if e.wants[k] != nil {
				continue
			}
			o := &computev1.Orphan{Kind: "volume", ObjectId: id, Driver: v.driver, Detail: "in pool " + pool, PoolId: pool, Epoch: v.epoch}
			if was := e.store.Former(desiredKey(k)).GetVolume(); was != nil {
				o.Name = was.GetVolume().GetMeta().GetName()
			}
			add(o, k)
		}
	}
	e.keptOrphans(add)
	e.networkOrphans(add)
	for key := range e.orphans.since {
		if !slices.ContainsFunc(list, func(o *computev1.Orphan) bool { return o.GetKind()+"/"+o.GetObjectId() == key }) {
			delete(e.orphans.since, key)
		}
	}
	slices.SortFunc(list, func(a, b *computev1.Orphan) int {
		return cmp.Or(-strings.Compare(a.GetKind(), b.GetKind()), strings.Compare(a.GetObjectId(), b.GetObjectId()))
	})
	return list, details
}

// formerVM is what a VM was wanted as, with its volumes; nil when that is not known. mu is held.
func (e *Engine) formerVM(id string) *agentv1.OrphanDetail {
	was := e.store.Former(desiredKey(realised.Key{Kind: realised.KindVM, ID: id})).GetVm()
	if was == nil || was.GetAbsent() {
		return nil
	}
	d := &agentv1.OrphanDetail{Vm: was}
	for _, v := range was.GetVolumes() {
		k := realised.Key{Kind: realised.KindVolume, ID: v.GetVolumeId()}
		vol := e.wants[k].object().GetVolume()
		if vol == nil {
			vol = e.store.Former(desiredKey(k)).GetVolume()
		}
		if vol != nil && !vol.GetAbsent() {
			d.Volumes = append(d.Volumes, vol)
		}
	}
	return d
}

// forgetTurns drops the turns that every listing has left behind: they change no answer.
func (o *orphans) forgetTurns() {
	if len(o.listed) == 0 {
		return
	}
	oldest := slices.Min(slices.Collect(maps.Values(o.listed)))
	maps.DeleteFunc(o.left, func(_ realised.Key, turn int) bool { return turn < oldest })
}

// mayBeThere reports whether what was wanted once may still be on the host: it was listed, or what would list it did not answer since.
func (e *Engine) mayBeThere(o *agentv1.DesiredObject) bool {
	k := keyOf(o.GetKey())
	r, _ := e.store.Record(k)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch k.Kind {
	case realised.KindVM:
		return e.orphans.listed[r.Driver] <= e.orphans.left[k] || e.orphans.domains[r.Driver][k.ID] != nil
	case realised.KindVolume:
		pool := o.GetVolume().GetVolume().GetSpec().GetPoolId()
		_, there := e.orphans.volumes[pool][k.ID]
		return e.orphans.listed[pool] <= e.orphans.left[k] || there
	}
	return false
}

func domainWords(d *driverv1.Domain) string {
	switch {
	case isOn(d):
		return "runs"
	case d.GetState() == driverv1.DomainState_DOMAIN_STATE_UNKNOWN:
		return "state unknown"
	}
	return "is off"
}
