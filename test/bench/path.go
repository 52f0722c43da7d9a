package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/stack"
)

// wholePath measures a VM's start beside virsh's start of the same domain, and memory with two VMs.
func wholePath(ctx context.Context, bin string, got samples) error {
	dir, err := os.MkdirTemp("", "lqb")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s, err := stack.Start(ctx, stack.Options{Dir: dir, Bin: bin})
	if err != nil {
		return err
	}
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
	for i := range 7 {
		name := fmt.Sprintf("v%d", i)
		ours, id, err := start(ctx, vms, name)
		if err != nil {
			return err
		}
		theirs, err := virshStart(ctx, s, id)
		if err != nil {
			return err
		}
		if i > 0 { // the first fills caches
			got.add("our_share_of_start_ms", float64((ours-theirs).Microseconds())/1000)
		}
		if i >= 2 {
			if _, err := s.LQCtl(ctx, "vm", "delete", name, "-q"); err != nil {
				return err
			}
		}
	}
	idle := time.NewTimer(10 * time.Second)
	defer idle.Stop()
	select {
	case <-idle.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	plugin, err := s.Plugin("kvm")
	if err != nil {
		return err
	}
	for name, pid := range map[string]int{"controller_rss_mib": s.PID("controller"), "agent_rss_mib": s.PID("agent"), "kvm_plugin_rss_mib": plugin} {
		v, err := rss(pid)
		if err != nil {
			return err
		}
		got.add(name, v)
	}
	return nil
}

// start creates a VM and waits on the watch until RUNNING is reported.
func start(ctx context.Context, vms computev1connectVM, name string) (time.Duration, string, error) {
	vm := vmFor(name, nil)
	vm.Spec = &computev1.VMSpec{MemoryBytes: 128 << 20, Boot: &computev1.Boot{Kernel: &computev1.KernelBoot{KernelImage: "vmlinuz", InitrdImage: "initrd", Cmdline: "console=ttyS0 quiet"}}}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	began := time.Now()
	r, err := vms.CreateVM(ctx, connect.NewRequest(&computev1.CreateVMRequest{Vm: vm}))
	if err != nil {
		return 0, "", err
	}
	id := r.Msg.GetVm().GetMeta().GetId()
	w, err := vms.WatchVMs(ctx, connect.NewRequest(&computev1.WatchVMsRequest{Id: id}))
	if err != nil {
		return 0, "", err
	}
	for w.Receive() {
		if w.Msg().GetVm().GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_RUNNING {
			return time.Since(began), id, nil
		}
	}
	return 0, "", fmt.Errorf("%s never ran: %w", name, w.Err())
}

type computev1connectVM interface {
	CreateVM(context.Context, *connect.Request[computev1.CreateVMRequest]) (*connect.Response[computev1.CreateVMResponse], error)
	WatchVMs(context.Context, *connect.Request[computev1.WatchVMsRequest]) (*connect.ServerStreamForClient[computev1.WatchVMsResponse], error)
}

var (
	uuidLine    = regexp.MustCompile(`<uuid>.*</uuid>`)
	nameLine    = regexp.MustCompile(`<name>.*</name>`)
	socketLines = regexp.MustCompile(`path='[^']*\.console'`)
	logLines    = regexp.MustCompile(`file='[^']*console\.log'`)
)

// virshStart defines and starts a copy of a domain with virsh, and removes it. What is measured is virsh's own work, its process included.
func virshStart(ctx context.Context, s *stack.Stack, id string) (time.Duration, error) {
	out, err := s.Node.Virsh(ctx, "dumpxml", "--inactive", id)
	if err != nil {
		return 0, err
	}
	xml := uuidLine.ReplaceAllString(string(out), "")
	xml = nameLine.ReplaceAllString(xml, "<name>raw</name>")
	xml = socketLines.ReplaceAllString(xml, "path='"+filepath.Join(s.Dir, "raw.sock")+"'")
	xml = logLines.ReplaceAllString(xml, "file='"+filepath.Join(s.Dir, "raw.log")+"'")
	file := filepath.Join(s.Dir, "raw.xml")
	if err := os.WriteFile(file, []byte(strings.TrimSpace(xml)), 0o600); err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := s.Node.Virsh(ctx, "define", file); err != nil {
		return 0, err
	}
	if _, err := s.Node.Virsh(ctx, "start", "raw"); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if _, err := s.Node.Virsh(ctx, "destroy", "raw"); err != nil {
		return 0, err
	}
	_, err = s.Node.Virsh(ctx, "undefine", "raw")
	return took, err
}

// pluginStart measures the kvm plugin from exec to its first answer; it needs no libvirtd for that.
func pluginStart(ctx context.Context, bin string, got samples) error {
	for range 7 {
		dir, err := os.MkdirTemp("", "lqb")
		if err != nil {
			return err
		}
		began := time.Now()
		p, err := host.Launch(ctx, host.Spec{
			Dir: filepath.Join(bin, "plugins", "kvm"), RuntimeDir: filepath.Join(dir, "s"), ConfigJSON: `{"accel":"tcg","socket":"/nonexistent"}`,
			Host: &driverv1.HostFacts{ClusterId: "c", NodeId: "n", NodeName: "n", BootId: "b", StateDirectory: dir, RuntimeDirectory: dir},
		})
		if err != nil {
			return err
		}
		if _, err := driverv1.NewPluginServiceClient(p.Conn()).GetPluginInfo(ctx, &driverv1.GetPluginInfoRequest{}); err != nil {
			return err
		}
		got.add("plugin_start_ms", float64(time.Since(began).Microseconds())/1000)
		if err := p.Stop(ctx, time.Second); err != nil {
			return err
		}
		_ = os.RemoveAll(dir)
	}
	return nil
}
