package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/limiquantix/limiquantix/controller/internal/pki"
	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func TestEndpoints(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, path := range []string{"/health", "/live"} {
		if got := r.do(t, "GET", path, ""); got.status != 200 || !strings.Contains(got.body, `"status":"ok"`) {
			t.Error(path, got)
		}
	}
	if got := r.do(t, "GET", "/ready", ""); got.status != 200 || !strings.Contains(got.body, `{"name":"store","ok":true,"message":"fine"}`) {
		t.Error(got)
	}
	r.readyMu.Lock()
	r.ready = func(context.Context) (string, error) { return "", errors.New("the store is full") }
	r.readyMu.Unlock()
	if got := r.do(t, "GET", "/ready", ""); got.status != 503 || !strings.Contains(got.body, `{"name":"store","ok":false,"message":"the store is full"}`) ||
		!strings.Contains(got.body, `"ready":false`) {
		t.Error(got)
	}
	var info Info
	if got := r.do(t, "GET", "/api/v1/info", ""); json.Unmarshal([]byte(got.body), &info) != nil || info.Version != "1.2.3" || info.ClusterID != "cl" ||
		info.Leader.Address != "host:8081" {
		t.Error(got)
	}
	for path, want := range map[string]int{"/": 404, "/nowhere": 404, "/health/x": 404} {
		if got := r.do(t, "GET", path, ""); got.status != want {
			t.Error(path, got.status)
		}
	}
	if got := r.do(t, "POST", "/ready", ""); got.status != 405 && got.status != 404 {
		t.Error(got.status)
	}
	got := r.do(t, "POST", vmPath+"StrtVM", "{}", "Content-Type", "application/json")
	if got.status != 501 || got.reason() != "NOT_IMPLEMENTED" {
		t.Error(got)
	}
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for name, header := range map[string][]string{
		"none": {}, "empty": {"Authorization", ""}, "wrong": {"Authorization", "Bearer x"}, "no scheme": {"Authorization", testToken},
		"other scheme": {"Authorization", "Basic " + testToken}, "prefix": {"Authorization", "Bearer " + testToken[:5]},
	} {
		got := r.do(t, "POST", vmPath+"GetVM", "not even json", append(header, "Content-Type", "application/json")...)
		if got.status != 401 || got.reason() != "UNAUTHENTICATED" || !strings.Contains(got.body, "admin.token") {
			t.Error(name, got)
		}
	}
	for name, opts := range protocols {
		if _, err := r.client("wrong", opts...).GetVM(t.Context(), connect.NewRequest(&computev1.GetVMRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Error(name, err)
		}
		s, err := r.client("wrong", opts...).WatchVMs(t.Context(), connect.NewRequest(&computev1.WatchVMsRequest{}))
		if err == nil {
			s.Receive()
			err = s.Err()
			s.Close()
		}
		if connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Error(name, err)
		}
		res, err := r.client(testToken, opts...).GetVM(t.Context(), connect.NewRequest(&computev1.GetVMRequest{Id: "who"}))
		if err != nil || res.Msg.GetVm().GetMeta().GetName() != AdminPrincipal {
			t.Error(name, res, err)
		}
	}
}

func TestStrictJSON(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for body, want := range map[string][]string{
		`{"nmae":"x"}`:                                {"UNKNOWN_FIELD", "nmae", "known here"},
		`{"vm":{"spec":{"memory_byte":1}}}`:           {"UNKNOWN_FIELD", `"vm.spec.memory_byte"`, `did you mean \"vm.spec.memory_bytes\"`},
		`{"vm":{"spec":{"disks":[{},{"nam":"x"}]}}}`:  {"UNKNOWN_FIELD", `"vm.spec.disks[1].nam"`},
		`{"vm":{"metadata":{}},"reqest_id":""}`:       {"UNKNOWN_FIELD", "vm.metadata", "reqest_id", "and 1 more"},
		`{"vm":{"spec":{"memory_bytes":"plenty"}}}`:   {"INVALID_FIELD", "plenty"},
		`{"vm":{"spec":{"memory_bytes":1,"memory_byt`: {"INVALID_FIELD"},
		`[]`: {"INVALID_FIELD"},
		`{"vm":{"meta":{"name":"a","name":"b"}}}`:       {"INVALID_FIELD", "duplicate"},
		`{"vm":{"spec":{"run_policy":"RUN_SOMEDAYS"}}}`: {"INVALID_FIELD", "RUN_SOMEDAYS"},
	} {
		got := r.call(t, "CreateVM", body)
		if got.status != 400 || got.reason() != want[0] {
			t.Errorf("%s: %v", body, got)
		}
		for _, w := range want[1:] {
			if !strings.Contains(got.body, w) {
				t.Errorf("%s: %s does not say %s", body, got.body, w)
			}
		}
	}
	if r.vms.created != nil {
		t.Error("a refused body reached the service")
	}
	for _, body := range []string{`{"vm":{"meta":{"name":"a","labels":{"any":"thing"}},"spec":{"memory_bytes":"5"}}}`, `{"vm":{"meta":{"name":"a"},"spec":{"memoryBytes":5}}}`} {
		for _, ct := range []string{"application/json", "application/json; charset=utf-8"} {
			got := r.do(t, "POST", vmPath+"CreateVM", body, "Content-Type", ct, "Authorization", "Bearer "+testToken)
			if got.status != 200 || r.vms.created.GetVm().GetSpec().GetMemoryBytes() != 5 {
				t.Error(body, ct, got)
			}
		}
	}
	if got := r.call(t, "GetVM", ""); got.status != 200 {
		t.Error("an empty body:", got)
	}
	// A stream's messages are as strict; in Connect's framing: flags, length, JSON.
	body := `{"revison":"3"}`
	framed := "\x00\x00\x00\x00" + string(rune(len(body))) + body
	got := r.do(t, "POST", vmPath+"WatchVMs", framed, "Content-Type", "application/connect+json", "Authorization", "Bearer "+testToken)
	if !strings.Contains(got.body, `did you mean \"revision\"`) || !strings.Contains(got.body, "UNKNOWN_FIELD") {
		t.Error(got)
	}
}

