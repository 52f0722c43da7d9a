package daemon

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

const (
	netID   = "eeeeeeee-0000-4000-8000-000000000001"
	otherID = "eeeeeeee-0000-4000-8000-000000000002"
	portA   = "ffffffff-0000-4000-8000-00000000000a"
	portB   = "fffffffe-0000-4000-8000-00000000000b"
	groupID = "dddddddd-0000-4000-8000-000000000001"
	macA    = "52:54:00:00:00:0a"

	portUp      = networkv1.PortPhase_PORT_PHASE_UP
	portIdle    = networkv1.PortPhase_PORT_PHASE_IDLE
	portBlocked = networkv1.PortPhase_PORT_PHASE_BLOCKED
)

// newNetLab is a lab whose node has a network plugin.
func newNetLab(t *testing.T, plugins ...string) *lab {
	t.Helper()
	l := &lab{t: t, ctrl: startController(t, newCA(t)), host: newHost(t), dir: t.TempDir(), nets: append([]string{"bridge"}, plugins...), tunnel: "192.0.2.7"}
	l.enrol()
	l.start()
	t.Cleanup(func() {
		l.host.do(func() {
			if len(l.host.net.wrong) > 0 {
				t.Errorf("against the order of the contract: %q", l.host.net.wrong)
			}
		})
	})
	return l
}

func network(id string, change ...func(*agentv1.DesiredNetwork)) *agentv1.DesiredObject {
	n := &agentv1.DesiredNetwork{NetworkId: id, Name: "net", Generation: 1, Spec: &driverv1.NetworkSpec{Type: driverv1.NetworkType_NETWORK_TYPE_BRIDGE}}
	for _, c := range change {
		c(n)
	}
	return &agentv1.DesiredObject{
		Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_NETWORK, Id: id}, Object: &agentv1.DesiredObject_Network{Network: n},
	}
}

func port(id string, change ...func(*agentv1.DesiredPort)) *agentv1.DesiredObject {
	p := &agentv1.DesiredPort{PortId: id, Name: "p", Generation: 1, Epoch: 1, VmId: vmID, Spec: &driverv1.InterfaceSpec{NetworkId: netID, Mac: macA, RuleSetIds: []string{groupID}}}
	if id != portA {
		p.Spec.Mac = "52:54:00:00:00:0b"
	}
	for _, c := range change {
		c(p)
	}
	return &agentv1.DesiredObject{
		Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_PORT, Id: id}, Object: &agentv1.DesiredObject_Port{Port: p},
	}
}

func rules(generation int64, ruleID string) *agentv1.DesiredObject {
	return &agentv1.DesiredObject{
		Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_RULE_SET, Id: groupID},
		Object: &agentv1.DesiredObject_RuleSet{RuleSet: &agentv1.DesiredRuleSet{Name: "web", RuleSet: &driverv1.RuleSet{
			RuleSetId: groupID, Generation: generation, Rules: []*driverv1.Rule{{
				RuleId: ruleID, Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, Remote: &driverv1.Rule_AddressSetId{AddressSetId: groupID},
			}},
		}}},
	}
}

func members(list ...string) *agentv1.DesiredObject {
	return &agentv1.DesiredObject{
		Key:    &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_ADDRESS_SET, Id: groupID},
		Object: &agentv1.DesiredObject_AddressSet{AddressSet: &agentv1.DesiredAddressSet{AddressSetId: groupID, Members: list}},
	}
}

// nics gives a VM NICs with ports, in place of its own.
func nics(ports ...string) func(*agentv1.DesiredVM) {
	return func(v *agentv1.DesiredVM) {
		v.Spec.Nics, v.Ports = nil, nil
		for i, p := range ports {
			name := fmt.Sprintf("n%d", i)
			v.Spec.Nics = append(v.Spec.Nics, &computev1.NIC{Name: name, Attachment: &computev1.NIC_Network{Network: &computev1.NetworkAttachment{}}})
			v.Ports = append(v.Ports, &agentv1.VMPort{NicName: name, PortId: p})
		}
	}
}

// connected sets up a VM with two ports and waits until they are up.
func (l *lab) connected() int64 {
	l.t.Helper()
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	l.ctrl.set(vm(1, nics(portA, portB))) // the last thing first: each waits for what comes before it
	l.ctrl.set(port(portA))
	l.ctrl.set(port(portB))
	l.ctrl.set(network(netID))
	l.ctrl.set(rules(1, "r"))
	l.ctrl.set(members("10.0.0.1"))
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	l.waitPorts(portUp, portA, portB)
	return l.pid()
}

