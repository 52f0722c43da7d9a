package api

import (
	"context"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// ListNetworks lists networks with the filters of the request, all pages.
func (c *Client) ListNetworks(ctx context.Context, req *networkv1.ListNetworksRequest) ([]*networkv1.Network, error) {
	return walk(0, func(token string, size int32) ([]*networkv1.Network, string, error) {
		req.PageToken, req.PageSize = token, size
		resp, err := c.Networks.ListNetworks(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, "", err
		}
		return resp.Msg.GetNetworks(), resp.Msg.GetNextPageToken(), nil
	})
}

// ListPorts lists ports with the filters of the request, all pages.
func (c *Client) ListPorts(ctx context.Context, req *networkv1.ListPortsRequest) ([]*networkv1.Port, error) {
	return walk(0, func(token string, size int32) ([]*networkv1.Port, string, error) {
		req.PageToken, req.PageSize = token, size
		resp, err := c.Ports.ListPorts(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, "", err
		}
		return resp.Msg.GetPorts(), resp.Msg.GetNextPageToken(), nil
	})
}

// ListSecurityGroups lists security groups with the filters of the request, all pages.
func (c *Client) ListSecurityGroups(ctx context.Context, req *networkv1.ListSecurityGroupsRequest) ([]*networkv1.SecurityGroup, error) {
	return walk(0, func(token string, size int32) ([]*networkv1.SecurityGroup, string, error) {
		req.PageToken, req.PageSize = token, size
		resp, err := c.Groups.ListSecurityGroups(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, "", err
		}
		return resp.Msg.GetSecurityGroups(), resp.Msg.GetNextPageToken(), nil
	})
}

// AnyNode reports whether a node with these labels is as wanted; it stops at the first page with such a one.
func (c *Client) AnyNode(ctx context.Context, selector string, wanted func(*computev1.Node) bool) (bool, error) {
	for token := ""; ; {
		resp, err := c.Nodes.ListNodes(ctx, connect.NewRequest(&computev1.ListNodesRequest{LabelSelector: selector, PageSize: pageSize, PageToken: token}))
		if err != nil {
			return false, err
		}
		for _, n := range resp.Msg.GetNodes() {
			if wanted(n) {
				return true, nil
			}
		}
		if token = resp.Msg.GetNextPageToken(); token == "" {
			return false, nil
		}
	}
}
