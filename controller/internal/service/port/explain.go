package port

import (
	"context"
	"net/netip"
	"slices"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// ExplainPacket says whether a packet that begins a flow would pass a port, and by which rules.
func (s *Service) ExplainPacket(_ context.Context, req *connect.Request[networkv1.ExplainPacketRequest]) (*connect.Response[networkv1.ExplainPacketResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	var v domain.Violations
	packet := domain.ReadPacket(&v, req.Msg)
	if err := v.Err(); err != nil {
		return nil, err
	}
	port := row.Port().GetPort()
	var groups []*networkv1.SecurityGroup
	for _, id := range port.GetSpec().GetSecurityGroupIds() {
		if g := s.cfg.Cache.Row(state.KindSecurityGroup, id).SecurityGroup().GetSecurityGroup(); g != nil {
			groups = append(groups, g)
		}
	}
	found := map[string]string{} // one look for each remote group
	resp := domain.ExplainPacket(packet, port, groups, func(group string, a netip.Addr) string {
		id, known := found[group]
		if !known {
			id = s.memberBy(group, a)
			found[group] = id
		}
		return id
	})
	resp.InForce = domain.GroupsInForce(port, groups)
	return connect.NewResponse(resp), nil
}

// memberBy is the first port with a group that makes an address a member of it; "" = none does.
func (s *Service) memberBy(group string, a netip.Addr) string {
	rows := s.cfg.Cache.GroupPorts(group)
	for _, r := range rows {
		if slices.Contains(r.Addresses, a.String()) {
			return r.ID
		}
	}
	for _, r := range rows {
		if domain.MemberBy(r.Port().GetPort(), a) {
			return r.ID
		}
	}
	return ""
}
