package reconcile

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// goneKept is how long the epoch of what was confirmed absent stays known.
const goneKept = time.Hour

// orphans is what drivers listed, and since when something was seen that nobody wants. Guarded by Engine.mu.
type orphans struct {
	domains map[string]map[string]*driverv1.Domain // by driver, id; a driver that was never listed is missing
	volumes map[string]map[string]seenVolume       // by pool, id
	kept    map[string]map[storedKey]seenVolume    // snapshots and image copies, by pool

	networks map[string]map[string]*driverv1.Network          // by driver, id
	ports    map[string]map[string]*driverv1.NetworkInterface // by driver, id

	stored map[string]time.Time // images that came by an upload, and when
	since  map[string]time.Time // by kind/id
	told   string               // what was reported last

	// A listing says nothing of what was left after it began: it may be older than what is now on the host.
	turn   int                  // counts what was left, and listings
	left   map[realised.Key]int // when it was wanted no longer
	listed map[string]int       // by driver or pool: when the last listing began
}

// seenVolume is a volume that a driver listed.
type seenVolume struct {
	driver string
	epoch  int64
}

func newOrphans() orphans {
	return orphans{networks: map[string]map[string]*driverv1.Network{}, ports: map[string]map[string]*driverv1.NetworkInterface{}, domains: map[string]map[string]*driverv1.Domain{}, volumes: map[string]map[string]seenVolume{}, kept: map[string]map[storedKey]seenVolume{}, stored: map[string]time.Time{}, since: map[string]time.Time{}, told: "never", left: map[realised.Key]int{}, listed: map[string]int{}}
}

// next is the turn of a listing that begins, or of an object that is left.
func (o *orphans) next() int {
	o.turn++
	return o.turn
}

func (o *orphans) gone(kind, id string) {
	for _, m := range o.domains {
		if kind == "domain" {
			delete(m, id)
		}
	}
	for _, m := range o.volumes {
		if kind == "volume" {
			delete(m, id)
		}
	}
}

// poolGone forgets what was listed in a pool that was let go of.
func (o *orphans) poolGone(pool string) {
	delete(o.volumes, pool)
	delete(o.kept, pool)
}

func (o *orphans) sawDomain(driver string, d *driverv1.Domain) {
	if m := o.domains[driver]; m != nil {
		m[d.GetDomainId()] = d
	}
}

// PluginUp says that another process of a plugin serves: it was told nothing yet, and its objects may have changed meanwhile.
func (e *Engine) PluginUp(name string) {
	e.mu.Lock()
	var keys []realised.Key
	for k, w := range e.wants {
		switch {
		case k.Kind == realised.KindPool && w.obj.GetPool().GetPool().GetSpec().GetDriver() == name:
			s := e.poolState(k.ID)
			s.ensured, s.timeouts, s.silent, s.barred = 0, 0, 0, false
		}
		keys = append(keys, k)
	}
	for _, s := range e.vms {
		s.failures, s.permanent = 0, nil
	}
	for _, s := range e.volumes {
		s.failures, s.permanent = 0, nil
	}
	e.net.pluginUp(name)
	e.mu.Unlock()
	for _, k := range keys {
		e.queue.add(k)
	}
	e.pokeSurvey(name)
}

// DomainChanged says that something happened to a domain.
func (e *Engine) DomainChanged(id string) {
	k := realised.Key{Kind: realised.KindVM, ID: id}
	e.mu.Lock()
	wanted := e.wants[k] != nil
	e.mu.Unlock()
	if wanted {
		e.queue.add(k)
		return
	}
	e.pokeSurvey("")
}

// PoolChanged says that a pool's health or capacity changed.
func (e *Engine) PoolChanged(id string) { e.queue.add(realised.Key{Kind: realised.KindPool, ID: id}) }

// Resync says that events of a plugin may have been missed.
func (e *Engine) Resync(name string) { e.pokeSurvey(name) }

