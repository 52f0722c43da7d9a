package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// OpenEmbedded runs etcd in this process. Nothing listens: the client calls the
// server's methods. It returns once the store can be used. A second process on
// the same directory is refused with ErrUnavailable.
func OpenEmbedded(ctx context.Context, cfg EmbeddedConfig) (_ *Store, err error) {
	cfg = cfg.withDefaults()
	unlock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	server, err := embed.StartEtcd(serverConfig(cfg))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start etcd in %s: %w: %w", cfg.Dir, store.ErrUnavailable, err), unlock())
	}
	stop := func() error {
		server.Close()
		return unlock()
	}
	select {
	case <-server.Server.ReadyNotify():
	case <-server.Server.StopNotify():
		return nil, errors.Join(fmt.Errorf("start etcd in %s: %w: it stopped", cfg.Dir, store.ErrUnavailable), stop())
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("start etcd in %s: %w", cfg.Dir, ctx.Err()), stop())
	}
	client := v3client.New(server.Server)
	s := start(cfg.Common, client, func() error {
		_ = client.Close() // it has no connection; the error only says so
		return stop()
	})
	s.space = newSpace(cfg.Dir, cfg.ReserveBytes)
	now, err := s.List(ctx, "", store.ListOptions{Limit: 1})
	if err == nil {
		s.staleBefore = now.Revision
		err = s.recoverSpace(ctx, server)
	}
	if err != nil && !errors.Is(err, store.ErrNoSpace) {
		return nil, errors.Join(fmt.Errorf("start etcd in %s: %w", cfg.Dir, err), s.Close())
	}
	s.tasks.Go(func() { s.keepRecovering(server) })
	return s, nil
}

// serverConfig is an etcd of one member without a listener.
func serverConfig(cfg EmbeddedConfig) *embed.Config {
	c := embed.NewConfig()
	c.Name = "limiquantix"
	c.Dir = cfg.Dir
	c.ListenClientUrls, c.ListenPeerUrls = nil, nil
	c.ListenClientHttpUrls, c.ListenMetricsUrls = nil, nil
	// A member needs an address; nobody ever dials it.
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	c.AdvertiseClientUrls = nil
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.InitialClusterToken = "limiquantix"

	// There is nobody to wait for in an election of one.
	c.TickMs, c.ElectionMs = 20, 100

	c.QuotaBackendBytes = cfg.QuotaBytes
	c.MaxTxnOps = maxGroup + store.MaxTxnOps
	c.MaxRequestBytes = 2 * store.MaxTxnBytes
	c.AutoCompactionMode = embed.CompactorModePeriodic
	c.AutoCompactionRetention = cfg.Retention.String()
	c.BootstrapDefragThresholdMegabytes = uint((cfg.DefragThresholdBytes + 1<<20 - 1) >> 20)

	// No follower has to catch up, and groups make for large entries, which etcd
	// keeps in memory until it snapshots.
	c.SnapshotCount = 1000
	c.SnapshotCatchUpEntries = 50

	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(cfg.Logger))
	return c
}

// lockDir makes the directory for its owner alone and takes its lock: etcd by
// itself would wait without end for another process to leave.
func lockDir(dir string) (unlock func() error, err error) {
	if dir == "" {
		return nil, fmt.Errorf("%w: the store needs a data directory", store.ErrInvalid)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("protect data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%w: data directory %s is in use by another process: %w", store.ErrUnavailable, dir, err)
	}
	return f.Close, nil
}
