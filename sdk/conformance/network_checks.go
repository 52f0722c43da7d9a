package conformance

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	network = driverv1.DriverKind_DRIVER_KIND_NETWORK
	rules   = driverv1.NetworkFeature_NETWORK_FEATURE_SECURITY_RULES
)

// networkChecks are what every network driver must pass. What packets do is for a driver's own tests: it needs the host's network.
func networkChecks() []*Check {
	checks := []*Check{
		{Name: "network/ensure/same-spec-is-ok", Contract: "EnsureNetwork brings a network to the spec given. Already so: OK, same answer.", run: networkSame},
		{Name: "network/ensure/what-can-change", Contract: "A change of a subnet's CIDR: ALREADY_EXISTS; everything else changes in place.", run: networkChanges},
		{Name: "network/ensure/bad-spec", Contract: "The request can never succeed as it is: INVALID_ARGUMENT, nothing made.", run: networkBad},
		{Name: "network/delete/absent-is-ok", Contract: "Delete or detach of what is absent: OK.", run: networkAbsent},
		{Name: "network/delete/in-use", Contract: "DeleteNetwork with interfaces attached: FAILED_PRECONDITION.", run: networkInUse},
		{Name: "network/list/pages", Contract: "ListNetworks pages through the networks with our mark, ordered by id.", run: networkPages},
		{Name: "network/list/only-ours", Contract: "List calls return only objects with our mark. Nothing else is ever touched.", run: networksOnlyOurs},
		{Name: "network/survives-kill", Contract: "Plugins keep no database and may be killed at any time.", run: networkSurvivesKill},
		{Name: "network/interface/attach", Contract: "AttachInterface says how a domain plugs in. Same id and spec: OK, same answer.", run: interfaceAttach},
		{Name: "network/interface/conflict", Contract: "Same id with another network or MAC: ALREADY_EXISTS; everything else changes live.", run: interfaceConflict},
		{Name: "network/interface/preconditions", Contract: "Network absent: NOT_FOUND. A rule set named but never applied: FAILED_PRECONDITION.", run: interfacePreconditions},
		{Name: "network/interface/stats", Contract: "GetNetworkStats reads the counters of all interfaces, or of some; absent ones are left out.", run: interfaceStats},
		{Name: "network/check/clean", Contract: "CheckNetwork compares what is on the host with what was asked for: nothing differs.", run: checkClean},
		{Name: "network/ids/wrong-ones-are-refused", Contract: "An id that is no UUID is INVALID_ARGUMENT.", run: networkWrongIDs},
		{Name: "network/rules/generations", Contract: "Same generation and content: OK. Other content: ALREADY_EXISTS. Older generation: FAILED_PRECONDITION.", Network: rules, run: ruleGenerations},
		{Name: "network/rules/invalid", Contract: "An invalid rule: INVALID_ARGUMENT naming it, the last good set stays.", Network: rules, run: rulesInvalid},
		{Name: "network/rules/address-sets", Contract: "A difference whose base is not in force, or of an absent set: FAILED_PRECONDITION; already at that generation: OK.", Network: rules, run: addressSets},
		{Name: "network/garbage/collects", Contract: "CollectGarbage removes rule sets and address sets that nobody names or uses; networks and interfaces are only reported.", Network: rules, run: garbage},
	}
	checks = append(checks, faultChecks("network", networkVerbs(), func(c *Check, v verb) { c.Network = driverv1.NetworkFeature(v.needs) })...)
	for _, c := range checks {
		c.Kind = network
	}
	return checks
}

// bridge is one network under check.
type bridge struct {
	e   *Env
	id  string
	req *driverv1.EnsureNetworkRequest
}