func (l *lab) waitPorts(phase networkv1.PortPhase, ids ...string) {
	l.t.Helper()
	for _, id := range ids {
		l.ctrl.wait(fmt.Sprintf("port %s in %s", id, phase), func() bool { return l.ctrl.ports[id].GetStatus().GetPhase() == phase })
	}
}

func gonePort(p *agentv1.DesiredPort)       { p.Absent = true }
func goneNetwork(n *agentv1.DesiredNetwork) { n.Absent = true }

func TestNetworkedVM(t *testing.T) {
	l := newNetLab(t)
	// The VM first: it says what it waits for.
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	l.ctrl.set(vm(1, nics(portA, portB)))
	says := func(what string) {
		t.Helper()
		l.ctrl.wait("a VM that waits for "+what, func() bool { return strings.Contains(l.ctrl.vms[vmID].GetStatus().GetMessage(), what) })
	}
	says("to be assigned to this node")
	l.ctrl.set(port(portA))
	l.ctrl.set(port(portB))
	says("its network " + netID + " is not assigned")
	l.ctrl.set(network(netID))
	says("security group " + groupID + " is not assigned")
	l.ctrl.set(rules(1, "r"))
	says("the members of security group " + groupID)
	l.ctrl.wait("the VM's progress", func() bool { return strings.Contains(l.ctrl.progress[vmID].GetWaitsFor(), "NIC") })
	if n := l.host.count("CreateDomain"); n != 0 {
		t.Fatal("a domain was made without its ports")
	}
	l.ctrl.set(members("10.0.0.1"))
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	l.waitPorts(portUp, portA, portB)
	l.ctrl.wait("the network", func() bool {
		s := l.ctrl.networks[netID].GetStatus()
		return s.GetHealth() == networkv1.NetworkHealth_NETWORK_HEALTH_HEALTHY && s.GetDevice() == "br0" && s.GetMtu() == 1500 && s.GetObservedGeneration() == 1
	})
	l.ctrl.wait("the rules in force", func() bool { r := l.ctrl.rules[groupID]; return r.GetInForce() && r.GetGeneration() == 1 })
	l.host.do(func() {
		nic := l.host.domains[vmID].spec.GetInterfaces()[0]
		if nic.GetInterfaceId() != portA || nic.GetMac() != macA || nic.GetBinding().GetBridgePort().GetTapName() != "tffffffff" {
			t.Errorf("NIC %v", nic)
		}
		if m := l.host.net.ifaces[portA].GetMark(); m.GetClusterId() != testCluster || m.GetNodeId() != testNode || m.GetObjectId() != portA || m.GetEpoch() != 1 {
			t.Errorf("mark %v", m)
		}
		if l.host.calls["EnsureNetwork"] != 1 || l.host.calls["NetAttachInterface"] != 2 || l.host.calls["ApplyRuleSet"] != 1 {
			t.Errorf("calls %v", l.host.calls)
		}
	})
	l.ctrl.wait("the port's facts", func() bool {
		p, v := l.ctrl.ports[portA], l.ctrl.vms[vmID].GetStatus().GetNics()
		g := p.GetStatus().GetSecurityGroups()
		return p.GetStatus().GetBinding().GetDevice() == "tffffffff" && len(g) == 1 && g[0].GetGeneration() == 1 && p.GetObservedGeneration() == 1 && p.GetEpoch() == 1 &&
			len(v) == 2 && v[0].GetPortId() == portA && v[0].GetDevice() == "tffffffff"
	})

	// Off, its ports hold their place; on again, they are up.
	l.ctrl.set(vm(2, nics(portA, portB), power(stopped)))
	l.ctrl.waitPhase(vmID, 2, phaseStopped)
	l.waitPorts(portIdle, portA, portB)
	l.ctrl.set(vm(3, nics(portA, portB)))
	l.ctrl.waitPhase(vmID, 3, phaseRunning)
	l.waitPorts(portUp, portA, portB)

	// All of it goes, whatever is asked for first.
	l.ctrl.set(network(netID, goneNetwork))
	l.ctrl.set(port(portA, gonePort))
	l.ctrl.set(port(portB, gonePort))
	l.ctrl.wait("ports that wait for the VM", func() bool {
		s := l.ctrl.ports[portA].GetStatus()
		return s.GetPhase() == networkv1.PortPhase_PORT_PHASE_DELETING && strings.Contains(s.GetMessage(), vmID)
	})
	l.ctrl.set(vm(4, nics(portA, portB), func(v *agentv1.DesiredVM) { v.Absent = true }))
	l.ctrl.wait("all absent", func() bool {
		return l.ctrl.vms[vmID].GetAbsent() && l.ctrl.ports[portA].GetAbsent() && l.ctrl.ports[portB].GetAbsent() && l.ctrl.networks[netID].GetAbsent()
	})
	l.ctrl.remove(rules(1, "r").GetKey())
	l.ctrl.remove(members().GetKey())
	l.host.wait("nothing left", func() bool {
		n := l.host.net
		return len(n.networks)+len(n.ifaces)+len(n.rules)+len(n.sets)+len(l.host.domains) == 0
	})
	// Told again, also after a restart, it is confirmed again without asking anybody.
	l.stop()
	l.ctrl.mu.Lock()
	delete(l.ctrl.ports, portA)
	delete(l.ctrl.networks, netID)
	l.ctrl.mu.Unlock()
	detached := l.host.count("NetDetachInterface")
	l.start()
	l.ctrl.wait("absent again", func() bool { return l.ctrl.ports[portA].GetAbsent() && l.ctrl.networks[netID].GetAbsent() })
	if n := l.host.count("NetDetachInterface"); n != detached {
		t.Errorf("%d interfaces were detached again", n-detached)
	}
}

