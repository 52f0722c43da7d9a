package fault

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const vmMemory = 16 << 20

// patience is how long a client asks again before that counts as a hang.
const patience = 3 * time.Minute

// told is a VM as a client was told that it is wanted.
type told struct {
	id, name string
	power    computev1.PowerState
	label    string
	reboots  int64
}

// ledger holds what clients were told.
type ledger struct {
	f *fleet

	mu    sync.Mutex
	live  map[string]told // by id
	asked asked
	last  string // the VM that was changed last
	calls int
	wrong []string

	stop context.CancelFunc
	all  sync.WaitGroup
}

func newLedger(f *fleet) *ledger {
	return &ledger{f: f, live: map[string]told{}, asked: asked{}, stop: func() {}}
}

// load starts clients that each make, change and remove VMs of their own, until halt.
func (l *ledger) load(clients int, seed uint64) {
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	for i := range clients {
		l.all.Go(func() { l.client(ctx, fmt.Sprintf("w%d", i), rand.New(rand.NewPCG(seed, uint64(i)))) }) //nolint:gosec // a seed that can be given
	}
}

func (l *ledger) halt() {
	l.stop()
	l.all.Wait()
}

func (l *ledger) client(ctx context.Context, name string, r *rand.Rand) {
	var own []told
	for n := 0; ctx.Err() == nil; n++ {
		select { // the load, not a wait
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(20+r.IntN(80)) * time.Millisecond):
		}
		request := fmt.Sprintf("%s-%d", name, n)
		if len(own) < 3 {
			if vm, ok := l.create(request); ok {
				own = append(own, vm)
			}
			continue
		}
		i := r.IntN(len(own))
		if r.IntN(4) == 0 {
			l.remove(own[i], request)
			own = slices.Delete(own, i, i+1)
			continue
		}
		own[i] = l.change(own[i], request, r)
	}
}

// retry sends a request again, the same, until it is answered, and reports whether it was accepted. mayRefuse says that the VM may not be in a state for it.
func (l *ledger) retry(what string, mayRefuse bool, call func(ctx context.Context) error) bool {
	began := time.Now()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := call(ctx)
		cancel()
		if err == nil {
			l.mu.Lock()
			l.calls++
			l.mu.Unlock()
			return true
		}
		switch connect.CodeOf(err) {
		case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeAborted, connect.CodeUnknown:
			if time.Since(began) < patience {
				time.Sleep(50 * time.Millisecond)
				continue
			}
		case connect.CodeFailedPrecondition:
			if mayRefuse {
				return false
			}
		default:
		}
		l.mu.Lock()
		l.wrong = append(l.wrong, fmt.Sprintf("%s: %v, after %s", what, err, time.Since(began)))
		l.mu.Unlock()
		return false
	}
}

func (l *ledger) create(name string) (told, bool) {
	vm := told{name: name, power: computev1.PowerState_POWER_STATE_RUNNING}
	began := time.Now()
	ok := l.retry("create "+name, false, func(ctx context.Context) error {
		res, err := l.f.vms.CreateVM(ctx, connect.NewRequest(&computev1.CreateVMRequest{RequestId: "create-" + name, Vm: &computev1.VM{
			Meta: &metav1.ObjectMeta{Name: name},
			Spec: &computev1.VMSpec{MemoryBytes: vmMemory, Disks: []*computev1.Disk{{
				Name: "root", Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{SizeBytes: 1 << 20, Format: computev1.DiskFormat_DISK_FORMAT_RAW}},
			}}},
		}}))
		if err == nil {
			vm.id = res.Msg.GetVm().GetMeta().GetId()
		}
		return err
	})
	if ok {
		l.ask(vm.id, "on", began)
		l.note(vm)
	}
	return vm, ok
}

func (l *ledger) note(vm told) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live[vm.id], l.last = vm, vm.id
}

// busy is the node that the last change is for, if that is known.
func (l *ledger) busy() *node {
	l.mu.Lock()
	vm := l.last
	l.mu.Unlock()
	for _, n := range l.f.nodes {
		if domains, err := n.domains(); err == nil && domains[vm] != nil {
			return n
		}
	}
	return nil
}

func (l *ledger) ask(vm, what string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked.note(vm, what, at)
}

