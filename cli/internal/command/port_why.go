package command

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	"github.com/limiquantix/limiquantix/cli/internal/rule"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// packetFlags describe a packet.
type packetFlags struct {
	in, out                     bool
	proto, from, to, local      string
	port, icmpType, icmpCode    uint32
	typeGiven, codeGiven, given bool
}

func (s *session) portWhy() *cobra.Command {
	var f packetFlags
	cmd := &cobra.Command{
		Use:   "why NAME --in|--out --proto PROTOCOL --from|--to ADDRESS",
		Short: "Say whether a packet that begins a flow would pass a port, and by which rule, or what is missing",
		Long: "Says whether a packet that begins a flow would pass a port; nothing is sent. The verdict comes first, then every rule that allows it, or\n" +
			"the rule that would. --in is towards the guest, with the other side in --from; --out is from the guest, with it in --to.",
		Example: "  lqctl port why web/nic0 --in --proto tcp --port 80 --from 198.51.100.7\n" +
			"  lqctl port why web/nic0 --out --proto udp --port 53 --to 192.0.2.53\n  lqctl port why web/nic0 --in --proto icmp --icmp-type 8 --from 10.4.0.7",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.portNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.typeGiven, f.codeGiven, f.given = cmd.Flags().Changed("icmp-type"), cmd.Flags().Changed("icmp-code"), cmd.Flags().Changed("port")
			req, err := f.request()
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			if req.Id, err = portRef(cmd.Context(), c, args[0], project); err != nil {
				return err
			}
			req.ProjectId = project
			resp, err := c.Ports.ExplainPacket(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			if !s.tabular() {
				return printOne(s, resp.Msg, args[0], nil)
			}
			names := newLookup(cmd.Context(), c, project)
			for _, m := range resp.Msg.GetRules() {
				if m.GetMemberPortId() != "" {
					m.MemberPortId = names.port(m.GetMemberPortId())
				}
			}
			for _, line := range render.Verdict(resp.Msg, remedyFor(cmd.Context(), c, args[0], req, resp.Msg), names.group) {
				fmt.Fprintln(s.Out, line)
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&f.in, "in", false, "to the guest")
	fl.BoolVar(&f.out, "out", false, "from the guest")
	fl.StringVar(&f.proto, "proto", "", "tcp, udp, sctp, icmp, icmpv6, or a number 0-255")
	fl.Uint32Var(&f.port, "port", 0, "destination port, with tcp, udp, sctp")
	fl.StringVar(&f.from, "from", "", "address of the other side, with --in")
	fl.StringVar(&f.to, "to", "", "address of the other side, with --out")
	fl.StringVar(&f.local, "local", "", "address on the guest's side; default: the port's own")
	fl.Uint32Var(&f.icmpType, "icmp-type", 0, "ICMP type, with icmp, icmpv6")
	fl.Uint32Var(&f.icmpCode, "icmp-code", 0, "ICMP code, with --icmp-type")
	complete(cmd, "proto", fixed("tcp", "udp", "sctp", "icmp", "icmpv6"))
	return cmd
}

func (f *packetFlags) request() (*networkv1.ExplainPacketRequest, error) {
	req := &networkv1.ExplainPacketRequest{Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS}
	remote, flag := f.from, "--from"
	if f.out {
		req.Direction, remote, flag = networkv1.RuleDirection_RULE_DIRECTION_EGRESS, f.to, "--to"
	}
	switch {
	case f.in == f.out:
		return nil, failure.Usage("give either --in or --out").WithFix("--in is towards the guest, --out from it")
	case f.in && f.to != "":
		return nil, failure.Usage("--to is for --out").WithFix("name the other side with --from")
	case f.out && f.from != "":
		return nil, failure.Usage("--from is for --in").WithFix("name the other side with --to")
	case remote == "":
		return nil, failure.Usage("%s is missing", flag).WithFix("give the address of the other side, for example %s 198.51.100.7", flag)
	case f.proto == "":
		return nil, failure.Usage("--proto is missing").WithFix("give for example --proto tcp --port 80")
	}
	addr, err := parseAddr(remote)
	if err != nil {
		return nil, failure.Usage("%s: %w", flag, err).WithFix("give one address, for example %s 198.51.100.7", flag)
	}
	req.RemoteAddress = addr.String()
	if f.local != "" {
		local, err := parseAddr(f.local)
		if err != nil || local.Is4() != addr.Is4() {
			return nil, failure.Usage("--local %q is no IPv%d address, as %s is", f.local, version(addr), remote).WithFix("leave it out for the port's own address")
		}
		req.LocalAddress = local.String()
	}
	return req, f.protocol(req)
}

// protocol reads protocol, port, type and code; "tcp:80" and "icmp:8:0" are fine too.
func (f *packetFlags) protocol(req *networkv1.ExplainPacketRequest) error {
	r := &networkv1.SecurityRule{Direction: req.GetDirection(), Remote: &networkv1.SecurityRule_Cidr{Cidr: req.GetRemoteAddress()}}
	if err := rule.ParseTraffic(r, f.proto); err != nil {
		return failure.Usage("--proto: %w", err).WithFix("use tcp, udp, sctp, icmp, icmpv6, or a number 0-255")
	}
	if r.GetPortLast() != r.GetPortFirst() || r.GetProtocol() == "any" {
		return failure.Usage("--proto %s is more than one packet can be", f.proto).WithFix("describe one packet, for example --proto tcp --port 80")
	}
	if cidr, err := rule.CIDR(req.GetRemoteAddress()); err == nil {
		r.Remote = &networkv1.SecurityRule_Cidr{Cidr: cidr}
	}
	if err := rule.Check(r); err != nil {
		return failure.Usage("--proto: %w", err).WithFix("use the protocol for the other side's IP version")
	}
	req.Protocol, req.DestinationPort, req.IcmpType, req.IcmpCode = r.GetProtocol(), r.GetPortFirst(), r.IcmpType, r.IcmpCode
	ports, icmp := r.GetProtocol() == "tcp" || r.GetProtocol() == "udp" || r.GetProtocol() == "sctp", strings.HasPrefix(r.GetProtocol(), "icmp")
	switch {
	case f.given && !ports:
		return failure.Usage("--port is for tcp, udp and sctp").WithFix("leave it out for %s", r.GetProtocol())
	case (f.typeGiven || f.codeGiven) && !icmp:
		return failure.Usage("--icmp-type and --icmp-code are for icmp and icmpv6").WithFix("leave them out for %s", r.GetProtocol())
	case f.codeGiven && !f.typeGiven && r.IcmpType == nil:
		return failure.Usage("--icmp-code needs --icmp-type").WithFix("give for example --icmp-type 3 --icmp-code 4")
	case f.given && (f.port < 1 || f.port > 65535):
		return failure.Usage("--port %d is no port", f.port).WithFix("give one of 1-65535")
	case f.icmpType > 255 || f.icmpCode > 255:
		return failure.Usage("--icmp-type and --icmp-code are 0-255").WithFix("give for example --icmp-type 8 --icmp-code 0")
	case ports && !f.given && req.GetDestinationPort() == 0:
		return failure.Usage("--port is missing").WithFix("give the destination port, for example --port 80")
	}
	if f.given {
		req.DestinationPort = f.port
	}
	if f.typeGiven {
		req.IcmpType = proto.Uint32(f.icmpType)
	}
	if f.codeGiven {
		req.IcmpCode = proto.Uint32(f.icmpCode)
	}
	return nil
}

// remedyFor is the command that would let the packet pass, where a rule is what is missing.
func remedyFor(ctx context.Context, c *api.Client, name string, req *networkv1.ExplainPacketRequest, x *networkv1.ExplainPacketResponse) string {
	if x.GetAllowed() {
		return ""
	}
	switch x.GetReason() {
	case "LINK_DOWN":
		return "lqctl port set " + name + " --link up"
	case "PORT_BLOCKED":
		return "see why it is kept shut: lqctl port show " + name
	case "NO_RULE":
	default:
		return ""
	}
	p, err := getPort(ctx, c, req.GetId(), req.GetProjectId())
	if err != nil || len(p.GetSpec().GetSecurityGroupIds()) == 0 {
		return ""
	}
	g, err := getGroup(ctx, c, p.GetSpec().GetSecurityGroupIds()[0], "")
	if err != nil {
		return ""
	}
	cidr, err := rule.CIDR(req.GetRemoteAddress())
	if err != nil {
		return ""
	}
	r := &networkv1.SecurityRule{
		Direction: req.GetDirection(), Protocol: req.GetProtocol(), PortFirst: req.GetDestinationPort(), IcmpType: req.IcmpType, IcmpCode: req.IcmpCode,
		Remote: &networkv1.SecurityRule_Cidr{Cidr: cidr},
	}
	return "lqctl sg rule add " + nameOf(g) + " " + rule.Text(r, nil)
}
