package sdk

import (
	"context"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// guard stands around every call of a plugin: it catches panics, makes errors travel whole, refuses driver calls before Configure and new calls while the
// plugin ends, and knows when no unary call is under way.
type guard struct {
	configured atomic.Bool
	first      func() // called once, before the first call is handled; may be nil
	once       sync.Once

	mu       sync.Mutex
	calls    int
	draining bool
	idle     chan struct{} // closed when draining and no call is under way
}

const (
	pluginPrefix    = "/limiquantix.driver.v1.PluginService/"
	driverPrefix    = "/limiquantix.driver.v1."
	methodConfigure = driverv1.PluginService_Configure_FullMethodName
	methodShutdown  = driverv1.PluginService_Shutdown_FullMethodName
)

func (g *guard) unary(log func() *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
		if err := g.admit(info.FullMethod); err != nil {
			return nil, err
		}
		if info.FullMethod != methodShutdown {
			if !g.enter() {
				return nil, ending()
			}
			defer g.leave()
		}
		defer caught(log, info.FullMethod, &err)
		resp, err = next(ctx, req)
		if err == nil && info.FullMethod == methodConfigure {
			g.configured.Store(true)
		}
		return resp, err
	}
}

func (g *guard) stream(log func() *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
		if err := g.admit(info.FullMethod); err != nil {
			return err
		}
		defer caught(log, info.FullMethod, &err)
		return next(srv, ss)
	}
}

// admit refuses driver calls before Configure.
func (g *guard) admit(method string) error {
	g.once.Do(func() {
		if g.first != nil {
			g.first()
		}
	})
	if strings.HasPrefix(method, driverPrefix) && !strings.HasPrefix(method, pluginPrefix) && !g.configured.Load() {
		return notConfigured()
	}
	return nil
}

func (g *guard) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining {
		return false
	}
	g.calls++
	return true
}

func (g *guard) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls--
	if g.draining && g.calls == 0 {
		close(g.idle)
	}
}

// drain refuses new unary calls and waits until those under way are done or ctx ends. To be called once.
func (g *guard) drain(ctx context.Context) {
	g.mu.Lock()
	g.draining = true
	g.idle = make(chan struct{})
	if g.calls == 0 {
		close(g.idle)
	}
	g.mu.Unlock()
	select {
	case <-g.idle:
	case <-ctx.Done():
	}
}

// caught turns a panic into PLUGIN_PANIC, its stack into a log record, and any error into one that keeps its details on the wire.
func caught(log func() *slog.Logger, method string, err *error) {
	if r := recover(); r != nil {
		log().Error("a call panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
		*err = fault.New(metav1.Reason_REASON_PLUGIN_PANIC, "the plugin panicked in %s: %v", method, r).
			WithRemedy("report it to the plugin's author with the stack from the log")
		return
	}
	if *err == nil {
		return
	}
	if _, ok := status.FromError(*err); !ok {
		*err = fault.From(*err)
	}
}

func ending() error {
	return fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "the plugin is ending").WithRemedy("retry when it is back")
}