func (l *ledger) remove(vm told, request string) {
	l.ask(vm.id, "delete", time.Now())
	if l.retry("delete "+vm.name, false, func(ctx context.Context) error {
		_, err := l.f.vms.DeleteVM(ctx, connect.NewRequest(&computev1.DeleteVMRequest{Id: vm.id, RequestId: "delete-" + request}))
		return err
	}) {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.live, vm.id)
	}
}

// change starts, stops, pauses, reboots or labels a VM.
func (l *ledger) change(vm told, request string, r *rand.Rand) told {
	next, what := vm, ""
	var call func(context.Context) error
	switch r.IntN(5) {
	case 0:
		next.power, what = computev1.PowerState_POWER_STATE_RUNNING, "on"
		call = func(ctx context.Context) error {
			_, err := l.f.vms.StartVM(ctx, connect.NewRequest(&computev1.StartVMRequest{Id: vm.id, RequestId: request}))
			return err
		}
		if vm.power == computev1.PowerState_POWER_STATE_PAUSED { // that is resumed, not started
			call = func(ctx context.Context) error {
				_, err := l.f.vms.ResumeVM(ctx, connect.NewRequest(&computev1.ResumeVMRequest{Id: vm.id, RequestId: request}))
				return err
			}
		}
	case 1:
		next.power, what = computev1.PowerState_POWER_STATE_STOPPED, "off"
		force := r.IntN(2) == 0
		call = func(ctx context.Context) error {
			_, err := l.f.vms.StopVM(ctx, connect.NewRequest(&computev1.StopVMRequest{Id: vm.id, RequestId: request, Force: force}))
			return err
		}
	case 2:
		if vm.power != computev1.PowerState_POWER_STATE_RUNNING {
			return vm
		}
		next.power, what = computev1.PowerState_POWER_STATE_PAUSED, "pause"
		call = func(ctx context.Context) error {
			_, err := l.f.vms.PauseVM(ctx, connect.NewRequest(&computev1.PauseVMRequest{Id: vm.id, RequestId: request}))
			return err
		}
	case 3:
		if vm.power != computev1.PowerState_POWER_STATE_RUNNING {
			return vm
		}
		next.reboots, what = vm.reboots+1, "reboot"
		call = func(ctx context.Context) error {
			_, err := l.f.vms.RebootVM(ctx, connect.NewRequest(&computev1.RebootVMRequest{Id: vm.id, RequestId: request}))
			return err
		}
	default:
		next.label = request
		call = func(ctx context.Context) error {
			_, err := l.f.vms.UpdateVM(ctx, connect.NewRequest(&computev1.UpdateVMRequest{
				Vm:         &computev1.VM{Meta: &metav1.ObjectMeta{Id: vm.id, Labels: map[string]string{"told": request}}},
				UpdateMask: mask("meta.labels"), RequestId: request,
			}))
			return err
		}
	}
	if what != "" {
		l.ask(vm.id, what, time.Now())
	}
	if !l.retry("change "+vm.name, next.power == computev1.PowerState_POWER_STATE_PAUSED || next.reboots > vm.reboots, call) {
		if what != "" {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.asked.drop(vm.id, what)
		}
		return vm
	}
	l.note(next)
	return next
}

