package driver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// ValidateDomain says what is wrong with a spec, without any effect.
func (d *Driver) ValidateDomain(_ context.Context, req *driverv1.ValidateDomainRequest) (*driverv1.ValidateDomainResponse, error) {
	out := &driverv1.ValidateDomainResponse{}
	if err := checkID(req.GetDomainId()); err != nil {
		out.Violations = append(out.Violations, &driverv1.FieldViolation{Field: "domain_id", Description: err.Error()})
	}
	for _, v := range check(req.GetSpec()) {
		out.Violations = append(out.Violations, &driverv1.FieldViolation{Field: v.Field, Description: v.Description})
	}
	return out, nil
}

func check(s *driverv1.DomainSpec) (out []fault.Violation) {
	bad := func(field, format string, args ...any) {
		out = append(out, fault.Violation{Field: "spec." + field, Description: fmt.Sprintf(format, args...)})
	}
	if s == nil {
		return []fault.Violation{{Field: "spec", Description: "is required"}}
	}
	if n := s.GetCpu().GetVcpus(); n < 1 {
		bad("cpu.vcpus", "must be at least 1")
	}
	if c := s.GetCpu(); c.GetSockets() != 0 || c.GetCores() != 0 || c.GetThreads() != 0 {
		if c.GetSockets()*c.GetCores()*c.GetThreads() != max(c.GetVcpus(), c.GetMaxVcpus()) {
			bad("cpu", "sockets x cores x threads must equal max_vcpus")
		}
	}
	if m := s.GetMemoryBytes(); m < 1<<20 || m%(1<<20) != 0 {
		bad("memory_bytes", "must be a multiple of 1 MiB")
	}
	if m := s.GetMaxMemoryBytes(); m != 0 && m != s.GetMemoryBytes() {
		bad("max_memory_bytes", "memory hotplug is not offered by this driver")
	}
	for field, path := range map[string]string{"boot.kernel_path": s.GetBoot().GetKernelPath(), "boot.initrd_path": s.GetBoot().GetInitrdPath()} {
		if path == "" {
			continue
		}
		if !filepath.IsAbs(path) {
			bad(field, "must be absolute")
		} else if _, err := os.Stat(path); err != nil {
			bad(field, "cannot be read: %v", err)
		}
	}
	if s.GetBoot().GetKernelPath() == "" && (s.GetBoot().GetInitrdPath() != "" || s.GetBoot().GetCmdline() != "") {
		bad("boot.kernel_path", "is required with initrd_path or cmdline")
	}
	if strings.ContainsFunc(s.GetBoot().GetCmdline(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		bad("boot.cmdline", "must hold no control characters")
	}
	ids := map[string]bool{}
	for i, disk := range s.GetDisks() {
		if checkID(disk.GetDiskId()) != nil || ids[disk.GetDiskId()] {
			bad(fmt.Sprintf("disks[%d].disk_id", i), "must be a UUID in lower case, used once")
		}
		ids[disk.GetDiskId()] = true
	}
	for i, n := range s.GetInterfaces() {
		if m := n.GetModel(); m != "" && m != "virtio" && m != "e1000e" {
			bad(fmt.Sprintf("interfaces[%d].model", i), `must be "virtio" or "e1000e"`)
		}
		for j, f := range n.GetBinding().GetUserMode().GetForwards() {
			if p := f.GetProtocol(); p != "" && p != "tcp" && p != "udp" {
				bad(fmt.Sprintf("interfaces[%d].binding.user_mode.forwards[%d].protocol", i, j), `must be "tcp" or "udp"`)
			}
			if strings.ContainsAny(f.GetHostAddress(), ",:-= ") {
				bad(fmt.Sprintf("interfaces[%d].binding.user_mode.forwards[%d].host_address", i, j), "must be an IPv4 address")
			}
		}
	}
	return out
}
