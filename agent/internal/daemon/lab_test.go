package daemon

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/agent/internal/config"
	"github.com/limiquantix/limiquantix/agent/internal/enrol"
	"github.com/limiquantix/limiquantix/agent/internal/plugins"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is one node: a host, a controller, and an agent that can be started and stopped.
type lab struct {
	t       *testing.T
	ctrl    *fakeController
	host    *fakeHost
	dir     string
	plugins *fakePlugins
	d       *Daemon
	stop    func()
	look    time.Duration // how often pools are looked at; 0 = as usual
	nets    []string      // network plugins
	answer  time.Duration // how long network drivers may take to answer; 0 = as usual
	tunnel  string        // the node's tunnel address
	with    func(*config.Config, *Options)
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, ctrl: startController(t, newCA(t)), host: newHost(t), dir: t.TempDir()}
	l.enrol()
	l.start()
	return l
}

// newPoolLab is a lab whose agent looks at pools all the time.
func newPoolLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, ctrl: startController(t, newCA(t)), host: newHost(t), dir: t.TempDir(), look: 200 * time.Millisecond}
	l.enrol()
	l.start()
	return l
}

func (l *lab) enrol() {
	l.t.Helper()
	tok, err := enrol.ParseToken(l.ctrl.token())
	must(l.t, err)
	_, err = enrol.Enrol(l.t.Context(), l.dir, l.ctrl.addr, tok)
	must(l.t, err)
}

// start starts the agent anew; what lies in its directory stays.
func (l *lab) start(endpoints ...string) {
	l.t.Helper()
	id, err := enrol.Load(l.dir)
	must(l.t, err)
	c := config.Default()
	c.DataDir, c.Listen, c.Controllers = l.dir, "127.0.0.1:0", endpoints
	c.TunnelAddress = l.tunnel
	c.ImageNetworks = []string{"127.0.0.1/32"}
	if len(endpoints) == 0 {
		c.Controllers = []string{l.ctrl.addr}
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if os.Getenv("LIMIQUANTIX_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	o := Options{
		Version: "1", Commit: "x", Identity: id, Logger: log, Survey: 300 * time.Millisecond, PoolLook: l.look, PoolAnswer: l.look,
		NetworkLook: 200 * time.Millisecond, NetworkStats: 100 * time.Millisecond, NetworkAnswer: l.answer,
		NewPlugins: func(_ plugins.Config, s plugins.Sink) Plugins {
			l.plugins = &fakePlugins{h: l.host, sink: s, nets: l.nets, down: map[string]bool{}, instance: map[string]uint64{}}
			return l.plugins
		},
	}
	if l.with != nil {
		l.with(&c, &o)
	}
	o.Config = c
	l.d, err = New(o)
	must(l.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	d := l.d
	go func() { done <- d.Run(ctx) }()
	stopped := false
	l.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	}
	l.t.Cleanup(l.stop)
}

func (l *lab) stateFile() string { return filepath.Join(l.dir, "realised.db") }

const (
	poolID = "aaaaaaaa-0000-4000-8000-000000000000"
	volID  = "bbbbbbbb-0000-4000-8000-000000000000"
	vmID   = "cccccccc-0000-4000-8000-000000000000"
)

func vmKey(id string) *agentv1.DesiredKey {
	return &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_VM, Id: id}
}

func volKey(id string) *agentv1.DesiredKey {
	return &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_VOLUME, Id: id}
}

func pool() *agentv1.DesiredObject {
	return &agentv1.DesiredObject{
		Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_POOL, Id: poolID},
		Object: &agentv1.DesiredObject_Pool{Pool: &agentv1.DesiredPool{Pool: &storagev1.StoragePool{
			Meta: &metav1.ObjectMeta{Id: poolID, Name: "local", Generation: 1}, Spec: &storagev1.StoragePoolSpec{Driver: "local"},
		}}},
	}
}

func volume(id string, change ...func(*agentv1.DesiredVolume)) *agentv1.DesiredObject {
	v := &agentv1.DesiredVolume{Epoch: 1, Volume: &storagev1.Volume{
		Meta: &metav1.ObjectMeta{Id: id, Generation: 1}, Spec: &storagev1.VolumeSpec{PoolId: poolID, SizeBytes: 1 << 20},
	}}
	for _, c := range change {
		c(v)
	}
	return &agentv1.DesiredObject{Key: volKey(id), Object: &agentv1.DesiredObject_Volume{Volume: v}}
}

func vm(generation int64, change ...func(*agentv1.DesiredVM)) *agentv1.DesiredObject {
	v := &agentv1.DesiredVM{
		VmId: vmID, Name: "web", ProjectId: "default", Generation: generation, Epoch: 1,
		Spec: &computev1.VMSpec{
			MemoryBytes: 64 << 20, DesiredPower: computev1.PowerState_POWER_STATE_RUNNING, StopGrace: durationpb.New(200 * time.Millisecond),
			Disks: []*computev1.Disk{{Name: "root"}}, Nics: []*computev1.NIC{{Name: "n", Mac: "52:54:00:00:00:01", Attachment: &computev1.NIC_User{User: &computev1.UserModeNetwork{}}}},
		},
		Volumes: []*agentv1.VMVolume{{DiskName: "root", VolumeId: volID}},
	}
	for _, c := range change {
		c(v)
	}
	return &agentv1.DesiredObject{Key: vmKey(vmID), Object: &agentv1.DesiredObject_Vm{Vm: v}}
}

func power(p computev1.PowerState) func(*agentv1.DesiredVM) {
	return func(v *agentv1.DesiredVM) { v.Spec.DesiredPower = p }
}

const (
	stopped = computev1.PowerState_POWER_STATE_STOPPED
	paused  = computev1.PowerState_POWER_STATE_PAUSED
)

// running sets up a VM and waits until it runs; it returns its process id.
func (l *lab) running() int64 {
	l.t.Helper()
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	l.ctrl.set(vm(1))
	l.ctrl.waitPhase(vmID, 1, computev1.VMPhase_VM_PHASE_RUNNING)
	return l.pid()
}

func (l *lab) pid() int64 {
	l.host.mu.Lock()
	defer l.host.mu.Unlock()
	d := l.host.domains[vmID]
	if d == nil {
		return 0
	}
	return d.GetPid()
}

func (l *lab) progressOf(id string) *computev1.Progress {
	l.ctrl.mu.Lock()
	defer l.ctrl.mu.Unlock()
	return l.ctrl.progress[id]
}

// samePID fails unless the guest's process is still the one.
func (l *lab) samePID(want int64) {
	l.t.Helper()
	if got := l.pid(); got != want {
		l.t.Fatalf("the guest's process was %d and is %d", want, got)
	}
}

func (l *lab) event(reason string) func() bool {
	return func() bool {
		for _, e := range l.ctrl.events {
			if e.GetReason() == reason || e.GetType() == reason {
				return true
			}
		}
		return false
	}
}