// Each change of members is one difference; a driver that has forgotten, or restarts, gets all.
func TestAddressSetDeltas(t *testing.T) {
	l := newNetLab(t)
	l.connected()
	l.ctrl.set(members("10.0.0.1", "10.0.0.2", "10.0.0.3"))
	has := func(n int) func() bool { return func() bool { return len(l.host.net.sets[groupID].GetMembers()) == n } }
	l.host.wait("three members", has(3))
	l.ctrl.set(members("10.0.0.3"))
	l.host.wait("one member", has(1))
	l.host.do(func() {
		u := l.host.net.updates
		if len(u) != 2 || !slices.Equal(u[0].GetDelta().GetAdd(), []string{"10.0.0.2", "10.0.0.3"}) || len(u[0].GetDelta().GetRemove()) != 0 ||
			!slices.Equal(u[1].GetDelta().GetRemove(), []string{"10.0.0.1", "10.0.0.2"}) || len(u[1].GetDelta().GetAdd()) != 0 ||
			u[1].GetDelta().GetBaseGeneration() != u[0].GetGeneration() || u[1].GetGeneration() <= u[0].GetGeneration() {
			t.Errorf("updates %v", u)
		}
		if now := time.Now().UnixMicro(); u[0].GetGeneration() < now-int64(time.Hour/time.Microsecond) || u[0].GetGeneration() > now {
			t.Errorf("generation %d is not the clock's", u[0].GetGeneration())
		}
		delete(l.host.net.sets, groupID) // somebody else was there
		l.host.net.updates = nil
	})
	l.ctrl.set(members("10.0.0.3", "10.0.0.4"))
	l.host.wait("all members", has(2))
	l.host.do(func() {
		u := l.host.net.updates
		if len(u) != 2 || u[1].GetReplace() == nil {
			t.Errorf("updates %v", u)
		}
		// One whose clock was ahead told it something of the future.
		l.host.net.sets[groupID].Generation = time.Now().Add(2 * time.Hour).UnixMicro()
	})
	l.ctrl.set(members("10.0.0.5"))
	l.host.wait("the new member", func() bool { return slices.Equal(l.host.net.sets[groupID].GetMembers(), []string{"10.0.0.5"}) })
	// Another process of the plugin: all with the rule set, nothing by difference, and never an older generation; also when the agent's memory is lost.
	for range 2 {
		l.host.mu.Lock()
		before := l.host.net.sets[groupID].GetGeneration()
		l.host.net.sets = map[string]*driverv1.AddressSet{}
		l.host.net.updates = nil
		applied := l.host.calls["ApplyRuleSet"]
		l.host.mu.Unlock()
		l.plugins.kill("bridge")
		l.plugins.up("bridge")
		l.host.wait("the whole set again", func() bool {
			return l.host.calls["ApplyRuleSet"] > applied && l.host.net.sets[groupID].GetGeneration() > before && has(1)()
		})
		l.host.do(func() {
			if len(l.host.net.updates) != 0 {
				t.Errorf("updates %v", l.host.net.updates)
			}
		})
		l.stop()
		l.start()
	}
}

