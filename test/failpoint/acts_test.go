package failpoint_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// act is a part of what users and machines do. It leaves nothing behind but what it found.
type act struct {
	name string
	do   func(context.Context, *rig) error
	// fresh: it begins with empty directories, of its own.
	fresh bool
	// alone: it ends without a node, and checks for itself.
	alone bool
	// with arms other points, once, for what is only done when something else fails.
	with map[string]string
}

const (
	memory   = 64 << 20
	diskSize = 4 << 20
)

var content = bytes.Repeat([]byte("limiquantix "), 1000)

// acts run in this order in a dry run; a point is tried with the shortest act that visits it.
var acts = []act{
	{name: "node", do: actNode},
	{name: "image", do: actImage},
	{name: "image twice", do: actImageTwice},
	{name: "broken upload", do: actBrokenUpload},
	{name: "console", do: actConsole},
	{name: "create and delete", do: actCreate},
	{name: "power", do: actPower},
	{name: "update", do: actUpdate},
	{name: "kernel", do: actKernel},
	{name: "no room", do: actNoRoom},
	{name: "agent restarts", do: actAgentRestart},
	{name: "agent is killed", do: actAgentKilled},
	{name: "state file is damaged", do: actDamaged},
	{name: "state file is empty", do: actEmptied},
	{name: "controller restarts", do: actControllerRestart},
	{name: "controller is killed", do: actControllerKilled},
	{name: "controller dies in an upload", do: actUploadCut},
	{name: "plugin is configured anew", do: actReconfigure},
	{name: "pool goes and comes", do: actPoolGone, fresh: true},
	{name: "guest agent", do: actGuestAgent},
	{name: "volume shrunk by hand", do: actShrunk},
	{name: "silent node", do: actSilence},
	{name: "token", do: actToken},
	{name: "admin token", do: actAdminToken},
	{name: "admin token fails", do: actAdminToken, with: map[string]string{"controller/internal/pki/cluster.go:writeToken#4:Sync": "fail"}},
	{name: "first start", do: actFirst, fresh: true},
	{name: "first start, memory", do: actMemory, fresh: true, alone: true},
	{name: "two first starts", do: actRace, fresh: true, alone: true, with: map[string]string{clusterCommit: "delay"}},
	{name: "fenced node", do: actFenced, fresh: true, alone: true},
	{name: "wait", do: actWait},
}

func disk(name, image string, size int64) *computev1.Disk {
	return &computev1.Disk{Name: name, Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{SizeBytes: size, Image: image}}}
}

func machine(name string, disks ...*computev1.Disk) *computev1.CreateVMRequest {
	m := &computev1.CreateVMRequest{Vm: &computev1.VM{
		Spec: &computev1.VMSpec{Cpu: &computev1.CPU{Vcpus: 1}, MemoryBytes: memory, Disks: disks, DesiredPower: computev1.PowerState_POWER_STATE_RUNNING},
	}, RequestId: name}
	m.Vm.Meta = meta(name)
	return m
}

// create makes a VM and waits until it is as wanted.
func (r *rig) create(ctx context.Context, m *computev1.CreateVMRequest) (string, error) {
	resp, err := call(ctx, r, r.vms.CreateVM, m)
	if err != nil {
		return "", err
	}
	id := resp.GetVm().GetMeta().GetId()
	if _, err := r.vms.GetVM(ctx, connect.NewRequest(&computev1.GetVMRequest{Id: id})); isNotFound(err) {
		return id, fmt.Errorf("vm %s was acknowledged and is not there", id)
	}
	return id, r.vm(ctx, id, computev1.VMPhase_VM_PHASE_RUNNING)
}

// remove deletes a VM and waits until nothing is left of it.
func (r *rig) remove(ctx context.Context, id string) error {
	_, err := call(ctx, r, r.vms.DeleteVM, &computev1.DeleteVMRequest{Id: id, RequestId: r.name("delete")})
	if err != nil && !isNotFound(err) {
		return err
	}
	return r.gone(ctx, id)
}

func (r *rig) image(ctx context.Context) (*storagev1.Image, error) {
	return r.upload(ctx, r.name("image"), r.name("upload"), content)
}

