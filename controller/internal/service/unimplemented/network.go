package unimplemented

import (
	"context"

	"connectrpc.com/connect"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
)

// Network implements networkv1connect.VirtualNetworkServiceHandler: every call says which release brings it.
type Network struct{}

var _ networkv1connect.VirtualNetworkServiceHandler = Network{}

// CreateNetwork comes later.
func (Network) CreateNetwork(context.Context, *connect.Request[networkv1.CreateNetworkRequest]) (*connect.Response[networkv1.CreateNetworkResponse], error) {
	return nil, NetworkMethod("CreateNetwork")
}

// GetNetwork comes later.
func (Network) GetNetwork(context.Context, *connect.Request[networkv1.GetNetworkRequest]) (*connect.Response[networkv1.GetNetworkResponse], error) {
	return nil, NetworkMethod("GetNetwork")
}

// ListNetworks comes later.
func (Network) ListNetworks(context.Context, *connect.Request[networkv1.ListNetworksRequest]) (*connect.Response[networkv1.ListNetworksResponse], error) {
	return nil, NetworkMethod("ListNetworks")
}

// UpdateNetwork comes later.
func (Network) UpdateNetwork(context.Context, *connect.Request[networkv1.UpdateNetworkRequest]) (*connect.Response[networkv1.UpdateNetworkResponse], error) {
	return nil, NetworkMethod("UpdateNetwork")
}

// DeleteNetwork comes later.
func (Network) DeleteNetwork(context.Context, *connect.Request[networkv1.DeleteNetworkRequest]) (*connect.Response[networkv1.DeleteNetworkResponse], error) {
	return nil, NetworkMethod("DeleteNetwork")
}

// GetNetworkTopology comes later.
func (Network) GetNetworkTopology(context.Context, *connect.Request[networkv1.GetNetworkTopologyRequest]) (*connect.Response[networkv1.GetNetworkTopologyResponse], error) {
	return nil, NetworkMethod("GetNetworkTopology")
}
