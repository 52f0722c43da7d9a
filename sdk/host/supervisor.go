package host

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Supervisor keeps one plugin running: it starts it again with backoff when it crashes or hangs, quarantines it when it does so too often, and swaps it for
// another version on request. It never ends by itself and takes nobody with it. All methods may be called at once.
type Supervisor struct {
	policy Policy
	gate   *gate
	board  *board
	asks   chan ask // requests to the loop

	life  context.Context
	end   context.CancelFunc
	wg    sync.WaitGroup
	start sync.Once

	spec     Spec        // the loop's alone once started
	draining atomic.Bool // a replaced process is being waited for
}

// ask is a request to the loop; done gets its answer.
type ask struct {
	ctx   context.Context
	swap  *Spec // launch this in place of what runs
	spec  *Spec // configure what runs anew with this one's Host, ConfigJSON and Secrets
	reset bool  // forget crashes and start now
	done  chan error
}

// NewSupervisor makes a supervisor; nothing runs before Start.
func NewSupervisor(spec Spec, policy Policy) *Supervisor {
	life, end := context.WithCancel(context.Background())
	policy = policy.withDefaults()
	return &Supervisor{
		policy: policy, spec: spec.withDefaults(), board: newBoard(policy.Now), asks: make(chan ask), life: life, end: end,
		gate: newGate(fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "the plugin has not been started")),
	}
}

// Start begins to keep the plugin running and returns at once. It first removes what an earlier life of the host left in the runtime directory. Further calls
// do nothing.
func (s *Supervisor) Start() {
	s.start.Do(func() {
		s.board.update(func(st *Status) { st.State = StateStarting })
		s.wg.Go(s.loop)
	})
}

// Close stops the plugin and returns when nothing of it is left, which is bounded by StopGrace and a few seconds. When ctx ends first, Close returns its error
// and the end goes on behind it.
func (s *Supervisor) Close(ctx context.Context) error {
	s.start.Do(func() {}) // a supervisor never started stays so
	s.end()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		s.board.close()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Status is what is known of the plugin now.
func (s *Supervisor) Status() Status { return s.board.get() }

// Subscribe returns a channel that holds the current Status at once and each later one as it comes; steps in between may be left out when the reader is slow.
// It is closed when ctx ends or the supervisor is closed.
func (s *Supervisor) Subscribe(ctx context.Context) <-chan Status { return s.board.subscribe(ctx) }

// Reset takes the plugin out of quarantine or backoff: its crashes are forgotten and it is started now. Of a running plugin only the crashes are forgotten.
func (s *Supervisor) Reset(ctx context.Context) error { return s.ask(ctx, ask{reset: true}) }

// Swap replaces the plugin by that of spec: the new one is launched beside the old one, negotiated and configured; then calls go to it, those under way to
// the old one are waited for (DrainTimeout), and the old one is stopped. On an error the old one serves on as before. In quarantine or backoff it starts the
// new one and forgets the crashes. BUSY while an earlier swap is not done.
func (s *Supervisor) Swap(ctx context.Context, spec Spec) error {
	spec = spec.withDefaults()
	return s.ask(ctx, ask{swap: &spec})
}

// Reconfigure hands another configuration to the plugin, and keeps it for later starts. When the plugin refuses it, all stays as it was. When none runs, the
// configuration is kept and the plugin is tried at once, unless it is quarantined.
func (s *Supervisor) Reconfigure(ctx context.Context, facts *driverv1.HostFacts, configJSON string, secrets map[string][]byte) error {
	spec := Spec{Host: facts, ConfigJSON: configJSON, Secrets: secrets}.withDefaults()
	return s.ask(ctx, ask{spec: &spec})
}

func (s *Supervisor) ask(ctx context.Context, a ask) error {
	a.ctx, a.done = ctx, make(chan error, 1)
	closed := fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "the plugin's supervisor is closed or not started")
	if s.Status().State == StateStopped {
		return closed
	}
	select {
	case s.asks <- a:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.life.Done():
		return closed
	}
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Conn is the connection to the process that serves now. It dies with the process; prefer the typed clients, which lead to its successor.
func (s *Supervisor) Conn() (*grpc.ClientConn, error) {
	p, err := s.gate.process()
	if err != nil {
		return nil, err
	}
	return p.Conn(), nil
}

// Plugin is a client of PluginService. It leads to whichever process serves and fails at once, PLUGIN_UNAVAILABLE or PLUGIN_QUARANTINED, when none does.
func (s *Supervisor) Plugin() driverv1.PluginServiceClient {
	return driverv1.NewPluginServiceClient(s.gate)
}

// Compute is a client of ComputeDriverService, as Plugin is one of PluginService.
func (s *Supervisor) Compute() driverv1.ComputeDriverServiceClient {
	return driverv1.NewComputeDriverServiceClient(s.gate)
}

// Storage is a client of StorageDriverService, as Plugin is one of PluginService.
func (s *Supervisor) Storage() driverv1.StorageDriverServiceClient {
	return driverv1.NewStorageDriverServiceClient(s.gate)
}

// Network is a client of NetworkDriverService, as Plugin is one of PluginService.
func (s *Supervisor) Network() driverv1.NetworkDriverServiceClient {
	return driverv1.NewNetworkDriverServiceClient(s.gate)
}

// permanent reports whether starting again cannot help before somebody changes something; such failures are tried again slowly and are no crashes.
func permanent(err error) bool {
	var f *fault.Error
	if !errors.As(err, &f) {
		return false
	}
	switch f.Reason {
	case metav1.Reason_REASON_PLUGIN_MISSING, metav1.Reason_REASON_PLUGIN_INVALID, metav1.Reason_REASON_INVALID_FIELD:
		return true
	}
	return false
}