// settled waits until everything is as clients were told: by the controller, and by the journals of the nodes.
func (l *ledger) settled(t *testing.T, limit time.Duration) {
	t.Helper()
	l.f.until(t, limit, "everything is as clients were told", func() (bool, string) {
		if err := l.compare(); err != nil {
			return false, err.Error()
		}
		return true, ""
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.wrong {
		t.Error(w)
	}
}

func (l *ledger) compare() error {
	l.mu.Lock()
	live := maps.Clone(l.live)
	l.mu.Unlock()
	vms, err := l.f.allVMs()
	if err != nil {
		return err
	}
	nodes, err := l.f.list()
	if err != nil {
		return err
	}
	on := map[string]string{} // VM -> its node
	claimed, cpus := map[string]int64{}, map[string]int32{}
	for _, vm := range vms {
		id := vm.GetMeta().GetId()
		want, known := live[id]
		st := vm.GetStatus()
		switch {
		case !known:
			return fmt.Errorf("%s (%s) is there, nobody was told so: %s %s", vm.GetMeta().GetName(), id, st.GetPhase(), st.GetMessage())
		case vm.GetSpec().GetDesiredPower() != want.power, vm.GetMeta().GetLabels()["told"] != want.label, vm.GetSpec().GetRestartGeneration() != want.reboots:
			return fmt.Errorf("%s is not wanted as was told: %v, told %+v", want.name, vm, want)
		case st.GetPhase() != phases[want.power], st.GetObservedGeneration() != vm.GetMeta().GetGeneration(), st.GetReason() != "":
			return fmt.Errorf("%s is %s (%s %s), wanted %s", want.name, st.GetPhase(), st.GetReason(), st.GetMessage(), want.power)
		}
		on[id] = st.GetVmPlacement().GetNodeId()
		claimed[on[id]] += vm.GetSpec().GetMemoryBytes()
		cpus[on[id]] += vm.GetSpec().GetCpu().GetVcpus()
		delete(live, id)
	}
	for _, vm := range live {
		return fmt.Errorf("%s (%s) was acknowledged and is lost", vm.name, vm.id)
	}
	for _, n := range nodes {
		if got := n.GetStatus().GetClaimed().GetMemoryBytes(); got != claimed[n.GetMeta().GetId()] {
			return fmt.Errorf("%s: %d bytes are claimed, its VMs need %d", n.GetMeta().GetName(), got, claimed[n.GetMeta().GetId()])
		}
		if got, want := n.GetStatus().GetClaimed().GetCpus(), float64(cpus[n.GetMeta().GetId()]); got != want {
			return fmt.Errorf("%s: %g CPUs are claimed, its VMs need %g", n.GetMeta().GetName(), got, want)
		}
		if len(n.GetStatus().GetOrphans()) > 0 {
			return fmt.Errorf("%s has orphans: %v", n.GetMeta().GetName(), n.GetStatus().GetOrphans())
		}
	}
	return l.compareHosts(on)
}

// compareHosts holds the journals to where VMs are said to be.
func (l *ledger) compareHosts(on map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.f.nodes {
		domains, err := n.domains()
		if err != nil {
			return err
		}
		there := 0
		for id, d := range domains {
			if on[id] != n.id {
				return fmt.Errorf("%s has a domain %s of a VM that is on %q", n.name, id, on[id])
			}
			if wantOn := l.live[id].power != computev1.PowerState_POWER_STATE_STOPPED; isOn(d) != wantOn {
				return fmt.Errorf("%s: %s is %s", n.name, l.live[id].name, d.GetState())
			}
			there++
		}
		want := 0
		for _, at := range on {
			if at == n.id {
				want++
			}
		}
		if there != want {
			return fmt.Errorf("%s has %d domains of %d", n.name, there, want)
		}
	}
	return nil
}

var phases = map[computev1.PowerState]computev1.VMPhase{
	computev1.PowerState_POWER_STATE_RUNNING: computev1.VMPhase_VM_PHASE_RUNNING,
	computev1.PowerState_POWER_STATE_STOPPED: computev1.VMPhase_VM_PHASE_STOPPED,
	computev1.PowerState_POWER_STATE_PAUSED:  computev1.VMPhase_VM_PHASE_PAUSED,
}

// empty removes everything, and requires that nothing is left on any host.
func (l *ledger) empty(t *testing.T, limit time.Duration) {
	t.Helper()
	l.mu.Lock()
	all := slices.Collect(maps.Values(l.live))
	l.mu.Unlock()
	for _, vm := range all {
		l.remove(vm, "last-"+vm.name)
	}
	l.settled(t, limit)
	l.f.until(t, limit, "no disk is left on any host", func() (bool, string) {
		for _, n := range l.f.nodes {
			if files, err := n.disks(); err != nil || len(files) > 0 {
				return false, fmt.Sprint(n.name, files, err)
			}
		}
		return true, ""
	})
	for _, n := range l.f.nodes {
		tables, err := n.tables()
		if err != nil {
			t.Fatal(err)
		}
		for name, rows := range tables {
			if len(rows) > 0 && name != "history" && name != "pool" {
				t.Errorf("%s: left in the driver's table of %s: %d", n.name, name, len(rows))
			}
		}
	}
	l.judge(t)
}