func (e *Engine) pokeSurvey(plugin string) {
	select {
	case e.poke <- plugin:
	default: // enough of them wait
	}
}

// surveyLoop lists what is on the host, at every poke and now and then.
func (e *Engine) surveyLoop(ctx context.Context) {
	t := time.NewTicker(e.survey)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.poke:
			for len(e.poke) > 0 {
				<-e.poke
			}
		case <-t.C:
		}
		e.surveyOnce(ctx)
	}
}

// surveyOnce compares what drivers list with what is known, and reports what nobody wants. Drivers are asked at once; one that hangs delays this until its
// deadline, and nothing else.
func (e *Engine) surveyOnce(ctx context.Context) {
	done := make(chan struct{})
	n := 0
	for _, name := range e.plugins.Names("compute") {
		if p, _ := e.plugins.Plugin(name); p.Running {
			n++
			e.wg.Go(func() { e.surveyDomains(ctx, name); done <- struct{}{} })
		}
	}
	for _, pool := range e.usablePools() {
		n++
		e.wg.Go(func() { e.surveyVolumes(ctx, pool); e.surveyKept(ctx, pool); done <- struct{}{} })
	}
	for _, p := range e.networkPlugins() {
		n++
		e.wg.Go(func() { e.surveyNetworks(ctx, p); done <- struct{}{} })
	}
	for range n {
		<-done
	}
	e.reportOrphans()
	e.forgetGone()
}

func (e *Engine) usablePools() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for id, s := range e.pools {
		if s.ensured != 0 && !s.barred {
			out = append(out, id)
		}
	}
	return out
}

func (e *Engine) turn() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.orphans.next()
}

func (e *Engine) surveyDomains(ctx context.Context, driver string) {
	turn := e.turn()
	var list []*driverv1.Domain
	err := e.call(ctx, driver, "", "ListDomains", shortCall, func(ctx context.Context) error {
		r, err := e.plugins.Compute(driver).ListDomains(ctx, &driverv1.ListDomainsRequest{})
		list = r.GetDomains()
		return err
	})
	if err != nil {
		e.log.Warn("domains cannot be listed", "plugin", driver, "error", err)
		return
	}
	seen := make(map[string]*driverv1.Domain, len(list))
	var keys []realised.Key
	for _, d := range list {
		if d.GetMark().GetClusterId() != e.cluster || d.GetMark().GetNodeId() != e.node {
			continue // never ours, whatever the driver says
		}
		seen[d.GetDomainId()] = d
		e.remember(driver, d)
	}
	e.mu.Lock()
	e.orphans.domains[driver], e.orphans.listed[driver] = seen, turn
	for id, s := range e.vms {
		if s.driver == driver && differs(s.domain, seen[id]) {
			keys = append(keys, realised.Key{Kind: realised.KindVM, ID: id})
		}
	}
	e.mu.Unlock()
	for _, k := range keys {
		e.queue.add(k)
	}
	e.askGuests(ctx, driver, seen)
}

// askGuests asks the guests' agents behind the survey's back, unless the last round is not done.
func (e *Engine) askGuests(ctx context.Context, driver string, domains map[string]*driverv1.Domain) {
	e.mu.Lock()
	busy := e.asking[driver]
	e.asking[driver] = true
	copied := maps.Clone(domains)
	e.mu.Unlock()
	if busy {
		return
	}
	e.wg.Go(func() {
		e.readGuests(ctx, driver, copied)
		e.mu.Lock()
		e.asking[driver] = false
		e.mu.Unlock()
	})
}

func differs(a, b *driverv1.Domain) bool {
	return (a == nil) != (b == nil) || a.GetState() != b.GetState() || a.GetPid() != b.GetPid() ||
		a.GetGuestAgentConnected() != b.GetGuestAgentConnected() || a.GetRestartRequired() != b.GetRestartRequired()
}

