package leader

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// Everything that only the leader can serve is served by the other controller too: consoles, their logs, events, uploads; and watches go from one to
// the other without loss.
func TestEveryControllerServesAll(t *testing.T) {
	k := startCluster(t, config{members: 2, agents: 2, overcommitCPU: 100})
	leads, other := k.leader(t)
	vm := k.run(t, other, "shell")

	t.Run("console", func(t *testing.T) { typed(t, other, vm, "hello") })
	t.Run("log", func(t *testing.T) {
		// Over HTTP/1.1 too, which curl speaks.
		for _, client := range []*http.Client{nil, http.DefaultClient} {
			await(t, bound(10*time.Second), "the log holds what was typed", func() (bool, string) {
				s, err := other.streams(client).GetConsoleLog(t.Context(), connect.NewRequest(&computev1.GetConsoleLogRequest{Id: vm}))
				if err != nil {
					return false, err.Error()
				}
				defer func() { _ = s.Close() }()
				var log []byte
				for s.Receive() {
					log = append(log, s.Msg().GetData()...)
				}
				return s.Err() == nil && bytes.Contains(log, []byte("hello")), fmt.Sprintf("%q, %v", log, s.Err())
			})
		}
	})
	t.Run("events", func(t *testing.T) {
		res, err := other.vms.ListVMEvents(t.Context(), connect.NewRequest(&computev1.ListVMEventsRequest{Id: vm}))
		if err != nil || !strings.Contains(fmt.Sprint(res.Msg), "Placed") {
			t.Errorf("%v %v", res, err)
		}
	})
	t.Run("no token", func(t *testing.T) {
		for _, m := range k.members {
			s := computev1connect.NewVMServiceClient(http.DefaultClient, m.url)
			log, err := s.GetConsoleLog(t.Context(), connect.NewRequest(&computev1.GetConsoleLogRequest{Id: vm}))
			if err == nil {
				log.Receive()
				err = log.Err()
			}
			if connect.CodeOf(err) != connect.CodeUnauthenticated {
				t.Errorf("%s: %v", m.name, err)
			}
		}
	})
	t.Run("upload", func(t *testing.T) { k.upload(t, other) })
	t.Run("upload broken off", func(t *testing.T) { k.uploadBrokenOff(t, leads, other) })
	t.Run("watch", func(t *testing.T) { k.watchBoth(t, leads, other) })
}

// The leader is killed with a console open through the other: the client is told, and comes back through the same controller, which leads now.
func TestConsoleOutlivesLeader(t *testing.T) {
	k := startCluster(t, config{members: 2, agents: 1, overcommitCPU: 100})
	leads, other := k.leader(t)
	vm := k.run(t, other, "shell")
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGSTOP} {
		s := other.vms.OpenConsole(t.Context())
		open(t, s, vm)
		if signal == syscall.SIGKILL {
			leads.end(t, signal)
		} else {
			leads.signal(t, signal)
		}
		told := make(chan error, 1)
		go func() {
			for {
				if _, err := s.Receive(); err != nil {
					told <- err
					return
				}
			}
		}()
		select {
		case err := <-told:
			if connect.CodeOf(err) != connect.CodeUnavailable {
				t.Errorf("%s: a console whose leader is gone ended with %v", name, err)
			}
		case <-time.After(bound(20 * time.Second)):
			t.Fatalf("%s: nobody told the client", name)
		}
		_ = s.CloseRequest()
		await(t, bound(30*time.Second), "the console works again", func() (bool, string) {
			err := echo(t.Context(), other, vm, name)
			return err == nil, fmt.Sprint(err)
		})
		if signal == syscall.SIGKILL {
			leads.up(t)
		} else {
			leads.signal(t, syscall.SIGCONT)
		}
		leads, other = k.leader(t)
	}
}

// streams is a client for streams; nil = over HTTP/2.
func (m *controller) streams(client *http.Client) computev1connect.VMServiceClient {
	if client == nil {
		return m.vms
	}
	return computev1connect.NewVMServiceClient(client, m.url, connect.WithInterceptors(m.token))
}

// run makes a VM and waits until it runs.
func (k *cluster) run(t *testing.T, by *controller, name string) (id string) {
	t.Helper()
	res, err := by.vms.CreateVM(t.Context(), connect.NewRequest(createRequest(name)))
	if err != nil {
		t.Fatal(err)
	}
	id = res.Msg.GetVm().GetMeta().GetId()
	await(t, bound(30*time.Second), name+" runs", func() (bool, string) {
		res, err := by.vms.GetVM(t.Context(), connect.NewRequest(&computev1.GetVMRequest{Id: id}))
		return err == nil && res.Msg.GetVm().GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_RUNNING, fmt.Sprint(res, err)
	})
	return id
}

type console = connect.BidiStreamForClient[computev1.OpenConsoleRequest, computev1.OpenConsoleResponse]

func openErr(s *console, vm string) error {
	err := s.Send(&computev1.OpenConsoleRequest{Message: &computev1.OpenConsoleRequest_Open{Open: &computev1.ConsoleTarget{Id: vm}}})
	if err == nil || errors.Is(err, io.EOF) {
		_, err = s.Receive()
	}
	return err
}

