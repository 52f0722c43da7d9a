package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	gorunner "github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Launch starts a plugin and returns when it is negotiated and configured, or has been ended again. It holds the binary to the manifest's hash and the
// plugin's own words to the manifest. When ctx ends or the start timeout is over, the process is killed.
//
// Errors: PLUGIN_MISSING, PLUGIN_INVALID, PLUGIN_UNAVAILABLE (did not come up; its last lines are in the message), or what Configure answered.
func Launch(ctx context.Context, spec Spec) (*Process, error) {
	spec = spec.withDefaults()
	m, err := ReadManifest(spec.Dir)
	if err != nil {
		return nil, err
	}
	bin, err := openBinary(spec.Dir, m)
	if err != nil {
		return nil, err
	}
	defer bin.close()
	dir, err := newLaunchDir(spec.RuntimeDir)
	if err != nil {
		return nil, fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "making a directory for plugin %s: %w", m.Name, err).WithMetadata("plugin", m.Name)
	}
	p := newProcess(spec, m, dir)
	ctx, cancel := context.WithTimeout(ctx, spec.StartTimeout)
	defer cancel()
	if err := p.start(ctx, bin); err != nil {
		err = p.startError(ctx, err)
		p.kill()
		return nil, err
	}
	return p, nil
}

// start runs the process up to being configured.
func (p *Process) start(ctx context.Context, bin *binary) error {
	p.run = newRunner(bin, p.dir, nil, p.tail, newRelay(p.log, time.Now))
	p.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  sdk.Handshake(),
		Plugins:          sdk.PluginSet(nil),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     p.spec.StartTimeout,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: p.dir},
		SyncStdout:       &lineWriter{each: p.printed("stdout")},
		SyncStderr:       &lineWriter{each: p.printed("stderr")},
		Logger:           hclog.NewNullLogger(), // its errors are returned, and the rest is ours to say
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(sdk.MaxMessageBytes), grpc.MaxCallSendMsgSize(sdk.MaxMessageBytes)),
			grpc.WithInitialWindowSize(sdk.WindowBytes), grpc.WithInitialConnWindowSize(sdk.WindowBytes), grpc.WithReadBufferSize(sdk.BufferBytes), grpc.WithWriteBufferSize(sdk.BufferBytes),
			grpc.WithChainUnaryInterceptor(p.unary), grpc.WithChainStreamInterceptor(p.stream),
		},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (gorunner.Runner, error) {
			p.run.env = pluginEnv(cmd.Env, p.dir, p.spec.Env)
			return p.run, nil
		},
	})
	// go-plugin's steps take no context: when ours ends, the process is killed, which ends them.
	stop := context.AfterFunc(ctx, func() { p.run.signal(syscall.SIGKILL) })
	defer stop()
	rpc, err := p.client.Client()
	if err != nil {
		return err
	}
	if err := p.run.checkHandshake(); err != nil {
		return invalid("%w", err)
	}
	gc, ok := rpc.(*plugin.GRPCClient)
	if !ok {
		return invalid("the plugin does not speak gRPC")
	}
	p.conn = gc.Conn
	if err := writeRecord(p.dir, p.run.pid()); err != nil {
		return fmt.Errorf("noting the process: %w", err)
	}
	return p.negotiate(ctx)
}

// negotiate holds the plugin's words to the manifest, configures it and asks what it can do.
func (p *Process) negotiate(ctx context.Context) error {
	c := driverv1.NewPluginServiceClient(p.conn)
	info, err := c.GetPluginInfo(ctx, &driverv1.GetPluginInfoRequest{})
	if err != nil {
		return fmt.Errorf("asking who it is: %w", err)
	}
	if err := agree(p.manifest, info); err != nil {
		return err
	}
	p.info = info
	if _, err := c.Configure(ctx, p.spec.configureRequest()); err != nil {
		return fmt.Errorf("configuring: %w", err)
	}
	caps, err := c.GetCapabilities(ctx, &driverv1.GetCapabilitiesRequest{})
	if err != nil {
		return fmt.Errorf("asking what it can do: %w", err)
	}
	p.setCapabilities(caps)
	return nil
}

// agree holds what a plugin says of itself to its manifest.
func agree(m *Manifest, info *driverv1.GetPluginInfoResponse) error {
	want, got := m.DriverKinds(), slices.Clone(info.GetKinds())
	slices.Sort(want)
	slices.Sort(got)
	switch {
	case info.GetName() != m.Name:
		return invalid("the manifest says name %q, the plugin %q", m.Name, info.GetName())
	case info.GetVersion() != m.Version:
		return invalid("the manifest says version %q, the plugin %q", m.Version, info.GetVersion())
	case !slices.Equal(want, got):
		return invalid("the manifest says kinds %v, the plugin %v", want, got)
	}
	return nil
}

// startError says why a start failed, in one error of the right kind.
func (p *Process) startError(ctx context.Context, err error) error {
	var f *fault.Error
	exited := false
	select {
	case <-p.run.exited:
		exited = true
	case <-time.After(50 * time.Millisecond): // an exit that caused err may not have been seen yet
	}
	switch {
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled):
		f = fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "starting plugin %s was cancelled", p.manifest.Name)
	case ctx.Err() != nil:
		f = fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "plugin %s did not come up within %s", p.manifest.Name, p.spec.StartTimeout)
	case errors.As(err, &f) && f.Reason != metav1.Reason_REASON_PLUGIN_UNAVAILABLE:
		g := *f
		g.Message = fmt.Sprintf("plugin %s: %s", p.manifest.Name, f.Message)
		return g.WithMetadata("plugin", p.manifest.Name)
	case exited && !p.run.wasKilled():
		<-p.run.drained
		f = fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "plugin %s ended while starting (%s)", p.manifest.Name, p.run.exit())
	default:
		f = fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "plugin %s did not start: %s", p.manifest.Name, strings.TrimSpace(err.Error()))
	}
	f.Message += p.lastLines()
	return f.WithMetadata("plugin", p.manifest.Name)
}

// pluginEnv is a plugin's whole environment: what go-plugin needs, a few fixed variables, what the Spec adds.
func pluginEnv(handshake []string, dir string, extra []string) []string {
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/",
		sdk.EnvStdinWatch + "=1",
	}
	for _, kv := range handshake {
		if !strings.HasPrefix(kv, plugin.EnvUnixSocketDir+"=") {
			env = append(env, kv)
		}
	}
	env = append(env, plugin.EnvUnixSocketDir+"="+dir)
	return append(env, extra...)
}

// removeDir removes a launch's directory with its sockets.
func removeDir(dir string) { _ = os.RemoveAll(dir) }
