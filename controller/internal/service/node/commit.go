package node

import (
	"context"

	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// commit writes as the leader; false means that the state was another one, which the cache knows by then.
func (s *Service) commit(ctx context.Context, w *state.Writer) (bool, error) {
	fence, err := s.cfg.Leader.Fence()
	if err != nil {
		return false, err
	}
	w.Require(fence)
	txn, err := w.Txn()
	if err != nil {
		return false, request.Fault(err)
	}
	results, err := s.cfg.Runner.Store.Commit(ctx, []store.Txn{txn})
	if err != nil {
		return false, request.Fault(err)
	}
	return results[0].Succeeded, request.Fault(s.cfg.Cache.Wait(ctx, results[0].Revision))
}