func (r *rig) removeImage(ctx context.Context, id string) error {
	_, err := call(ctx, r, r.images.DeleteImage, &storagev1.DeleteImageRequest{Id: id, RequestId: r.name("delete")})
	if err != nil && !isNotFound(err) {
		return err
	}
	return r.until(ctx, "image "+id+" is gone", func() (bool, string) {
		m, err := r.images.GetImage(ctx, connect.NewRequest(&storagev1.GetImageRequest{Id: id}))
		return isNotFound(err), fmt.Sprint(m, err)
	})
}

// actWait lets what happens by itself happen.
func actWait(ctx context.Context, _ *rig) error { return pause(ctx, 4*time.Second) }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func actNode(ctx context.Context, r *rig) error {
	_, err := call(ctx, r, r.nodes.CordonNode, &computev1.CordonNodeRequest{Id: nodeName, RequestId: r.name("cordon")})
	if err != nil {
		return err
	}
	got, err := call(ctx, r, r.nodes.GetNode, &computev1.GetNodeRequest{Id: nodeName})
	if err != nil || !got.GetNode().GetSpec().GetCordoned() {
		return errors.Join(err, fmt.Errorf("cordon was acknowledged and is not so: %v", got))
	}
	if _, err := call(ctx, r, r.nodes.UncordonNode, &computev1.UncordonNodeRequest{Id: nodeName, RequestId: r.name("uncordon")}); err != nil {
		return err
	}
	node := got.GetNode()
	label := r.name("label")
	node.Meta.Labels, node.Meta.Etag = map[string]string{"test": label}, ""
	_, err = call(ctx, r, r.nodes.UpdateNode, &computev1.UpdateNodeRequest{Node: node, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"meta.labels"}}, RequestId: label})
	if err != nil {
		return err
	}
	if got, err = call(ctx, r, r.nodes.GetNode, &computev1.GetNodeRequest{Id: nodeName}); err != nil || got.GetNode().GetMeta().GetLabels()["test"] != label {
		return errors.Join(err, fmt.Errorf("a label was acknowledged and is not so: %v", got))
	}
	other := r.name("registered")
	_, err = call(ctx, r, r.nodes.RegisterNode, &computev1.RegisterNodeRequest{Node: &computev1.Node{Meta: meta(other)}, RequestId: other})
	if err != nil {
		return err
	}
	if _, err = call(ctx, r, r.nodes.DeleteNode, &computev1.DeleteNodeRequest{Id: other, RequestId: r.name("delete")}); err != nil && !isNotFound(err) {
		return err
	}
	return r.until(ctx, "node "+other+" is gone", func() (bool, string) {
		m, err := r.nodes.GetNode(ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: other}))
		return isNotFound(err), fmt.Sprint(m, err)
	})
}

func actImage(ctx context.Context, r *rig) error {
	img, err := r.image(ctx)
	if err != nil {
		return err
	}
	return r.removeImage(ctx, img.GetMeta().GetId())
}

func actImageTwice(ctx context.Context, r *rig) error {
	name, id := r.name("image"), r.name("upload")
	first, err := r.upload(ctx, name, id, content)
	if err != nil {
		return err
	}
	second, err := r.upload(ctx, name, id, content)
	if err != nil {
		return err
	}
	if first.GetMeta().GetId() != second.GetMeta().GetId() {
		return fmt.Errorf("one request id made images %s and %s", first.GetMeta().GetId(), second.GetMeta().GetId())
	}
	return r.removeImage(ctx, first.GetMeta().GetId())
}

// actBrokenUpload begins an upload and breaks it off.
func actBrokenUpload(ctx context.Context, r *rig) error {
	name := r.name("image")
	err := r.until(ctx, "an upload is under way", func() (bool, string) {
		once, cancel := context.WithCancel(ctx)
		defer cancel()
		return r.beginUpload(once, name)
	})
	if err != nil {
		return err
	}
	return r.noImage(ctx, name)
}

