package main

import (
	"io"
	"log/slog"

	"github.com/limiquantix/limiquantix/controller/internal/config"
	"github.com/limiquantix/limiquantix/controller/internal/server"
)

func newLogger(cfg config.Config, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.SlogLevel()}
	if cfg.Log.Format == "text" {
		return slog.New(server.LogHandler(slog.NewTextHandler(w, opts)))
	}
	return slog.New(server.LogHandler(slog.NewJSONHandler(w, opts)))
}
