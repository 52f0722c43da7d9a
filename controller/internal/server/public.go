package server

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"sort"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/proto/fault"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1/operationv1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// MaxMessage bounds a message on either port, bytes.
const MaxMessage = 16 << 20

// rpcPrefix begins the path of every method of ours.
const rpcPrefix = "/limiquantix."

// Services are the services of the public port. All must be set.
type Services struct {
	VM            computev1connect.VMServiceHandler
	Node          computev1connect.NodeServiceHandler
	Operation     operationv1connect.OperationServiceHandler
	StoragePool   storagev1connect.StoragePoolServiceHandler
	Volume        storagev1connect.VolumeServiceHandler
	Snapshot      storagev1connect.SnapshotServiceHandler
	Image         storagev1connect.ImageServiceHandler
	Network       networkv1connect.VirtualNetworkServiceHandler
	SecurityGroup networkv1connect.SecurityGroupServiceHandler
	Port          networkv1connect.PortServiceHandler
}

// PublicConfig is what the public port is made of.
type PublicConfig struct {
	Services Services
	Tokens   *Tokens
	Probes   Probes
	Metrics  *Metrics
	Log      *slog.Logger
	// Forwarding is how calls that only the leader can serve get there; nil serves everything here.
	Forwarding *Forwarding
}

// Public is the public port's HTTP handler.
type Public struct {
	log       *slog.Logger
	metrics   *Metrics
	tokens    *Tokens
	mux       *http.ServeMux
	errors    *connect.ErrorWriter
	methods   map[string]bool // procedures that exist
	draining  chan struct{}
	drainOnce sync.Once

	forwarding *Forwarding
	proxy      *httputil.ReverseProxy
}

// NewPublic builds the handler: every service, reflection, and the HTTP endpoints.
func NewPublic(cfg PublicConfig) *Public {
	p := &Public{
		log: cfg.Log, metrics: cfg.Metrics, tokens: cfg.Tokens, mux: http.NewServeMux(), methods: map[string]bool{},
		draining: make(chan struct{}), forwarding: cfg.Forwarding,
	}
	if p.forwarding != nil {
		p.proxy = p.newProxy(p.forwarding)
	}
	base := append(jsonCodecs(),
		connect.WithReadMaxBytes(MaxMessage),
		connect.WithCompressMinBytes(1<<10),
		connect.WithInterceptors(interceptor{log: cfg.Log, draining: p.draining}),
	)
	p.errors = connect.NewErrorWriter(base...)
	authenticated := append(base[:len(base):len(base)], connect.WithRequestGate(cfg.Tokens.gate))
	names := p.mountServices(cfg.Services, authenticated)

	// Reflection tells what the .proto files tell anyway, and needs no token.
	reflector := grpcreflect.NewStaticReflector(names...)
	p.mux.Handle(grpcreflect.NewHandlerV1(reflector, base...))
	p.mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, base...))

	cfg.Probes.mount(p.mux)
	p.mux.Handle("GET /metrics", cfg.Metrics.Handler())
	p.mux.HandleFunc("/", p.notFound)
	return p
}

func (p *Public) mountServices(s Services, opts []connect.HandlerOption) []string {
	o := connect.WithHandlerOptions(opts...)
	var names []string
	mount := func(path string, h http.Handler) {
		p.mux.Handle(path, h)
		names = append(names, strings.Trim(path, "/"))
	}
	mount(computev1connect.NewVMServiceHandler(s.VM, o))
	mount(computev1connect.NewNodeServiceHandler(s.Node, o))
	mount(operationv1connect.NewOperationServiceHandler(s.Operation, o))
	mount(storagev1connect.NewStoragePoolServiceHandler(s.StoragePool, o))
	mount(storagev1connect.NewVolumeServiceHandler(s.Volume, o))
	mount(storagev1connect.NewSnapshotServiceHandler(s.Snapshot, o))
	mount(storagev1connect.NewImageServiceHandler(s.Image, o))
	mount(networkv1connect.NewVirtualNetworkServiceHandler(s.Network, o))
	mount(networkv1connect.NewSecurityGroupServiceHandler(s.SecurityGroup, o))
	mount(networkv1connect.NewPortServiceHandler(s.Port, o))
	sort.Strings(names)
	for _, m := range proceduresOf(names) {
		p.methods[m] = true
	}
	return names
}

