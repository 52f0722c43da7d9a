package driver

import (
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"google.golang.org/protobuf/types/known/durationpb"
	"libvirt.org/go/libvirtxml"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// GetNodeResources describes CPU, memory and accelerator.
func (d *Driver) GetNodeResources(ctx context.Context, _ *driverv1.GetNodeResourcesRequest) (*driverv1.GetNodeResourcesResponse, error) {
	s := d.setting()
	// A connection of its own: libvirt may look at QEMU anew first, which takes seconds.
	out, err := connection.Alone(ctx, s.conn, "read node resources", s.resources)
	if err != nil {
		return nil, err
	}
	out.Accelerator = &driverv1.AcceleratorVerdict{
		Requested: s.verdict.Requested, Accelerator: s.verdict.Accelerator, Reason: s.verdict.Reason, ProbeDuration: durationpb.New(s.verdict.Duration),
	}
	return out, nil
}

func (s setting) resources(l *libvirt.Libvirt) (*driverv1.GetNodeResourcesResponse, error) {
	_, mem, cpus, _, _, sockets, cores, threads, err := l.NodeGetInfo()
	if err != nil {
		return nil, err
	}
	lib, err := l.ConnectGetLibVersion()
	if err != nil {
		return nil, err
	}
	hv, err := l.ConnectGetVersion()
	if err != nil {
		return nil, err
	}
	out := &driverv1.GetNodeResourcesResponse{
		Architecture: "x86_64", CpuModel: cpuModelName(), Cpus: max(cpus, int32(runtime.NumCPU())), //nolint:gosec // small
		CpuSockets: sockets, CpuCores: cores, CpuThreads: threads, MachineTypes: []string{"pc", "q35"},
		// libvirt counts the first NUMA cells only where memory was plugged in later; the kernel counts all.
		MemoryBytes: max(int64(mem)<<10, kernelMemory()), //nolint:gosec // bytes of memory
		Hypervisor:  fmt.Sprintf("QEMU %s, libvirt %s", version(hv), version(lib)),
	}
	virt := "kvm"
	if s.verdict.Accelerator == "tcg" {
		virt = "qemu"
	}
	text, err := l.ConnectGetDomainCapabilities(libvirt.OptString{domainxml.Emulator}, libvirt.OptString{"x86_64"}, libvirt.OptString{s.cfg.MachineType}, libvirt.OptString{virt}, 0)
	if err != nil {
		return nil, err
	}
	var caps libvirtxml.DomainCaps
	if err := xml.Unmarshal([]byte(text), &caps); err != nil {
		return nil, err
	}
	if caps.CPU == nil {
		return out, nil
	}
	for _, mode := range caps.CPU.Modes {
		if mode.Name == "host-model" {
			for _, f := range mode.Features {
				if f.Policy == "require" {
					out.CpuFeatures = append(out.CpuFeatures, f.Name)
				}
			}
		}
		if mode.Name == "custom" {
			for _, m := range mode.Models {
				if m.Usable != "no" {
					out.CpuModels = append(out.CpuModels, m.Name)
				}
			}
		}
	}
	slices.Sort(out.CpuModels)
	slices.Sort(out.CpuFeatures)
	return out, nil
}

func cpuModelName() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// kernelMemory is the memory that the kernel uses, in bytes; 0 = it does not say.
func kernelMemory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var kib int64
	if _, err := fmt.Sscanf(string(b), "MemTotal: %d kB", &kib); err != nil {
		return 0
	}
	return kib << 10
}