func TestErrorsKeepTheirDetails(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for name, opts := range protocols {
		_, err := r.client(testToken, opts...).GetVM(t.Context(), connect.NewRequest(&computev1.GetVMRequest{Id: "missing"}))
		var ce *connect.Error
		if !errors.As(err, &ce) || ce.Code() != connect.CodeNotFound || len(ce.Details()) != 2 {
			t.Fatal(name, err)
		}
		v, err := ce.Details()[0].Value()
		info, ok := v.(*errdetails.ErrorInfo)
		if err != nil || !ok || info.GetReason() != "NOT_FOUND" || info.GetDomain() != "limiquantix" || info.GetMetadata()["kind"] != "vm" {
			t.Error(name, v, err)
		}
	}
}

func TestDefectsAreHidden(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, id := range []string{"panic", "odd"} {
		got := r.do(t, "POST", vmPath+"GetVM", `{"id":"`+id+`"}`, "Content-Type", "application/json", "Authorization", "Bearer "+testToken, "X-Request-Id", "req-"+id)
		if got.status != 500 || got.reason() != "INTERNAL" || strings.Contains(got.body, "secret") || !strings.Contains(got.body, "req-"+id) {
			t.Error(id, got)
		}
		if got.header.Get("X-Request-Id") != "req-"+id {
			t.Error(got.header)
		}
	}
	for _, want := range []string{"secret of the stack", "secret of the inside", `"request_id":"req-panic"`} {
		if !strings.Contains(r.logs.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	s, err := r.client(testToken, connect.WithGRPC()).WatchVMs(t.Context(), connect.NewRequest(&computev1.WatchVMsRequest{Revision: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for s.Receive() {
	}
	if connect.CodeOf(s.Err()) != connect.CodeInternal {
		t.Error(s.Err())
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for given, kept := range map[string]bool{"abc-1.2_3": true, "": false, "a b": false, "a\"b": false, strings.Repeat("a", 65): false} {
		got := r.do(t, "POST", vmPath+"GetVM", `{"id":"who"}`, "Content-Type", "application/json", "Authorization", "Bearer "+testToken, "X-Request-Id", given)
		id := got.header.Get("X-Request-Id")
		if (id == given) != kept || id == "" || !strings.Contains(got.body, id) {
			t.Errorf("%q: %v", given, got)
		}
	}
	if got := r.call(t, "GetVM", `{"id":"deadline"}`); got.status != 200 {
		t.Error("a unary call without a deadline", got)
	}
}

func TestBodiesTooLarge(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	big := `{"vm":{"meta":{"name":"` + strings.Repeat("a", MaxMessage) + `"}}}`
	if got := r.call(t, "CreateVM", big); got.status != 429 || got.reason() != "LIMIT_EXCEEDED" {
		t.Error("declared:", got)
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url+vmPath+"CreateVM", io.MultiReader(strings.NewReader(big), bytes.NewReader(nil)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+testToken)
	if got := send(t, req); got.status != 429 || !strings.Contains(got.body, "resource_exhausted") {
		t.Error("chunked:", got)
	}
	// Small on the wire, large once it is unpacked.
	_, err = r.client(testToken, connect.WithSendGzip()).CreateVM(t.Context(), connect.NewRequest(&computev1.CreateVMRequest{RequestId: strings.Repeat("a", MaxMessage)}))
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Error("packed:", err)
	}
	_, err = r.client(testToken, connect.WithGRPC()).CreateVM(t.Context(), connect.NewRequest(&computev1.CreateVMRequest{RequestId: strings.Repeat("a", MaxMessage)}))
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Error("grpc:", err)
	}
	if r.vms.created != nil {
		t.Error("it reached the service")
	}
}

func TestReflectionListsAllServices(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	stream := grpcreflect.NewClient(r.h2c, r.url).NewStream(t.Context()) // no token
	defer stream.Close()
	names, err := stream.ListServices()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"compute.v1.VMService", "compute.v1.NodeService", "operation.v1.OperationService", "storage.v1.StoragePoolService", "storage.v1.VolumeService",
		"storage.v1.SnapshotService", "storage.v1.ImageService", "network.v1.VirtualNetworkService", "network.v1.SecurityGroupService", "network.v1.PortService",
	} {
		if !slices.ContainsFunc(names, func(n protoName) bool { return string(n) == "limiquantix."+want }) {
			t.Errorf("%s is missing from %v", want, names)
		}
	}
	if len(names) != 10 {
		t.Errorf("%d services: %v", len(names), names)
	}
	if files, err := stream.FileContainingSymbol("limiquantix.compute.v1.VMService"); err != nil || len(files) == 0 {
		t.Error(files, err)
	}
}

// Every method of every service is mounted, and wants a token.
func TestEveryMethodIsGuarded(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	if len(r.public.methods) < 50 {
		t.Fatalf("only %d methods", len(r.public.methods))
	}
	for method := range r.public.methods {
		got := r.do(t, "POST", method, "{}", "Content-Type", "application/json")
		if got.status == http.StatusUnsupportedMediaType { // a stream
			got = r.do(t, "POST", method, "\x00\x00\x00\x00\x02{}", "Content-Type", "application/connect+json")
		}
		if got.status != 401 && !strings.Contains(got.body, `"unauthenticated"`) && got.status != 505 {
			t.Error(method, got)
		}
	}
}

func TestStreamsEndWhenDraining(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s, err := r.client(testToken, connect.WithGRPC()).WatchVMs(t.Context(), connect.NewRequest(&computev1.WatchVMsRequest{}))
	if err != nil || !s.Receive() {
		t.Fatal(err, s.Err())
	}
	defer s.Close()
	start := time.Now()
	r.public.Drain()
	for s.Receive() {
	}
	if connect.CodeOf(s.Err()) != connect.CodeUnavailable || time.Since(start) > 5*time.Second {
		t.Error(s.Err(), time.Since(start))
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, _, _, err := pki.Create("c", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.IssueServer("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, &cert)
	transport := &http.Transport{TLSClientConfig: clientTLS(ca), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get(r.url + "/health")
	if err != nil || res.ProtoMajor != 2 || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	res.Body.Close()
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.call(t, "GetVM", `{"id":"missing"}`)
	r.call(t, "GetVM", `{}`)
	r.do(t, "POST", vmPath+"GetVM", "{}", "Content-Type", "application/json")
	_, _ = r.client("wrong", connect.WithGRPC()).GetVM(t.Context(), connect.NewRequest(&computev1.GetVMRequest{}))
	_, _ = r.client(testToken, connect.WithGRPC()).CreateVM(t.Context(), connect.NewRequest(&computev1.CreateVMRequest{RequestId: strings.Repeat("a", MaxMessage)}))
	s := memory.Open(memory.Options{QuotaBytes: 1000})
	defer s.Close()
	r.metrics.Collect(t.Context(), Sources{
		Store:   s,
		Objects: func() []ObjectCount { return []ObjectCount{{"vm", "running", 3}, {"node", "ready", 1}} },
		Pending: func() int { return 2 }, Leading: func() bool { return true },
	})
	body := r.do(t, "GET", "/metrics", "").body
	for _, want := range []string{
		`limiquantix_controller_rpc_duration_seconds_count{code="NOT_FOUND",method="limiquantix.compute.v1.VMService/GetVM",port="public"} 1`,
		`limiquantix_controller_rpc_duration_seconds_count{code="OK",method="limiquantix.compute.v1.VMService/GetVM",port="public"} 1`,
		`limiquantix_controller_rpc_duration_seconds_count{code="UNAUTHENTICATED",method="limiquantix.compute.v1.VMService/GetVM",port="public"} 2`,
		`limiquantix_controller_rpc_duration_seconds_count{code="RESOURCE_EXHAUSTED",method="limiquantix.compute.v1.VMService/CreateVM",port="public"} 1`,
		`limiquantix_controller_objects{kind="vm",phase="running"} 3`, `limiquantix_controller_scheduler_pending_vms 2`,
		`limiquantix_controller_leader 1`, `limiquantix_controller_store_up 1`, `limiquantix_controller_store_quota_bytes 1000`,
		`limiquantix_controller_build_info{commit="abc",version="1.2.3"} 1`, "go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	problems, err := testutil.GatherAndLint(r.metrics.Registry())
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}