// beginUpload sends a part of an image and returns when the controller has begun to take it, if it does.
func (r *rig) beginUpload(ctx context.Context, name string) (bool, string) {
	s := r.images.UploadImage(ctx)
	_ = s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Header{Header: &storagev1.UploadImageHeader{
		Name: name, Format: storagev1.ImageFormat_IMAGE_FORMAT_RAW,
	}}})
	_ = s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Data{Data: content}})
	seen := ""
	for range 50 {
		m, err := r.images.GetImage(ctx, connect.NewRequest(&storagev1.GetImageRequest{Id: name}))
		if err == nil {
			return true, ""
		}
		seen = fmt.Sprint(m, err)
		_ = pause(ctx, 10*time.Millisecond)
	}
	return false, seen
}

func (r *rig) noImage(ctx context.Context, name string) error {
	return r.until(ctx, "nothing is left of image "+name, func() (bool, string) {
		m, err := r.images.GetImage(ctx, connect.NewRequest(&storagev1.GetImageRequest{Id: name}))
		return isNotFound(err), fmt.Sprint(m, err)
	})
}

// actUploadCut kills the controller while it carries an upload.
func actUploadCut(ctx context.Context, r *rig) error {
	name := r.name("image")
	once, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := r.until(ctx, "an upload is under way", func() (bool, string) { return r.beginUpload(once, name) }); err != nil {
		return err
	}
	if err := r.killController(ctx); err != nil {
		return err
	}
	return r.noImage(ctx, name)
}

// actConsole types into the console of the VM that stays and reads it, and its log.
func actConsole(ctx context.Context, r *rig) error {
	word := r.name("typed")
	err := r.until(ctx, "the console answers", func() (bool, string) {
		once, cancel := context.WithTimeout(ctx, oneCall)
		defer cancel()
		s := r.vms.OpenConsole(once)
		defer func() { _ = s.CloseRequest(); _ = s.CloseResponse() }()
		_ = s.Send(&computev1.OpenConsoleRequest{Message: &computev1.OpenConsoleRequest_Open{Open: &computev1.ConsoleTarget{Id: stayName}}})
		_ = s.Send(&computev1.OpenConsoleRequest{Message: &computev1.OpenConsoleRequest_Data{Data: []byte(word + "\n")}})
		var seen []byte
		for {
			m, err := s.Receive()
			if err != nil {
				return false, fmt.Sprintf("%q, %v", seen, err)
			}
			if seen = append(seen, m.GetData()...); bytes.Contains(seen, []byte(word)) {
				return true, ""
			}
		}
	})
	if err != nil {
		return err
	}
	return r.until(ctx, "the console's log has it", func() (bool, string) {
		once, cancel := context.WithTimeout(ctx, oneCall)
		defer cancel()
		s, err := r.vms.GetConsoleLog(once, connect.NewRequest(&computev1.GetConsoleLogRequest{Id: stayName}))
		if err != nil {
			return false, err.Error()
		}
		defer func() { _ = s.Close() }()
		var seen []byte
		for s.Receive() {
			seen = append(seen, s.Msg().GetData()...)
		}
		return bytes.Contains(seen, []byte(word)), fmt.Sprintf("%q, %v", seen, s.Err())
	})
}

// actCreate makes a VM with a disk from the image that stays and another one, and deletes it.
func actCreate(ctx context.Context, r *rig) error {
	m := machine(r.name("vm"), disk("root", stayName, diskSize), disk("data", "", diskSize))
	id, err := r.create(ctx, m)
	if err != nil {
		return err
	}
	again, err := call(ctx, r, r.vms.CreateVM, m)
	if err != nil || again.GetVm().GetMeta().GetId() != id {
		return errors.Join(err, fmt.Errorf("one request id made %s and %s", id, again.GetVm().GetMeta().GetId()))
	}
	return r.remove(ctx, id)
}

