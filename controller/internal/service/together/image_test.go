package together_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// fakeTunnels keeps what is uploaded; nodes named in broken refuse it.
type fakeTunnels struct {
	mu     sync.Mutex
	got    map[string]*bytes.Buffer
	broken map[string]bool
}

type fakeTunnel struct {
	f      *fakeTunnels
	node   string
	image  string
	ended  chan struct{}
	result *agentv1.ImageCopyReport
}

func (f *fakeTunnels) Open(_ context.Context, node string, open *agentv1.OpenTunnel) (seam.Tunnel, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got[node] = &bytes.Buffer{}
	return &fakeTunnel{f: f, node: node, image: open.GetImageUpload().GetImage().GetMeta().GetId(), ended: make(chan struct{})}, nil
}

func (t *fakeTunnel) Send(data []byte) error {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	if t.f.broken[t.node] {
		return io.EOF
	}
	t.f.got[t.node].Write(data)
	return nil
}

func (t *fakeTunnel) Recv() (seam.Part, error) {
	t.f.mu.Lock()
	broken, n := t.f.broken[t.node], int64(t.f.got[t.node].Len())
	t.f.mu.Unlock()
	if broken {
		return seam.Part{}, fault.New(metav1.Reason_REASON_NO_SPACE, "the disk is full")
	}
	<-t.ended
	t.result = &agentv1.ImageCopyReport{ImageId: t.image, Ready: true, VirtualSizeBytes: 4096, ContentBytes: n}
	return seam.Part{}, io.EOF
}

func (t *fakeTunnel) CloseSend() error                 { close(t.ended); return nil }
func (t *fakeTunnel) Result() *agentv1.ImageCopyReport { return t.result }
func (t *fakeTunnel) Close()                           {}

func (r *rig) images() storagev1connect.ImageServiceClient {
	mux := http.NewServeMux()
	mux.Handle(storagev1connect.NewImageServiceHandler(r.Image, connect.WithInterceptors(faults{})))
	srv := httptest.NewServer(mux)
	r.t.Cleanup(srv.Close)
	return storagev1connect.NewImageServiceClient(srv.Client(), srv.URL)
}

// faults puts the reason of a fault where a client of this test finds it.
type faults struct{}

func (faults) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }

func (faults) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (faults) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		err := next(ctx, conn)
		if f := new(fault.Error); errors.As(err, &f) {
			return connect.NewError(connect.Code(f.Code), errors.New(fault.ReasonName(f.Reason)))
		}
		return err
	}
}