// A rule set that the driver does not take is said to be refused; the last good one stays, and its ports with it.
func TestRefusedRuleSet(t *testing.T) {
	l := newNetLab(t)
	pid := l.connected()
	l.ctrl.set(rules(2, "bad"))
	l.ctrl.wait("the refusal", func() bool {
		r := l.ctrl.rules[groupID]
		return r.GetGeneration() == 2 && !r.GetInForce() && r.GetReason() == "INVALID_FIELD" && r.GetMessage() != ""
	})
	applied := l.host.count("ApplyRuleSet")
	// Not even another process of the plugin loses the ports.
	l.plugins.kill("bridge")
	l.plugins.up("bridge")
	l.host.wait("the ports put in place again", func() bool { return l.host.calls["NetAttachInterface"] >= 4 })
	l.ctrl.set(rules(3, "good"))
	l.ctrl.wait("the better rules", func() bool {
		g := l.ctrl.ports[portA].GetStatus().GetSecurityGroups()
		return l.ctrl.rules[groupID].GetInForce() && l.ctrl.rules[groupID].GetGeneration() == 3 && len(g) == 1 && g[0].GetGeneration() == 3
	})
	l.samePID(pid)
	if n := l.host.count("ApplyRuleSet") - applied; n > 3 {
		t.Errorf("a set that was refused for good was tried again and again: %d calls", n)
	}
	l.ctrl.wait("ports up", func() bool { return l.ctrl.ports[portA].GetStatus().GetPhase() == portUp })
}

// One that was never any good keeps its VM from being made, and says why.
func TestRefusedFromTheStart(t *testing.T) {
	l := newNetLab(t)
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	l.ctrl.set(network(netID))
	l.ctrl.set(members())
	l.ctrl.set(rules(1, "bad"))
	l.ctrl.set(port(portA))
	l.ctrl.set(vm(1, nics(portA)))
	l.ctrl.wait("the failure", func() bool {
		p, v := l.ctrl.ports[portA].GetStatus(), l.ctrl.vms[vmID].GetStatus()
		return p.GetPhase() == networkv1.PortPhase_PORT_PHASE_FAILED && p.GetReason() == "INVALID_FIELD" && strings.Contains(p.GetMessage(), "security group web") &&
			strings.Contains(v.GetMessage(), "security group web")
	})
	l.ctrl.set(rules(2, "good"))
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	l.waitPorts(portUp, portA)
}

// A guest whose port is kept shut runs, and says so.
func TestBlockedPort(t *testing.T) {
	l := newNetLab(t)
	l.host.do(func() { l.host.net.blocked = "BRIDGE_FILTER_INACTIVE" })
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	for _, o := range []*agentv1.DesiredObject{network(netID), members(), rules(1, "r"), port(portA), vm(1, nics(portA))} {
		l.ctrl.set(o)
	}
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	l.waitPorts(portBlocked, portA)
	l.ctrl.wait("the VM's word of it", func() bool {
		s := l.ctrl.vms[vmID].GetStatus()
		return s.GetReason() == "BRIDGE_FILTER_INACTIVE" && strings.Contains(s.GetMessage(), "kept shut") && l.ctrl.ports[portA].GetStatus().GetReason() == "BRIDGE_FILTER_INACTIVE"
	})
	l.host.do(func() { l.host.net.blocked = "" })
	l.waitPorts(portUp, portA)
	l.ctrl.wait("nothing wrong", func() bool { return l.ctrl.vms[vmID].GetStatus().GetReason() == "" })
}

