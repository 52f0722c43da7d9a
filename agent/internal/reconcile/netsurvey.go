package reconcile

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// surveyNetworks lists the networks and interfaces of a driver: how they are, and what nobody wants.
func (e *Engine) surveyNetworks(ctx context.Context, p Plugin) {
	turn := e.turn()
	seen := map[string]*driverv1.Network{}
	for token := ""; ; {
		var page *driverv1.ListNetworksResponse
		err := e.netListCall(ctx, p.Name, "ListNetworks", func(ctx context.Context) (err error) {
			page, err = e.plugins.Network(p.Name).ListNetworks(ctx, &driverv1.ListNetworksRequest{PageToken: token})
			return err
		})
		if err != nil {
			e.log.Warn("networks cannot be listed", "plugin", p.Name, "error", err)
			return
		}
		for _, n := range page.GetNetworks() {
			if e.mine(n.GetMark()) {
				seen[n.GetNetworkId()] = n
			}
		}
		if page.GetNextPageToken() == "" || page.GetNextPageToken() == token {
			break
		}
		token = page.GetNextPageToken()
	}
	e.networksSeen(p, turn, seen)
	e.surveyInterfaces(ctx, p)
}

// mine reports whether a mark is of this node. What is not is never ours, whatever a driver says.
func (e *Engine) mine(m *driverv1.OwnershipMark) bool {
	return m.GetClusterId() == e.cluster && m.GetNodeId() == e.node
}

// networksSeen takes a whole list of a driver's networks.
func (e *Engine) networksSeen(p Plugin, turn int, seen map[string]*driverv1.Network) {
	type news struct {
		w          *want
		n          *driverv1.Network
		generation int64
	}
	var changed []news
	var missing []realised.Key
	e.mu.Lock()
	e.orphans.networks[p.Name] = seen
	if e.net.watches[p.Name] == nil { // it may have what nobody wants
		e.net.watch(p.Name, e.now(), e.netCheckEvery).litter = true
	}
	for id, s := range e.net.networks {
		w, n := e.wants[networkKey(id)], seen[id]
		if w == nil || s.driver != p.Name || s.network == nil || turn <= s.turn || s.problem != "" || w.obj.GetNetwork().GetAbsent() {
			continue
		}
		switch {
		case n == nil:
			s.told = told{}
			missing = append(missing, networkKey(id))
		case !proto.Equal(n, s.network):
			s.network = n
			changed = append(changed, news{w, n, e.recordOf(networkKey(id)).Generation})
		}
	}
	e.mu.Unlock()
	for _, c := range changed {
		e.reportNetwork(c.w, c.n, c.generation)
	}
	for _, k := range missing {
		e.log.Warn("a network is gone from the host; it is made anew", "network", k.ID, "driver", p.Name)
		e.queue.add(k)
	}
}

// surveyInterfaces lists the interfaces of a driver.
func (e *Engine) surveyInterfaces(ctx context.Context, p Plugin) {
	turn := e.turn()
	seen := map[string]*driverv1.NetworkInterface{}
	for token := ""; ; {
		var page *driverv1.ListInterfacesResponse
		err := e.netListCall(ctx, p.Name, "ListInterfaces", func(ctx context.Context) (err error) {
			page, err = e.plugins.Network(p.Name).ListInterfaces(ctx, &driverv1.ListInterfacesRequest{PageToken: token})
			return err
		})
		if err != nil {
			e.log.Warn("interfaces cannot be listed", "plugin", p.Name, "error", err)
			return
		}
		for _, i := range page.GetInterfaces() {
			if e.mine(i.GetMark()) {
				seen[i.GetInterfaceId()] = i
			}
		}
		if page.GetNextPageToken() == "" || page.GetNextPageToken() == token {
			break
		}
		token = page.GetNextPageToken()
	}
	for _, i := range seen {
		e.rememberPort(p.Name, i)
	}
	e.mu.Lock()
	if turn > e.net.listed[p.Name] { // else a list that began later is known already
		e.orphans.ports[p.Name], e.net.listed[p.Name] = seen, turn
	}
	e.mu.Unlock()
	e.portsSeen(p.Name, turn, seen)
}