func open(t *testing.T, s *console, vm string) {
	t.Helper()
	if err := openErr(s, vm); err != nil {
		t.Fatal(err)
	}
}

// echo types a text and waits until the guest has printed it.
func echo(ctx context.Context, m *controller, vm, text string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s := m.vms.OpenConsole(ctx)
	if err := openErr(s, vm); err != nil {
		return err
	}
	if err := s.Send(&computev1.OpenConsoleRequest{Message: &computev1.OpenConsoleRequest_Data{Data: []byte(text)}}); err != nil {
		return err
	}
	var got []byte
	for !bytes.Contains(got, []byte(text)) {
		r, err := s.Receive()
		if err != nil {
			return fmt.Errorf("after %q: %w", got, err)
		}
		got = append(got, r.GetData()...)
	}
	return errors.Join(s.CloseRequest(), s.CloseResponse())
}

func typed(t *testing.T, m *controller, vm, text string) {
	t.Helper()
	if err := echo(t.Context(), m, vm, text); err != nil {
		t.Fatal(err)
	}
}

func (k *cluster) upload(t *testing.T, by *controller) {
	t.Helper()
	content := bytes.Repeat([]byte("limiquantix "), 300_000)
	sum := sha256.Sum256(content)
	s := by.images.UploadImage(t.Context())
	if err := s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Header{Header: &storagev1.UploadImageHeader{
		Name: "disk", Format: storagev1.ImageFormat_IMAGE_FORMAT_RAW, Sha256: hex.EncodeToString(sum[:]), RequestId: "upload",
	}}}); err != nil {
		t.Fatal(err)
	}
	for len(content) > 0 {
		n := min(len(content), 1<<20)
		if err := s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Data{Data: content[:n]}}); err != nil {
			t.Fatal(err)
		}
		content = content[n:]
	}
	res, err := s.CloseAndReceive()
	if err != nil {
		t.Fatal(err)
	}
	img := res.Msg.GetImage().GetStatus()
	if img.GetPhase() != storagev1.ImagePhase_IMAGE_PHASE_READY || img.GetSha256() != hex.EncodeToString(sum[:]) || len(img.GetCopies()) != len(k.agents) {
		t.Fatal(res.Msg)
	}
}

// uploadBrokenOff kills the controller through which a client uploads: the leader, which carries the upload, undoes it.
func (k *cluster) uploadBrokenOff(t *testing.T, leads, other *controller) {
	t.Helper()
	s := other.images.UploadImage(t.Context())
	if err := s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Header{Header: &storagev1.UploadImageHeader{
		Name: "half", Format: storagev1.ImageFormat_IMAGE_FORMAT_RAW, ContentBytes: 8 << 20,
	}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Data{Data: make([]byte, 1<<20)}}); err != nil {
		t.Fatal(err)
	}
	list := func() []*storagev1.Image {
		res, err := leads.images.ListImages(t.Context(), connect.NewRequest(&storagev1.ListImagesRequest{Name: "half"}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg.GetImages()
	}
	await(t, bound(10*time.Second), "the upload has begun", func() (bool, string) { return len(list()) == 1, "" })
	other.end(t, syscall.SIGKILL)
	_, err := s.CloseAndReceive()
	if err == nil {
		t.Error("half an upload was acknowledged")
	}
	await(t, bound(30*time.Second), "nothing is left of the upload", func() (bool, string) { return len(list()) == 0, fmt.Sprint(list()) })
	other.up(t)
}

// watchBoth follows one VM's changes through one controller, goes on from there at the other, and misses none.
func (k *cluster) watchBoth(t *testing.T, leads, other *controller) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound(30*time.Second))
	defer cancel()
	vm := k.run(t, leads, "watched")
	label := func(n int) {
		req := &computev1.UpdateVMRequest{Vm: &computev1.VM{Meta: meta("watched")}, RequestId: fmt.Sprint("label-", n)}
		req.Vm.Meta.Labels = map[string]string{"n": fmt.Sprint(n)}
		req.UpdateMask = &fieldmaskpb.FieldMask{Paths: []string{"meta.labels"}}
		if _, err := leads.vms.UpdateVM(ctx, connect.NewRequest(req)); err != nil {
			t.Fatal(err)
		}
	}
	var revision int64
	for n := 1; n <= 40; n++ {
		by := []*controller{other, leads}[n%2]
		label(n) // before the watch: what was missed in between must come
		s, err := by.vms.WatchVMs(ctx, connect.NewRequest(&computev1.WatchVMsRequest{Id: vm, Revision: revision}))
		if err != nil {
			t.Fatal(n, err)
		}
		for last := ""; last != fmt.Sprint(n); {
			if !s.Receive() {
				t.Fatalf("change %d was not seen through %s, from revision %d: %v", n, by.name, revision, s.Err())
			}
			if s.Msg().GetVm() != nil {
				last = s.Msg().GetVm().GetMeta().GetLabels()["n"]
			}
			revision = s.Msg().GetRevision()
		}
		_ = s.Close()
	}
}