// NICs come and go while the guest runs; a port goes only when the guest has let go of it.
func TestNICHotplug(t *testing.T) {
	l := newNetLab(t)
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	for _, o := range []*agentv1.DesiredObject{network(netID), members(), rules(1, "r"), port(portA), vm(1, nics(portA))} {
		l.ctrl.set(o)
	}
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	pid := l.pid()
	l.ctrl.set(vm(2, nics(portA, portB)))
	l.ctrl.set(port(portB))
	l.ctrl.waitPhase(vmID, 2, phaseRunning)
	l.waitPorts(portUp, portA, portB)
	l.samePID(pid)
	// The guest does not let go at first.
	l.host.do(func() { l.host.fail["DetachInterface"] = wrongState("the guest does not let go") })
	l.ctrl.set(port(portB, gonePort))
	l.ctrl.set(vm(3, nics(portA)))
	l.ctrl.wait("word of it", func() bool {
		v, p := l.ctrl.vms[vmID].GetStatus(), l.ctrl.ports[portB].GetStatus()
		return v.GetPhase() == phaseRunning && strings.Contains(v.GetMessage(), "does not let go") && strings.Contains(p.GetMessage(), "has not let go")
	})
	if n := l.host.count("NetDetachInterface"); n != 0 {
		t.Fatal("the port was taken from a guest that has it")
	}
	l.host.do(func() { delete(l.host.fail, "DetachInterface") })
	l.ctrl.wait("the port gone", func() bool { return l.ctrl.ports[portB].GetAbsent() })
	l.ctrl.waitPhase(vmID, 3, phaseRunning)
	l.samePID(pid)

	// The link, and what else changes of a port, while it runs.
	updates := l.host.count("UpdateDomain")
	l.ctrl.set(port(portA, func(p *agentv1.DesiredPort) { p.Generation, p.Spec.LinkDown, p.Spec.RuleSetIds = 2, true, nil }))
	l.host.wait("the link down", func() bool {
		d := l.host.domains[vmID]
		return len(d.Interfaces) == 1 && !d.Interfaces[0].GetLinkUp() && l.host.net.ifaces[portA].GetSpec().GetLinkDown()
	})
	l.ctrl.set(port(portA, func(p *agentv1.DesiredPort) { p.Generation = 3 }))
	l.host.wait("the link up", func() bool { return l.host.domains[vmID].Interfaces[0].GetLinkUp() })
	l.ctrl.wait("the change", func() bool {
		s := l.ctrl.ports[portA].GetStatus()
		return s.GetObservedGeneration() == 3 && len(s.GetSecurityGroups()) == 1
	})
	if n := l.host.count("UpdateDomain"); n != updates {
		t.Errorf("changes of a port made %d new definitions", n-updates)
	}
	l.samePID(pid)
}

// A network that hangs delays neither another network of the same driver, nor its VMs, nor heartbeats.
func TestHungNetwork(t *testing.T) {
	l := newNetLab(t)
	l.host.do(func() { l.host.hung[netID] = true })
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	l.ctrl.set(members())
	l.ctrl.set(rules(1, "r"))
	l.ctrl.set(network(netID))
	for i := range 50 {
		l.ctrl.set(port(fmt.Sprintf("99999999-0000-4000-8000-%012d", i), func(p *agentv1.DesiredPort) { p.VmId = "another" }))
	}
	l.host.wait("the hanging call", func() bool { return l.host.calls["EnsureNetwork"] > 0 })
	l.ctrl.mu.Lock()
	beats := l.ctrl.beats
	l.ctrl.mu.Unlock()
	begin := time.Now()
	l.ctrl.set(network(otherID))
	l.ctrl.set(port(portA, func(p *agentv1.DesiredPort) { p.Spec.NetworkId = otherID }))
	l.ctrl.set(vm(1, nics(portA)))
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	l.waitPorts(portUp, portA)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	l.ctrl.wait("more heartbeats", func() bool { return l.ctrl.beats > beats+3 })
	l.ctrl.wait("word of the hanging call", func() bool {
		return call(l.ctrl.progress[netID], "EnsureNetwork") != nil
	})
	l.stop()
	l.host.do(func() { delete(l.host.hung, netID) })
}

// A network that answered and then hangs is quarantined: its ports wait without a call, and say for what; another one does not notice; when it answers all goes on.
func TestHungNetworkIsQuarantined(t *testing.T) {
	l := newNetLab(t)
	l.stop()
	l.answer = 300 * time.Millisecond
	l.start()
	l.connected()
	l.host.do(func() { l.host.hung[netID] = true })
	late := "99999999-0000-4000-8000-000000000001"
	l.ctrl.set(port(late, func(p *agentv1.DesiredPort) { p.VmId = "another" }))
	l.ctrl.wait("the quarantine", l.event("NetworkQuarantined"))
	l.ctrl.wait("word of the network and the port", func() bool {
		n, p := l.ctrl.networks[netID].GetStatus(), l.ctrl.ports[late].GetStatus()
		return n.GetHealth() == networkv1.NetworkHealth_NETWORK_HEALTH_UNHEALTHY && n.GetReason() == "BACKEND_TIMEOUT" && strings.Contains(p.GetMessage(), "does not answer")
	})
	calls := l.host.count("NetAttachInterface")
	asked := l.host.count("EnsureNetwork")
	l.host.wait("more questions", func() bool { return l.host.calls["EnsureNetwork"] > asked+1 })
	if n := l.host.count("NetAttachInterface"); n != calls {
		t.Errorf("%d calls went to a network in quarantine", n-calls)
	}
	l.ctrl.set(network(otherID))
	l.ctrl.set(port("99999999-0000-4000-8000-000000000002", func(p *agentv1.DesiredPort) { p.Spec.NetworkId, p.VmId = otherID, "another" }))
	l.waitPorts(portIdle, "99999999-0000-4000-8000-000000000002")
	l.host.do(func() { delete(l.host.hung, netID) })
	l.ctrl.wait("word that it answers", l.event("NetworkRecovered"))
	l.waitPorts(portIdle, late)
}

