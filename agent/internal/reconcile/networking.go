package reconcile

import (
	"context"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// networking is what is known of networks, ports, rule sets and address sets, all by id. Guarded by Engine.mu.
//
// On a node a rule set comes first, with the address sets that it refers to (ruleset.go, addressset.go), then the network (network.go), then the port
// (netport.go), then the domain with the NIC (vmnic.go). Each has a worker that waits for what comes before it by ending, and is run again when that is there;
// going, each waits for what came after it.
type networking struct {
	networks map[string]*networkState
	ports    map[string]*portState
	rules    map[string]*ruleState
	sets     map[string]*setState
	watches  map[string]*netWatch // by driver
	listed   map[string]int       // by driver: when the list of its interfaces that is known began
}

func newNetworking() networking {
	return networking{
		networks: map[string]*networkState{}, ports: map[string]*portState{}, rules: map[string]*ruleState{}, sets: map[string]*setState{},
		watches: map[string]*netWatch{}, listed: map[string]int{},
	}
}

// setback is why an object is not as wanted.
type setback struct {
	problem, reason string
	retry           time.Time // when it is tried next; zero = when something changes
	failures        int
}

// told is what a process of a plugin was told of an object.
type told struct {
	instance uint64 // zero = nothing
	version  string
}

// slowRetry is when something is tried again that a driver refused for what it is: it may be right, and the host not.
const slowRetry = 5 * time.Minute

// networkState is what is known of a network.
type networkState struct {
	setback
	driver   string // what serves it; empty = not chosen yet
	told     told
	turn     int // of the surveys, when it was told
	network  *driverv1.Network
	timeouts int  // calls in a row that were not answered in time
	barred   bool // quarantined for them
}

// portState is what is known of a port.
type portState struct {
	setback
	driver    string
	told      told
	turn      int
	iface     *driverv1.NetworkInterface
	waits     string                          // what it waits for, if for nothing worse
	detaching bool                            // on its way out: no domain is made with it
	gone      bool                            // confirmed absent
	observed  []*driverv1.ObservedAddress     // as told last
	stats     *driverv1.NetworkInterfaceStats // nil = not counted yet
	statsTold *driverv1.NetworkInterfaceStats // nil = never
}

func (e *Engine) networkState(id string) *networkState {
	s := e.net.networks[id]
	if s == nil {
		s = &networkState{driver: e.recordOf(networkKey(id)).Driver}
		e.net.networks[id] = s
	}
	return s
}

func (e *Engine) portState(id string) *portState {
	s := e.net.ports[id]
	if s == nil {
		s = &portState{driver: e.recordOf(portKey(id)).Driver}
		e.net.ports[id] = s
	}
	return s
}

func volumeKey(id string) realised.Key  { return realised.Key{Kind: realised.KindVolume, ID: id} }
func networkKey(id string) realised.Key { return realised.Key{Kind: realised.KindNetwork, ID: id} }
func portKey(id string) realised.Key    { return realised.Key{Kind: realised.KindPort, ID: id} }
func ruleKey(id string) realised.Key    { return realised.Key{Kind: realised.KindRuleSet, ID: id} }
func setKey(id string) realised.Key     { return realised.Key{Kind: realised.KindAddressSet, ID: id} }

// isNetworking reports whether a kind is one of those here.
func isNetworking(kind string) bool {
	switch kind {
	case realised.KindNetwork, realised.KindPort, realised.KindRuleSet, realised.KindAddressSet:
		return true
	}
	return false
}

// forget drops what is known of an object that is wanted no longer. mu is held.
func (n *networking) forget(k realised.Key) {
	switch k.Kind {
	case realised.KindNetwork:
		delete(n.networks, k.ID)
	case realised.KindPort:
		delete(n.ports, k.ID)
	case realised.KindRuleSet:
		delete(n.rules, k.ID)
	case realised.KindAddressSet:
		delete(n.sets, k.ID)
	}
	if isNetworking(k.Kind) {
		n.litter()
	}
}

// forgive lets an object that had failed be tried at once. mu is held.
func (n *networking) forgive(k realised.Key) {
	switch k.Kind {
	case realised.KindNetwork:
		if s := n.networks[k.ID]; s != nil {
			s.failures = 0
		}
	case realised.KindPort:
		if s := n.ports[k.ID]; s != nil {
			s.failures = 0
		}
	case realised.KindRuleSet:
		if s := n.rules[k.ID]; s != nil {
			s.failures = 0
		}
	case realised.KindAddressSet:
		if s := n.sets[k.ID]; s != nil {
			s.failures = 0
		}
	}
}

// pluginUp forgives all that a plugin failed at. What it was told is void by its instance. mu is held.
func (n *networking) pluginUp(name string) {
	for _, s := range n.networks {
		if s.driver == name {
			s.failures, s.timeouts, s.barred = 0, 0, false
		}
	}
	for _, s := range n.ports {
		if s.driver == name {
			s.failures = 0
		}
	}
	for _, s := range n.rules {
		delete(s.refused, name)
		s.failures = 0
	}
	for _, s := range n.sets {
		s.failures = 0
	}
}

// networkDependsOn reports whether an object of networks, or a VM, waits for, or is waited for by, another.
func networkDependsOn(o *agentv1.DesiredObject, k realised.Key) bool {
	port := o.GetPort()
	switch k.Kind {
	case realised.KindVM:
		return port != nil && port.GetVmId() == k.ID
	case realised.KindNetwork:
		return port != nil && port.GetSpec().GetNetworkId() == k.ID
	case realised.KindPort:
		for _, p := range o.GetVm().GetPorts() {
			if p.GetPortId() == k.ID {
				return true
			}
		}
	case realised.KindRuleSet:
		for _, id := range port.GetSpec().GetRuleSetIds() {
			if id == k.ID {
				return true
			}
		}
	case realised.KindAddressSet:
		for _, r := range o.GetRuleSet().GetRuleSet().GetRules() {
			if r.GetAddressSetId() == k.ID {
				return true
			}
		}
	}
	return false
}

const (
	// callsPerNetwork bounds calls for one network, callsForRules those for rule sets and address sets of one driver.
	callsPerNetwork = 4
	callsForRules   = 8

	netCall = 30 * time.Second
	// networkTimeouts in a row put a network into quarantine: its ports' calls wait until it answers.
	networkTimeouts = 3
)

// networkCall is a call for one network. However many networks of a plugin hang, none holds a place that another needs.
func (e *Engine) networkCall(ctx context.Context, plugin, network, method string, f func(context.Context) error) error {
	err := e.placedCall(ctx, plugin, "network "+network, callsPerNetwork, method, f)
	if ctx.Err() == nil {
		e.networkAnswered(network, method, outOfTime(err))
	}
	return err
}

// rulesCall is a call about a rule set or an address set. Those of one group, whose rules and members have the same id, come one after the other, or a driver would refuse one as busy.
func (e *Engine) rulesCall(ctx context.Context, plugin, group, method string, f func(context.Context) error) error {
	wait, cancel := context.WithTimeout(ctx, e.netAnswer)
	defer cancel()
	leave, err := e.limits.place(wait, "security group "+group+" at plugin "+plugin, 1)
	if err != nil {
		return err
	}
	defer leave()
	return e.placedCall(ctx, plugin, "the rules of plugin "+plugin, callsForRules, method, f)
}

// netListCall is a call about all networks of a plugin; there is one of a kind at a time, which takes no place.
func (e *Engine) netListCall(ctx context.Context, plugin, method string, f func(context.Context) error) error {
	return e.callUnbounded(ctx, plugin, method, shortCall, f)
}

func outOfTime(err error) bool {
	return err != nil && fault.Is(err, metav1.Reason_REASON_BACKEND_TIMEOUT)
}

// networkAnswered counts what was not answered in time. A network that answers EnsureNetwork is out of quarantine.
func (e *Engine) networkAnswered(id, method string, late bool) {
	e.mu.Lock()
	s := e.net.networks[id]
	if s == nil {
		e.mu.Unlock()
		return
	}
	was := s.barred
	switch {
	case late:
		s.timeouts++
	case method == "EnsureNetwork" || !was:
		s.timeouts, s.barred = 0, false
	}
	if s.timeouts >= networkTimeouts {
		s.barred, s.told = true, told{}
	}
	is := s.barred
	e.mu.Unlock()
	switch {
	case is && !was:
		e.log.Warn("network quarantined", "network", id)
		e.reporter.Event("", "NetworkQuarantined", "BACKEND_TIMEOUT", "network "+id+" did not answer several calls in a row; it is asked until it does")
		e.queue.add(networkKey(id))
	case was && !is:
		e.log.Info("network answers again", "network", id)
		e.reporter.Event("", "NetworkRecovered", "", "network "+id+" answers again")
		e.dependents(networkKey(id))
	}
}

// networkPlugins are the network plugins that run, by name.
func (e *Engine) networkPlugins() (out []Plugin) {
	for _, name := range e.plugins.Names("network") {
		if p, _ := e.plugins.Plugin(name); p.Running {
			out = append(out, p)
		}
	}
	return out
}
