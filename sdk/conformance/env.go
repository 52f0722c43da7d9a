package conformance

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// Env is the plugin under check: one process at a time, launched as an agent does, killed and launched again as checks ask.
type Env struct {
	o        Options
	facts    *driverv1.HostFacts
	poolID   string   // of the storage suite
	onLaunch func(T)  // called when the plugin has been launched again; may be nil
	objects  []string // what the backend held in the beginning
	canary   string   // a secret that no plugin needs
	watch    *watch

	mu sync.Mutex
	p  *host.Process
}

// newEnv launches the plugin. What it made is gone when t ends.
func newEnv(t T, o Options) *Env {
	t.Helper()
	e := &Env{o: o.withDefaults(), poolID: newID(), canary: "canary-" + newID()}
	spec := &e.o.Plugin
	e.watch = newWatch(slices.Concat([][]byte{[]byte(e.canary)}, slices.Collect(maps.Values(o.Plugin.Secrets)), slices.Collect(maps.Values(o.Storage.Secrets)))...)
	log := spec.Logger
	if log == nil {
		log = slog.Default()
	}
	spec.Logger = slog.New(handler{log.Handler(), e.watch})
	if spec.RuntimeDir == "" {
		spec.RuntimeDir = tempDir(t)
	}
	if spec.Host == nil {
		dir := tempDir(t)
		spec.Host = &driverv1.HostFacts{
			ClusterId: newID(), NodeId: newID(), NodeName: "conformance", BootId: newID(),
			StateDirectory: filepath.Join(dir, "state"), RuntimeDirectory: filepath.Join(dir, "run"),
		}
		for _, d := range []string{spec.Host.GetStateDirectory(), spec.Host.GetRuntimeDirectory()} {
			if err := os.Mkdir(d, 0o755); err != nil { //nolint:gosec // guests' processes read below it
				t.Fatalf("%v", err)
			}
		}
	}
	e.facts = spec.Host
	e.countObjects(t)
	e.launch(t)
	t.Cleanup(func() { e.stop(t) })
	return e
}

// one runs one check, unless it needs what the plugin does not advertise.
func (e *Env) one(t T, c *Check) {
	t.Helper()
	if why := e.unfit(c); why != "" {
		t.Skipf("%s", why)
	}
	c.run(t, e)
}

// unfit says why a check does not apply; empty = it does.
func (e *Env) unfit(c *Check) string {
	switch {
	case !e.advertised(c):
		return "not advertised"
	case c.Packets && e.o.Network.Packets == nil:
		return "packets were not checked: Options.Network.Packets is not set"
	case c.Disturbed && len(e.o.Network.Packets.Disturbances) == 0:
		return "nobody spoilt anything: PacketOptions.Disturbances is empty"
	}
	return ""
}

// advertised reports whether the plugin says that it can do what a check needs.
func (e *Env) advertised(c *Check) bool {
	return (c.Compute == 0 || slices.Contains(e.caps().GetCompute().GetFeatures(), c.Compute)) &&
		(c.Storage == 0 || slices.Contains(e.caps().GetStorage().GetFeatures(), c.Storage)) &&
		(c.Network == 0 || slices.Contains(e.caps().GetNetwork().GetFeatures(), c.Network))
}

// serves reports whether the plugin is of a kind; every plugin is of the unset one.
func (e *Env) serves(k driverv1.DriverKind) bool {
	return k == 0 || slices.Contains(e.process().Info().GetKinds(), k)
}

func (e *Env) caps() *driverv1.GetCapabilitiesResponse { return e.process().Capabilities() }

func (e *Env) process() *host.Process {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.p
}

// The clients lead to the process that runs at the time of the call to plugin, compute, storage or network.
func (e *Env) plugin() driverv1.PluginServiceClient {
	return driverv1.NewPluginServiceClient(e.process().Conn())
}

func (e *Env) compute() driverv1.ComputeDriverServiceClient {
	return driverv1.NewComputeDriverServiceClient(e.process().Conn())
}

func (e *Env) storage() driverv1.StorageDriverServiceClient {
	return driverv1.NewStorageDriverServiceClient(conn{e.process().Conn(), e.watch})
}

func (e *Env) network() driverv1.NetworkDriverServiceClient {
	return driverv1.NewNetworkDriverServiceClient(e.process().Conn())
}

func (e *Env) launch(t T) {
	t.Helper()
	p, err := host.Launch(t.Context(), e.o.Plugin)
	if err != nil {
		t.Fatalf("the plugin does not start: %v", err)
	}
	e.mu.Lock()
	e.p = p
	e.mu.Unlock()
}

func (e *Env) stop(t T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if p := e.process(); p != nil {
		if err := p.Stop(ctx, 5*time.Second); err != nil {
			t.Errorf("the plugin does not stop: %v", err)
		}
	}
}

// kill ends the process with kill -9 and launches it again.
func (e *Env) kill(t T) {
	t.Helper()
	p := e.process()
	_ = syscall.Kill(p.PID(), syscall.SIGKILL) // it is not waited for before Stop, so the id is still its own
	<-p.Done()
	e.stop(t)
	e.launch(t)
	if e.onLaunch != nil {
		e.onLaunch(t)
	}
}

// as launches the plugin once more, for another node, and returns an Env of it. It is stopped when the check ends.
func (e *Env) as(t T, nodeID string) *Env {
	t.Helper()
	other := &Env{o: e.o, poolID: e.poolID, facts: proto.CloneOf(e.facts), watch: e.watch, canary: e.canary}
	other.facts.NodeId = nodeID
	other.o.Plugin.Host = other.facts
	other.launch(t)
	t.Cleanup(func() { other.stop(t) })
	return other
}

// mark is the mark that this node writes on an object.
func (e *Env) mark(id string) *driverv1.OwnershipMark {
	m := &driverv1.OwnershipMark{ClusterId: e.facts.GetClusterId(), NodeId: e.facts.GetNodeId(), ObjectId: id, Generation: 1, Epoch: 1}
	if e.serves(storage) && e.caps().GetStorage().GetSharedPools() {
		m.NodeId = "" // the cluster's
	}
	return m
}

// tempDir makes a directory with a short path, gone when t ends.
func tempDir(t T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lqc")
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // guests' processes read below it
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// newID makes a random UUID.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