// newNetwork thinks of the n-th network, and removes it when the check ends if it was made.
func (e *Env) newNetwork(t T, n int) *bridge {
	id := newID()
	b := &bridge{e: e, id: id, req: &driverv1.EnsureNetworkRequest{NetworkId: id, Mark: e.mark(id), Spec: e.o.Network.Spec(n)}}
	t.Cleanup(func() {
		ctx, cancel := cleanupContext()
		defer cancel()
		if _, err := e.network().DeleteNetwork(ctx, b.deleteRequest()); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return b
}

func (b *bridge) deleteRequest() *driverv1.DeleteNetworkRequest {
	return &driverv1.DeleteNetworkRequest{NetworkId: b.id}
}

func (b *bridge) ensure(t T) *driverv1.Network {
	t.Helper()
	return call(t, b.e.network().EnsureNetwork, b.req).GetNetwork()
}

// ensured makes the n-th network.
func (e *Env) ensured(t T, n int) *bridge {
	t.Helper()
	b := e.newNetwork(t, n)
	b.ensure(t)
	return b
}

// networks lists our networks by pages of size, and fails the check when they are out of order or one comes twice.
func (e *Env) networks(t T, size int32) (ids []string) {
	t.Helper()
	for token := ""; ; {
		r := call(t, e.network().ListNetworks, &driverv1.ListNetworksRequest{PageSize: size, PageToken: token})
		for _, n := range r.GetNetworks() {
			if len(ids) > 0 && ids[len(ids)-1] >= n.GetNetworkId() {
				t.Errorf("%s is listed after %s", n.GetNetworkId(), ids[len(ids)-1])
			}
			ids = append(ids, n.GetNetworkId())
		}
		if token = r.GetNextPageToken(); token == "" {
			return ids
		}
		if len(ids) > 100000 {
			t.Fatalf("the pages do not end")
		}
	}
}

func (b *bridge) wantListed(t T, want bool) {
	t.Helper()
	if got := slices.Contains(b.e.networks(t, 0), b.id); got != want {
		t.Errorf("listed: %v, want %v", got, want)
	}
}

// port is one interface under check.
type port struct {
	*bridge
	id  string
	req *driverv1.NetworkDriverServiceAttachInterfaceRequest
}

// port thinks of an interface, and removes it when the check ends if it was made.
func (b *bridge) port(t T) *port {
	id := newID()
	p := &port{bridge: b, id: id, req: &driverv1.NetworkDriverServiceAttachInterfaceRequest{
		InterfaceId: id, Mark: b.e.mark(id),
		Spec: &driverv1.InterfaceSpec{NetworkId: b.id, Mac: fmt.Sprintf("52:54:00:%s:%s:%s", id[0:2], id[2:4], id[4:6])},
	}}
	t.Cleanup(func() {
		ctx, cancel := cleanupContext()
		defer cancel()
		if _, err := b.e.network().DetachInterface(ctx, p.detachRequest()); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return p
}

func (p *port) attach(t T) *driverv1.NetworkInterface {
	t.Helper()
	return call(t, p.e.network().AttachInterface, p.req).GetInterface()
}

func (p *port) detachRequest() *driverv1.NetworkDriverServiceDetachInterfaceRequest {
	return &driverv1.NetworkDriverServiceDetachInterfaceRequest{InterfaceId: p.id, NetworkId: p.bridge.id}
}

// listed is the interface as its network's list has it, or nil.
func (p *port) listed(t T) (found *driverv1.NetworkInterface) {
	t.Helper()
	for _, i := range call(t, p.e.network().ListInterfaces, &driverv1.ListInterfacesRequest{NetworkId: p.bridge.id}).GetInterfaces() {
		if i.GetInterfaceId() == p.id {
			if found != nil {
				t.Errorf("listed twice")
			}
			found = i
		}
	}
	return found
}

func (p *port) wantListed(t T, want bool) {
	t.Helper()
	if got := p.listed(t) != nil; got != want {
		t.Errorf("listed: %v, want %v", got, want)
	}
}

func networkSame(t T, e *Env) {
	b := e.newNetwork(t, 0)
	first, second := b.ensure(t), b.ensure(t)
	if first.GetDevice() != second.GetDevice() || first.GetMtu() != second.GetMtu() || !proto.Equal(first.GetMark(), b.req.GetMark()) || first.GetHealth() == 0 {
		t.Errorf("answered %v, then %v", first, second)
	}
	if len(first.GetHandle()) > 16<<10 {
		t.Errorf("a handle of %d bytes", len(first.GetHandle()))
	}
	b.wantListed(t, true)
	call(t, e.network().DeleteNetwork, b.deleteRequest())
	b.wantListed(t, false)
}

func networkChanges(t T, e *Env) {
	b := e.ensured(t, 0)
	b.req.Spec.Mtu = 1300
	if got := b.ensure(t).GetMtu(); got != 1300 {
		t.Errorf("its MTU is %d, want 1300", got)
	}
	if len(b.req.GetSpec().GetSubnets()) == 0 {
		return
	}
	other := e.o.Network.Spec(1)
	if len(other.GetSubnets()) == 0 || other.GetSubnets()[0].GetCidr() == b.req.GetSpec().GetSubnets()[0].GetCidr() {
		return
	}
	req := proto.CloneOf(b.req)
	req.Spec.Subnets = other.GetSubnets()
	refused(t, "another CIDR", e.network().EnsureNetwork, req, codes.AlreadyExists)
	b.ensure(t)
}

func networkBad(t T, e *Env) {
	for what, spoil := range map[string]func(*driverv1.NetworkSpec){
		"no type":       func(s *driverv1.NetworkSpec) { s.Type = 0 },
		"host bits":     func(s *driverv1.NetworkSpec) { s.Subnets = []*driverv1.SubnetSpec{{Cidr: "10.9.8.7/24"}} },
		"no CIDR":       func(s *driverv1.NetworkSpec) { s.Subnets = []*driverv1.SubnetSpec{{Cidr: "ten"}} },
		"an absurd MTU": func(s *driverv1.NetworkSpec) { s.Mtu = 7 },
	} {
		b := e.newNetwork(t, 0)
		spoil(b.req.Spec)
		refused(t, what, e.network().EnsureNetwork, b.req, codes.InvalidArgument)
		b.wantListed(t, false)
	}
}

func networkAbsent(t T, e *Env) {
	b := &bridge{e: e, id: newID()}
	call(t, e.network().DeleteNetwork, b.deleteRequest())
	call(t, e.network().DetachInterface, (&port{bridge: b, id: newID()}).detachRequest())
}

func networkInUse(t T, e *Env) {
	b := e.ensured(t, 0)
	p := b.port(t)
	p.attach(t)
	refused(t, "delete", e.network().DeleteNetwork, b.deleteRequest(), codes.FailedPrecondition)
	b.wantListed(t, true)
	call(t, e.network().DetachInterface, p.detachRequest())
	call(t, e.network().DeleteNetwork, b.deleteRequest())
}

func networkPages(t T, e *Env) {
	a, b := e.ensured(t, 0), e.ensured(t, 1)
	for _, size := range []int32{0, 1, 2, 1000} {
		if ids := e.networks(t, size); !slices.Contains(ids, a.id) || !slices.Contains(ids, b.id) {
			t.Errorf("in pages of %d one is missing: %v", size, ids)
		}
	}
}

func networksOnlyOurs(t T, e *Env) {
	b := e.ensured(t, 0)
	p := b.port(t)
	p.attach(t)
	other := e.as(t, newID())
	for _, id := range other.networks(t, 0) {
		t.Errorf("another node lists network %s", id)
	}
	for _, i := range call(t, other.network().ListInterfaces, &driverv1.ListInterfacesRequest{}).GetInterfaces() {
		t.Errorf("another node lists interface %s", i.GetInterfaceId())
	}
	_, err := other.network().DetachInterface(within(t), p.detachRequest())
	wantCode(t, "another node's detach", err, codes.PermissionDenied, codes.OK)
	_, err = other.network().DeleteNetwork(within(t), b.deleteRequest())
	wantCode(t, "another node's delete", err, codes.PermissionDenied, codes.OK)
	b.wantListed(t, true) // whatever it was told
	p.wantListed(t, true)
}

func networkSurvivesKill(t T, e *Env) {
	b := e.ensured(t, 0)
	p := b.port(t)
	before := p.attach(t)
	e.kill(t)
	b.wantListed(t, true)
	after := p.listed(t)
	if after == nil || !proto.Equal(before.GetBinding(), after.GetBinding()) || !proto.Equal(before.GetMark(), after.GetMark()) {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
	b.ensure(t)
	p.attach(t)
}

// bindingKind is the kind of a binding.
func bindingKind(b *driverv1.InterfaceBinding) driverv1.InterfaceBindingKind {
	switch b.GetBinding().(type) {
	case *driverv1.InterfaceBinding_BridgePort:
		return driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_BRIDGE_PORT
	case *driverv1.InterfaceBinding_OvsPort:
		return driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_OVS_PORT
	case *driverv1.InterfaceBinding_Tap:
		return driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_TAP
	}
	return 0
}

func interfaceAttach(t T, e *Env) {
	p := e.ensured(t, 0).port(t)
	first, second := p.attach(t), p.attach(t)
	if !proto.Equal(first.GetBinding(), second.GetBinding()) {
		t.Errorf("answered %v, then %v", first, second)
	}
	if k := bindingKind(first.GetBinding()); k == 0 || !slices.Contains(e.caps().GetNetwork().GetBindings(), k) {
		t.Errorf("a binding of kind %s, which is not advertised", k)
	}
	if first.GetState() == driverv1.InterfaceState_INTERFACE_STATE_BLOCKED && first.GetReason() == "" {
		t.Errorf("blocked without a reason")
	}
	p.wantListed(t, true)
	for range 2 {
		call(t, e.network().DetachInterface, p.detachRequest())
		p.wantListed(t, false)
	}
}

func interfaceConflict(t T, e *Env) {
	p := e.ensured(t, 0).port(t)
	p.attach(t)
	elsewhere := e.ensured(t, 1)
	req := proto.CloneOf(p.req)
	req.Spec.Mac = "52:54:00:00:00:01"
	refused(t, "another MAC", e.network().AttachInterface, req, codes.AlreadyExists)
	req = proto.CloneOf(p.req)
	req.Spec.NetworkId = elsewhere.id
	refused(t, "another network", e.network().AttachInterface, req, codes.AlreadyExists)
	p.req.Spec.LinkDown = true
	p.attach(t)
	for _, mac := range []string{"", "52:54:00:00:00", "01:00:5e:00:00:01", "nonsense"} {
		bad := p.bridge.port(t)
		bad.req.Spec.Mac = mac
		refused(t, "MAC "+mac, e.network().AttachInterface, bad.req, codes.InvalidArgument)
	}
}

func interfacePreconditions(t T, e *Env) {
	p := (&bridge{e: e, id: newID()}).port(t)
	refused(t, "in an absent network", e.network().AttachInterface, p.req, codes.NotFound)
	q := e.ensured(t, 0).port(t)
	q.req.Spec.RuleSetIds = []string{newID()}
	refused(t, "with a rule set never applied", e.network().AttachInterface, q.req, codes.FailedPrecondition, codes.InvalidArgument)
	q.wantListed(t, false)
}

func interfaceStats(t T, e *Env) {
	b := e.ensured(t, 0)
	p, q := b.port(t), b.port(t)
	p.attach(t)
	q.attach(t)
	read := func(ids ...string) map[string]bool {
		r := call(t, e.network().GetNetworkStats, &driverv1.GetNetworkStatsRequest{InterfaceIds: ids})
		if r.GetObserveTime() == nil {
			t.Errorf("figures without a time")
		}
		seen := map[string]bool{}
		for _, s := range r.GetInterfaces() {
			seen[s.GetInterfaceId()] = true
		}
		return seen
	}
	if all := read(); !all[p.id] || !all[q.id] {
		t.Errorf("figures of %v", all)
	}
	if some := read(p.id, newID()); !some[p.id] || len(some) != 1 {
		t.Errorf("asked for one, figures of %v", some)
	}
}

func checkClean(t T, e *Env) {
	b := e.ensured(t, 0)
	b.port(t).attach(t)
	for _, repair := range []bool{false, true, false} {
		for _, d := range call(t, e.network().CheckNetwork, &driverv1.CheckNetworkRequest{NetworkId: b.id, Repair: repair}).GetDrifts() {
			t.Errorf("differs: %v", d)
		}
	}
}

func networkWrongIDs(t T, e *Env) {
	for _, id := range []string{"", "x", "../../etc", "; rm -rf /", "%s", newID() + "x"} {
		b := &bridge{e: e, id: id}
		refused(t, "ensure "+id, e.network().EnsureNetwork, &driverv1.EnsureNetworkRequest{NetworkId: id, Mark: e.mark(id), Spec: e.o.Network.Spec(0)}, codes.InvalidArgument)
		refused(t, "delete "+id, e.network().DeleteNetwork, b.deleteRequest(), codes.InvalidArgument)
		refused(t, "detach "+id, e.network().DetachInterface, (&port{bridge: b, id: id}).detachRequest(), codes.InvalidArgument)
	}
	b := e.newNetwork(t, 0)
	b.req.Mark = e.mark(newID())
	refused(t, "a mark of another object", e.network().EnsureNetwork, b.req, codes.InvalidArgument)
}

// networkVerbs are the changing calls of the network contract, each to be borne under each fault.
func networkVerbs() []verb {
	return []verb{
		{name: "ensure-network", prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			b := e.newNetwork(t, 0)
			return func(ctx context.Context) error {
				_, err := e.network().EnsureNetwork(ctx, b.req)
				return err
			}, func(t T) { b.wantListed(t, true) }
		}},
		{name: "delete-network", prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			b := e.ensured(t, 0)
			return func(ctx context.Context) error {
				_, err := e.network().DeleteNetwork(ctx, b.deleteRequest())
				return err
			}, func(t T) { b.wantListed(t, false) }
		}},
		{name: "attach-interface", prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			p := e.ensured(t, 0).port(t)
			return func(ctx context.Context) error {
				_, err := e.network().AttachInterface(ctx, p.req)
				return err
			}, func(t T) { p.wantListed(t, true) }
		}},
		{name: "detach-interface", prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			p := e.ensured(t, 0).port(t)
			p.attach(t)
			return func(ctx context.Context) error {
				_, err := e.network().DetachInterface(ctx, p.detachRequest())
				return err
			}, func(t T) { p.wantListed(t, false) }
		}},
		{name: "apply-rule-set", needs: int32(rules), prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			r := e.ruleSet(t, 1, 22)
			return func(ctx context.Context) error {
				_, err := e.network().ApplyRuleSet(ctx, r.req)
				return err
			}, func(t T) { r.wantInForce(t, 1) }
		}},
	}
}
