package worker

import (
	"context"
	"strconv"

	"github.com/limiquantix/limiquantix/plugins/kit/filedriver"
	"github.com/limiquantix/limiquantix/plugins/kit/filepool"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Pool says what a worker works on.
type Pool struct {
	ID, Path      string
	Owner         filepool.Owner
	Preallocation string
}

// request is how a worker is told.
func (p Pool) request() *driverv1.EnsurePoolRequest {
	return &driverv1.EnsurePoolRequest{PoolId: p.ID, Parameters: map[string]string{
		"path": p.Path, "cluster": p.Owner.ClusterID, "node": p.Owner.NodeID, "shared": strconv.FormatBool(p.Owner.Shared), "preallocation": p.Preallocation,
	}}
}

// files serves the pool within the worker.
type files struct{ filedriver.Driver }

// EnsurePool opens the pool that the plugin has mounted.
func (f *files) EnsurePool(_ context.Context, req *driverv1.EnsurePoolRequest) (*driverv1.EnsurePoolResponse, error) {
	unlock, err := f.Keys.Lock("pool/" + req.GetPoolId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	p := f.Pool(req.GetPoolId())
	if p == nil {
		param := req.GetParameters()
		owner := filepool.Owner{ClusterID: param["cluster"], NodeID: param["node"], Shared: param["shared"] == "true"}
		if p, err = filepool.Open(req.GetPoolId(), param["path"], owner, filepool.Options{Preallocation: param["preallocation"]}); err != nil {
			return nil, err
		}
		f.Put(req.GetPoolId(), p)
	}
	return &driverv1.EnsurePoolResponse{Pool: p.State()}, nil
}