func actPower(ctx context.Context, r *rig) error {
	id, err := r.create(ctx, machine(r.name("vm")))
	if err != nil {
		return err
	}
	for _, step := range []struct {
		phase computev1.VMPhase
		do    func(request string) error
	}{
		{computev1.VMPhase_VM_PHASE_PAUSED, func(q string) error {
			_, err := call(ctx, r, r.vms.PauseVM, &computev1.PauseVMRequest{Id: id, RequestId: q})
			return err
		}},
		{computev1.VMPhase_VM_PHASE_RUNNING, func(q string) error {
			_, err := call(ctx, r, r.vms.ResumeVM, &computev1.ResumeVMRequest{Id: id, RequestId: q})
			return err
		}},
		{computev1.VMPhase_VM_PHASE_RUNNING, func(q string) error {
			_, err := call(ctx, r, r.vms.RebootVM, &computev1.RebootVMRequest{Id: id, RequestId: q})
			return err
		}},
		{computev1.VMPhase_VM_PHASE_STOPPED, func(q string) error {
			_, err := call(ctx, r, r.vms.StopVM, &computev1.StopVMRequest{Id: id, RequestId: q})
			return err
		}},
		{computev1.VMPhase_VM_PHASE_RUNNING, func(q string) error {
			_, err := call(ctx, r, r.vms.StartVM, &computev1.StartVMRequest{Id: id, RequestId: q})
			return err
		}},
		{computev1.VMPhase_VM_PHASE_STOPPED, func(q string) error {
			_, err := call(ctx, r, r.vms.StopVM, &computev1.StopVMRequest{Id: id, RequestId: q, Force: true})
			return err
		}},
	} {
		if err := step.do(r.name("power")); err != nil {
			return err
		}
		if err := r.vm(ctx, id, step.phase); err != nil {
			return err
		}
	}
	return r.remove(ctx, id)
}

