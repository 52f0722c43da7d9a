package daemon

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/agent/internal/config"
	"github.com/limiquantix/limiquantix/agent/internal/plugins"
	"github.com/limiquantix/limiquantix/agent/internal/reconcile"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// killer runs the real plugins and kills one before a call reaches it, or after it was done and before its answer comes: once each.
type killer struct {
	Plugins
	t *testing.T

	mu    sync.Mutex
	armed map[string]bool // by moment: "before METHOD", "after METHOD"
	kills int
}

// moment kills the plugin when it is armed for the moment, and waits until that is seen.
func (k *killer) moment(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	pid := 0
	if st := k.Status(); len(st) == 1 {
		pid = int(st[0].GetPid())
	}
	if !k.armed[name] || pid <= 1 { // not running: the call fails by itself, and its moment comes later; a kill of 0 would be of this test
		return false
	}
	delete(k.armed, name)
	k.kills++
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		k.t.Errorf("%s: killing %d: %v", name, pid, err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; { // no event says so to whoever waits here
		if p, _ := k.Plugin("reference"); !p.Running || int(k.Status()[0].GetPid()) != pid {
			return true
		}
		if time.Now().After(deadline) {
			k.t.Errorf("%s: nobody noticed that the plugin was killed", name)
			return true
		}
		<-time.After(2 * time.Millisecond)
	}
}

func (k *killer) left() (out []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for m := range k.armed {
		out = append(out, m)
	}
	return out
}

// around makes a call with both moments.
func around[R any](k *killer, method string, call func() (R, error)) (R, error) {
	k.moment("before " + method)
	r, err := call()
	if err == nil && k.moment("after "+method) {
		var none R
		return none, fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "it was killed")
	}
	return r, err
}

func (k *killer) Network(name string) driverv1.NetworkDriverServiceClient {
	return killNetwork{k.Plugins.Network(name), k}
}

func (k *killer) Compute(name string) driverv1.ComputeDriverServiceClient {
	return killCompute{k.Plugins.Compute(name), k}
}

type killNetwork struct {
	driverv1.NetworkDriverServiceClient
	k *killer
}

func (c killNetwork) EnsureNetwork(ctx context.Context, r *driverv1.EnsureNetworkRequest, o ...grpc.CallOption) (*driverv1.EnsureNetworkResponse, error) {
	return around(c.k, "EnsureNetwork", func() (*driverv1.EnsureNetworkResponse, error) {
		return c.NetworkDriverServiceClient.EnsureNetwork(ctx, r, o...)
	})
}

func (c killNetwork) DeleteNetwork(ctx context.Context, r *driverv1.DeleteNetworkRequest, o ...grpc.CallOption) (*driverv1.DeleteNetworkResponse, error) {
	return around(c.k, "DeleteNetwork", func() (*driverv1.DeleteNetworkResponse, error) {
		return c.NetworkDriverServiceClient.DeleteNetwork(ctx, r, o...)
	})
}

func (c killNetwork) AttachInterface(ctx context.Context, r *driverv1.NetworkDriverServiceAttachInterfaceRequest, o ...grpc.CallOption) (*driverv1.NetworkDriverServiceAttachInterfaceResponse, error) {
	return around(c.k, "AttachInterface", func() (*driverv1.NetworkDriverServiceAttachInterfaceResponse, error) {
		return c.NetworkDriverServiceClient.AttachInterface(ctx, r, o...)
	})
}

func (c killNetwork) DetachInterface(ctx context.Context, r *driverv1.NetworkDriverServiceDetachInterfaceRequest, o ...grpc.CallOption) (*driverv1.NetworkDriverServiceDetachInterfaceResponse, error) {
	return around(c.k, "DetachInterface", func() (*driverv1.NetworkDriverServiceDetachInterfaceResponse, error) {
		return c.NetworkDriverServiceClient.DetachInterface(ctx, r, o...)
	})
}

func (c killNetwork) ApplyRuleSet(ctx context.Context, r *driverv1.ApplyRuleSetRequest, o ...grpc.CallOption) (*driverv1.ApplyRuleSetResponse, error) {
	return around(c.k, "ApplyRuleSet", func() (*driverv1.ApplyRuleSetResponse, error) {
		return c.NetworkDriverServiceClient.ApplyRuleSet(ctx, r, o...)
	})
}

