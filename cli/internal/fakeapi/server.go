// Package fakeapi is a controller in memory, for tests: the public API as lqctl uses it, without agents. Changes are done at once unless Hold is set.
package fakeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1/operationv1connect"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// Token is what every call must carry.
const Token = "test-token"

// Epoch is when everything here was created.
var Epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Server is the controller. Its fields may be changed under Lock.
type Server struct {
	sync.Mutex
	URL string

	VMs        []*computev1.VM
	Nodes      []*computev1.Node
	Images     []*storagev1.Image
	Operations []*operationv1.Operation
	Tokens     []*computev1.JoinToken
	// Orphans are on nodes; one that is removed is gone at once.
	Orphans []*computev1.NodeOrphan
	// Why is what ExplainVM and ExplainNode explain.
	Why *computev1.Explanation
	// Hold leaves operations running until Finish.
	Hold bool
	// Fail makes methods fail, by their name.
	Fail map[string]*fault.Error
	// Log is what consoles printed.
	Log       []byte
	Pools     []*storagev1.StoragePool
	Volumes   []*storagev1.Volume
	Snapshots []*storagev1.Snapshot
	Networks  []*networkv1.Network
	Ports     []*networkv1.Port
	Groups    []*networkv1.SecurityGroup
	// Stats are the counters of ports, by id.
	Stats map[string]*networkv1.GetPortStatsResponse
	// Secrets are those of the pool that was created last; Masks those of pools' changes.
	Secrets map[string][]byte
	Masks   [][]string
	// Typed is what came to consoles.
	Typed []byte
	// Content is what was uploaded, by image name.
	Content map[string][]byte
	// Calls counts calls, by method name.
	Calls map[string]int

	revision int64
	made     int // objects of networks so far
	changed  chan struct{}
}

// Start serves until the test ends.
func Start(t testing.TB) *Server {
	s := &Server{Fail: map[string]*fault.Error{}, Content: map[string][]byte{}, Calls: map[string]int{}, Stats: map[string]*networkv1.GetPortStatsResponse{}, changed: make(chan struct{}), revision: 1}
	mux := http.NewServeMux()
	opts := connect.WithInterceptors(gate{s})
	mux.Handle(computev1connect.NewVMServiceHandler(vms{Server: s}, opts))
	mux.Handle(computev1connect.NewNodeServiceHandler(nodes{Server: s}, opts))
	mux.Handle(operationv1connect.NewOperationServiceHandler(operations{Server: s}, opts))
	mux.Handle(storagev1connect.NewImageServiceHandler(images{Server: s}, opts))
	mux.Handle(storagev1connect.NewStoragePoolServiceHandler(pools{Server: s}, opts))
	mux.Handle(storagev1connect.NewVolumeServiceHandler(volumes{Server: s}, opts))
	mux.Handle(storagev1connect.NewSnapshotServiceHandler(snapshots{Server: s}, opts))
	mux.Handle(networkv1connect.NewVirtualNetworkServiceHandler(networks{Server: s}, opts))
	mux.Handle(networkv1connect.NewPortServiceHandler(ports{Server: s}, opts))
	mux.Handle(networkv1connect.NewSecurityGroupServiceHandler(groups{Server: s}, opts))
	mux.HandleFunc("GET /api/v1/info", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"name": "limiquantix-controller", "version": "0.1.0", "commit": "abc", "store_kind": "memory"})
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.Protocols = &http.Protocols{}
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	s.URL = srv.URL
	return s
}

// touch wakes those who watch. Called under Lock.
func (s *Server) touch() {
	s.revision++
	close(s.changed)
	s.changed = make(chan struct{})
}

