package together_test

import (
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func (r *rig) fetchImage(name string, change func(*storagev1.Image)) (*storagev1.ImportImageResponse, error) {
	img := &storagev1.Image{
		Meta: &metav1.ObjectMeta{Name: name},
		Spec: &storagev1.ImageSpec{Format: storagev1.ImageFormat_IMAGE_FORMAT_RAW, Sha256: strings.Repeat("ab", 32), SourceUrl: "https://images.example/x"},
	}
	if change != nil {
		change(img)
	}
	resp, err := r.Image.ImportImage(admin(), connect.NewRequest(&storagev1.ImportImageRequest{Image: img, RequestId: "fetch-" + name}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func (r *rig) image(id string) *storagev1.Image {
	return r.Cache.Row(state.KindImage, id).Image().GetImage()
}

// An image comes by URL: the nodes are asked to fetch it, what they say is told, and it is offered once a copy is whole.
func TestImportImage(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	r.until("the pool", func() bool {
		return r.Cache.Find(state.Query{Kind: state.KindPool}).Rows[0].Pool().GetPool().GetStatus().GetPhase() == storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_READY
	})
	for field, change := range map[string]func(*storagev1.Image){
		"image.meta.name":       func(i *storagev1.Image) { i.Meta.Name = "A b" },
		"image.spec.format":     func(i *storagev1.Image) { i.Spec.Format = 0 },
		"image.spec.sha256":     func(i *storagev1.Image) { i.Spec.Sha256 = "" },
		"image.spec.source_url": func(i *storagev1.Image) { i.Spec.SourceUrl = "file:///etc/shadow" },
		"image.spec.pool_id":    func(i *storagev1.Image) { i.Spec.PoolId = "nowhere" },
		"image.spec.aliases":    func(i *storagev1.Image) { i.Spec.Aliases = []string{"x"}; i.Meta.Name = "x" },
	} {
		if _, err := r.fetchImage("bad", change); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := r.fetchImage("bad", func(i *storagev1.Image) { i.Spec.SourceUrl = "http://user:secret@h/x" }); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password in a URL: %v", err)
	}

	a.set(func(a *fakeAgent) { a.frozen = true })
	made, err := r.fetchImage("img", func(i *storagev1.Image) { i.Spec.Aliases = []string{"img:1"} })
	if err != nil {
		t.Fatal(err)
	}
	id, pool := made.GetImage().GetMeta().GetId(), made.GetImage().GetSpec().GetPoolId()
	r.until("the node is asked to fetch it", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.images[id].GetFetch() })
	// What nobody uploads any more is cleared away; what nodes fetch is not.
	left := "01a20c8e-5a88-7a9f-aa71-931c7c29ce62"
	r.put(state.Key(state.KindImage, left), &statev1.ImageRecord{SchemaVersion: 1, Image: &storagev1.Image{
		Meta: &metav1.ObjectMeta{Id: left, Name: "left", ProjectId: "default"}, Spec: &storagev1.ImageSpec{}, Status: &storagev1.ImageStatus{Phase: storagev1.ImagePhase_IMAGE_PHASE_IMPORTING},
	}})
	r.until("an upload that nobody carries is gone", func() bool { return r.Cache.Row(state.KindImage, left) == nil })
	if r.image(id).GetMeta().GetDeleteTime() != nil {
		t.Fatal("an image that is being fetched is deleted")
	}
	say := func(rep *agentv1.ImageCopyReport) {
		rep.ImageId, rep.PoolId, rep.Epoch = id, pool, 1
		a.report(a.ctx, &agentv1.ReportStatusRequest{Images: []*agentv1.ImageCopyReport{rep}})
	}
	operation := func() *operationv1.Operation {
		resp, err := r.Operation.GetOperation(admin(), connect.NewRequest(&operationv1.GetOperationRequest{Id: made.GetOperation().GetId()}))
		if err != nil {
			t.Fatal(err)
		}
		return resp.Msg.GetOperation()
	}
	say(&agentv1.ImageCopyReport{StoredBytes: 3 << 20, ContentBytes: 10 << 20})
	if op := operation(); op.GetMessage() != "3 of 10 MiB fetched" || r.image(id).GetStatus().GetPhase() != storagev1.ImagePhase_IMAGE_PHASE_IMPORTING {
		t.Errorf("under way: %v, %v", op, r.image(id).GetStatus())
	}
	say(&agentv1.ImageCopyReport{Message: "images.example broke off", Reason: "SOURCE_UNAVAILABLE"})
	if op := operation(); op.GetReason() != "SOURCE_UNAVAILABLE" || op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		t.Errorf("broken off: %v", op)
	}
	disk := spec(64 * mib)
	disk.Disks = []*computev1.Disk{{Name: "root", Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{Image: "img"}}}}
	vm := r.mustCreate("early", disk).GetVm().GetMeta().GetId() // waits: nothing half-made is offered
	say(&agentv1.ImageCopyReport{Ready: true, VirtualSizeBytes: 1 << 30, ContentBytes: 10 << 20})
	r.done(made.GetOperation().GetId())
	if st := r.image(id).GetStatus(); st.GetPhase() != storagev1.ImagePhase_IMAGE_PHASE_READY || st.GetVirtualSizeBytes() != 1<<30 || st.GetSha256() != strings.Repeat("ab", 32) || st.GetMessage() != "" {
		t.Errorf("it is %v", st)
	}
	r.until("the VM that waited is placed", func() bool { return a.known(vm) != nil })

	// What can never be it ends the import, and is asked for no longer.
	bad, err := r.fetchImage("wrong", nil)
	if err != nil {
		t.Fatal(err)
	}
	id = bad.GetImage().GetMeta().GetId()
	r.until("the node is asked to fetch it", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.images[id].GetFetch() })
	say(&agentv1.ImageCopyReport{PermanentFailure: true, Reason: "CHECKSUM_MISMATCH", Message: "other content"})
	if op := r.ended(bad.GetOperation().GetId()); op.GetState() != operationv1.OperationState_OPERATION_STATE_FAILED || op.GetReason() != "CHECKSUM_MISMATCH" {
		t.Errorf("%v", op)
	}
	r.until("it is asked for no longer", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return !a.images[id].GetFetch() })
	say(&agentv1.ImageCopyReport{Message: "no copy here"})
	if st := r.image(id).GetStatus(); st.GetPhase() != storagev1.ImagePhase_IMAGE_PHASE_FAILED || st.GetReason() != "CHECKSUM_MISMATCH" {
		t.Errorf("it is %v", st)
	}
}