func (c killNetwork) UpdateAddressSet(ctx context.Context, r *driverv1.UpdateAddressSetRequest, o ...grpc.CallOption) (*driverv1.UpdateAddressSetResponse, error) {
	return around(c.k, "UpdateAddressSet", func() (*driverv1.UpdateAddressSetResponse, error) {
		return c.NetworkDriverServiceClient.UpdateAddressSet(ctx, r, o...)
	})
}

func (c killNetwork) CollectGarbage(ctx context.Context, r *driverv1.CollectGarbageRequest, o ...grpc.CallOption) (*driverv1.CollectGarbageResponse, error) {
	return around(c.k, "CollectGarbage", func() (*driverv1.CollectGarbageResponse, error) {
		return c.NetworkDriverServiceClient.CollectGarbage(ctx, r, o...)
	})
}

type killCompute struct {
	driverv1.ComputeDriverServiceClient
	k *killer
}

func (c killCompute) CreateDomain(ctx context.Context, r *driverv1.CreateDomainRequest, o ...grpc.CallOption) (*driverv1.CreateDomainResponse, error) {
	return around(c.k, "CreateDomain", func() (*driverv1.CreateDomainResponse, error) {
		return c.ComputeDriverServiceClient.CreateDomain(ctx, r, o...)
	})
}

func (c killCompute) StartDomain(ctx context.Context, r *driverv1.StartDomainRequest, o ...grpc.CallOption) (*driverv1.StartDomainResponse, error) {
	return around(c.k, "StartDomain", func() (*driverv1.StartDomainResponse, error) {
		return c.ComputeDriverServiceClient.StartDomain(ctx, r, o...)
	})
}

func (c killCompute) AttachInterface(ctx context.Context, r *driverv1.AttachInterfaceRequest, o ...grpc.CallOption) (*driverv1.AttachInterfaceResponse, error) {
	return around(c.k, "compute AttachInterface", func() (*driverv1.AttachInterfaceResponse, error) {
		return c.ComputeDriverServiceClient.AttachInterface(ctx, r, o...)
	})
}

func (c killCompute) DetachInterface(ctx context.Context, r *driverv1.DetachInterfaceRequest, o ...grpc.CallOption) (*driverv1.DetachInterfaceResponse, error) {
	return around(c.k, "compute DetachInterface", func() (*driverv1.DetachInterfaceResponse, error) {
		return c.ComputeDriverServiceClient.DetachInterface(ctx, r, o...)
	})
}

func (c killCompute) DeleteDomain(ctx context.Context, r *driverv1.DeleteDomainRequest, o ...grpc.CallOption) (*driverv1.DeleteDomainResponse, error) {
	return around(c.k, "DeleteDomain", func() (*driverv1.DeleteDomainResponse, error) {
		return c.ComputeDriverServiceClient.DeleteDomain(ctx, r, o...)
	})
}

// referencePlugin builds the reference driver into a plugin directory.
func referencePlugin(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "reference")
	must(t, os.Mkdir(dir, 0o755))
	cmd := exec.Command("go", "build", "-o", dir, "./cmd/limiquantix-plugin-reference")
	cmd.Dir = filepath.Join("..", "..", "..", "sdk", "conformance")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, host.WriteManifest(dir, &host.Manifest{
		Name: "reference", Version: "0.0.0-dev", Kinds: []string{"compute", "storage", "network"}, Executable: "limiquantix-plugin-reference",
	}))
	return filepath.Dir(dir)
}

// newReferenceLab is a lab whose node runs the reference plugin in a process of its own, which is killed at the moments that are armed.
func newReferenceLab(t *testing.T, moments ...string) (*lab, *killer) {
	t.Helper()
	k := &killer{t: t, armed: map[string]bool{}}
	for _, m := range moments {
		k.armed["before "+m], k.armed["after "+m] = true, true
	}
	l := &lab{t: t, ctrl: startController(t, newCA(t)), host: newHost(t), dir: t.TempDir()}
	run, err := os.MkdirTemp("", "lq") // short, for sockets
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	dir := referencePlugin(t)
	l.with = func(c *config.Config, o *Options) {
		c.PluginDir, c.RunDir, c.StateDir = dir, run, filepath.Join(l.dir, "state")
		c.Plugins = []config.Plugin{{Name: "reference", Config: map[string]any{"journal": filepath.Join(l.dir, "journal"), "online_interfaces": true}}}
		o.NewPlugins = func(pc plugins.Config, s plugins.Sink) Plugins {
			pc.Policy = host.Policy{BackoffMin: 20 * time.Millisecond, BackoffMax: 100 * time.Millisecond, Crashes: 1000}
			k.Plugins = plugins.New(pc, s)
			return k
		}
	}
	l.enrol()
	l.start()
	return l, k
}