// Drain ends every stream; unary calls run on.
func (p *Public) Drain() { p.drainOnce.Do(func() { close(p.draining) }) }

// bodyTime bounds how long a unary call's body and answer may take; more than unaryLimit, since a connection is watched while its call runs.
const bodyTime = unaryLimit + 30*time.Second

// ServeHTTP implements http.Handler. Around an RPC it makes the request's id, and one line of log and one observation at its end.
func (p *Public) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !p.methods[r.URL.Path] {
		if strings.HasPrefix(r.URL.Path, rpcPrefix) {
			p.notFound(w, r) // a service's own handler would say less
			return
		}
		p.mux.ServeHTTP(w, r)
		return
	}
	serve := p.mux.ServeHTTP
	if p.forwards(r) {
		serve = p.forward
	}
	p.observed(w, r, serve)
}

// observed serves an RPC.
func (p *Public) observed(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
	start := time.Now()
	c := &call{requestID: chosenRequestID(r.Header.Get("X-Request-Id"))}
	ctx := withCall(r.Context(), c)
	w.Header().Set("X-Request-Id", c.requestID)
	sw := &statusWriter{ResponseWriter: w}
	defer func() {
		if c.code == "" {
			c.code = sw.code()
		}
		took := time.Since(start)
		p.metrics.observe(r.URL.Path, c.code, took)
		p.logCall(r, c, took)
	}()
	if unaryBody(r) {
		_ = http.NewResponseController(w).SetReadDeadline(start.Add(bodyTime)) // a writer that cannot has no slow clients
		if r.ContentLength > MaxMessage {
			p.tooLarge(sw, r.WithContext(ctx))
			return
		}
	}
	serve(sw, r.WithContext(ctx))
}

// unaryBody reports whether the body is one message.
func unaryBody(r *http.Request) bool {
	ct := r.Header.Get("Content-Type")
	return strings.HasPrefix(ct, "application/json") || strings.HasPrefix(ct, "application/proto")
}

func (p *Public) tooLarge(w http.ResponseWriter, r *http.Request) {
	f := fault.New(metav1.Reason_REASON_LIMIT_EXCEEDED, "the body has %d bytes, over %d", r.ContentLength, MaxMessage).
		WithRemedy("send less; an image is uploaded in chunks")
	c := callOf(r.Context())
	c.err, c.code = f, codeName(f.Code)
	w.Header().Set("Connection", "close") // the body is not read
	_ = p.errors.Write(w, r, connectError(r.Context(), f))
}

func (p *Public) logCall(r *http.Request, c *call, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case c.code == codeName(codes.Internal) || c.code == codeName(codes.Unknown) || c.code == codeName(codes.DataLoss):
		level = slog.LevelError
	case c.code == codeName(codes.OK) && isRead(r.URL.Path):
		level = slog.LevelDebug
	}
	ctx := r.Context()
	if !p.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request_id", c.requestID), slog.String("method", r.URL.Path), slog.String("code", c.code),
		slog.Duration("took", took), slog.String("peer", r.RemoteAddr),
	}
	if c.principal != "" {
		attrs = append(attrs, slog.String("principal", c.principal))
	}
	if c.err != nil {
		attrs = append(attrs, slog.String("error", causeOf(c.err)))
	}
	p.log.LogAttrs(ctx, level, "call", attrs...)
}

// causeOf is an error with what callers were not told.
func causeOf(err error) string {
	var s silent
	if errors.As(err, &s) && s.error != nil {
		return s.error.Error()
	}
	return err.Error()
}

// isRead reports whether a method changes nothing, by its name.
func isRead(procedure string) bool {
	name := procedure[strings.LastIndexByte(procedure, '/')+1:]
	for _, verb := range []string{"Get", "List", "Watch", "Wait", "Explain"} {
		if strings.HasPrefix(name, verb) {
			return true
		}
	}
	return false
}

// notFound answers every path that is neither a method nor an endpoint: to RPC clients in their protocol.
func (p *Public) notFound(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && (p.errors.IsSupported(r) || strings.HasPrefix(r.URL.Path, rpcPrefix)) {
		f := fault.New(metav1.Reason_REASON_NOT_IMPLEMENTED, "there is no method %s", r.URL.Path).
			WithRemedy("list the methods by reflection, or see /api/v1/info for this controller's version")
		_ = p.errors.Write(w, r, connectError(r.Context(), f))
		return
	}
	http.NotFound(w, r)
}