// remember makes a record of a domain that none is known of: the state file was lost, or the domain is an orphan.
func (e *Engine) remember(driver string, d *driverv1.Domain) {
	k := realised.Key{Kind: realised.KindVM, ID: d.GetDomainId()}
	if r, ok := e.store.Record(k); ok && (r.Driver != "" || !r.Gone.IsZero()) {
		return
	}
	e.store.Put(realised.Record{
		Kind: k.Kind, ID: k.ID, Driver: driver, Handle: d.GetHandle(), Made: true, Ran: isOn(d),
		Epoch: d.GetMark().GetEpoch(), Generation: d.GetMark().GetGeneration(),
	})
}

// readGuests asks the agents inside the guests, where they are connected, one after the other.
func (e *Engine) readGuests(ctx context.Context, driver string, domains map[string]*driverv1.Domain) {
	p, _ := e.plugins.Plugin(driver)
	if !slices.Contains(p.Capabilities.GetCompute().GetFeatures(), driverv1.ComputeFeature_COMPUTE_FEATURE_GUEST_AGENT) {
		return
	}
	for id, d := range domains {
		if !d.GetGuestAgentConnected() || ctx.Err() != nil {
			continue
		}
		var info *driverv1.GetGuestInfoResponse
		err := e.call(ctx, driver, "", "GetGuestInfo", 3*time.Second, func(ctx context.Context) (err error) {
			info, err = e.plugins.Compute(driver).GetGuestInfo(ctx, &driverv1.GetGuestInfoRequest{DomainId: id, Handle: d.GetHandle()})
			return err
		})
		if err != nil {
			continue // the guest's word is a comfort, not a need
		}
		e.mu.Lock()
		s := e.vms[id]
		news := s != nil && (s.guest == nil || hashOf(s.guest) != hashOf(info))
		if news {
			s.guest = info
		}
		e.mu.Unlock()
		if news {
			e.queue.add(realised.Key{Kind: realised.KindVM, ID: id})
			e.reportPortsOf(id)
		}
	}
}

func (e *Engine) surveyVolumes(ctx context.Context, pool string) {
	turn := e.turn()
	driver, err := e.poolReady(pool)
	if err != nil {
		return
	}
	seen := map[string]seenVolume{}
	token := ""
	for {
		var next string
		err := e.poolCall(ctx, driver, pool, "ListVolumes", shortCall, func(ctx context.Context) error {
			r, err := e.plugins.Storage(driver).ListVolumes(ctx, &driverv1.ListVolumesRequest{PoolId: pool, PageToken: token})
			for _, v := range r.GetVolumes() {
				if v.GetMark().GetClusterId() == e.cluster && v.GetMark().GetNodeId() == e.node {
					seen[v.GetVolumeId()] = seenVolume{driver, v.GetMark().GetEpoch()}
				}
			}
			next = r.GetNextPageToken()
			return err
		})
		if err != nil {
			e.log.Warn("volumes cannot be listed", "pool", pool, "plugin", driver, "error", err)
			return
		}
		if next == "" || next == token {
			break
		}
		token = next
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.orphans.volumes[pool], e.orphans.listed[pool] = seen, turn
}

// forgetGone drops records of what was confirmed absent long ago and is not wanted.
func (e *Engine) forgetGone() {
	now := e.now()
	for _, kind := range []string{realised.KindVM, realised.KindVolume, realised.KindNetwork, realised.KindPort} {
		for _, r := range e.store.Records(kind) {
			e.mu.Lock()
			wanted := e.wants[r.Key()] != nil
			e.mu.Unlock()
			if !wanted && !r.Gone.IsZero() && now.Sub(r.Gone) > goneKept {
				e.store.Delete(r.Key())
			}
		}
	}
	for _, kind := range []string{realised.KindRuleSet, realised.KindAddressSet} { // their generations are above the clock's anyway, should they be wanted again
		for _, r := range e.store.Records(kind) {
			e.mu.Lock()
			wanted := e.wants[r.Key()] != nil || !e.synced
			e.mu.Unlock()
			if !wanted {
				e.store.Delete(r.Key())
			}
		}
	}
}
