// Command bridge is a storage plugin on the host for one in the lab guest: it passes each call on, and where the guest's plugin answers with a block device
// of the guest, it answers with a loop device of the host over the mirrored one, which a hypervisor on the host can open. The file bridge.json beside it says
// where the guest's plugin and the mirror are.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk"
	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab/guest/wire"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "lab bridge:", err)
		os.Exit(1)
	}
}

func run() error {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(os.Args[0]), wire.BridgeFile))
	if err != nil {
		return err
	}
	d := &bridge{}
	if err := json.Unmarshal(b, &d.Bridge); err != nil {
		return err
	}
	base := sdk.NewBasePlugin(sdk.Info{Name: d.Name, Version: d.Version, Schema: `{"type":"object"}`}, d.configure)
	sdk.Serve(sdk.Plugin{Base: base, Storage: d, OnExit: d.stop})
	return nil
}

// bridge is the plugin: that of the guest, and loop devices.
type bridge struct {
	wire.Bridge
	remote

	mu      sync.Mutex
	process *host.Process
	loops   map[string]*loop // by path in the guest
	of      map[string]string
}

// configure starts the guest's plugin when it is first called. When that ends, so does this one, and whoever started it starts it again.
func (d *bridge) configure(ctx context.Context, c *sdk.Config) (*driverv1.GetCapabilitiesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process != nil {
		if err := d.process.Configure(ctx, c.Host, string(c.JSON), c.Secrets); err != nil {
			return nil, err
		}
		return d.process.Capabilities(), nil
	}
	p, err := host.Launch(ctx, host.Spec{Dir: d.Plugin, RuntimeDir: filepath.Join(d.Plugin, "run"), Host: c.Host, ConfigJSON: string(c.JSON), Secrets: c.Secrets, StartTimeout: 2 * time.Minute})
	if err != nil {
		return nil, err
	}
	d.process, d.loops, d.of = p, map[string]*loop{}, map[string]string{}
	d.remote = remote{c: driverv1.NewStorageDriverServiceClient(p.Conn())}
	go func() { // ends with this process at the latest
		<-p.Done()
		fmt.Fprintln(os.Stderr, "lab bridge: the guest's plugin ended:", p.Err())
		os.Exit(1)
	}()
	return p.Capabilities(), nil
}

func (d *bridge) stop() {
	d.mu.Lock()
	p := d.process
	d.mu.Unlock()
	if p != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = p.Stop(ctx, 10*time.Second)
	}
}

// here is the loop device for a device of the guest; it is made when there is none.
func (d *bridge) here(volume, device string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.of[volume] = device
	if l := d.loops[device]; l != nil {
		return l.path, nil
	}
	l, err := openLoop(filepath.Join(d.Mirror, strings.TrimPrefix(device, "/dev/")))
	if err != nil {
		return "", err
	}
	d.loops[device] = l
	return l.path, nil
}

// AttachVolume answers with a device of the host.
func (d *bridge) AttachVolume(ctx context.Context, r *driverv1.AttachVolumeRequest) (*driverv1.AttachVolumeResponse, error) {
	a, err := d.remote.AttachVolume(ctx, r)
	if dev := a.GetSource().GetBlockDevice(); err == nil && dev != nil {
		dev.Path, err = d.here(r.GetVolumeId(), dev.GetPath())
	}
	return a, err
}

// DetachVolume lets the guest's device go first: it is in use as long as it is open here.
func (d *bridge) DetachVolume(ctx context.Context, r *driverv1.DetachVolumeRequest) (*driverv1.DetachVolumeResponse, error) {
	d.mu.Lock()
	device := d.of[r.GetVolumeId()]
	l := d.loops[device]
	delete(d.loops, device)
	delete(d.of, r.GetVolumeId())
	d.mu.Unlock()
	if l != nil {
		if err := l.close(); err != nil {
			return nil, err
		}
	}
	return d.remote.DetachVolume(ctx, r)
}

// ResizeVolume tells the loop device that there is more behind it.
func (d *bridge) ResizeVolume(ctx context.Context, r *driverv1.ResizeVolumeRequest) (*driverv1.ResizeVolumeResponse, error) {
	a, err := d.remote.ResizeVolume(ctx, r)
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.loops[d.of[r.GetVolumeId()]]; err == nil && l != nil {
		err = l.grow()
	}
	return a, err
}
