package sdk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// DefaultGrace is how long a plugin lets calls under way finish when it is told to end without being told how long.
const DefaultGrace = 5 * time.Second

// Plugin is what a plugin serves: Base always, and at least one of the drivers.
type Plugin struct {
	Base    driverv1.PluginServiceServer // usually a *BasePlugin, or a type that embeds one
	Compute driverv1.ComputeDriverServiceServer
	Storage driverv1.StorageDriverServiceServer
	Network driverv1.NetworkDriverServiceServer

	LogLevel slog.Leveler // what is logged; info when nil
	OnExit   func()       // called once when the plugin ends in good order; may be nil
}

// A host that is stopped, and not gone, cannot end its calls: another node may be told to go on with them. So a host that is silent is asked for a sign of life, and the calls of one
// that gives none end. Together this is well below the lease by which an agent works on shared pools.
const (
	hostSilent = 2 * time.Second
	hostAnswer = 3 * time.Second
)

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Serve runs a plugin until its host tells it to end or is gone, and then returns; main returns after it. It makes slog's default logger write to the host. Run
// without a host it explains itself and exits with status 1; with --version or --plugin-info it answers and exits.
func Serve(p Plugin) {
	os.Exit(serve(p))
}

func serve(p Plugin) int {
	stderr, stdout := os.Stderr, os.Stdout
	srv, info, err := newServer(p)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "this plugin is built wrong:", err)
		return 2
	}
	if answerFlags(stdout, os.Args[1:], info) {
		return 0
	}
	hs := Handshake()
	if os.Getenv(hs.MagicCookieKey) != hs.MagicCookieValue {
		_, _ = fmt.Fprintf(stderr, "This is limiquantix's %s plugin, version %s. It is not run by hand: an agent whose plugin directory holds it starts it.\n"+
			"Try --version, or --plugin-info for what its manifest says.\n", info.GetName(), info.GetVersion())
		return 1
	}
	var level slog.Leveler = slog.LevelInfo
	if p.LogLevel != nil {
		level = p.LogLevel
	}
	log := slog.New(NewLogHandler(stderr, level))
	slog.SetDefault(log)
	srv.log = log
	// go-plugin puts pipes in their place that lead to the host by gRPC: what is printed last before a crash would be lost. Ours lead there directly.
	srv.guard.first = func() { os.Stderr, os.Stdout = stderr, stdout }

	life, end := context.WithCancel(context.Background())
	defer end()
	var watching sync.WaitGroup
	surviveHost(life, &watching, srv.requestStop, log)
	nameProcess(info.GetName())
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: hs,
		Plugins:         PluginSet(srv.register),
		GRPCServer:      srv.newGRPC,
		Logger:          hclog.New(&hclog.LoggerOptions{Output: stderr, JSONFormat: true, Level: hclog.Warn}),
	})
	end()
	watching.Wait()
	if p.OnExit != nil {
		p.OnExit()
	}
	return 0
}

// server is a plugin while it is served.
type server struct {
	plugin Plugin
	guard  *guard
	log    *slog.Logger

	mu       sync.Mutex
	grpc     *grpc.Server
	stopping bool
}

// newServer checks a plugin and asks it who it is.
func newServer(p Plugin) (*server, *driverv1.GetPluginInfoResponse, error) {
	if p.Base == nil {
		return nil, nil, errors.New("no Base given to Serve")
	}
	kinds := kindsOf(p)
	if len(kinds) == 0 {
		return nil, nil, errors.New("no driver given to Serve")
	}
	s := &server{plugin: p, guard: &guard{}, log: slog.Default()}
	if b, ok := p.Base.(interface {
		served(kinds []driverv1.DriverKind, stop func(grace time.Duration))
	}); ok {
		b.served(kinds, s.requestStop)
	}
	info, err := p.Base.GetPluginInfo(context.Background(), &driverv1.GetPluginInfoRequest{})
	if err != nil {
		return nil, nil, fmt.Errorf("asking the plugin for its name: %w", err)
	}
	if !validName.MatchString(info.GetName()) {
		return nil, nil, fmt.Errorf("name %q: must be 1-32 of a-z, 0-9 and '-'", info.GetName())
	}
	return s, info, nil
}

func kindsOf(p Plugin) []driverv1.DriverKind {
	var k []driverv1.DriverKind
	if p.Compute != nil {
		k = append(k, driverv1.DriverKind_DRIVER_KIND_COMPUTE)
	}
	if p.Storage != nil {
		k = append(k, driverv1.DriverKind_DRIVER_KIND_STORAGE)
	}
	if p.Network != nil {
		k = append(k, driverv1.DriverKind_DRIVER_KIND_NETWORK)
	}
	return k
}

// newGRPC is go-plugin's factory for the server.
func (s *server) newGRPC(opts []grpc.ServerOption) *grpc.Server {
	opts = append(opts,
		grpc.MaxRecvMsgSize(MaxMessageBytes), grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.InitialWindowSize(WindowBytes), grpc.InitialConnWindowSize(WindowBytes), grpc.ReadBufferSize(BufferBytes), grpc.WriteBufferSize(BufferBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: hostSilent, Timeout: hostAnswer}),
		grpc.ChainUnaryInterceptor(s.guard.unary(s.logger)), grpc.ChainStreamInterceptor(s.guard.stream(s.logger)),
	)
	g := grpc.NewServer(opts...)
	s.mu.Lock()
	s.grpc = g
	s.mu.Unlock()
	return g
}

func (s *server) logger() *slog.Logger { return s.log }

func (s *server) register(g *grpc.Server) {
	driverv1.RegisterPluginServiceServer(g, s.plugin.Base)
	if s.plugin.Compute != nil {
		driverv1.RegisterComputeDriverServiceServer(g, s.plugin.Compute)
	}
	if s.plugin.Storage != nil {
		driverv1.RegisterStorageDriverServiceServer(g, s.plugin.Storage)
	}
	if s.plugin.Network != nil {
		driverv1.RegisterNetworkDriverServiceServer(g, s.plugin.Network)
	}
}

// requestStop ends the server when unary calls under way are done, after grace at the latest. Streams are cut. It returns at once; further calls do nothing.
func (s *server) requestStop(grace time.Duration) {
	s.mu.Lock()
	g := s.grpc
	again := s.stopping
	s.stopping = true
	s.mu.Unlock()
	if again || g == nil {
		return
	}
	if grace <= 0 {
		grace = DefaultGrace
	}
	go func() { // ends with the process at the latest
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		s.guard.drain(ctx)
		g.Stop()
	}()
}