// The node says what its networks can be.
func TestNetworkFacts(t *testing.T) {
	l := newNetLab(t)
	l.ctrl.wait("the facts", func() bool {
		s := l.ctrl.node.GetStatus()
		i := slices.IndexFunc(s.GetDrivers(), func(d *computev1.DriverStatus) bool { return d.GetName() == "bridge" })
		return s.GetTunnelAddress() == "192.0.2.7" && i >= 0 && slices.Equal(s.GetDrivers()[i].GetNetworkTypes(), []networkv1.NetworkType{networkv1.NetworkType_NETWORK_TYPE_BRIDGE}) &&
			slices.Equal(s.GetDrivers()[i].GetNetworkUplinks(), []string{"eth1"})
	})
}

// Somebody else's change is put right at once, and told.
func TestDriftIsRepaired(t *testing.T) {
	l := newNetLab(t)
	l.connected()
	attached := l.host.count("NetAttachInterface")
	l.host.do(func() {
		l.host.net.drifts = []*driverv1.NetworkDrift{
			{ObjectId: portA, Kind: driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_INTERFACE, Detail: "chain missing", Open: true, Repaired: true},
			{ObjectId: portB, Kind: driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_INTERFACE, Detail: "no queue"},
		}
	})
	l.host.event("bridge", &driverv1.WatchEventsResponse{Event: &driverv1.WatchEventsResponse_NetworkDrift{NetworkDrift: &driverv1.NetworkDriftEvent{ObjectId: portA, Detail: "nft flush ruleset"}}})
	l.host.wait("the repair", func() bool { return len(l.host.net.checks) == 1 })
	l.host.do(func() {
		if c := l.host.net.checks[0]; c.GetNetworkId() != netID || !c.GetRepair() {
			t.Errorf("check %v", c)
		}
	})
	l.ctrl.wait("the events", func() bool {
		open := slices.IndexFunc(l.ctrl.events, func(e *agentv1.EventReport) bool {
			return e.GetType() == "NetworkDrift" && e.GetVmId() == vmID && e.GetReason() == "DRIFT_OPEN" && strings.Contains(e.GetMessage(), "chain missing") && strings.Contains(e.GetMessage(), "nft flush ruleset")
		})
		shut := slices.IndexFunc(l.ctrl.events, func(e *agentv1.EventReport) bool {
			return e.GetType() == "NetworkDrift" && e.GetReason() == "DRIFT_CLOSED" && strings.Contains(e.GetMessage(), "did not put it right")
		})
		return open >= 0 && shut >= 0
	})
	l.host.wait("what was not repaired put in place anew", func() bool { return l.host.calls["NetAttachInterface"] == attached+1 })
	// What a driver put right before it was asked is told, too.
	l.host.event("bridge", &driverv1.WatchEventsResponse{Event: &driverv1.WatchEventsResponse_NetworkDrift{NetworkDrift: &driverv1.NetworkDriftEvent{ObjectId: portB, Detail: "table gone; repaired"}}})
	l.ctrl.wait("word of it", func() bool {
		return slices.ContainsFunc(l.ctrl.events, func(e *agentv1.EventReport) bool {
			return e.GetReason() == "DRIFT_HEALED" && e.GetVmId() == vmID && strings.Contains(e.GetMessage(), "table gone; repaired")
		})
	})
	// What is gone without a word is found by looking.
	l.host.do(func() { delete(l.host.net.ifaces, portA) })
	l.host.wait("the port back", func() bool { return l.host.net.ifaces[portA] != nil })
	l.host.do(func() { clear(l.host.net.ifaces); clear(l.host.net.networks); clear(l.host.net.rules) })
	l.host.wait("all back", func() bool { return len(l.host.net.ifaces) == 2 && len(l.host.net.networks) == 1 })
	l.host.do(func() { l.host.net.wrong = nil }) // rules that are gone show when a port is put in place
}

