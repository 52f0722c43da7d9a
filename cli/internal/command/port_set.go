package command

import (
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	"github.com/limiquantix/limiquantix/cli/internal/rule"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// portFlags are what a port is made of.
type portFlags struct {
	network, mac, hostname, link string
	qosIn, qosOut, qosBurst      string
	ips, groups, extra, labels   []string
	trunk                        []uint
	protect, noWait              bool
}

// register adds the flags that create and set share.
func (f *portFlags) register(s *session, cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringSliceVar(&f.ips, "ip", nil, "address to reserve, one for each IP version; repeatable; default: assigned")
	fl.StringSliceVar(&f.groups, "sg", nil, "security group; repeatable; default: the project's default group")
	fl.StringSliceVar(&f.extra, "extra-address", nil, "further address or CIDR that the guest may send from; repeatable")
	fl.StringVar(&f.hostname, "hostname", "", "name in the network's DNS; default: the VM's name")
	fl.StringVar(&f.qosIn, "qos-in", "", "limit into the guest, bits per second, for example 100M; none = no limit")
	fl.StringVar(&f.qosOut, "qos-out", "", "limit out of the guest, bits per second; none = no limit")
	fl.StringVar(&f.qosBurst, "qos-burst", "", "burst of either limit in bytes, for example 1M; default: the driver's choice")
	fl.StringVar(&f.link, "link", "", "link of the NIC: up or down; default: up")
	fl.UintSliceVar(&f.trunk, "trunk-vlan", nil, "VLAN tag that the guest itself may use; repeatable")
	fl.BoolVar(&f.protect, "protect", false, "refuse to delete it")
	complete(cmd, "sg", s.groupNames)
	complete(cmd, "link", fixed("up", "down"))
	addNoWait(cmd, &f.noWait)
}

// spec reads the flags. "none" stands for an empty list.
func (f *portFlags) spec(cmd *cobra.Command) (*networkv1.PortSpec, error) {
	spec := &networkv1.PortSpec{NetworkId: f.network, Hostname: f.hostname, DeleteProtection: f.protect, SecurityGroupIds: listOf(f.groups)}
	var err error
	if spec.IpAddresses, err = reserved("--ip", listOf(f.ips)); err != nil {
		return nil, err
	}
	if f.mac != "" {
		if spec.Mac, err = parseMAC(f.mac); err != nil {
			return nil, failure.Usage("--mac: %w", err).WithFix("write for example --mac 52:54:00:00:00:01, or leave it out")
		}
	}
	for _, text := range listOf(f.extra) {
		cidr, err := rule.CIDR(text)
		if err != nil {
			return nil, failure.Usage("--extra-address: %w", err).WithFix("write for example --extra-address 10.4.0.200")
		}
		if !strings.Contains(text, "/") {
			cidr = text
		}
		spec.ExtraAddresses = append(spec.ExtraAddresses, cidr)
	}
	switch f.link {
	case "", "up":
	case "down":
		spec.LinkDown = true
	default:
		return nil, unknownValue("--link", f.link, []string{"up", "down"})
	}
	for _, v := range f.trunk {
		if v < 1 || v > 4094 {
			return nil, failure.Usage("--trunk-vlan %d is no tag", v).WithFix("give one of 1-4094")
		}
		spec.TrunkVlanIds = append(spec.TrunkVlanIds, uint32(v))
	}
	return spec, f.limits(cmd, spec)
}

func (f *portFlags) limits(cmd *cobra.Command, spec *networkv1.PortSpec) error {
	if !cmd.Flags().Changed("qos-in") && !cmd.Flags().Changed("qos-out") && !cmd.Flags().Changed("qos-burst") {
		return nil
	}
	spec.Qos = &networkv1.PortQos{}
	for _, q := range []struct {
		flag, text string
		to         *int64
	}{{"--qos-in", f.qosIn, &spec.Qos.IngressBitsPerSecond}, {"--qos-out", f.qosOut, &spec.Qos.EgressBitsPerSecond}} {
		if q.text == "" {
			continue
		}
		n, err := quantity.ParseRate(q.text)
		if err != nil {
			return failure.Usage("%s: %w", q.flag, err).WithFix("write for example %s 100M, or %s none", q.flag, q.flag)
		}
		*q.to = n
	}
	if f.qosBurst != "" {
		n, err := quantity.ParseExact(f.qosBurst)
		if err != nil {
			return failure.Usage("--qos-burst: %w", err).WithFix("write for example --qos-burst 1M")
		}
		spec.Qos.BurstBytes = n
	}
	return nil
}

// listOf is a flag's list; "none" alone is the empty one.
func listOf(items []string) []string {
	if len(items) == 1 && items[0] == none {
		return nil
	}
	return items
}

// reserved reads addresses to reserve, at most one for each version of IP.
func reserved(flag string, items []string) ([]string, error) {
	var out []string
	seen := map[int]string{}
	for _, text := range items {
		addr, err := parseAddr(text)
		if err != nil {
			return nil, failure.Usage("%s: %w", flag, err).WithFix("write for example %s 10.4.0.10", flag)
		}
		if other := seen[version(addr)]; other != "" {
			return nil, failure.Usage("%s %s and %s are of the same IP version", flag, other, addr).WithFix("give one IPv4 and one IPv6 address at most; further ones are --extra-address of a port")
		}
		seen[version(addr)] = addr.String()
		out = append(out, addr.String())
	}
	return out, nil
}

func (s *session) portSet() *cobra.Command {
	var f portFlags
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a port, live: addresses, groups, limits, link",
		Long: "Changes what the flags name and nothing else, while the guest runs. --ip, --sg, --extra-address and --trunk-vlan replace all that were\n" +
			"set; \"none\" takes all away: then addresses are assigned, and the project's default group holds. Flows that no rule allows any more are cut.",
		Example: "  lqctl port set web/nic0 --sg web --sg ssh\n  lqctl port set web/nic0 --qos-in 100M --qos-out none\n" +
			"  lqctl port set web/nic0 --link down",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.portNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := f.spec(cmd)
			if err != nil {
				return err
			}
			if _, err := changeLabels(nil, f.labels); err != nil {
				return err
			}
			paths := changedPaths(cmd, map[string]string{
				"ip": "spec.ip_addresses", "sg": "spec.security_group_ids", "extra-address": "spec.extra_addresses", "hostname": "spec.hostname", "link": "spec.link_down",
				"trunk-vlan": "spec.trunk_vlan_ids", "protect": "spec.delete_protection",
				"qos-in": "spec.qos.ingress_bits_per_second", "qos-out": "spec.qos.egress_bits_per_second", "qos-burst": "spec.qos.burst_bytes",
			})
			if len(paths) == 0 && len(f.labels) == 0 {
				return nothingToChange(cmd)
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			var resp *connect.Response[networkv1.UpdatePortResponse]
			err = unlessStale(func() error {
				have, err := getPort(cmd.Context(), c, args[0], project) // an id is as good as a name here
				if err != nil {
					return err
				}
				meta, mask := &metav1.ObjectMeta{Id: have.GetMeta().GetId()}, slices.Clone(paths)
				if len(f.labels) > 0 { // the whole map is written, so it must not have changed
					meta.Etag = have.GetMeta().GetEtag()
					if meta.Labels, err = changeLabels(have.GetMeta().GetLabels(), f.labels); err != nil {
						return err
					}
					mask = append(mask, "meta.labels")
				}
				resp, err = c.Ports.UpdatePort(cmd.Context(), connect.NewRequest(&networkv1.UpdatePortRequest{
					Port: &networkv1.Port{Meta: meta, Spec: spec}, UpdateMask: &fieldmaskpb.FieldMask{Paths: mask},
				}))
				return err
			})
			if err != nil {
				return err
			}
			now := resp.Msg.GetPort()
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: now, final: portNow(c, now), done: "changed"}}, f.noWait, false)
		},
	}
	cmd.Flags().StringArrayVar(&f.labels, "label", nil, "label key=value to set, or key- to remove; repeatable")
	f.register(s, cmd)
	return cmd
}
