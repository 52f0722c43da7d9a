package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/stack"
)

// wholePath measures a VM's start less libvirt's own time in it, and memory with two VMs.
func wholePath(ctx context.Context, bin string, got samples) error {
	dir, err := os.MkdirTemp("", "lqb")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var watch *stopwatch
	s, err := stack.Start(ctx, stack.Options{Dir: dir, Bin: bin, Before: func(libvirtd string) (string, error) {
		var err error
		path := filepath.Join(dir, "watch.sock")
		watch, err = listenBefore(libvirtd, path)
		return path, err
	}})
	if err != nil {
		return err
	}
	defer watch.close()
	defer func() { _ = s.Stop() }()
	if err := s.AwaitNode(ctx); err != nil {
		return err
	}
	for name, file := range map[string]string{"vmlinuz": s.Guest.Kernel, "initrd": s.Guest.Initrd} {
		if _, err := s.LQCtl(ctx, "image", "import", name, "--file", file, "--format", "raw", "-q"); err != nil {
			return err
		}
	}
	vms, _, err := vmClient(s)
	if err != nil {
		return err
	}
	for i := range starts {
		name := fmt.Sprintf("v%d", i)
		watch.reset()
		all, err := start(ctx, vms, name)
		if err != nil {
			return err
		}
		libvirts, err := watch.read()
		if err != nil {
			return err
		}
		if i > 0 { // the first fills caches
			got.add("our_share_of_start_ms", milliseconds(all-libvirts))
		}
		if i >= 2 {
			if _, err := s.LQCtl(ctx, "vm", "delete", name, "-q"); err != nil {
				return err
			}
		}
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	plugin, err := s.Plugin("kvm")
	if err != nil {
		return err
	}
	for range rounds {
		for name, pid := range map[string]int{"controller_rss_mib": s.PID("controller"), "agent_rss_mib": s.PID("agent"), "kvm_plugin_rss_mib": plugin} {
			v, err := rss(pid)
			if err != nil {
				return err
			}
			got.add(name, v)
		}
		if err := pause(ctx, settle/2); err != nil {
			return err
		}
	}
	return nil
}

// settle is how long memory is left alone before it is looked at.
const settle = 10 * time.Second

// starts is how many VMs are started one after the other.
const starts = 11

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// start creates a VM and waits on the watch until RUNNING is reported.
func start(ctx context.Context, vms computev1connect.VMServiceClient, name string) (time.Duration, error) {
	vm := vmFor(name, nil)
	vm.Spec = &computev1.VMSpec{MemoryBytes: 128 << 20, Boot: &computev1.Boot{Kernel: &computev1.KernelBoot{KernelImage: "vmlinuz", InitrdImage: "initrd", Cmdline: "console=ttyS0 quiet"}}}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	began := time.Now()
	r, err := vms.CreateVM(ctx, connect.NewRequest(&computev1.CreateVMRequest{Vm: vm}))
	if err != nil {
		return 0, err
	}
	id := r.Msg.GetVm().GetMeta().GetId()
	w, err := vms.WatchVMs(ctx, connect.NewRequest(&computev1.WatchVMsRequest{Id: id}))
	if err != nil {
		return 0, err
	}
	for w.Receive() {
		if w.Msg().GetVm().GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_RUNNING {
			return time.Since(began), nil
		}
	}
	return 0, fmt.Errorf("%s never ran: %w", name, w.Err())
}

// pluginStart measures the kvm plugin from exec to its first answer; it needs no libvirtd for that.
func pluginStart(ctx context.Context, bin string, got samples) error {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil)) // there is no libvirtd, and the plugin says so
	for range starts {
		dir, err := os.MkdirTemp("", "lqb")
		if err != nil {
			return err
		}
		began := time.Now()
		p, err := host.Launch(ctx, host.Spec{
			Dir: filepath.Join(bin, "plugins", "kvm"), RuntimeDir: filepath.Join(dir, "s"), ConfigJSON: `{"accel":"tcg","socket":"/nonexistent"}`, Logger: quiet,
			Host: &driverv1.HostFacts{ClusterId: "c", NodeId: "n", NodeName: "n", BootId: "b", StateDirectory: dir, RuntimeDirectory: dir},
		})
		if err != nil {
			return err
		}
		if _, err := driverv1.NewPluginServiceClient(p.Conn()).GetPluginInfo(ctx, &driverv1.GetPluginInfoRequest{}); err != nil {
			return err
		}
		got.add("plugin_start_ms", milliseconds(time.Since(began)))
		if err := p.Stop(ctx, time.Second); err != nil {
			return err
		}
		_ = os.RemoveAll(dir)
	}
	return nil
}