var _ reconcile.Plugins = (*killer)(nil)

func onReference(o *agentv1.DesiredObject) *agentv1.DesiredObject {
	if p := o.GetPool(); p != nil {
		p.Pool.Spec.Driver = "reference"
	}
	return o
}

// The whole life of a VM with two ports at a plugin that is killed before and after every call that changes something: it ends as if nothing had been.
func TestLifeWithKilledPlugin(t *testing.T) {
	l, k := newReferenceLab(t, "EnsureNetwork", "DeleteNetwork", "AttachInterface", "DetachInterface", "ApplyRuleSet", "UpdateAddressSet", "CollectGarbage",
		"CreateDomain", "StartDomain", "compute AttachInterface", "compute DetachInterface", "DeleteDomain")
	l.ctrl.set(onReference(pool()))
	l.ctrl.set(volume(volID))
	for _, o := range []*agentv1.DesiredObject{network(netID), members("10.0.0.1"), rules(1, "r"), port(portA), vm(1, nics(portA))} {
		l.ctrl.set(o)
	}
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	inPlace := func(id string) {
		t.Helper()
		l.ctrl.wait("port "+id+" in place", func() bool {
			s := l.ctrl.ports[id].GetStatus() // the reference driver has no devices: its interfaces never come up
			return s.GetPhase() == networkv1.PortPhase_PORT_PHASE_BINDING && s.GetObservedGeneration() == 1 && len(s.GetSecurityGroups()) == 1 && s.GetReason() == ""
		})
	}
	inPlace(portA)
	l.ctrl.set(members("10.0.0.1", "10.0.0.2"))
	l.ctrl.set(rules(2, "s"))
	l.ctrl.set(port(portB))
	l.ctrl.set(vm(2, nics(portA, portB)))
	l.ctrl.waitPhase(vmID, 2, phaseRunning)
	inPlace(portB)
	l.ctrl.wait("the second rules", func() bool { r := l.ctrl.rules[groupID]; return r.GetInForce() && r.GetGeneration() == 2 })
	l.ctrl.set(members("10.0.0.2", "10.0.0.3"))
	deadline := time.Now().Add(30 * time.Second)
	for i := 0; slices.Contains(k.left(), "after UpdateAddressSet") && time.Now().Before(deadline); i++ { // the first one ended with the whole set, with its rules
		l.ctrl.set(members("10.0.0.2", fmt.Sprintf("10.0.0.%d", 4+i%200)))
		l.host.pause()
	}
	l.ctrl.set(vm(3, nics(portA)))
	l.ctrl.set(port(portB, gonePort))
	l.ctrl.waitPhase(vmID, 3, phaseRunning)
	l.ctrl.wait("port B gone", func() bool { return l.ctrl.ports[portB].GetAbsent() })
	l.ctrl.set(vm(4, nics(portA), func(v *agentv1.DesiredVM) { v.Absent = true }))
	l.ctrl.set(port(portA, gonePort))
	l.ctrl.set(network(netID, goneNetwork))
	l.ctrl.wait("all absent", func() bool {
		return l.ctrl.vms[vmID].GetAbsent() && l.ctrl.ports[portA].GetAbsent() && l.ctrl.networks[netID].GetAbsent()
	})
	l.ctrl.remove(rules(2, "s").GetKey())
	l.ctrl.remove(members().GetKey())
	l.ctrl.wait("no orphans", func() bool { return l.ctrl.orphaned && len(l.ctrl.orphans) == 0 })
	// What is left is what the driver itself says is left.
	c := k.Plugins.Network("reference")
	for deadline := time.Now().Add(20 * time.Second); ; {
		g, err := c.CollectGarbage(t.Context(), &driverv1.CollectGarbageRequest{DryRun: true})
		if err == nil && len(g.GetObjects()) == 0 && len(k.left()) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left at the driver: %v, %v; moments that never came: %v", g.GetObjects(), err, k.left())
		}
		l.host.pause()
	}
	if k.kills != 24 {
		t.Errorf("the plugin was killed %d times", k.kills)
	}
}
