package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/config"
	"github.com/limiquantix/limiquantix/controller/internal/pki"
)

// adminToken is the command of that name.
func adminToken(o options, cfg config.Config, stdout, stderr io.Writer) error {
	if !o.resetKey {
		return errors.New("admin-token: nothing to do; did you mean admin-token --reset?")
	}
	if cfg.Store.Kind == config.StoreMemory {
		return errors.New("admin-token: a store in memory ends with its controller, which makes a new token at each start")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg.Log.Level = "error" // etcd has much to say about a start
	s, err := openStore(ctx, cfg, newLogger(cfg, stderr))
	if err != nil {
		return fmt.Errorf("admin-token: %w", err)
	}
	path, err := pki.ResetAdminToken(ctx, s, cfg.DataDir)
	if err = errors.Join(err, s.Close()); err != nil {
		return fmt.Errorf("admin-token: %w", err)
	}
	fmt.Fprintf(stdout, "a new admin token is in %s; the old one is worth nothing now\n", path)
	return nil
}