// rememberPort makes a record of an interface that none is known of: the state file was lost, or it is an orphan.
func (e *Engine) rememberPort(driver string, i *driverv1.NetworkInterface) {
	k := portKey(i.GetInterfaceId())
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.store.Record(k); ok {
		return
	}
	e.store.Put(realised.Record{
		Kind: k.Kind, ID: k.ID, Driver: driver, NetworkID: i.GetNetworkId(), Handle: i.GetHandle(), Made: true, Epoch: i.GetMark().GetEpoch(), Generation: i.GetMark().GetGeneration(),
	})
}

// neverListed names an installed network plugin whose interfaces were not listed by this run; empty = all were.
func (e *Engine) neverListed() string {
	names := e.plugins.Names("network")
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range names {
		if e.orphans.ports[name] == nil {
			return name
		}
	}
	return ""
}

// whoListsPort is the driver that listed an interface; empty = none did. mu is held.
func (e *Engine) whoListsPort(id string) string {
	for driver, m := range e.orphans.ports {
		if m[id] != nil {
			return driver
		}
	}
	return ""
}

// networkOrphans adds networks and ports that nobody wants. mu is held.
func (e *Engine) networkOrphans(add func(*computev1.Orphan, realised.Key)) {
	for driver, m := range e.orphans.networks {
		for id, n := range m {
			if e.wants[networkKey(id)] == nil {
				add(&computev1.Orphan{Kind: "network", ObjectId: id, Driver: driver, Detail: "device " + n.GetDevice(), Epoch: n.GetMark().GetEpoch()}, networkKey(id))
			}
		}
	}
	for driver, m := range e.orphans.ports {
		for id, i := range m {
			if e.wants[portKey(id)] == nil {
				add(&computev1.Orphan{Kind: "port", ObjectId: id, Driver: driver, Detail: "in network " + i.GetNetworkId(), Epoch: i.GetMark().GetEpoch()}, portKey(id))
			}
		}
	}
}

// pokeGarbage has what is no longer used collected.
func (e *Engine) pokeGarbage() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.net.litter()
}

// collectGarbage has a driver remove rule sets and address sets that nobody wants. Networks and interfaces are only told by it, and reported as orphans.
func (e *Engine) collectGarbage(ctx context.Context, driver string) {
	req := &driverv1.CollectGarbageRequest{}
	e.mu.Lock()
	for k := range e.wants {
		switch k.Kind {
		case realised.KindNetwork:
			req.NetworkIds = append(req.NetworkIds, k.ID)
		case realised.KindPort:
			req.InterfaceIds = append(req.InterfaceIds, k.ID)
		case realised.KindRuleSet:
			req.RuleSetIds = append(req.RuleSetIds, k.ID)
		case realised.KindAddressSet:
			req.AddressSetIds = append(req.AddressSetIds, k.ID)
		}
	}
	e.mu.Unlock()
	for _, ids := range [][]string{req.NetworkIds, req.InterfaceIds, req.RuleSetIds, req.AddressSetIds} {
		slices.Sort(ids)
	}
	var found []*driverv1.NetworkGarbage
	err := e.netListCall(ctx, driver, "CollectGarbage", func(ctx context.Context) error {
		r, err := e.plugins.Network(driver).CollectGarbage(ctx, req)
		found = r.GetObjects()
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			e.log.Warn("garbage cannot be collected; it is tried again", "plugin", driver, "error", err)
			e.pokeGarbage()
		}
		return
	}
	orphaned := false
	for _, g := range found {
		e.log.Info("an object of networks that nobody wants", "plugin", driver, "object", g.GetObjectId(), "kind", g.GetKind(), "detail", g.GetDetail(), "removed", g.GetRemoved())
		orphaned = orphaned || !g.GetRemoved()
	}
	if orphaned {
		e.pokeSurvey(driver)
	}
}
