package host

import (
	"context"
	"strings"
	"sync"

	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// gate is the connection that clients of a supervised plugin hold: it leads to whichever process serves now and fails at once when none does. While a
// plugin is swapped, calls wait until those to the old process are done, so that old and new never work on one key.
type gate struct {
	mu      sync.Mutex
	current *Process
	why     error // why there is none; never nil then
	calls   map[*Process]int
	idle    chan struct{} // closed when a process that drains has no call left
	drains  *Process
	open    chan struct{} // not nil while calls wait; closed when they may go on
}

func newGate(why error) *gate { return &gate{why: why, calls: map[*Process]int{}} }

// set makes p the process that serves.
func (g *gate) set(p *Process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.current, g.why = p, nil
}

// clear says that none serves, and why.
func (g *gate) clear(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.current, g.why = nil, why
}

// swap makes p the process that serves, closes switched, and holds calls back until those to the old one are done or ctx ends.
func (g *gate) swap(ctx context.Context, p *Process, switched chan<- struct{}) {
	g.mu.Lock()
	old := g.current
	g.current, g.why = p, nil
	var idle chan struct{}
	if old != nil && g.calls[old] > 0 {
		idle = make(chan struct{})
		g.idle, g.drains, g.open = idle, old, make(chan struct{})
	}
	g.mu.Unlock()
	close(switched)
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.open)
	g.idle, g.drains, g.open = nil, nil, nil
}

// process is the process that serves, or why there is none.
func (g *gate) process() (*Process, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.current == nil {
		return nil, g.why
	}
	return g.current, nil
}

// enter picks the process for a call; leave must be called when the call is over. What may last for ever is not counted: nobody waits for it.
func (g *gate) enter(ctx context.Context, method string) (p *Process, leave func(), err error) {
	if endless(method) {
		p, err = g.process()
		return p, func() {}, err
	}
	for {
		g.mu.Lock()
		if g.current == nil {
			defer g.mu.Unlock()
			return nil, nil, g.why
		}
		if open := g.open; open != nil {
			g.mu.Unlock()
			select {
			case <-open:
				continue
			case <-ctx.Done():
				return nil, nil, fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "the plugin is being replaced").WithRemedy("retry soon")
			}
		}
		p = g.current
		g.calls[p]++
		g.mu.Unlock()
		return p, sync.OnceFunc(func() { g.leave(p) }), nil
	}
}

func (g *gate) leave(p *Process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls[p]--; g.calls[p] > 0 {
		return
	}
	delete(g.calls, p)
	if g.drains == p && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// endless reports whether a method's stream has no end of its own.
func endless(method string) bool {
	switch method {
	case driverv1.ComputeDriverService_OpenConsole_FullMethodName, driverv1.ComputeDriverService_ReadConsoleLog_FullMethodName:
		return true
	}
	return strings.HasPrefix(method, "/"+driverv1.PluginService_ServiceDesc.ServiceName+"/")
}

// Invoke makes gate a grpc.ClientConnInterface.
func (g *gate) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	p, leave, err := g.enter(ctx, method)
	if err != nil {
		return err
	}
	defer leave()
	return p.conn.Invoke(ctx, method, args, reply, opts...)
}

// NewStream makes gate a grpc.ClientConnInterface.
func (g *gate) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	p, leave, err := g.enter(ctx, method)
	if err != nil {
		return nil, err
	}
	s, err := p.conn.NewStream(ctx, desc, method, append(opts, grpc.OnFinish(func(error) { leave() }))...)
	if err != nil {
		leave()
	}
	return s, err
}