// next waits for a change after those that the caller saw when it took ch.
func next(ctx context.Context, ch <-chan struct{}) error {
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// operate notes an operation on an object; it is done unless Hold is set. Called under Lock.
func (s *Server) operate(verb, kind string, m *metav1.ObjectMeta) *operationv1.Operation {
	op := &operationv1.Operation{
		Id: fmt.Sprintf("op-%d", len(s.Operations)+1), Verb: verb, ObjectKind: kind, ObjectId: m.GetId(), ObjectName: m.GetName(), ProjectId: m.GetProjectId(),
		State: operationv1.OperationState_OPERATION_STATE_RUNNING, CreateTime: timestamppb.New(Epoch), Generation: m.GetGeneration(),
	}
	s.Operations = append(s.Operations, op)
	if !s.Hold {
		op.State, op.EndTime = operationv1.OperationState_OPERATION_STATE_DONE, timestamppb.New(Epoch.Add(1500*time.Millisecond))
	}
	return op
}

// Finish ends an operation.
func (s *Server) Finish(id string, state operationv1.OperationState, reason, message string) {
	s.Lock()
	defer s.Unlock()
	for _, op := range s.Operations {
		if op.GetId() == id {
			op.State, op.Reason, op.Message, op.EndTime = state, reason, message, timestamppb.New(Epoch.Add(2*time.Second))
		}
	}
	s.touch()
}

// Change changes a VM by its name.
func (s *Server) Change(name string, change func(*computev1.VM)) {
	s.Lock()
	defer s.Unlock()
	for _, vm := range s.VMs {
		if vm.GetMeta().GetName() == name {
			change(vm)
		}
	}
	s.touch()
}

// WaitFor blocks until cond, which is called under Lock, holds.
func (s *Server) WaitFor(t testing.TB, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		s.Lock()
		ok, ch := cond(), s.changed
		s.Unlock()
		if ok {
			return
		}
		if err := next(ctx, ch); err != nil {
			t.Fatal("waited in vain")
		}
	}
}

func newMeta(m *metav1.ObjectMeta, id string) *metav1.ObjectMeta {
	project := m.GetProjectId()
	if project == "" {
		project = "default"
	}
	return &metav1.ObjectMeta{
		Id: id, Name: m.GetName(), ProjectId: project, Labels: m.GetLabels(), Annotations: m.GetAnnotations(),
		Etag: "r1", Generation: 1, CreateTime: timestamppb.New(Epoch), UpdateTime: timestamppb.New(Epoch),
	}
}

// gate checks the token, counts calls and makes them fail.
type gate struct{ s *Server }

func (g gate) admit(procedure string, h http.Header) error {
	method := procedure[strings.LastIndexByte(procedure, '/')+1:]
	g.s.Lock()
	defer g.s.Unlock()
	g.s.Calls[method]++
	g.s.touch()
	if h.Get("Authorization") != "Bearer "+Token {
		return Error(fault.New(metav1.Reason_REASON_UNAUTHENTICATED, "this call needs a token"))
	}
	if f := g.s.Fail[method]; f != nil {
		return Error(f)
	}
	return nil
}

func (g gate) WrapUnary(do connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if err := g.admit(req.Spec().Procedure, req.Header()); err != nil {
			return nil, err
		}
		resp, err := do(ctx, req)
		return resp, Error(err)
	}
}

func (g gate) WrapStreamingClient(do connect.StreamingClientFunc) connect.StreamingClientFunc {
	return do
}

func (g gate) WrapStreamingHandler(do connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := g.admit(conn.Spec().Procedure, conn.RequestHeader()); err != nil {
			return err
		}
		return Error(do(ctx, conn))
	}
}

// Error sends a fault with its details, as the controller does.
func Error(err error) error {
	var f *fault.Error
	if !errors.As(err, &f) {
		return err
	}
	st := f.GRPCStatus().Proto()
	e := connect.NewError(connect.Code(st.GetCode()), errors.New(st.GetMessage()))
	for _, d := range st.GetDetails() {
		if detail, err := connect.NewErrorDetail(d); err == nil {
			e.AddDetail(detail)
		}
	}
	return e
}