func actUpdate(ctx context.Context, r *rig) error {
	id, err := r.create(ctx, machine(r.name("vm"), disk("data", "", diskSize)))
	if err != nil {
		return err
	}
	for _, vcpus := range []int32{2, 1} {
		got, err := call(ctx, r, r.vms.GetVM, &computev1.GetVMRequest{Id: id})
		if err != nil {
			return err
		}
		vm := got.GetVm()
		vm.Meta.Etag, vm.Spec.Cpu = "", &computev1.CPU{Vcpus: vcpus}
		q := r.name("update")
		if _, err := call(ctx, r, r.vms.UpdateVM, &computev1.UpdateVMRequest{Vm: vm, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.cpu"}}, RequestId: q}); err != nil {
			return err
		}
		if err := r.vm(ctx, id, computev1.VMPhase_VM_PHASE_RUNNING); err != nil {
			return err
		}
	}
	return r.remove(ctx, id)
}

// actKernel boots a kernel that is an image.
func actKernel(ctx context.Context, r *rig) error {
	m := machine(r.name("vm"))
	m.Vm.Spec.Boot = &computev1.Boot{Kernel: &computev1.KernelBoot{KernelImage: stayName}}
	id, err := r.create(ctx, m)
	if err != nil {
		return err
	}
	return r.remove(ctx, id)
}

// actNoRoom asks for more than there is, makes it smaller, asks again and cancels.
func actNoRoom(ctx context.Context, r *rig) error {
	big := func() (*computev1.CreateVMResponse, error) {
		m := machine(r.name("vm"))
		m.Vm.Spec.MemoryBytes = 1 << 40
		made, err := call(ctx, r, r.vms.CreateVM, m)
		if err != nil {
			return nil, err
		}
		return made, r.until(ctx, "it is said why the vm waits", func() (bool, string) {
			got, err := r.vms.GetVM(ctx, connect.NewRequest(&computev1.GetVMRequest{Id: made.GetVm().GetMeta().GetId()}))
			if err != nil {
				return false, err.Error()
			}
			return got.Msg.GetVm().GetStatus().GetReason() != "", got.Msg.String()
		})
	}
	made, err := big()
	if err != nil {
		return err
	}
	cancelled, err := call(ctx, r, r.ops.CancelOperation, &operationv1.CancelOperationRequest{Id: made.GetOperation().GetId(), RequestId: r.name("cancel")})
	if err != nil {
		return err
	}
	if state, err := r.ended(ctx, cancelled.GetOperation()); err != nil || state != operationv1.OperationState_OPERATION_STATE_CANCELLED {
		return errors.Join(err, fmt.Errorf("the cancelled operation ended %s", state))
	}
	return r.remove(ctx, made.GetVm().GetMeta().GetId())
}

func actAgentRestart(ctx context.Context, r *rig) error {
	return r.whileAgentIsDown(ctx, syscall.SIGTERM, func() error { return nil })
}

func actAgentKilled(ctx context.Context, r *rig) error {
	return r.whileAgentIsDown(ctx, syscall.SIGKILL, func() error { return nil })
}

func (r *rig) whileAgentIsDown(ctx context.Context, s syscall.Signal, do func() error) error {
	if err := r.agent.stop(s); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if err := r.agent.start(); err != nil {
		return err
	}
	return r.nodeReady(ctx)
}

func actDamaged(ctx context.Context, r *rig) error {
	return r.whileAgentIsDown(ctx, syscall.SIGKILL, func() error {
		return os.WriteFile(filepath.Join(r.dir, "agent", "realised.db"), []byte("this is no database, and it is long enough to be looked at"), 0o600)
	})
}

func actEmptied(ctx context.Context, r *rig) error {
	return r.whileAgentIsDown(ctx, syscall.SIGKILL, func() error {
		return os.Truncate(filepath.Join(r.dir, "agent", "realised.db"), 0)
	})
}

func actControllerRestart(ctx context.Context, r *rig) error {
	if err := r.controller.stop(syscall.SIGTERM); err != nil {
		return err
	}
	if err := r.controller.start(); err != nil {
		return err
	}
	return errors.Join(r.ready(ctx), r.nodeReady(ctx))
}

func actControllerKilled(ctx context.Context, r *rig) error {
	return errors.Join(r.killController(ctx), r.nodeReady(ctx))
}

func (r *rig) killController(ctx context.Context) error {
	if err := r.controller.stop(syscall.SIGKILL); err != nil {
		return err
	}
	if err := r.controller.start(); err != nil {
		return err
	}
	return r.ready(ctx)
}

func actReconfigure(ctx context.Context, r *rig) error {
	done, err := r.ask("reconfigure")
	if err != nil {
		return err
	}
	defer done()
	r.agent.signal(syscall.SIGHUP)
	return pause(ctx, 300*time.Millisecond)
}

// actPoolGone lets the pool be assigned to the node no longer, and then again.
func actPoolGone(ctx context.Context, r *rig) error {
	if err := r.up(ctx); err != nil {
		return err
	}
	done, err := r.ask("pool-absent")
	if err != nil {
		return err
	}
	defer done()
	usable := func(want bool) error {
		return r.until(ctx, fmt.Sprintf("the pool is in the journal: %v", want), func() (bool, string) {
			j, err := r.journal()
			return err == nil && (len(j["pool"]) > 0) == want, fmt.Sprint(j.ids("pool"), err)
		})
	}
	if err := errors.Join(r.killController(ctx), usable(false)); err != nil {
		return err
	}
	done()
	return errors.Join(r.killController(ctx), usable(true), r.nodeReady(ctx))
}

// change alters an object of the backend by hand, as somebody on the host may.
func change[M proto.Message](r *rig, table, key string, m M, f func(M)) error {
	return editJournal(filepath.Join(r.dir, "journal", "j"), func(j journal) error {
		if err := proto.Unmarshal(j[table][key], m); err != nil {
			return err
		}
		f(m)
		b, err := proto.Marshal(m)
		j[table][key] = b
		return err
	})
}

// actGuestAgent lets a guest's agent connect.
func actGuestAgent(ctx context.Context, r *rig) error {
	id, err := r.create(ctx, machine(r.name("vm")))
	if err != nil {
		return err
	}
	err = r.whileAgentIsDown(ctx, syscall.SIGTERM, func() error {
		return change(r, "domain", id, &driverv1.Domain{}, func(d *driverv1.Domain) { d.GuestAgentConnected = true })
	})
	if err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	return r.remove(ctx, id)
}

// actShrunk makes a volume smaller than it was asked for, before it is attached: its VM waits for the other disk's image.
func actShrunk(ctx context.Context, r *rig) error {
	id, err := r.create(ctx, machine(r.name("vm"), disk("data", "", diskSize)))
	if err != nil {
		return err
	}
	got, err := call(ctx, r, r.vms.GetVM, &computev1.GetVMRequest{Id: id})
	if err != nil {
		return err
	}
	volume := got.GetVm().GetStatus().GetDisks()[0].GetVolumeId()
	j, err := r.journal()
	if err != nil {
		return err
	}
	err = r.whileAgentIsDown(ctx, syscall.SIGTERM, func() error {
		for key := range j["volume"] {
			if filepath.Base(key) == volume {
				return change(r, "volume", key, &driverv1.Volume{}, func(v *driverv1.Volume) { v.SizeBytes, v.Attached = 1<<20, false })
			}
		}
		return fmt.Errorf("volume %s is not in the journal", volume)
	})
	if err != nil {
		return err
	}
	err = r.until(ctx, "the volume is as large as it was asked for", func() (bool, string) {
		j, err := r.journal()
		for key := range j["volume"] {
			v := &driverv1.Volume{}
			if filepath.Base(key) == volume && proto.Unmarshal(j["volume"][key], v) == nil && v.GetSizeBytes() == diskSize {
				return true, ""
			}
		}
		return false, fmt.Sprint(err)
	})
	if err != nil {
		return err
	}
	return r.remove(ctx, id)
}

// actSilence lets the node fall silent until it counts as unknown.
func actSilence(ctx context.Context, r *rig) error {
	return r.whileAgentIsDown(ctx, syscall.SIGKILL, func() error {
		return r.until(ctx, "the node is unknown", func() (bool, string) {
			m, err := r.nodes.GetNode(ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: nodeName}))
			return err == nil && m.Msg.GetNode().GetStatus().GetPhase() == computev1.NodePhase_NODE_PHASE_UNKNOWN, fmt.Sprint(m, err)
		})
	})
}

