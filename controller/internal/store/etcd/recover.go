package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// recoverInterval is how often a full store looks whether it still is.
const recoverInterval = time.Second

// keepRecovering lets a store that was full take writes again once there is room, without a restart: etcd itself would refuse them for ever.
func (s *Store) keepRecovering(server *embed.Etcd) {
	tick := time.NewTicker(recoverInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		if !s.full.Load() {
			continue
		}
		// A full disk is told to whoever writes.
		if err := s.recoverSpace(s.ctx, server); err != nil && !errors.Is(err, store.ErrNoSpace) && s.ctx.Err() == nil {
			s.cfg.Logger.Warn("cannot make space in the store", "error", err)
		}
	}
}

// recoverSpace gives up history and lifts the no-space alarm if what is left keeps clear of the quota. A watch from an older revision is told so,
// and lists again. ErrNoSpace is a disk without room for that.
func (s *Store) recoverSpace(ctx context.Context, server *embed.Etcd) error {
	status, err := s.Status(ctx)
	if err != nil {
		return err
	}
	alarm, err := s.alarmed(ctx)
	if err != nil {
		return err
	}
	s.full.Store(alarm)
	if !alarm {
		return nil
	}
	if err := s.Compact(ctx, status.Revision); err != nil {
		return err
	}
	server.Server.Backend().ForceCommit() // or what was freed does not count yet
	if status, err = s.Status(ctx); err != nil || status.InUseBytes > roomy(status.QuotaBytes) {
		return err
	}
	if err := s.space.check(); err != nil {
		return err // the copy that follows might not fit
	}
	if err := server.Server.Backend().Defrag(); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	if status, err = s.Status(ctx); err != nil || status.SizeBytes > roomy(status.QuotaBytes) {
		return err
	}
	if _, err := s.client.AlarmDisarm(ctx, &clientv3.AlarmMember{
		MemberID: uint64(server.Server.MemberID()),
		Alarm:    pb.AlarmType_NOSPACE,
	}); err != nil {
		return s.explain(ctx, "lift the no-space alarm", err)
	}
	s.full.Store(false)
	s.cfg.Logger.Info("store has space again", "size_bytes", status.SizeBytes, "quota_bytes", status.QuotaBytes)
	return nil
}

// alarmed reports whether etcd holds itself for full.
func (s *Store) alarmed(ctx context.Context) (bool, error) {
	call, cancel, err := s.bound(ctx)
	if err != nil {
		return false, err
	}
	defer cancel()
	res, err := s.client.AlarmList(call)
	if err != nil {
		return false, s.explain(ctx, "list alarms", err)
	}
	for _, a := range res.Alarms {
		if a.Alarm == pb.AlarmType_NOSPACE {
			return true, nil
		}
	}
	return false, nil
}

// roomy is the size from which a full store counts as one with space: a little under the quota, or it would be full again at once.
func roomy(quota int64) int64 { return quota - quota/10 }