// Addresses are told from every source, when one is new; counters when they change.
func TestObservedPort(t *testing.T) {
	l := newNetLab(t)
	l.connected()
	at := time.Now()
	seen := func(source driverv1.ObservedAddressSource, at time.Time) *driverv1.ObservedAddress {
		return &driverv1.ObservedAddress{IpAddress: "10.0.0.9", Source: source, ObserveTime: timestamppb.New(at)}
	}
	lease, neighbour := driverv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_LEASE, driverv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_NEIGHBOUR
	l.host.do(func() {
		l.host.net.observed[portA] = []*driverv1.ObservedAddress{seen(neighbour, at), seen(lease, at)}
		l.host.domains[vmID].GuestAgentConnected = true
		l.host.guest = &driverv1.GetGuestInfoResponse{Interfaces: []*driverv1.GuestInterface{
			{Name: "lo", Mac: "00:00:00:00:00:00", Addresses: []string{"127.0.0.1/8"}}, {Name: "eth0", Mac: strings.ToUpper(macA), Addresses: []string{"192.168.7.7/24"}},
		}}
		l.host.net.stats[portA] = 77
	})
	l.ctrl.wait("the addresses", func() bool {
		a := l.ctrl.ports[portA].GetStatus().GetObservedAddresses()
		return len(a) == 3 && a[0].GetIpAddress() == "10.0.0.9" && a[0].GetSource() == networkv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_LEASE && a[0].GetObserveTime().AsTime().Equal(at) &&
			a[1].GetSource() == networkv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_NEIGHBOUR &&
			a[2].GetIpAddress() == "192.168.7.7" && a[2].GetSource() == networkv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_GUEST_AGENT
	})
	l.ctrl.wait("the counters", func() bool { return l.ctrl.stats[portA].GetStats().GetReceiveBytes() == 77 })
	// Nothing new: nothing is told.
	l.host.do(func() {
		l.host.net.observed[portA] = []*driverv1.ObservedAddress{seen(lease, at.Add(time.Second)), seen(neighbour, at)}
	})
	l.ctrl.mu.Lock()
	counted, told := l.ctrl.counted, l.ctrl.ports[portA]
	l.ctrl.mu.Unlock()
	l.host.wait("more looks", func() bool { return l.host.calls["ListInterfaces"] > 0 })
	looks, reads := l.host.count("ListInterfaces")+4, l.host.count("GetNetworkStats")+4
	l.host.wait("more looks", func() bool {
		return l.host.calls["ListInterfaces"] >= looks && l.host.calls["GetNetworkStats"] >= reads
	})
	l.ctrl.mu.Lock()
	if l.ctrl.counted != counted || l.ctrl.ports[portA] != told {
		t.Errorf("what is no news was told: %d counters, %v", l.ctrl.counted-counted, l.ctrl.ports[portA])
	}
	l.ctrl.mu.Unlock()
	l.d.metrics.CollectOnce(t.Context(), source{l.d})
	problems, err := testutil.GatherAndLint(l.d.metrics.Registry())
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	body := get(t, "http://"+l.d.Addr().String()+"/metrics")
	for _, want := range []string{
		`limiquantix_port_receive_bytes_total{network="net",port="` + portA + `",vm="web"} 77`, `limiquantix_port_spoofed_packets_total{network="net",port="` + portA + `",vm="web"} 3`,
		`limiquantix_port_up{network="net",port="` + portA + `",vm="web"} 1`, `limiquantix_node_network_healthy{network_id="` + netID + `"} 1`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics does not hold %s", want)
		}
	}
}

