package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/config"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
)

// externalPrefix goes before our keys in a cluster that others may use too.
const externalPrefix = "/limiquantix/"

// leaderTTL is how long the other controllers wait for a leader that fell silent: another leads well within ten seconds.
const leaderTTL = 6 * time.Second

// openStore makes the data directory and opens the store.
func openStore(ctx context.Context, cfg config.Config, log *slog.Logger) (store.Store, error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := os.Chmod(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	common := etcd.Common{Logger: log.With("component", "etcd")}
	switch {
	case cfg.Store.Kind == config.StoreMemory:
		return memory.Open(memory.Options{}), nil
	case len(cfg.Store.Endpoints) > 0:
		common.Prefix = externalPrefix
		common.ElectionTTL = leaderTTL
		external, err := externalStore(cfg.Store)
		if err != nil {
			return nil, err
		}
		external.Common = common
		return etcd.OpenExternal(ctx, external)
	}
	s, err := etcd.OpenEmbedded(ctx, etcd.EmbeddedConfig{Common: common, Dir: filepath.Join(cfg.DataDir, "etcd")})
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("another controller runs on the data directory %s: stop it, or give this one a --data-dir of its own", cfg.DataDir)
	}
	return s, err
}
