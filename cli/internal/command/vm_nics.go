package command

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// nicExample shows how an interface is written.
const nicExample = "--nic user,forward=tcp:8022-22, --nic network=default, or --nic port=vip"

// network adds the interfaces.
func (f *vmFlags) network(spec *computev1.VMSpec) error {
	if slices.Contains(f.nics, none) {
		if len(f.nics) > 1 {
			return failure.Usage("--nic none and other interfaces exclude each other").WithFix("leave --nic none out")
		}
		return nil
	}
	for i, text := range f.nics {
		n, err := parseNIC(text, fmt.Sprintf("nic%d", i))
		if err != nil {
			return failure.Usage("--nic %q: %w", text, err).WithFix("write for example %s", nicExample)
		}
		if slices.ContainsFunc(spec.GetNics(), func(o *computev1.NIC) bool { return o.GetName() == n.GetName() }) {
			return failure.Usage("--nic gives the name %q twice", n.GetName()).WithFix("give each interface its own name=")
		}
		if vcpus := max(1, spec.GetCpu().GetVcpus()); n.GetQueues() > uint32(vcpus) {
			return failure.Usage("--nic %q: %d queues are more than the VM's %d virtual CPUs", text, n.GetQueues(), vcpus).WithFix("give at most queues=%d, or more --cpus", vcpus)
		}
		spec.Nics = append(spec.Nics, n)
	}
	return nil
}

// defaultNIC gives a VM that names no interface one in the network "default", if a node that it may run on has a network driver.
func (s *session) defaultNIC(ctx context.Context, c *api.Client, f *vmFlags, vm *computev1.VM) error {
	var selector []string
	placement := vm.GetSpec().GetPlacement()
	for _, k := range slices.Sorted(maps.Keys(placement.GetNodeSelector())) {
		selector = append(selector, k+"="+placement.GetNodeSelector()[k])
	}
	networked, err := c.AnyNode(ctx, strings.Join(selector, ","), func(n *computev1.Node) bool {
		if f.node != "" && f.node != nameOf(n) && f.node != n.GetMeta().GetId() {
			return false
		}
		return slices.ContainsFunc(n.GetStatus().GetDrivers(), func(d *computev1.DriverStatus) bool { return len(d.GetNetworkTypes()) > 0 })
	})
	if err != nil {
		return err
	}
	if networked {
		vm.Spec.Nics = []*computev1.NIC{{Name: "nic0", Attachment: &computev1.NIC_Network{Network: &computev1.NetworkAttachment{Network: "default"}}}}
		return nil
	}
	if !s.global.quiet {
		fmt.Fprintf(s.Err, "%s gets no network interface: no node that it may run on has a network driver (--nic user, or --nic none to say so)\n", nameOf(vm))
	}
	return nil
}

func parseNIC(text, name string) (*computev1.NIC, error) {
	parts, err := settings(text, "user", "network", "port", "forward", "name", "mac", "model", "ip", "sg", "group", "queues")
	if err != nil {
		return nil, err
	}
	n := &computev1.NIC{Name: name}
	var user *computev1.UserModeNetwork
	var network *computev1.NetworkAttachment
	kinds := 0
	for _, p := range parts {
		switch p.key {
		case "user":
			user, kinds = &computev1.UserModeNetwork{}, kinds+1
		case "network":
			network, kinds = &computev1.NetworkAttachment{Network: p.value}, kinds+1
		case "port":
			network, kinds = &computev1.NetworkAttachment{Port: p.value}, kinds+1
		default:
			continue
		}
		if p.value == "" && p.key != "user" {
			return nil, fmt.Errorf("%s names nothing; write %s=NAME", p.key, p.key)
		}
	}
	if kinds != 1 {
		return nil, fmt.Errorf("give either user or network=NAME or port=NAME")
	}
	for _, p := range parts {
		switch p.key {
		case "name":
			n.Name = p.value
		case "mac":
			if n.Mac, err = parseMAC(p.value); err != nil {
				return nil, err
			}
		case "model":
			switch p.value {
			case "virtio": // the default, which the API writes as ""
			case "e1000e":
				n.Model = p.value
			default:
				return nil, fmt.Errorf("model must be virtio or e1000e, not %q", p.value)
			}
		case "forward":
			if user == nil {
				return nil, fmt.Errorf("forward is for a user interface only; in a network: lqctl network set NAME --forward")
			}
			fw, err := parseForward(p.value)
			if err != nil {
				return nil, err
			}
			user.Forwards = append(user.Forwards, fw)
		case "ip", "sg", "group", "queues":
			if err := networked(n, network, p); err != nil {
				return nil, err
			}
		}
	}
	if n.GetQueues() > 1 && n.GetModel() != "" {
		return nil, fmt.Errorf("queues are for the model virtio")
	}
	if user != nil {
		n.Attachment = &computev1.NIC_User{User: user}
	} else {
		n.Attachment = &computev1.NIC_Network{Network: network}
	}
	return n, nil
}

// networked reads a setting that only an interface in a network has.
func networked(n *computev1.NIC, network *computev1.NetworkAttachment, p setting) error {
	if network == nil {
		return fmt.Errorf("%s is for an interface in a network only", p.key)
	}
	if network.GetPort() != "" && p.key != "queues" {
		return fmt.Errorf("%s is the port's own affair; change it with lqctl port set %s", p.key, network.GetPort())
	}
	switch p.key {
	case "ip":
		all, err := reserved("ip", append(network.GetIpAddresses(), strings.Split(p.value, "+")...))
		if err != nil {
			return err
		}
		network.IpAddresses = all
	case "queues":
		q, err := strconv.ParseUint(p.value, 10, 8)
		if err != nil || q < 1 || q > 16 {
			return fmt.Errorf("queues must be 1-16, not %q", p.value)
		}
		n.Queues = uint32(q)
	default:
		for _, name := range strings.Split(p.value, "+") {
			if name == "" {
				return fmt.Errorf("%s names nothing; write %s=GROUP+GROUP", p.key, p.key)
			}
			network.SecurityGroups = append(network.SecurityGroups, name)
		}
	}
	return nil
}
