package api

import (
	"context"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// pageSize is how many objects one call of a walk asks for.
const pageSize = 500

// walk collects the pages of a list until it ends, or limit objects are there (0 = all).
func walk[T any](limit int, page func(token string, size int32) ([]T, string, error)) ([]T, error) {
	var all []T
	for token := ""; ; {
		size := int32(pageSize)
		if limit > 0 {
			size = int32(min(pageSize, limit-len(all)))
		}
		items, next, err := page(token, size)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
		if next == "" || limit > 0 && len(all) >= limit {
			return all, nil
		}
		token = next
	}
}

// ListVMs lists VMs with the filters of the request, all pages.
func (c *Client) ListVMs(ctx context.Context, req *computev1.ListVMsRequest) ([]*computev1.VM, error) {
	return walk(0, func(token string, size int32) ([]*computev1.VM, string, error) {
		req.PageToken, req.PageSize = token, size
		resp, err := c.VMs.ListVMs(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, "", err
		}
		return resp.Msg.GetVms(), resp.Msg.GetNextPageToken(), nil
	})
}

// ListNodes lists nodes with these labels, all pages.
func (c *Client) ListNodes(ctx context.Context, selector string) ([]*computev1.Node, error) {
	return walk(0, func(token string, size int32) ([]*computev1.Node, string, error) {
		resp, err := c.Nodes.ListNodes(ctx, connect.NewRequest(&computev1.ListNodesRequest{LabelSelector: selector, PageSize: size, PageToken: token}))
		if err != nil {
			return nil, "", err
		}
		return resp.Msg.GetNodes(), resp.Msg.GetNextPageToken(), nil
	})
}

// ListImages lists images, all pages.
func (c *Client) ListImages(ctx context.Context, project, selector string) ([]*storagev1.Image, error) {
	return walk(0, func(token string, size int32) ([]*storagev1.Image, string, error) {
		resp, err := c.Images.ListImages(ctx, connect.NewRequest(&storagev1.ListImagesRequest{
			ProjectId: project, LabelSelector: selector, PageSize: size, PageToken: token,
		}))
		if err != nil {
			return nil, "", err
		}
		return resp.Msg.GetImages(), resp.Msg.GetNextPageToken(), nil
	})
}

// ListOperations lists operations with the filters of the request, newest first, at most limit (0 = all).
func (c *Client) ListOperations(ctx context.Context, req *operationv1.ListOperationsRequest, limit int) ([]*operationv1.Operation, error) {
	return walk(limit, func(token string, size int32) ([]*operationv1.Operation, string, error) {
		req.PageToken, req.PageSize = token, size
		resp, err := c.Operations.ListOperations(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, "", err
		}
		return resp.Msg.GetOperations(), resp.Msg.GetNextPageToken(), nil
	})
}

// ListPools lists storage pools, all pages.
func (c *Client) ListPools(ctx context.Context, project, selector string) ([]*storagev1.StoragePool, error) {
	return walk(0, func(token string, size int32) ([]*storagev1.StoragePool, string, error) {
		resp, err := c.Pools.ListStoragePools(ctx, connect.NewRequest(&storagev1.ListStoragePoolsRequest{ProjectId: project, LabelSelector: selector, PageSize: size, PageToken: token}))
		if err != nil {
			return nil, "", err
		}
		return resp.Msg.GetStoragePools(), resp.Msg.GetNextPageToken(), nil
	})
}

// ListVolumes lists volumes with the filters of the request, all pages.
func (c *Client) ListVolumes(ctx context.Context, req *storagev1.ListVolumesRequest) ([]*storagev1.Volume, error) {
	return walk(0, func(token string, size int32) ([]*storagev1.Volume, string, error) {
		req.PageToken, req.PageSize = token, size
		resp, err := c.Volumes.ListVolumes(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, "", err
		}
		return resp.Msg.GetVolumes(), resp.Msg.GetNextPageToken(), nil
	})
}

// ListSnapshots lists snapshots with the filters of the request, all pages.
func (c *Client) ListSnapshots(ctx context.Context, req *storagev1.ListSnapshotsRequest) ([]*storagev1.Snapshot, error) {
	return walk(0, func(token string, size int32) ([]*storagev1.Snapshot, string, error) {
		req.PageToken, req.PageSize = token, size
		resp, err := c.Snapshots.ListSnapshots(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, "", err
		}
		return resp.Msg.GetSnapshots(), resp.Msg.GetNextPageToken(), nil
	})
}