func upload(c storagev1connect.ImageServiceClient, h *storagev1.UploadImageHeader, content []byte) (*storagev1.UploadImageResponse, error) {
	s := c.UploadImage(context.Background())
	_ = s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Header{Header: h}})
	for len(content) > 0 {
		n := min(len(content), 1000)
		if s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Data{Data: content[:n]}}) != nil {
			break
		}
		content = content[n:]
	}
	resp, err := s.CloseAndReceive()
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func TestImages(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	f := &fakeTunnels{got: map[string]*bytes.Buffer{}, broken: map[string]bool{}}
	r.tunnels = f
	a, b := r.join("n1", 4, 1024*mib), r.join("n2", 4, 1024*mib)
	r.until("both nodes reach the pool", func() bool {
		p := r.Cache.Find(state.Query{Kind: state.KindPool}).Rows[0].Pool().GetPool()
		return len(p.GetStatus().GetNodes()) == 2 && p.GetStatus().GetPhase() == storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_READY
	})
	c := r.images()
	content := bytes.Repeat([]byte("x"), 10_000)
	sum := sha256.Sum256(content)
	header := func(name string) *storagev1.UploadImageHeader {
		return &storagev1.UploadImageHeader{Name: name, Format: storagev1.ImageFormat_IMAGE_FORMAT_RAW, RequestId: "up-" + name, Sha256: hex.EncodeToString(sum[:])}
	}
	resp, err := upload(c, header("img"), content)
	if err != nil {
		t.Fatal(err)
	}
	img := resp.GetImage()
	if img.GetStatus().GetPhase() != storagev1.ImagePhase_IMAGE_PHASE_READY || len(img.GetStatus().GetCopies()) != 2 ||
		resp.GetOperation().GetState() != operationv1.OperationState_OPERATION_STATE_DONE {
		t.Fatalf("answer is %v", resp)
	}
	if !bytes.Equal(f.got[a.id].Bytes(), content) || !bytes.Equal(f.got[b.id].Bytes(), content) {
		t.Fatal("a node got other content")
	}
	if again, err := upload(c, header("img"), nil); err != nil || again.GetImage().GetMeta().GetId() != img.GetMeta().GetId() {
		t.Fatalf("repetition: %v, %v", again, err)
	}
	// What is not as announced leaves nothing.
	for reason, h := range map[string]*storagev1.UploadImageHeader{
		"CHECKSUM_MISMATCH": {Name: "bad", Format: storagev1.ImageFormat_IMAGE_FORMAT_RAW, Sha256: hex.EncodeToString(make([]byte, 32))},
		"IMAGE_REFUSED":     {Name: "bad", Format: storagev1.ImageFormat_IMAGE_FORMAT_RAW, ContentBytes: 77},
		"NAME_TAKEN":        {Name: "img", Format: storagev1.ImageFormat_IMAGE_FORMAT_RAW},
		"INVALID_FIELD":     {Name: "bad"},
	} {
		if _, err := upload(c, h, content); err == nil || connectMessage(err) != reason {
			t.Errorf("%s: %v", reason, err)
		}
	}
	r.until("nothing is left", func() bool { return r.Cache.Count(state.Query{Kind: state.KindImage}) == 1 })
	// A node that fails drops out, and cannot make the copy that it is still to have; the image is there all the same.
	b.set(func(a *fakeAgent) { a.full = true })
	f.mu.Lock()
	f.broken[b.id] = true
	f.mu.Unlock()
	part, err := upload(c, header("part"), content)
	if err != nil || part.GetImage().GetStatus().GetPhase() != storagev1.ImagePhase_IMAGE_PHASE_READY ||
		part.GetOperation().GetState() != operationv1.OperationState_OPERATION_STATE_FAILED || part.GetOperation().GetReason() != "NO_SPACE" {
		t.Fatalf("in part: %v, %v", part, err)
	}
	f.mu.Lock()
	f.broken[a.id] = true
	f.mu.Unlock()
	if _, err := upload(c, header("none"), content); err == nil || connectMessage(err) != "NO_SPACE" {
		t.Fatalf("nowhere: %v", err)
	}
	// A VM that starts from it goes where it lies, and keeps it from being deleted.
	s := spec(64 * mib)
	s.Disks = []*computev1.Disk{{Name: "root", Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{Image: "part"}}}}
	vm := r.mustCreate("one", s)
	r.done(vm.GetOperation().GetId())
	if n := r.vm(vm.GetVm().GetMeta().GetId()).GetStatus().GetVmPlacement().GetNodeName(); n != "n1" {
		t.Fatalf("placed on %s", n)
	}
	del := connect.NewRequest(&storagev1.DeleteImageRequest{Id: "part"})
	if _, err := r.Image.DeleteImage(context.Background(), del); !fault.Is(err, metav1.Reason_REASON_IMAGE_IN_USE) {
		t.Fatalf("in use: %v", err)
	}
	r.done(r.delete(vm.GetVm().GetMeta().GetId()).GetOperation().GetId())
	gone, err := r.Image.DeleteImage(context.Background(), del)
	if err != nil {
		t.Fatal(err)
	}
	r.done(gone.Msg.GetOperation().GetId())
	if _, err := r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Name: "two"}, Spec: s}}); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
		t.Fatalf("an image that is gone: %v", err)
	}
}

func connectMessage(err error) string {
	if c := new(connect.Error); errors.As(err, &c) {
		return c.Message()
	}
	return ""
}
