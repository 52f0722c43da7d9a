package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1/operationv1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

const testToken = "correct-horse"

// fakeVMs answers by the id that is asked for.
type fakeVMs struct {
	computev1connect.UnimplementedVMServiceHandler
	mu      sync.Mutex
	created *computev1.CreateVMRequest
}

func (f *fakeVMs) GetVM(ctx context.Context, r *connect.Request[computev1.GetVMRequest]) (*connect.Response[computev1.GetVMResponse], error) {
	switch r.Msg.GetId() {
	case "panic":
		panic("secret of the stack")
	case "odd":
		return nil, errors.New("secret of the inside")
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	case "deadline":
		if d, ok := ctx.Deadline(); !ok || time.Until(d) > unaryLimit {
			return nil, errors.New("no deadline")
		}
	case "missing":
		return nil, fault.New(metav1.Reason_REASON_NOT_FOUND, "there is no VM %q", "missing").WithRemedy("list them").WithMetadata("kind", "vm")
	case "who":
		return connect.NewResponse(&computev1.GetVMResponse{Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Name: caller.Principal(ctx), Id: RequestID(ctx)}}}), nil
	}
	return connect.NewResponse(&computev1.GetVMResponse{}), nil
}

func (f *fakeVMs) CreateVM(_ context.Context, r *connect.Request[computev1.CreateVMRequest]) (*connect.Response[computev1.CreateVMResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = r.Msg
	return connect.NewResponse(&computev1.CreateVMResponse{}), nil
}

func (f *fakeVMs) WatchVMs(ctx context.Context, r *connect.Request[computev1.WatchVMsRequest], s *connect.ServerStream[computev1.WatchVMsResponse]) error {
	if err := s.Send(&computev1.WatchVMsResponse{Revision: 7}); err != nil {
		return err
	}
	if r.Msg.GetRevision() == 1 {
		panic("in a stream")
	}
	<-ctx.Done()
	return ctx.Err()
}

type rig struct {
	vms     *fakeVMs
	public  *Public
	http    *http.Server
	url     string
	logs    *lockedBuffer
	metrics *Metrics
	h2c     *http.Client
	ready   func(context.Context) (string, error)
	readyMu sync.Mutex
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func unimplemented(vms computev1connect.VMServiceHandler) Services {
	return Services{
		VM: vms, Node: computev1connect.UnimplementedNodeServiceHandler{}, Operation: operationv1connect.UnimplementedOperationServiceHandler{},
		StoragePool: storagev1connect.UnimplementedStoragePoolServiceHandler{}, Volume: storagev1connect.UnimplementedVolumeServiceHandler{},
		Snapshot: storagev1connect.UnimplementedSnapshotServiceHandler{}, Image: storagev1connect.UnimplementedImageServiceHandler{},
		Network:       networkv1connect.UnimplementedVirtualNetworkServiceHandler{},
		SecurityGroup: networkv1connect.UnimplementedSecurityGroupServiceHandler{}, Port: networkv1connect.UnimplementedPortServiceHandler{},
	}
}

// newRig serves the public port on loopback; certificate nil is without TLS.
func newRig(t *testing.T, certificate *tls.Certificate) *rig {
	t.Helper()
	r := &rig{vms: &fakeVMs{}, logs: &lockedBuffer{}, metrics: NewMetrics("1.2.3", "abc")}
	log := slog.New(LogHandler(slog.NewJSONHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	tokens := &Tokens{Remedy: "look into admin.token"}
	sum := sha256.Sum256([]byte(testToken))
	tokens.SetAdmin(sum[:])
	r.ready = func(context.Context) (string, error) { return "fine", nil }
	r.public = NewPublic(PublicConfig{
		Services: unimplemented(r.vms), Tokens: tokens, Metrics: r.metrics, Log: log,
		Probes: Probes{
			Started: time.Now(), Leader: func() Leader { return Leader{ID: "c1", Address: "host:8081"} },
			Info: Info{Name: "limiquantix-controller", Version: "1.2.3", ClusterID: "cl"},
			Checks: []Check{{Name: "store", Run: func(ctx context.Context) (string, error) {
				r.readyMu.Lock()
				defer r.readyMu.Unlock()
				return r.ready(ctx)
			}}},
		},
	})
	r.http = NewHTTP(r.public, certificate, log)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- ServeHTTP(r.http, l) }()
	r.url = "http://" + l.Addr().String()
	if certificate != nil {
		r.url = "https://" + l.Addr().String()
	}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	r.h2c = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := StopHTTP(ctx, r.http, r.public); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r
}

type reply struct {
	status int
	header http.Header
	body   string
}

// reason is the ErrorInfo's, as clients of JSON see it.
func (r reply) reason() string {
	var e struct {
		Details []struct {
			Debug struct {
				Reason string `json:"reason"`
			} `json:"debug"`
		} `json:"details"`
	}
	if json.Unmarshal([]byte(r.body), &e) != nil || len(e.Details) == 0 {
		return ""
	}
	return e.Details[0].Debug.Reason
}

func (r *rig) do(t *testing.T, method, path, body string, header ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return send(t, req)
}

func send(t *testing.T, req *http.Request) reply {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(b)}
}

const vmPath = "/limiquantix.compute.v1.VMService/"

// call posts JSON with the token.
func (r *rig) call(t *testing.T, method, body string) reply {
	t.Helper()
	return r.do(t, "POST", vmPath+method, body, "Content-Type", "application/json", "Authorization", "Bearer "+testToken)
}

type bearer struct{ token string }

func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Set("Authorization", "Bearer "+b.token)
		return next(ctx, r)
	}
}

func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		c := next(ctx, s)
		c.RequestHeader().Set("Authorization", "Bearer "+b.token)
		return c
	}
}

func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// protocols are the ways in which a program can speak to the public port.
var protocols = map[string][]connect.ClientOption{
	"connect": nil, "connect json": {connect.WithProtoJSON()}, "grpc": {connect.WithGRPC()}, "grpc json": {connect.WithGRPC(), connect.WithProtoJSON()},
	"grpc-web": {connect.WithGRPCWeb()},
}

func (r *rig) client(token string, opts ...connect.ClientOption) computev1connect.VMServiceClient {
	return computev1connect.NewVMServiceClient(r.h2c, r.url, append(opts, connect.WithInterceptors(bearer{token}))...)
}