// What the state file knew is found again by marks, and nothing is detached or put right that is right; what nobody wants is listed and left alone.
func TestNetworksAfterLossOfState(t *testing.T) {
	l := newNetLab(t, "zweite")
	pid := l.connected()
	l.stop()
	must(t, os.Remove(l.stateFile()))
	detached := l.host.count("NetDetachInterface") + l.host.count("DeleteNetwork")
	mark := &driverv1.OwnershipMark{ClusterId: testCluster, NodeId: testNode, Epoch: 5}
	l.host.do(func() {
		l.host.net.ifaces["orphan"] = &driverv1.NetworkDriverServiceAttachInterfaceRequest{InterfaceId: "orphaned", Mark: mark, Spec: &driverv1.InterfaceSpec{NetworkId: "lost"}}
		l.host.net.networks["lost"] = &driverv1.EnsureNetworkRequest{NetworkId: "lost", Mark: mark}
		l.host.net.networks["foreign"] = &driverv1.EnsureNetworkRequest{NetworkId: "foreign", Mark: &driverv1.OwnershipMark{ClusterId: "x", NodeId: testNode}}
	})
	l.start()
	l.ctrl.wait("the loss", l.event("StateLost"))
	l.ctrl.wait("the orphans", func() bool {
		n, p := l.ctrl.orphan("lost"), l.ctrl.orphan("orphaned")
		return n.GetKind() == "network" && p.GetKind() == "port" && p.GetEpoch() == 5 && l.ctrl.orphan("foreign") == nil && l.ctrl.orphan(portA) == nil && l.ctrl.orphan(netID) == nil
	})
	l.ctrl.set(vm(2, nics(portA, portB)))
	l.ctrl.waitPhase(vmID, 2, phaseRunning)
	l.waitPorts(portUp, portA, portB)
	l.samePID(pid)
	if n := l.host.count("NetDetachInterface") + l.host.count("DeleteNetwork"); n != detached {
		t.Errorf("%d objects were removed", n-detached)
	}
	// The epoch is known again from the mark.
	l.ctrl.set(port(portA, func(p *agentv1.DesiredPort) { p.Epoch = 0; p.Absent = true }))
	l.ctrl.wait("the refusal", l.event("STALE_EPOCH"))
}

// A call that fails is tried again with its reason, and the VM says which NIC waits.
func TestPortFailureIsTold(t *testing.T) {
	l := newNetLab(t)
	l.host.do(func() {
		l.host.fail["NetAttachInterface"] = fault.New(metav1.Reason_REASON_BACKEND_FAILED, "netlink says no")
	})
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	for _, o := range []*agentv1.DesiredObject{network(netID), members(), rules(1, "r"), port(portA), vm(1, nics(portA))} {
		l.ctrl.set(o)
	}
	l.ctrl.wait("the failure", func() bool {
		p, v := l.ctrl.ports[portA].GetStatus(), l.ctrl.vms[vmID].GetStatus()
		return p.GetPhase() == networkv1.PortPhase_PORT_PHASE_FAILED && p.GetReason() == "BACKEND_FAILED" && p.GetNextRetryTime() != nil &&
			v.GetReason() == "BACKEND_FAILED" && strings.Contains(v.GetMessage(), `NIC "n0"`) && strings.Contains(v.GetMessage(), "netlink says no")
	})
	l.host.wait("three tries", func() bool { return l.host.calls["NetAttachInterface"] >= 3 })
	l.host.do(func() { delete(l.host.fail, "NetAttachInterface") })
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
}

// A network plugin that is killed is waited for; its next process is told everything again, and nothing is detached meanwhile.
func TestNetworkPluginRestart(t *testing.T) {
	l := newNetLab(t)
	pid := l.connected()
	l.plugins.kill("bridge")
	l.ctrl.set(members("10.0.0.1", "10.0.0.2"))
	l.ctrl.set(port(portA, func(p *agentv1.DesiredPort) { p.Generation = 2; p.Spec.Hostname = "web" }))
	l.ctrl.wait("the wait", func() bool {
		s := l.ctrl.ports[portA].GetStatus()
		return s.GetReason() == "PLUGIN_UNAVAILABLE" && s.GetPhase() == portUp && s.GetNextRetryTime() != nil
	})
	l.host.do(func() { l.host.net.order = nil })
	l.plugins.up("bridge")
	l.ctrl.wait("the change", func() bool { return l.ctrl.ports[portA].GetStatus().GetObservedGeneration() == 2 })
	l.host.wait("everything told again", func() bool {
		o := l.host.net.order
		return len(o) >= 4 && slices.Contains(o, "network "+netID) && slices.Contains(o, "port "+portA) && slices.Contains(o, "port "+portB) && slices.Contains(o, "rules "+groupID+" 1") &&
			len(l.host.net.sets[groupID].GetMembers()) == 2
	})
	l.samePID(pid)
	if n := l.host.count("NetDetachInterface"); n != 0 {
		t.Errorf("%d interfaces were detached", n)
	}
}
