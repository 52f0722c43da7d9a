package guest_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab/guest"
)

// A plugin in the guest is launched, called, killed and stopped by sdk/host as one on the host is.
func TestPlugin(t *testing.T) {
	g := guest.Start(t, guest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	binary := filepath.Join(t.TempDir(), "limiquantix-plugin-local")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/limiquantix/limiquantix/plugins/local/cmd/limiquantix-plugin-local")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	if err := g.Plugin(ctx, dir, binary, host.Manifest{Name: "local", Version: "0.0.0-dev", Kinds: []string{"storage"}}); err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("", "lq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	spec := host.Spec{
		Dir: dir, RuntimeDir: run, StartTimeout: 2 * time.Minute,
		Host: &driverv1.HostFacts{ClusterId: "c", NodeId: "n", NodeName: "n", BootId: "b", StateDirectory: "/run/state", RuntimeDirectory: "/run/runtime"},
	}
	const pool = "11111111-1111-4111-8111-111111111111"
	launch := func() *host.Process {
		began := time.Now()
		p, err := host.Launch(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("launched in %s", time.Since(began).Round(time.Millisecond))
		r, err := driverv1.NewStorageDriverServiceClient(p.Conn()).EnsurePool(ctx, &driverv1.EnsurePoolRequest{PoolId: pool})
		if err != nil || r.GetPool().GetHealth() != driverv1.HealthState_HEALTH_STATE_HEALTHY {
			t.Fatal(r, err)
		}
		return p
	}
	running := func() bool {
		_, err := g.Run(ctx, "pgrep", "-f", "limiquantix-plugin-local")
		return err == nil
	}
	gone := func() {
		t.Helper()
		for ; running(); time.Sleep(50 * time.Millisecond) {
			if ctx.Err() != nil {
				t.Fatal("it lives on in the guest")
			}
		}
	}

	p := launch()
	if out, err := g.Run(ctx, "ls", "/run/state/pools/"+pool); err != nil {
		t.Errorf("the pool is not in the guest: %s %v", out, err)
	}
	if !running() {
		t.Error("the plugin does not run in the guest")
	}
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	_ = p.Stop(ctx, time.Second)
	gone()

	p = launch()
	if err := p.Stop(ctx, 10*time.Second); err != nil || p.Err() != nil {
		t.Error(err, p.Err())
	}
	gone()
}
