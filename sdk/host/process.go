package host

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	termGrace = 2 * time.Second // between SIGTERM and SIGKILL
	killGrace = 5 * time.Second // after SIGKILL; a process in uninterruptible sleep takes longer and is given up
)

// Process is one running plugin, configured. All methods may be called at once.
type Process struct {
	spec     Spec
	manifest *Manifest
	dir      string
	log      *slog.Logger
	tail     *tail
	run      *runner
	client   *plugin.Client
	conn     *grpc.ClientConn
	info     *driverv1.GetPluginInfoResponse

	mu       sync.Mutex
	caps     *driverv1.GetCapabilitiesResponse
	cc       *grpc.ClientConn
	stopping bool

	cleanup sync.Once
}

func newProcess(spec Spec, m *Manifest, dir string) *Process {
	return &Process{spec: spec, manifest: m, dir: dir, log: spec.Logger.With("plugin", m.Name), tail: &tail{}}
}

// Manifest is the manifest that the process was launched by.
func (p *Process) Manifest() Manifest { return *p.manifest }

// Info is what the plugin said of itself.
func (p *Process) Info() *driverv1.GetPluginInfoResponse { return proto.CloneOf(p.info) }

// Capabilities is what the plugin said that it can do when it was last configured.
func (p *Process) Capabilities() *driverv1.GetCapabilitiesResponse {
	p.mu.Lock()
	defer p.mu.Unlock()
	return proto.CloneOf(p.caps)
}

func (p *Process) setCapabilities(c *driverv1.GetCapabilitiesResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.caps = c
}

// PID is the process's id.
func (p *Process) PID() int { return p.run.pid() }

// Conn is the connection to the plugin. Errors on it are *fault.Error; a unary call without deadline gets DefaultCallTimeout.
func (p *Process) Conn() *grpc.ClientConn { return p.conn }

// Done is closed when the process has ended, for whatever reason.
func (p *Process) Done() <-chan struct{} { return p.run.exited }

// Stderr is the last lines that the plugin printed, a Go panic's first lines before them.
func (p *Process) Stderr() []string { return p.tail.get() }

// Err says how the process ended: nil while it runs and after Stop, else PLUGIN_UNAVAILABLE with its last lines.
func (p *Process) Err() error {
	select {
	case <-p.run.exited:
	default:
		return nil
	}
	p.mu.Lock()
	stopping := p.stopping
	p.mu.Unlock()
	if stopping {
		return nil
	}
	<-p.run.drained
	f := fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "plugin %s ended unexpectedly (%s)", p.manifest.Name, p.run.exit())
	f.Message += p.lastLines()
	return f.WithMetadata("plugin", p.manifest.Name)
}

// Check asks the plugin's health service whether it answers at all. ctx should carry a short deadline: a stopped process does not answer.
func (p *Process) Check(ctx context.Context) error {
	r, err := grpc_health_v1.NewHealthClient(p.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: plugin.GRPCServiceName})
	if err != nil {
		return err
	}
	if r.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return p.unavailable("plugin %s answers, but says %s", p.manifest.Name, r.GetStatus())
	}
	return nil
}

// Configure configures the plugin anew and asks again what it can do. On an error the plugin keeps its last configuration.
func (p *Process) Configure(ctx context.Context, hostFacts *driverv1.HostFacts, configJSON string, secrets map[string][]byte) error {
	c := driverv1.NewPluginServiceClient(p.conn)
	if _, err := c.Configure(ctx, &driverv1.ConfigureRequest{Host: hostFacts, ConfigJson: configJSON, Secrets: secrets}); err != nil {
		return err
	}
	caps, err := c.GetCapabilities(ctx, &driverv1.GetCapabilitiesRequest{})
	if err != nil {
		return err
	}
	p.setCapabilities(caps)
	return nil
}

// Stop ends the plugin: Shutdown, and after grace SIGTERM, then SIGKILL. It returns when the process is gone and nothing of it is left, and is bounded by
// grace and a few seconds even if the process is stopped or hangs. When ctx ends it goes straight to SIGKILL. Stopping what has ended does nothing.
func (p *Process) Stop(ctx context.Context, grace time.Duration) error {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	p.askToStop(ctx, grace)
	return p.kill()
}

func (p *Process) askToStop(ctx context.Context, grace time.Duration) {
	if grace <= 0 || p.ended(ctx, 0) {
		return
	}
	callCtx, cancel := context.WithTimeout(ctx, grace)
	_, _ = driverv1.NewPluginServiceClient(p.conn).Shutdown(callCtx, &driverv1.ShutdownRequest{Grace: durationpb.New(grace)}) // what counts is the exit
	p.ended(callCtx, grace)
	cancel()
	if ctx.Err() == nil && !p.ended(ctx, 0) {
		p.run.signal(syscall.SIGTERM)
		p.ended(ctx, termGrace)
	}
}

// ended waits until the process has ended, ctx ends or d is over, and reports whether it has.
func (p *Process) ended(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.run.exited:
	case <-ctx.Done():
	case <-t.C:
	}
	select {
	case <-p.run.exited:
		return true
	default:
		return false
	}
}

// kill ends the process at once and cleans up after it.
func (p *Process) kill() error {
	p.run.signal(syscall.SIGKILL)
	if !p.ended(context.Background(), killGrace) {
		go p.release() // when the kernel lets go of it
		return p.unavailable("plugin %s (process %d) does not end on SIGKILL: the kernel holds it", p.manifest.Name, p.PID())
	}
	p.release()
	return nil
}

// release frees what a launch took. go-plugin's own Kill has no deadline, so it comes after the process has ended.
func (p *Process) release() {
	p.cleanup.Do(func() {
		<-p.run.drained
		p.mu.Lock()
		cc := p.cc
		p.mu.Unlock()
		if cc != nil {
			_ = cc.Close() // first, so that go-plugin's goodbye fails at once
		}
		if p.conn != nil { // else go-plugin's Kill would dial what is gone
			p.client.Kill()
		}
		removeDir(p.dir)
	})
}

// dialled keeps the connection that go-plugin made: it does not close it itself when its first call on it fails.
func (p *Process) dialled(cc *grpc.ClientConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cc = cc
}

func (p *Process) unavailable(format string, args ...any) *fault.Error {
	return fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, format, args...).WithMetadata("plugin", p.manifest.Name)
}

// lastLines is the end of what the plugin printed, for an error message.
func (p *Process) lastLines() string {
	lines := p.tail.get()
	if len(lines) == 0 {
		return ""
	}
	const most = 20
	if len(lines) > most {
		lines = append(lines[:most/2:most/2], lines[len(lines)-most/2:]...)
	}
	return fmt.Sprintf("; it last said:\n%s", strings.Join(lines, "\n"))
}

// printed makes the sink of a stream that go-plugin relays from within the plugin.
func (p *Process) printed(stream string) func(string) {
	return func(line string) {
		p.tail.add(stream + ": " + line)
		p.run.log.line(stream, line)
	}
}
