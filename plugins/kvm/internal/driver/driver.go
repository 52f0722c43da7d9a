// Package driver is the compute driver for KVM through libvirt: the contract's calls, one file per group.
package driver

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/accelerator"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
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
"machine_type":{"type":"string","description":"machine type when a VM names none","default":"q35"}}}`

const qemuBinary = "/usr/bin/qemu-system-x86_64"

type config struct {
	Socket      string `json:"socket"`
	URI         string `json:"uri"`
	Accel       string `json:"accel"`
	CPUModel    string `json:"cpu_model"`
	MachineType string `json:"machine_type"`
}

// Driver serves ComputeDriverService.
type Driver struct {
	driverv1.UnimplementedComputeDriverServiceServer
	*sdk.BasePlugin

	keys     sdk.KeyLock
	consoles consoles

	mu      sync.Mutex
	host    *driverv1.HostFacts
	cfg     config
	verdict accelerator.Verdict
	conn    *connection.Connection
	stop    context.CancelFunc
	running sync.WaitGroup
}

// New makes a driver; set BasePlugin before it is served.
func New() *Driver { return &Driver{consoles: consoles{open: map[string]*console{}}} }

// ConfigureDriver takes the configuration; see sdk.ConfigureFunc.
func (d *Driver) ConfigureDriver(ctx context.Context, c *sdk.Config) (*driverv1.GetCapabilitiesResponse, error) {
	cfg := config{Socket: "/run/libvirt/libvirt-sock", URI: "qemu:///system", Accel: "auto", MachineType: "q35"}
	if err := c.Decode(&cfg); err != nil {
		return nil, err
	}
	if cfg.Accel != "auto" && cfg.Accel != "kvm" && cfg.Accel != "tcg" {
		return nil, fault.Invalid(fault.Violation{Field: "config_json.accel", Description: `must be "auto", "kvm" or "tcg"`})
	}
	if !filepath.IsAbs(cfg.Socket) {
		return nil, fault.Invalid(fault.Violation{Field: "config_json.socket", Description: "must be an absolute path"})
	}
	for _, dir := range []string{filepath.Join(c.Host.GetStateDirectory(), "domains"), c.Host.GetRuntimeDirectory()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "make directory: %w", err)
		}
	}
	verdict := accelerator.Probe(ctx, cfg.Accel, qemuBinary, c.Host.GetStateDirectory())

	d.mu.Lock()
	defer d.mu.Unlock()
	same := d.conn != nil && d.cfg.Socket == cfg.Socket && d.cfg.URI == cfg.URI
	d.host, d.cfg, d.verdict = c.Host, cfg, verdict
	if !same {
		if d.stop != nil {
			d.stop()
		}
		run, cancel := context.WithCancel(context.Background())
		d.stop = cancel
		d.conn = connection.New(cfg.Socket, cfg.URI, func(l *libvirt.Libvirt) { d.connected(run, l) }, d.lost)
		conn := d.conn
		d.running.Add(1)
		go func() { defer d.running.Done(); conn.Run(run) }()
	}
	return &driverv1.GetCapabilitiesResponse{Compute: &driverv1.ComputeCapabilities{
		Features: []driverv1.ComputeFeature{
			driverv1.ComputeFeature_COMPUTE_FEATURE_PAUSE, driverv1.ComputeFeature_COMPUTE_FEATURE_REBOOT, driverv1.ComputeFeature_COMPUTE_FEATURE_CONSOLE,
			driverv1.ComputeFeature_COMPUTE_FEATURE_CONSOLE_LOG, driverv1.ComputeFeature_COMPUTE_FEATURE_GUEST_AGENT,
			driverv1.ComputeFeature_COMPUTE_FEATURE_DIRECT_KERNEL_BOOT, driverv1.ComputeFeature_COMPUTE_FEATURE_CLOUD_INIT,
			driverv1.ComputeFeature_COMPUTE_FEATURE_VNC, driverv1.ComputeFeature_COMPUTE_FEATURE_UEFI,
		},
		DiskSources:       []driverv1.DiskSourceKind{driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE, driverv1.DiskSourceKind_DISK_SOURCE_KIND_BLOCK_DEVICE},
		InterfaceBindings: []driverv1.InterfaceBindingKind{driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_USER_MODE, driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_BRIDGE_PORT},
	}}, nil
}

// Close ends the connection; guests run on.
func (d *Driver) Close() {
	d.mu.Lock()
	if d.stop != nil {
		d.stop()
	}
	d.mu.Unlock()
	d.running.Wait()
}

// setting is what calls need of the configuration.
type setting struct {
	host    *driverv1.HostFacts
	cfg     config
	verdict accelerator.Verdict
	conn    *connection.Connection
}

func (d *Driver) setting() setting {
	d.mu.Lock()
	defer d.mu.Unlock()
	return setting{d.host, d.cfg, d.verdict, d.conn}
}

func (s setting) files(id string) domainxml.Files {
	return domainxml.FilesOf(s.host.GetStateDirectory(), s.host.GetRuntimeDirectory(), id)
}

func (s setting) ours(m *driverv1.OwnershipMark) bool {
	return m != nil && m.GetClusterId() == s.host.GetClusterId() && m.GetNodeId() == s.host.GetNodeId()
}

// checkID refuses what is not a UUID in lower case.
func checkID(id string) error {
	ok := len(id) == 36
	for i := 0; ok && i < len(id); i++ {
		if c := id[i]; i == 8 || i == 13 || i == 18 || i == 23 {
			ok = c == '-'
		} else {
			ok = c >= '0' && c <= '9' || c >= 'a' && c <= 'f'
		}
	}
	if !ok {
		return fault.Invalid(fault.Violation{Field: "domain_id", Description: "must be a UUID in lower case"})
	}
	return nil
}

func uuidOf(id string) (u libvirt.UUID) {
	hex := strings.ReplaceAll(id, "-", "")
	for i := range u {
		u[i] = nibble(hex[2*i])<<4 | nibble(hex[2*i+1])
	}
	return u
}

func nibble(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

func idOf(u libvirt.UUID) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i, v := range u {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b.WriteByte('-')
		}
		b.WriteByte(digits[v>>4])
		b.WriteByte(digits[v&15])
	}
	return b.String()
}

// lost is told by the connection that libvirtd is away.
func (d *Driver) lost(err error) {
	d.Health.Set(sdk.Report{
		State: driverv1.HealthState_HEALTH_STATE_UNHEALTHY, Reason: "BACKEND_UNAVAILABLE",
		Message: "libvirtd cannot be reached: " + err.Error() + "; guests run on, start libvirtd",
	})
}