// actToken makes a token and revokes it, and one that expires by itself.
func actToken(ctx context.Context, r *rig) error {
	made, err := call(ctx, r, r.nodes.CreateJoinToken, &computev1.CreateJoinTokenRequest{NodeName: r.name("node")})
	if err != nil {
		return err
	}
	if _, err := call(ctx, r, r.nodes.DeleteJoinToken, &computev1.DeleteJoinTokenRequest{Id: made.GetJoinToken().GetId()}); err != nil {
		return err
	}
	short := r.name("node")
	if _, err := r.joinToken(ctx, short, time.Second); err != nil {
		return err
	}
	return r.until(ctx, "the token expires", func() (bool, string) {
		m, err := r.nodes.ListJoinTokens(ctx, connect.NewRequest(&computev1.ListJoinTokensRequest{}))
		if err != nil {
			return false, err.Error()
		}
		for _, t := range m.Msg.GetJoinTokens() {
			if t.GetNodeName() == short {
				return false, m.Msg.String()
			}
		}
		return pauseQuietly(ctx, 3*time.Second), ""
	})
}

func pauseQuietly(ctx context.Context, d time.Duration) bool { return pause(ctx, d) == nil }

// actAdminToken makes a new admin token while the controller is down, again until it is told that it was made.
func actAdminToken(ctx context.Context, r *rig) error {
	if err := r.controller.stop(syscall.SIGTERM); err != nil {
		return err
	}
	err := r.until(ctx, "the admin token is made anew", func() (bool, string) {
		cmd := exec.CommandContext(ctx, r.controller.argv[0], append([]string{"admin-token", "--reset"}, r.controller.argv[1:]...)...)
		cmd.Env = r.controller.env
		out, err := cmd.CombinedOutput()
		return err == nil, fmt.Sprintf("%v: %s", err, out)
	})
	if err != nil {
		return err
	}
	if err := r.controller.start(); err != nil {
		return err
	}
	return errors.Join(r.ready(ctx), r.nodeReady(ctx))
}

// actFirst starts everything for the first time and makes a VM.
func actFirst(ctx context.Context, r *rig) error {
	if err := r.up(ctx); err != nil {
		return err
	}
	id, err := r.create(ctx, machine("first"))
	if err != nil {
		return err
	}
	return r.remove(ctx, id)
}