// In a shared pool one node makes the copy, in the name of all.
func TestImportIntoSharedPool(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a, b := r.join("n1", 8, 1<<34), r.join("n2", 8, 1<<34)
	r.sharedPool("net", a, b)
	made, err := r.fetchImage("img", func(i *storagev1.Image) { i.Spec.PoolId = "net" })
	if err != nil {
		t.Fatal(err)
	}
	r.done(made.GetOperation().GetId())
	if c := r.image(made.GetImage().GetMeta().GetId()).GetStatus().GetCopies(); len(c) != 1 || c[0].GetNodeId() != "" || c[0].GetPhase() != storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY {
		t.Errorf("copies: %v", c)
	}
	for _, node := range []string{"n1", "n2"} { // whoever made it, all have it
		s := spec(64 * mib)
		s.Placement = &computev1.Placement{Node: node}
		s.Disks = []*computev1.Disk{{Name: "root", Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{Image: "img", Pool: "net"}}}}
		vm := r.mustCreate("on-"+node, s).GetVm().GetMeta().GetId()
		r.untilPhase(vm, computev1.VMPhase_VM_PHASE_RUNNING)
		r.done(r.delete(vm).GetOperation().GetId())
	}
	gone, err := r.Image.DeleteImage(admin(), connect.NewRequest(&storagev1.DeleteImageRequest{Id: "img"}))
	if err != nil {
		t.Fatal(err)
	}
	r.done(gone.Msg.GetOperation().GetId())
}

func TestUpdateImage(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	r.join("n1", 8, 1<<34)
	r.until("the pool", func() bool {
		return r.Cache.Find(state.Query{Kind: state.KindPool}).Rows[0].Pool().GetPool().GetStatus().GetPhase() == storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_READY
	})
	for _, name := range []string{"one", "two"} {
		made, err := r.fetchImage(name, func(i *storagev1.Image) { i.Spec.Aliases = []string{name + ":1"} })
		if err != nil {
			t.Fatal(err)
		}
		r.done(made.GetOperation().GetId())
	}
	update := func(img *storagev1.Image, paths ...string) (*storagev1.Image, error) {
		img.Meta = &metav1.ObjectMeta{Name: "one", Labels: img.GetMeta().GetLabels(), Etag: img.GetMeta().GetEtag()}
		resp, err := r.Image.UpdateImage(admin(), connect.NewRequest(&storagev1.UpdateImageRequest{Image: img, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}}))
		if err != nil {
			return nil, err
		}
		return resp.Msg.GetImage(), nil
	}
	img, err := update(&storagev1.Image{Meta: &metav1.ObjectMeta{Labels: map[string]string{"os": "debian"}}, Spec: &storagev1.ImageSpec{Aliases: []string{"one:2"}, DeleteProtection: true}}, "spec.aliases", "meta.labels", "spec.delete_protection")
	if err != nil || !slices.Equal(img.GetSpec().GetAliases(), []string{"one:2"}) || img.GetMeta().GetLabels()["os"] != "debian" || img.GetMeta().GetGeneration() != 2 {
		t.Fatalf("%v, %v", img, err)
	}
	for reason, try := range map[metav1.Reason]func() error{
		metav1.Reason_REASON_NAME_TAKEN: func() error {
			_, err := update(&storagev1.Image{Spec: &storagev1.ImageSpec{Aliases: []string{"two:1"}}}, "spec.aliases")
			return err
		},
		metav1.Reason_REASON_INVALID_FIELD: func() error {
			_, err := update(&storagev1.Image{Spec: &storagev1.ImageSpec{SourceUrl: "http://h/x"}}, "spec.source_url")
			return err
		},
		metav1.Reason_REASON_IMAGE_NOT_FOUND: func() error {
			_, err := r.Image.GetImage(admin(), connect.NewRequest(&storagev1.GetImageRequest{Id: "one:1"}))
			return err
		},
		metav1.Reason_REASON_WRONG_STATE: func() error {
			_, err := r.Image.DeleteImage(admin(), connect.NewRequest(&storagev1.DeleteImageRequest{Id: "one:2"}))
			return err
		},
	} {
		if err := try(); !fault.Is(err, reason) {
			t.Errorf("want %v: %v", reason, err)
		}
	}
}
