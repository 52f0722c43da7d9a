package failpoint_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func actControllerRestart(ctx context.Context, r *rig) error {
	if err := r.controller.stop(syscall.SIGTERM); err != nil {
		return err
	}
	if err := r.controller.start(); err != nil {
		return err
	}
	return errors.Join(r.ready(ctx), r.nodeReady(ctx))
}

func actControllerKilled(ctx context.Context, r *rig) error {
	return errors.Join(r.killController(ctx), r.nodeReady(ctx))
}

func (r *rig) killController(ctx context.Context) error {
	if err := r.controller.stop(syscall.SIGKILL); err != nil {
		return err
	}
	if err := r.controller.start(); err != nil {
		return err
	}
	return r.ready(ctx)
}

func actReconfigure(ctx context.Context, r *rig) error {
	done, err := r.ask("reconfigure")
	if err != nil {
		return err
	}
	defer done()
	if err := r.nodeReady(ctx); err != nil { // before that, the signal would end it
		return err
	}
	r.agent.signal(syscall.SIGHUP)
	return pause(ctx, 300*time.Millisecond)
}

// actPoolGone lets the pool be assigned to the node no longer, and then again.
func actPoolGone(ctx context.Context, r *rig) error {
	if err := r.up(ctx); err != nil {
		return err
	}
	done, err := r.ask("pool-absent")
	if err != nil {
		return err
	}
	defer done()
	usable := func(want bool) error {
		return r.until(ctx, fmt.Sprintf("the pool is in the journal: %v", want), func() (bool, string) {
			j, err := r.journal()
			return err == nil && (len(j["pool"]) > 0) == want, fmt.Sprint(j.ids("pool"), err)
		})
	}
	if err := errors.Join(r.killController(ctx), usable(false)); err != nil {
		return err
	}
	done()
	return errors.Join(r.killController(ctx), usable(true), r.nodeReady(ctx))
}

// actAdminToken makes a new admin token while the controller is down, again until it is told that it was made.
func actAdminToken(ctx context.Context, r *rig) error {
	if err := r.controller.stop(syscall.SIGTERM); err != nil {
		return err
	}
	err := r.until(ctx, "the admin token is made anew", func() (bool, string) {
		cmd := exec.CommandContext(ctx, r.controller.argv[0], append([]string{"admin-token", "--reset"}, r.controller.argv[1:]...)...)
		cmd.Env = r.controller.env
		out, err := cmd.CombinedOutput()
		return err == nil, fmt.Sprintf("%v: %s", err, out)
	})
	if err != nil {
		return err
	}
	if err := r.controller.start(); err != nil {
		return err
	}
	return errors.Join(r.ready(ctx), r.nodeReady(ctx))
}

// actFullDisk lets the controller's disk be full for a while.
func actFullDisk(ctx context.Context, r *rig) error {
	done, err := r.ask("full-disk")
	if err != nil {
		return err
	}
	defer done()
	for range 20 { // a controller that was killed meanwhile may not be up before there is room again
		_, err := r.nodes.CordonNode(ctx, connect.NewRequest(&computev1.CordonNodeRequest{Id: nodeName}))
		if connect.CodeOf(err) == connect.CodeResourceExhausted {
			break
		}
		if err == nil {
			return errors.New("a write was taken on a full disk")
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	done()
	if err := errors.Join(r.ready(ctx), r.nodeReady(ctx)); err != nil {
		return err
	}
	return actNode(ctx, r)
}

// actNoFallocate starts on a file system that cannot take up room beforehand.
func actNoFallocate(ctx context.Context, r *rig) error {
	done, err := r.ask("no-fallocate")
	if err != nil {
		return err
	}
	defer done()
	return r.up(ctx)
}
