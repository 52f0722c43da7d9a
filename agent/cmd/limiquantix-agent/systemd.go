package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/limiquantix/limiquantix/agent/internal/daemon"
)

// notifySystemd says that the agent is ready and how it is, and feeds the watchdog, if systemd started it. The returned function ends that.
func notifySystemd(ctx context.Context, d *daemon.Daemon) (stop func()) {
	_, _ = sd.SdNotify(false, sd.SdNotifyReady+"\nSTATUS=looking for a controller")
	interval := 10 * time.Second
	if w, err := sd.SdWatchdogEnabled(false); err == nil && w > 0 {
		interval = min(interval, w/3)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(interval)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
				return
			case <-t.C:
			}
			status := "STATUS=connected to a controller"
			if !d.Connected() {
				status = "STATUS=no controller answers; VMs go on as they are"
			}
			_, _ = sd.SdNotify(false, sd.SdNotifyWatchdog+"\n"+status)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// onHangup calls f at every SIGHUP, one after the other.
func onHangup(f func()) (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-c:
				f()
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(c)
		close(done)
		wg.Wait()
	}
}
