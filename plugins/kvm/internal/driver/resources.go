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

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// GetNodeResources describes CPU, memory and accelerator.
func (d *Driver) GetNodeResources(ctx context.Context, _ *driverv1.GetNodeResourcesRequest) (*driverv1.GetNodeResourcesResponse, error) {
	s := d.setting()
	out := &driverv1.GetNodeResourcesResponse{
		Architecture: "x86_64", Cpus: int32(runtime.NumCPU()), CpuModel: cpuModelName(),
		Accelerator: &driverv1.AcceleratorVerdict{
			Requested: s.verdict.Requested, Accelerator: s.verdict.Accelerator, Reason: s.verdict.Reason, ProbeDuration: durationpb.New(s.verdict.Duration),
		},
	}
	err := s.conn.Do(ctx, "read node resources", func(l *libvirt.Libvirt) error {
		_, mem, cpus, _, _, sockets, cores, threads, err := l.NodeGetInfo()
		if err != nil {
			return err
		}
		// libvirt counts the first NUMA cells only where memory was plugged in later; the kernel counts all.
		out.MemoryBytes = max(int64(mem)<<10, kernelMemory())
		out.Cpus, out.CpuSockets, out.CpuCores, out.CpuThreads = cpus, sockets, cores, threads
		lib, err := l.ConnectGetLibVersion()
		if err != nil {
			return err
		}
		hv, err := l.ConnectGetVersion()
		if err != nil {
			return err
		}
		out.Hypervisor = fmt.Sprintf("QEMU %s, libvirt %s", version(hv), version(lib))
		virt := "kvm"
		if s.verdict.Accelerator == "tcg" {
			virt = "qemu"
		}
		text, err := l.ConnectGetDomainCapabilities(libvirt.OptString{qemuBinary}, libvirt.OptString{"x86_64"}, libvirt.OptString{s.cfg.MachineType}, libvirt.OptString{virt}, 0)
		if err != nil {
			return err
		}
		var caps libvirtxml.DomainCaps
		if err := xml.Unmarshal([]byte(text), &caps); err != nil {
			return err
		}
		if caps.CPU == nil {
			return nil
		}
		for _, mode := range caps.CPU.Modes {
			if mode.Name == "host-model" {
				for _, f := range mode.Features {
					if f.Policy == "require" {
						out.CpuFeatures = append(out.CpuFeatures, f.Name)
					}
				}
			}
			if mode.Name != "custom" {
				continue
			}
			for _, m := range mode.Models {
				if m.Usable != "no" {
					out.CpuModels = append(out.CpuModels, m.Name)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(out.CpuModels)
	slices.Sort(out.CpuFeatures)
	out.MachineTypes = []string{"pc", "q35"}
	return out, nil
}

func cpuModelName() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(b), "\n") {
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
