package unimplemented

import (
	"context"

	"connectrpc.com/connect"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
)

// Port implements networkv1connect.PortServiceHandler: every call says which release brings it.
type Port struct{}

var _ networkv1connect.PortServiceHandler = Port{}

// CreatePort comes later.
func (Port) CreatePort(context.Context, *connect.Request[networkv1.CreatePortRequest]) (*connect.Response[networkv1.CreatePortResponse], error) {
	return nil, NetworkMethod("CreatePort")
}

// GetPort comes later.
func (Port) GetPort(context.Context, *connect.Request[networkv1.GetPortRequest]) (*connect.Response[networkv1.GetPortResponse], error) {
	return nil, NetworkMethod("GetPort")
}

// ListPorts comes later.
func (Port) ListPorts(context.Context, *connect.Request[networkv1.ListPortsRequest]) (*connect.Response[networkv1.ListPortsResponse], error) {
	return nil, NetworkMethod("ListPorts")
}

// UpdatePort comes later.
func (Port) UpdatePort(context.Context, *connect.Request[networkv1.UpdatePortRequest]) (*connect.Response[networkv1.UpdatePortResponse], error) {
	return nil, NetworkMethod("UpdatePort")
}

// DeletePort comes later.
func (Port) DeletePort(context.Context, *connect.Request[networkv1.DeletePortRequest]) (*connect.Response[networkv1.DeletePortResponse], error) {
	return nil, NetworkMethod("DeletePort")
}

// SetSecurityGroups comes later.
func (Port) SetSecurityGroups(context.Context, *connect.Request[networkv1.SetSecurityGroupsRequest]) (*connect.Response[networkv1.SetSecurityGroupsResponse], error) {
	return nil, NetworkMethod("SetSecurityGroups")
}

// GetPortStats comes later.
func (Port) GetPortStats(context.Context, *connect.Request[networkv1.GetPortStatsRequest]) (*connect.Response[networkv1.GetPortStatsResponse], error) {
	return nil, NetworkMethod("GetPortStats")
}

// ExplainPacket comes later.
func (Port) ExplainPacket(context.Context, *connect.Request[networkv1.ExplainPacketRequest]) (*connect.Response[networkv1.ExplainPacketResponse], error) {
	return nil, NetworkMethod("ExplainPacket")
}
