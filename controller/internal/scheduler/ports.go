package scheduler

import (
	"fmt"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// HostPort is a port of a node that leads into a VM: two VMs of a node cannot both have it.
type HostPort struct {
	Protocol, Address string
	Port              uint32
}

// HostPorts are the ports of its node that a VM takes.
func HostPorts(spec *computev1.VMSpec) []HostPort {
	var out []HostPort
	for _, n := range spec.GetNics() {
		for _, f := range n.GetUser().GetForwards() {
			out = append(out, HostPort{f.GetProtocol(), f.GetHostAddress(), f.GetHostPort()})
		}
	}
	return out
}

type portKey struct {
	node, protocol string
	port           uint32
}

func (s *Scheduler) addPorts(vm VMInfo) {
	for _, p := range vm.Ports {
		k := portKey{vm.NodeID, p.Protocol, p.Port}
		if s.ports[k] == nil {
			s.ports[k] = map[string][]string{}
		}
		s.ports[k][vm.ID] = append(s.ports[k][vm.ID], p.Address)
	}
}

func (s *Scheduler) dropPorts(vm VMInfo) {
	for _, p := range vm.Ports {
		k := portKey{vm.NodeID, p.Protocol, p.Port}
		delete(s.ports[k], vm.ID)
		if len(s.ports[k]) == 0 {
			delete(s.ports, k)
		}
	}
}

// portTaken names a host port of the request that another VM of the node has; "" when none.
func (s *Scheduler) portTaken(n *node, req Request) string {
	for _, p := range req.Ports {
		for vm, addresses := range s.ports[portKey{n.ID, p.Protocol, p.Port}] {
			for _, a := range addresses {
				if vm != req.VMID && domain.ListenMeet(a, p.Address) {
					return fmt.Sprintf("has host port %s %s:%d taken by another VM", p.Protocol, p.Address, p.Port)
				}
			}
		}
	}
	return ""
}
