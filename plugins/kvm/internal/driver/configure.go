package driver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/accelerator"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/process"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Schema describes the configuration.
const Schema = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false,"properties":{
"socket":{"type":"string","description":"libvirtd's unix socket","default":"/run/libvirt/libvirt-sock"},
"uri":{"type":"string","description":"libvirt connection","default":"qemu:///system"},
"accel":{"enum":["auto","kvm","tcg"],"description":"what guests run on; auto tries","default":"auto"},
"cpu_model":{"type":"string","description":"CPU model when a VM names none"},
"machine_type":{"type":"string","description":"machine type when a VM names none","default":"q35"},
"ovs_socket":{"type":"string","description":"Open vSwitch's database, which libvirt reaches by ovs-vsctl","default":"/run/openvswitch/db.sock"}}}`

type config struct {
	Socket      string `json:"socket"`
	URI         string `json:"uri"`
	Accel       string `json:"accel"`
	CPUModel    string `json:"cpu_model"`
	MachineType string `json:"machine_type"`
	OVSSocket   string `json:"ovs_socket"`
}

// socketPathMost is the length of the longest path of a unix socket.
const socketPathMost = 107

func (c *config) violations(h *driverv1.HostFacts) (out []fault.Violation) {
	bad := func(field, format string, args ...any) {
		out = append(out, fault.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
	}
	if c.Accel != "auto" && c.Accel != "kvm" && c.Accel != "tcg" {
		bad("config_json.accel", `must be "auto", "kvm" or "tcg"`)
	}
	if !filepath.IsAbs(c.Socket) {
		bad("config_json.socket", "must be an absolute path")
	}
	if !filepath.IsAbs(c.OVSSocket) {
		bad("config_json.ovs_socket", "must be an absolute path")
	}
	if !strings.HasPrefix(c.URI, "qemu:") {
		bad("config_json.uri", `must be of libvirt's QEMU driver, for example "qemu:///system"`)
	}
	if c.MachineType == "" {
		c.MachineType = "q35"
	} else if !machineType.MatchString(c.MachineType) {
		bad("config_json.machine_type", machineWanted)
	}
	if most := socketPathMost - domainxml.SocketNameBytes; len(h.GetRuntimeDirectory()) > most {
		bad("host.runtime_directory", "has %d bytes; unix sockets in it leave room for %d", len(h.GetRuntimeDirectory()), most)
	}
	return out
}

// ConfigureDriver takes the configuration; see sdk.ConfigureFunc.
func (d *Driver) ConfigureDriver(ctx context.Context, c *sdk.Config) (*driverv1.GetCapabilitiesResponse, error) {
	cfg := config{Socket: "/run/libvirt/libvirt-sock", URI: "qemu:///system", Accel: "auto", MachineType: "q35", OVSSocket: "/run/openvswitch/db.sock"}
	if err := c.Decode(&cfg); err != nil {
		return nil, err
	}
	if v := cfg.violations(c.Host); len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	for _, dir := range []string{filepath.Join(c.Host.GetStateDirectory(), "domains"), c.Host.GetRuntimeDirectory()} {
		if err := os.MkdirAll(dir, 0o711); err != nil { // QEMU's user passes through to files whose paths it knows
			return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "make directory: %w", err)
		}
	}
	boot, err := process.BootTime(filepath.Join(c.Host.GetStateDirectory(), "boot-time"), c.Host.GetBootId())
	if err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%w", err)
	}
	next := setting{
		host: c.Host, cfg: cfg, uefi: haveUEFI(firmwareDirs), finder: process.New(boot),
		verdict: accelerator.Probe(ctx, cfg.Accel, domainxml.Emulator, c.Host.GetStateDirectory()),
	}
	d.mu.Lock()
	before := d.current
	same := before.conn != nil && before.cfg.Socket == cfg.Socket && before.cfg.URI == cfg.URI
	if next.conn = before.conn; !same {
		next.conn = d.connect(cfg)
	}
	d.current = next
	d.mu.Unlock()
	if same && d.Health.Get().State == driverv1.HealthState_HEALTH_STATE_HEALTHY {
		d.healthy()
	}
	return &driverv1.GetCapabilitiesResponse{Compute: capabilities(next)}, nil
}

func capabilities(s setting) *driverv1.ComputeCapabilities {
	c := &driverv1.ComputeCapabilities{
		Features: []driverv1.ComputeFeature{
			driverv1.ComputeFeature_COMPUTE_FEATURE_PAUSE,
			driverv1.ComputeFeature_COMPUTE_FEATURE_REBOOT,
			driverv1.ComputeFeature_COMPUTE_FEATURE_LIVE_UPDATE,
			driverv1.ComputeFeature_COMPUTE_FEATURE_DISK_HOTPLUG,
			driverv1.ComputeFeature_COMPUTE_FEATURE_INTERFACE_HOTPLUG,
			driverv1.ComputeFeature_COMPUTE_FEATURE_DISK_RESIZE,
			driverv1.ComputeFeature_COMPUTE_FEATURE_SNAPSHOT_SWITCH,
			driverv1.ComputeFeature_COMPUTE_FEATURE_LINK_STATE,
			driverv1.ComputeFeature_COMPUTE_FEATURE_CONSOLE,
			driverv1.ComputeFeature_COMPUTE_FEATURE_CONSOLE_LOG,
			driverv1.ComputeFeature_COMPUTE_FEATURE_GUEST_AGENT,
			driverv1.ComputeFeature_COMPUTE_FEATURE_DIRECT_KERNEL_BOOT,
			driverv1.ComputeFeature_COMPUTE_FEATURE_CLOUD_INIT,
			driverv1.ComputeFeature_COMPUTE_FEATURE_VNC,
		},
		DiskSources: []driverv1.DiskSourceKind{
			driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE,
			driverv1.DiskSourceKind_DISK_SOURCE_KIND_BLOCK_DEVICE,
			driverv1.DiskSourceKind_DISK_SOURCE_KIND_RBD,
			driverv1.DiskSourceKind_DISK_SOURCE_KIND_NBD,
		},
		InterfaceBindings: s.bindings(),
	}
	if s.uefi {
		c.Features = append(c.Features, driverv1.ComputeFeature_COMPUTE_FEATURE_UEFI)
	}
	return c
}

// firmwareDirs are where packages and operators describe firmware for libvirt (docs/interop/firmware.json of QEMU).
var firmwareDirs = []string{"/usr/share/qemu/firmware", "/etc/qemu/firmware"}

// haveUEFI reports whether any firmware is described.
func haveUEFI(dirs []string) bool {
	for _, dir := range dirs {
		if found, err := filepath.Glob(filepath.Join(dir, "*.json")); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}
