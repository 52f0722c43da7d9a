package failpoint_test

import (
	"bytes"
	"context"
	"time"
)

// act is a part of what users and machines do. It leaves nothing behind but what it found.
type act struct {
	name string
	do   func(context.Context, *rig) error
	// fresh: it begins with empty directories, of its own.
	fresh bool
	// pair: of two nodes, which share their pools; it begins with empty directories, too.
	pair bool
	// alone: it ends without a node, and checks for itself.
	alone bool
	// with arms other points, once, for what is only done when something else fails.
	with map[string]string
}

const (
	memory   = 64 << 20
	diskSize = 4 << 20
)

var content = bytes.Repeat([]byte("limiquantix "), 1000)

// acts run in this order in a dry run; a point is tried with the shortest act that visits it.
var acts = []act{
	{name: "node", do: actNode},
	{name: "image", do: actImage},
	{name: "image twice", do: actImageTwice},
	{name: "broken upload", do: actBrokenUpload},
	{name: "console", do: actConsole},
	{name: "create and delete", do: actCreate},
	{name: "power", do: actPower},
	{name: "update", do: actUpdate},
	{name: "kernel", do: actKernel},
	{name: "volumes", do: actVolumes},
	{name: "attach", do: actAttach},
	{name: "hot attach", do: actHot},
	{name: "online snapshot", do: actOnlineSnapshot},
	{name: "quiesced snapshot", do: actQuiesced},
	{name: "online resize", do: actOnlineResize},
	{name: "move", do: actMove},
	{name: "move, deleted", do: actMoveDeleted, with: map[string]string{"agent/internal/reconcile/move.go:Engine.copyVolume#3:CloseAndRecv": "delay"}},
	{name: "fetch", do: actFetch},
	{name: "networks", do: actNetworks},
	{name: "NICs", do: actNICs},
	{name: "pool is set", do: actPoolSet},
	{name: "no room", do: actNoRoom},
	{name: "agent restarts", do: actAgentRestart},
	{name: "agent is killed", do: actAgentKilled},
	{name: "state file is damaged", do: actDamaged},
	{name: "state file is empty", do: actEmptied},
	{name: "controller restarts", do: actControllerRestart},
	{name: "controller is killed", do: actControllerKilled},
	{name: "controller dies in an upload", do: actUploadCut},
	{name: "plugin is configured anew", do: actReconfigure},
	{name: "pool goes and comes", do: actPoolGone, fresh: true},
	{name: "guest agent", do: actGuestAgent},
	{name: "volume shrunk by hand", do: actShrunk},
	{name: "orphan", do: actOrphan},
	{name: "silent node", do: actSilence},
	{name: "token", do: actToken},
	{name: "admin token", do: actAdminToken},
	{name: "admin token fails", do: actAdminToken, with: map[string]string{"controller/internal/pki/cluster.go:writeToken#4:Sync": "fail"}},
	{name: "full disk", do: actFullDisk},
	{name: "disk without fallocate", do: actNoFallocate, fresh: true},
	{name: "first start", do: actFirst, fresh: true},
	{name: "two first starts", do: actRace, fresh: true, alone: true, with: map[string]string{clusterCommit: "delay"}},
	{name: "two first starts, a key each", do: actRaceApart, fresh: true, alone: true, with: map[string]string{clusterCommit: "delay"}},
	{name: "fenced node", do: actFenced, fresh: true, alone: true},
	{name: "executor is lost", do: actExecutorLost, pair: true},
	{name: "fenced user", do: actFencedUser, pair: true},
	{name: "wait", do: actWait},
}

// actWait lets what happens by itself happen.
func actWait(ctx context.Context, _ *rig) error { return pause(ctx, 4*time.Second) }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
