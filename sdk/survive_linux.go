package sdk

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// surviveHost sees to it that the plugin ends, quietly and soon, when its host is gone, and in good order on SIGTERM:
//
//   - SIGPIPE is caught, so that a log line to a host that is gone does not kill in the middle of a call. It is not ignored: helpers would inherit that.
//   - A host that says so holds our standard input open; its end is the host's end. Other hosts are watched by our parent's id.
func surviveHost(ctx context.Context, wg *sync.WaitGroup, stop func(time.Duration), log *slog.Logger) {
	pipe := make(chan os.Signal, 1) // never read: a signal that finds it full is dropped, which is all we want
	signal.Notify(pipe, syscall.SIGPIPE)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	parent := os.Getppid()
	wg.Go(func() {
		defer signal.Stop(term)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-term:
				log.Info("told to end by SIGTERM")
				stop(DefaultGrace)
			case <-tick.C:
				if os.Getppid() != parent {
					os.Exit(0)
				}
			}
		}
	})
	if os.Getenv(EnvStdinWatch) == "1" {
		go func() { // ends with the process: a read of standard input cannot be interrupted
			_, _ = io.Copy(io.Discard, os.Stdin)
			if ctx.Err() == nil {
				os.Exit(0)
			}
		}()
	}
}

// nameProcess gives the process a name for people: executed by descriptor it would be called by the descriptor's number.
func nameProcess(name string) {
	comm := "lqp-" + name
	_ = os.WriteFile("/proc/self/comm", []byte(comm[:min(len(comm), 15)]), 0) // best effort; /proc may be hidden
}
