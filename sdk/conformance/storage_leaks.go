package conformance

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// closingChecks come last: they look at what all checks before have left.
func closingChecks() []*Check {
	return []*Check{
		{Name: "storage/secrets/kept", Contract: "Secrets are in no log line, no error, no argument and no environment of the plugin.", run: secretsKept},
		{Name: "storage/leaks/none", Contract: "What was deleted is gone, whatever cut the calls short: of all checks nothing is left, neither listed nor in the backend.", run: nothingLeft},
	}
}

func nothingLeft(t T, e *Env) {
	p := e.pool(t)
	if ids := p.listed(t, 0); len(ids) > 0 {
		t.Errorf("volumes are left: %v", ids)
	}
	if ids := p.imageIDs(t, 0); len(ids) > 0 {
		t.Errorf("image copies are left: %v", ids)
	}
	if e.can(snapshots) {
		if ids := p.snapshotIDs(t, 0, ""); len(ids) > 0 {
			t.Errorf("snapshots are left: %v", ids)
		}
	}
	if e.o.Storage.Objects == nil {
		return
	}
	e.kill(t) // what a killed call left half-made is cleared when the pool is ensured again
	var left []string
	t.Cleanup(func() {
		if len(left) > 0 {
			t.Logf("left in the backend: %v", left)
		}
	})
	eventually(t, e.o.Storage.LeakTimeout, "the backend has the objects that it had in the beginning", func() bool {
		now, err := e.o.Storage.Objects(within(t))
		must(t, "list the backend's objects", err)
		left = slices.DeleteFunc(now, func(o string) bool { return slices.Contains(e.objects, o) })
		return len(left) == 0
	})
}

// countObjects remembers what the backend holds before the first check.
func (e *Env) countObjects(t T) {
	t.Helper()
	if list := e.o.Storage.Objects; list != nil {
		ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
		defer cancel()
		var err error
		e.objects, err = list(ctx)
		must(t, "list the backend's objects", err)
	}
}

// secretsKept hands the plugin a secret that it does not know, and then asks who has seen that one or the real ones.
func secretsKept(t T, e *Env) {
	p := e.pool(t)
	req := p.ensureRequest()
	req.Secrets = map[string][]byte{"conformance_canary": []byte(e.canary)}
	for name, value := range e.o.Storage.Secrets {
		req.Secrets[name] = value
	}
	_, err := e.storage().EnsurePool(within(t), req) // taken or refused: both are fine
	t.Logf("a secret that no driver knows: %s", code(err))
	p.ensure(t)
	call(t, e.storage().GetPool, &driverv1.GetPoolRequest{PoolId: p.id})
	for _, where := range e.watch.process(e.process().PID()) {
		t.Errorf("a secret is in %s", where)
	}
	for _, where := range e.watch.seen() {
		t.Errorf("a secret is in %s", where)
	}
}

// cleanUp removes what a check has made. A backend may take a while to forget a plugin that was killed, and keep what that one had open.
func cleanUp(t T, remove func(context.Context) error) {
	t.Helper()
	ctx, cancel := cleanupContext()
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		err := remove(ctx)
		if err == nil {
			return
		}
		if c := code(err); c != codes.FailedPrecondition && c != codes.Aborted {
			t.Errorf("cleaning up: %v", err)
			return
		}
		select {
		case <-ctx.Done():
			t.Errorf("cleaning up, again and again: %v", err)
			return
		case <-tick.C:
		}
	}
}
