package daemon

import (
	"context"
	"math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/link"
	"github.com/limiquantix/limiquantix/agent/internal/metrics"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// sink leads what the controller and the plugins say to whom it concerns.
type sink struct{ d *Daemon }

func (s sink) Upsert(o *agentv1.DesiredObject)  { s.d.engine.Upsert(o) }
func (s sink) Remove(k *agentv1.DesiredKey)     { s.d.engine.Remove(k) }
func (s sink) Synced()                          { s.d.engine.Synced() }
func (s sink) OpenTunnel(t *agentv1.OpenTunnel) { s.d.tunnels.Open(t) }
func (s sink) Connected()                       { s.d.reporter.Again() }
func (s sink) PluginsChanged()                  { s.d.driversChanged() }
func (s sink) PluginUp(name string)             { s.d.engine.PluginUp(name); s.d.askFacts() }
func (s sink) Event(plugin string, e *driverv1.WatchEventsResponse) {
	switch ev := e.GetEvent().(type) {
	case *driverv1.WatchEventsResponse_Domain:
		s.d.engine.DomainChanged(ev.Domain.GetDomainId())
		if ev.Domain.GetType() == driverv1.DomainEventType_DOMAIN_EVENT_TYPE_GUEST_AGENT {
			s.d.engine.Resync(plugin) // the guest may tell about itself now
		}
	case *driverv1.WatchEventsResponse_Pool:
		s.d.engine.PoolChanged(ev.Pool.GetPoolId())
	case *driverv1.WatchEventsResponse_NetworkDrift:
		s.d.engine.NetworkDrift(plugin, ev.NetworkDrift)
	default:
		s.d.engine.Resync(plugin)
		s.d.askFacts()
	}
}

// driversChanged tells the controller how the plugins are.
func (d *Daemon) driversChanged() {
	list := d.plugins.Status()
	d.reporter.Drivers(list)
	d.presence.SetFacts(func(s *computev1.NodeStatus) { s.Drivers = forRegistration(list) })
}

// forRegistration leaves out what changes all the time, so that the node does not register again for it.
func forRegistration(list []*computev1.DriverStatus) []*computev1.DriverStatus {
	out := make([]*computev1.DriverStatus, 0, len(list))
	for _, d := range list {
		out = append(out, &computev1.DriverStatus{
			Name: d.GetName(), Kinds: d.GetKinds(), Version: d.GetVersion(), State: d.GetState(), Reason: d.GetReason(), Pid: d.GetPid(),
			Message: d.GetMessage(), RestartCount: d.GetRestartCount(), Attributes: d.GetAttributes(),
			NetworkTypes: d.GetNetworkTypes(), NetworkUplinks: d.GetNetworkUplinks(),
		})
	}
	return out
}

func (d *Daemon) askFacts() {
	select {
	case d.facts <- struct{}{}:
	default:
	}
}

// factsLoop asks what the node is whenever a plugin came up, until it is told.
func (d *Daemon) factsLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.facts:
		}
		for failures := 1; ctx.Err() == nil && len(d.plugins.Names("compute")) > 0; failures++ {
			r, err := d.plugins.Resources(ctx)
			if err == nil {
				d.presence.SetFacts(func(s *computev1.NodeStatus) { s.Resources = resources(r) })
				break
			}
			if failures == 1 && ctx.Err() == nil {
				d.log.Warn("the node's resources are not known yet", "error", err)
			}
			link.Sleep(ctx, link.Backoff(failures, 10*time.Second, rand.Float64()))
		}
	}
}

func resources(r *driverv1.GetNodeResourcesResponse) *computev1.NodeResources {
	return &computev1.NodeResources{
		Architecture: r.GetArchitecture(), CpuModel: r.GetCpuModel(), CpuSockets: r.GetCpuSockets(), CpuCores: r.GetCpuCores(),
		CpuThreads: r.GetCpuThreads(), Cpus: r.GetCpus(), CpuFeatures: r.GetCpuFeatures(), MemoryBytes: r.GetMemoryBytes(), Hypervisor: r.GetHypervisor(),
		AcceleratorRequested: r.GetAccelerator().GetRequested(), Accelerator: r.GetAccelerator().GetAccelerator(),
		AcceleratorReason: r.GetAccelerator().GetReason(), CpuModels: r.GetCpuModels(), AcceleratorProbeDuration: r.GetAccelerator().GetProbeDuration(),
	}
}

// nodeStatus is what is known of the node before any plugin runs.
func (d *Daemon) nodeStatus() *computev1.NodeStatus {
	return &computev1.NodeStatus{AgentVersion: d.o.Version, BootId: d.bootID, System: system(), TunnelAddress: d.o.Config.TunnelAddress}
}

func system() string {
	var u syscall.Utsname
	if syscall.Uname(&u) != nil {
		return runtime.GOARCH + " " + runtime.GOOS
	}
	return chars(u.Machine[:]) + " " + chars(u.Sysname[:]) + " " + chars(u.Release[:])
}

func chars[T int8 | uint8](in []T) string {
	var b strings.Builder
	for _, c := range in {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}

// source gives metrics what they show.
type source struct{ d *Daemon }

// Collect asks drivers and host.
func (s source) Collect(ctx context.Context) metrics.Sample {
	d := s.d
	out := metrics.Sample{Node: metrics.ReadNode(), Pools: d.engine.Pools(), Networks: d.engine.Networks()}
	for _, p := range d.plugins.Status() {
		out.Plugins = append(out.Plugins, metrics.PluginSample{Name: p.GetName(), Version: p.GetVersion(), State: p.GetState(), Restarts: int(p.GetRestartCount())})
	}
	for _, f := range d.engine.Stats(ctx) {
		out.VMs = append(out.VMs, metrics.VMSample(f))
	}
	for _, f := range d.engine.PortFigures() {
		out.Ports = append(out.Ports, metrics.PortSample(f))
	}
	running, waiting := d.engine.Depth()
	out.Agent = metrics.AgentSample{
		Connected: d.watcher.Connected(), LastHeartbeat: d.presence.LastHeartbeat(), CertificateExpiry: d.o.Identity.Expires(),
		Running: running, Waiting: waiting, Pending: d.reporter.Pending(), VMPhases: d.engine.Phases(),
	}
	return out
}

// Health is whether the agent works, and what does not.
func (s source) Health() (bool, map[string]string) {
	detail := map[string]string{}
	if !s.d.watcher.Connected() {
		detail["controller"] = "no controller tells what is wanted; VMs go on as they are"
	}
	for _, p := range s.d.plugins.Status() {
		if st := p.GetState(); st != "healthy" {
			detail["plugin "+p.GetName()] = strings.TrimSpace(st + " " + p.GetMessage())
		}
	}
	return len(detail) == 0, detail
}
