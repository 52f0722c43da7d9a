// Package driver is the compute driver for KVM through libvirt: the contract's calls, one file per group.
package driver

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/accelerator"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/console"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/process"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Driver serves ComputeDriverService. Domains belong to libvirt: it keeps nothing that it could not find again.
type Driver struct {
	driverv1.UnimplementedComputeDriverServiceServer
	*sdk.BasePlugin

	keys     sdk.KeyLock
	consoles console.Mux
	owned    owned
	frozen   frozen

	mu      sync.Mutex
	current setting
	stop    context.CancelFunc // ends the current connection
	running sync.WaitGroup
}

// setting is what calls need of the configuration.
type setting struct {
	host    *driverv1.HostFacts
	cfg     config
	verdict accelerator.Verdict
	uefi    bool
	conn    *connection.Connection
	finder  *process.Finder
}

// New makes a driver; set BasePlugin before it is served.
func New() *Driver { return &Driver{} }

// Close thaws what is frozen and ends the connection; guests run on.
func (d *Driver) Close() {
	d.thawAll()
	d.mu.Lock()
	if d.stop != nil {
		d.stop()
	}
	d.mu.Unlock()
	d.consoles.Close()
	d.running.Wait()
}

func (d *Driver) setting() setting {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current
}

func (s setting) files(id string) domainxml.Files {
	return domainxml.FilesOf(s.host.GetStateDirectory(), s.host.GetRuntimeDirectory(), id)
}

// oursMark reports whether a mark carries our cluster and node; the others are left alone.
func (s setting) oursMark(m *mark.Mark) bool {
	return m != nil && m.Cluster == s.host.GetClusterId() && m.Node == s.host.GetNodeId()
}

// connect makes a connection for a new configuration. Needs mu.
func (d *Driver) connect(cfg config) *connection.Connection {
	if d.stop != nil {
		d.stop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	conn := connection.New(cfg.Socket, cfg.URI, connection.Hooks{Up: d.subscribe, Ready: d.ready, Down: d.lost})
	d.running.Go(func() { conn.Run(ctx) })
	return conn
}

// ready reports health, says that events may have been missed, and thaws guests that an earlier process of this plugin left frozen.
func (d *Driver) ready() {
	d.Events.Resync()
	d.healthy()
	d.running.Go(d.thawLeft)
}

// healthy reports health with the facts that the scheduler may use.
func (d *Driver) healthy() {
	s := d.setting()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	attrs, err := connection.Do(ctx, s.conn, "read versions", func(l *libvirt.Libvirt) (map[string]string, error) {
		lib, err := l.ConnectGetLibVersion()
		if err != nil {
			return nil, err
		}
		hv, err := l.ConnectGetVersion()
		return map[string]string{"libvirt.version": version(lib), "qemu.version": version(hv)}, err
	})
	if err != nil {
		return // the connection ends too, and says so
	}
	attrs["accel"], attrs["accel.reason"] = s.verdict.Accelerator, s.verdict.Reason
	d.Health.Healthy(attrs)
}

// lost is told by the connection that libvirtd is away.
func (d *Driver) lost(err error) {
	d.Health.Set(sdk.Report{
		State: driverv1.HealthState_HEALTH_STATE_UNHEALTHY, Reason: "BACKEND_UNAVAILABLE",
		Message: "libvirtd cannot be reached: " + err.Error() + "; guests run on, start libvirtd",
	})
}

// domainDirs are the folders that the driver made for domains.
func (s setting) domainDirs() []os.DirEntry {
	list, err := os.ReadDir(filepath.Join(s.host.GetStateDirectory(), "domains"))
	if err != nil {
		return nil
	}
	return list
}
