package domain

import (
	"fmt"
	"strings"
	"unicode/utf8"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

const (
	mib = int64(1) << 20
	tib = int64(1) << 40

	minMemory    = 16 * mib
	maxMemory    = 16 * tib
	maxVCPUs     = 512
	maxCmdline   = 2048
	maxUserData  = 64 << 10
	maxNetConfig = 64 << 10
	maxSSHKeys   = 64
	maxStopGrace = 3600 // seconds
)

// ValidateVM notes everything that is wrong with a defaulted VM, under "vm.". Whether what it refers to exists is not looked at.
func ValidateVM(v *Violations, vm *computev1.VM) {
	CheckMeta(v, "vm.meta", vm.GetMeta(), true)
	ValidateVMSpec(v, vm.GetSpec())
}

// ValidateVMSpec notes everything that is wrong with a defaulted spec, under "vm.spec.".
func ValidateVMSpec(v *Violations, s *computev1.VMSpec) {
	checkCPU(v, s.GetCpu())
	if m := s.GetMemoryBytes(); m == 0 {
		v.Add("vm.spec.memory_bytes", "is required")
	} else if m < minMemory || m > maxMemory || m%mib != 0 {
		v.Add("vm.spec.memory_bytes", "must be a multiple of 1 MiB from 16 MiB to 16 TiB")
	}
	checkBoot(v, s)
	checkDisks(v, s.GetDisks())
	checkNICs(v, s.GetNics(), s.GetCpu().GetVcpus())
	checkCloudInit(v, s.GetCloudInit())
	checkPlacement(v, s.GetPlacement())
	checkEnum(v, "vm.spec.desired_power", s.GetDesiredPower())
	checkEnum(v, "vm.spec.run_policy", s.GetRunPolicy())
	if s.GetRestartGeneration() < 0 {
		v.Add("vm.spec.restart_generation", "must not be negative")
	}
	if g := s.GetStopGrace(); g != nil && (g.CheckValid() != nil || g.AsDuration() < 0 || g.GetSeconds() > maxStopGrace) {
		v.Add("vm.spec.stop_grace", "must be from 0s to 3600s")
	}
	checkWord(v, "vm.spec.machine_type", s.GetMachineType())
}

func checkCPU(v *Violations, c *computev1.CPU) {
	n := c.GetVcpus()
	if n < 1 || n > maxVCPUs {
		v.Add("vm.spec.cpu.vcpus", "must be 1-%d", maxVCPUs)
	}
	so, co, th := int64(c.GetSockets()), int64(c.GetCores()), int64(c.GetThreads())
	if so != 0 || co != 0 || th != 0 {
		switch {
		case so < 1 || co < 1 || th < 1 || so > maxVCPUs || co > maxVCPUs || th > maxVCPUs:
			v.Add("vm.spec.cpu", "sockets, cores and threads must all be set, from 1, or none of them")
		case so*co*th != int64(n):
			v.Add("vm.spec.cpu", "sockets x cores x threads is %d, but vcpus is %d", so*co*th, n)
		}
	}
	checkWord(v, "vm.spec.cpu.model", c.GetModel())
}

func checkBoot(v *Violations, s *computev1.VMSpec) {
	b := s.GetBoot()
	checkEnum(v, "vm.spec.boot.firmware", b.GetFirmware())
	k := b.GetKernel()
	if k == nil {
		return
	}
	if k.GetKernelImage() == "" {
		v.Add("vm.spec.boot.kernel.kernel_image", "is required: an image's id or name")
	}
	if len(k.GetCmdline()) > maxCmdline || !printable(k.GetCmdline()) {
		v.Add("vm.spec.boot.kernel.cmdline", "must be at most %d printable bytes", maxCmdline)
	}
	if b.GetFirmware() == computev1.Firmware_FIRMWARE_UEFI {
		v.Add("vm.spec.boot.firmware", "must be BIOS or unset when boot.kernel is given")
	}
}

func checkCloudInit(v *Violations, c *computev1.CloudInit) {
	if c == nil {
		return
	}
	if h := c.GetHostname(); h != "" && !validDNS(strings.ToLower(h)) {
		v.Add("vm.spec.cloud_init.hostname", "must be a DNS name")
	}
	if n := len(c.GetSshAuthorizedKeys()); n > maxSSHKeys {
		v.Add("vm.spec.cloud_init.ssh_authorized_keys", "holds %d keys, at most %d are allowed", n, maxSSHKeys)
	}
	for i, k := range c.GetSshAuthorizedKeys() {
		if len(k) > 16<<10 || !printable(k) || len(strings.Fields(k)) < 2 {
			v.Add(fmt.Sprintf("vm.spec.cloud_init.ssh_authorized_keys[%d]", i), "must be one line of the form \"ssh-ed25519 AAAA... comment\"")
		}
	}
	if d := c.GetUserData(); len(d) > 0 {
		text := string(d)
		if len(d) > maxUserData || !strings.HasPrefix(text, "#cloud-config") && !strings.HasPrefix(text, "#!") {
			v.Add("vm.spec.cloud_init.user_data", "must begin with \"#cloud-config\" or \"#!\" and be at most %d bytes", maxUserData)
		}
	}
	if n := c.GetNetworkConfig(); len(n) > maxNetConfig || !utf8.ValidString(n) || strings.ContainsRune(n, 0) {
		v.Add("vm.spec.cloud_init.network_config", "must be a YAML document of at most %d bytes", maxNetConfig)
	}
}

func checkPlacement(v *Violations, p *computev1.Placement) {
	if p == nil {
		return
	}
	CheckLabels(v, "vm.spec.placement.node_selector", p.GetNodeSelector())
	checkEnum(v, "vm.spec.placement.strategy", p.GetStrategy())
	checkWord(v, "vm.spec.placement.compute_driver", p.GetComputeDriver())
	if len(p.GetAffinity()) > 32 {
		v.Add("vm.spec.placement.affinity", "holds %d rules, at most 32 are allowed", len(p.GetAffinity()))
	}
	for i, r := range p.GetAffinity() {
		at := fmt.Sprintf("vm.spec.placement.affinity[%d]", i)
		if r.GetType() == computev1.AffinityType_AFFINITY_TYPE_UNSPECIFIED {
			v.Add(at+".type", "is required: AFFINITY or ANTI_AFFINITY")
		}
		checkEnum(v, at+".type", r.GetType())
		if len(r.GetVmLabels()) == 0 {
			v.Add(at+".vm_labels", "is required")
		}
		CheckLabels(v, at+".vm_labels", r.GetVmLabels())
		if r.GetTopologyKey() != "" && !ValidLabelKey(r.GetTopologyKey()) {
			v.Add(at+".topology_key", labelKeyRule)
		}
		if w := r.GetWeight(); w < 0 || w > 100 || w != 0 && !r.GetPreferred() {
			v.Add(at+".weight", "must be 1-100 for a preferred rule, and unset for a hard one")
		}
	}
	if len(p.GetTolerations()) > 64 {
		v.Add("vm.spec.placement.tolerations", "holds %d entries, at most 64 are allowed", len(p.GetTolerations()))
	}
	for i, t := range p.GetTolerations() {
		at := fmt.Sprintf("vm.spec.placement.tolerations[%d]", i)
		if t.GetKey() != "" && !ValidLabelKey(t.GetKey()) {
			v.Add(at+".key", labelKeyRule)
		}
		if !ValidLabelValue(t.GetValue()) {
			v.Add(at+".value", labelValRule)
		}
		checkEnum(v, at+".effect", t.GetEffect())
	}
}

// checkWord notes a driver's word (a model, a machine type) that could be more than a word.
func checkWord(v *Violations, field, s string) {
	if len(s) > 63 {
		v.Add(field, "must be at most 63 characters")
		return
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			v.Add(field, "must be of letters, digits, '-', '_' and '.'")
			return
		}
	}
}
