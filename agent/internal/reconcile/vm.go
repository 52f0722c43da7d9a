package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// vmState is what is known of a VM beside its record. Its worker alone changes it, under Engine.mu where others read.
type vmState struct {
	domain     *driverv1.Domain // as last seen; nil = absent or not looked yet
	driver     string
	sources    *sources // nil = not attached by this run of the agent
	moved      bool     // a volume's bytes are elsewhere than sources say
	starting   bool     // a call that starts the domain is under way
	input      string   // of which input the sources are
	spec       *driverv1.DomainSpec
	specHash   string
	deleted    bool
	failures   int
	permanent  *want
	lookedOnce bool // its domain, or that there is none, was seen by this run of the agent
	resumed    int  // resumptions of a blocked guest in a row
	ends       endings
	guest      *driverv1.GetGuestInfoResponse
	phases     phases
	nicsDone   map[string]bool // changes of NICs that the driver confirmed since the domain was started
}

// maxSteps bounds one run of a worker: a driver whose answers make no progress shall not keep it for ever.
const maxSteps = 24

func (e *Engine) vmState(id string) *vmState {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.vms[id]
	if s == nil {
		s = &vmState{}
		e.vms[id] = s
	}
	return s
}

// vmRun is one run of a VM's worker.
type vmRun struct {
	e      *Engine
	w      *want
	d      *agentv1.DesiredVM
	s      *vmState
	key    realised.Key
	rec    realised.Record
	driver string
	looked bool
	doing  string
}

func (e *Engine) reconcileVM(ctx context.Context, w *want) (time.Duration, string) {
	d := w.obj.GetVm()
	r := &vmRun{e: e, w: w, d: d, s: e.vmState(d.GetVmId()), key: keyOf(w.obj.GetKey()), doing: "looking at it"}
	r.rec, _ = e.store.Record(r.key)
	r.rec.Kind, r.rec.ID = r.key.Kind, r.key.ID
	if d.GetAbsent() && !r.rec.Gone.IsZero() && r.rec.Epoch >= d.GetEpoch() {
		r.reportGone()
		return never, resultOK
	}
	e.mu.Lock()
	hopeless := r.s.permanent == w
	e.mu.Unlock()
	if hopeless {
		return never, resultFailed
	}
	for range maxSteps {
		view, err := r.look(ctx)
		if err != nil {
			return r.failed(ctx, err)
		}
		dec := nextStep(view)
		r.doing = doingWords(dec.Do)
		e.progress.doing(r.key, r.doing)
		if dec.Do == actNone || dec.Do == actWait {
			after, result := r.settle(dec)
			if dec.Do == actNone && !d.GetAbsent() && !r.detachUnused(ctx) && (after == never || after > detachRetry) {
				after = detachRetry
			}
			return after, result
		}
		if transitional(dec.Do) {
			r.s.phases.enter(d.GetGeneration(), dec.Step, e.now())
			r.report(dec, problem{})
		}
		if err := r.do(ctx, dec.Do); err != nil {
			return r.failed(ctx, err)
		}
		if dec.Do == actGone {
			return never, resultOK
		}
		if !e.current(w) {
			return 0, resultOK // something newer is wanted
		}
	}
	return r.failed(ctx, fault.New(metav1.Reason_REASON_INTERNAL, "the driver's answers make no progress after %d steps", maxSteps))
}

// settle ends a run in which nothing is left to do now.
func (r *vmRun) settle(dec decision) (time.Duration, string) {
	r.e.mu.Lock()
	r.s.failures, r.s.permanent = 0, nil
	if dec.Realised {
		r.s.resumed = 0
	}
	r.e.mu.Unlock()
	if dec.Do == actWait && dec.After == 0 {
		dec.After = never
	}
	if dec.Realised && r.rec.Generation != r.d.GetGeneration() {
		r.rec.Generation = r.d.GetGeneration()
		r.keep()
	}
	if dec.Do == actWait {
		r.s.phases.await(r.d.GetGeneration(), dec.Step, r.e.now())
	} else {
		r.s.phases.settle(r.e.now())
	}
	r.report(dec, problem{retry: dec.After, permanent: dec.Permanent})
	if dec.Do == actWait {
		r.e.progress.waiting(r.key, dec.Message, dec.After)
		return dec.After, resultWait
	}
	return r.forgetStop(), resultOK
}

// forgetStop forgets, when the grace is over, that a guest which is wanted again was asked to shut down: if it ends later that is its own doing.
func (r *vmRun) forgetStop() time.Duration {
	if r.d.GetAbsent() || !wantsOn(r.d) || !isOn(r.s.domain) || r.rec.StopAsked.IsZero() {
		return never
	}
	if left := r.rec.StopAsked.Add(stopGrace(r.d)).Sub(r.e.now()); left > 0 {
		return left
	}
	r.rec.StopAsked, r.rec.Ran = time.Time{}, true
	r.keep()
	return never
}

// look gathers what the decision depends on.
func (r *vmRun) look(ctx context.Context) (vmView, error) {
	e, d := r.e, r.d
	if err := r.findDriver(); err != nil {
		return vmView{}, err
	}
	if !r.looked && !d.GetAbsent() {
		if err := r.readDomain(ctx); err != nil {
			return vmView{}, err
		}
		r.looked = true
	}
	e.mu.Lock()
	if r.s.moved {
		r.s.sources, r.s.moved = nil, false
	}
	input := e.inputHash(d)
	e.mu.Unlock()
	r.adopt(input)
	v := vmView{
		Want: d, Confirmed: r.w.confirmed, SharedStorage: r.sharedStorage(), Record: r.rec, Domain: r.s.domain, InputHash: input,
		Deleted: r.s.deleted, Attached: r.s.sources != nil && r.s.input == input, DomainHash: r.s.specHash, Now: e.now(),
	}
	v.Volumes, v.Ports = e.volumesWait(d), e.portsWait(d)
	if !d.GetAbsent() {
		r.releaseNics(input)
		v.Nics = r.nicsToChange(input)
	}
	if endedByItself(v) {
		v.RestartAt = r.s.ends.restartAt(v.Now)
	} else {
		r.s.ends.runs(r.s.domain, v.Now)
	}
	return v, nil
}

// findDriver picks the compute plugin: the one that has the VM, the one that the spec names, or the only one there is.
func (r *vmRun) findDriver() error {
	if r.driver == "" {
		r.driver = r.rec.Driver
	}
	if r.driver == "" {
		r.driver = r.d.GetSpec().GetPlacement().GetComputeDriver()
	}
	if r.driver == "" {
		names := r.e.plugins.Names("compute")
		if len(names) == 0 {
			return fault.New(metav1.Reason_REASON_PLUGIN_MISSING, "no compute plugin is installed on this node")
		}
		r.driver = names[0]
		for _, n := range names {
			if p, _ := r.e.plugins.Plugin(n); p.Running {
				r.driver = n
				break
			}
		}
	}
	r.e.mu.Lock()
	r.s.driver = r.driver
	r.e.mu.Unlock()
	_, err := r.e.pluginFor(r.driver)
	return err
}

func (r *vmRun) readDomain(ctx context.Context) error {
	return r.domainCall(ctx, "GetDomain", shortCall, func(ctx context.Context) (*driverv1.Domain, error) {
		a, err := r.compute().GetDomain(ctx, &driverv1.GetDomainRequest{DomainId: r.d.GetVmId(), Handle: r.rec.Handle})
		if err != nil && fault.From(err).Code == codes.NotFound {
			return nil, nil
		}
		return a.GetDomain(), err
	})
}

// adopt takes up what is on the host and not, or not fully, in the record: after the state file was lost, or a domain was made and the record not written.
func (r *vmRun) adopt(input string) {
	dom, before := r.s.domain, r.rec
	if dom == nil {
		return
	}
	if r.rec.Driver == "" {
		r.rec.Driver, r.rec.Handle, r.rec.Made = r.driver, dom.GetHandle(), true
		r.rec.Epoch, r.rec.Generation = max(r.rec.Epoch, dom.GetMark().GetEpoch()), dom.GetMark().GetGeneration()
	}
	if r.rec.InputHash == "" && dom.GetMark().GetGeneration() == r.d.GetGeneration() && dom.GetMark().GetEpoch() == r.d.GetEpoch() {
		r.rec.InputHash = input
	}
	if !r.rec.RestartKnown { // better a reboot too few than one too many
		r.rec.RestartKnown, r.rec.RestartDone = true, r.d.GetSpec().GetRestartGeneration()
	}
	if isOn(dom) {
		r.rec.Ran = r.rec.StopAsked.IsZero() || r.rec.Ran
	}
	if before.Driver != r.rec.Driver || before.InputHash != r.rec.InputHash || before.RestartKnown != r.rec.RestartKnown || before.Ran != r.rec.Ran {
		r.keep()
	}
}

// keep writes the record, a little later.
func (r *vmRun) keep() {
	r.rec.Epoch = max(r.rec.Epoch, r.d.GetEpoch())
	r.e.store.Put(r.rec)
}

// do performs one step.
func (r *vmRun) do(ctx context.Context, a action) error {
	id, handle := r.d.GetVmId(), r.rec.Handle
	switch a {
	case actAttach:
		return r.attach(ctx)
	case actCreate:
		return r.create(ctx)
	case actUpdate:
		return r.update(ctx)
	case actStart:
		return r.start(ctx)
	case actAskStop:
		return r.askStop(ctx)
	case actForceStop:
		r.noteStop()
		return r.domainCall(ctx, "StopDomain", usualCall, func(ctx context.Context) (*driverv1.Domain, error) {
			a, err := r.compute().StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: id, Handle: handle, Force: true})
			return a.GetDomain(), err
		})
	case actPause:
		return r.domainCall(ctx, "PauseDomain", usualCall, func(ctx context.Context) (*driverv1.Domain, error) {
			a, err := r.compute().PauseDomain(ctx, &driverv1.PauseDomainRequest{DomainId: id, Handle: handle})
			return a.GetDomain(), err
		})
	case actResume:
		return r.resume(ctx)
	case actReboot, actCountReboot:
		return r.reboot(ctx, a == actReboot)
	case actSettleOff:
		r.rec.Ran, r.rec.EndedGeneration, r.rec.StopAsked = false, 0, time.Time{}
		r.rec.RestartKnown, r.rec.RestartDone = true, r.d.GetSpec().GetRestartGeneration()
		r.keep()
	case actLeaveOff:
		r.rec.EndedGeneration = r.d.GetGeneration()
		r.keep()
		r.e.reporter.Event(id, "GuestEnded", "GUEST_ENDED", "the guest ended by itself ("+endWords(r.s.domain)+") and is left off by its run policy")
	case actDelete:
		return r.deleteDomain(ctx)
	case actDetach:
		return r.detachAll(ctx)
	case actUnplug, actPlug, actLink:
		return r.changeNics(ctx, a)
	case actGone:
		r.rec = realised.Record{Kind: r.key.Kind, ID: r.key.ID, Epoch: max(r.rec.Epoch, r.d.GetEpoch()), Gone: r.e.now()}
		r.e.store.Put(r.rec)
		r.reportGone()
		r.wakeVolumes()
		r.e.dependents(r.key) // ports that waited for this
	}
	return nil
}

// create defines the domain. When it certainly could not be, what was attached for it is detached again.
func (r *vmRun) create(ctx context.Context) error {
	err := r.domainCall(ctx, "CreateDomain", usualCall, func(ctx context.Context) (*driverv1.Domain, error) {
		a, err := r.compute().CreateDomain(ctx, &driverv1.CreateDomainRequest{DomainId: r.d.GetVmId(), Mark: r.mark(), Spec: r.s.spec})
		return a.GetDomain(), err
	})
	switch {
	case err == nil:
		r.defined()
		r.rec.RestartKnown, r.rec.RestartDone = true, r.d.GetSpec().GetRestartGeneration()
		r.keep()
	case fault.From(err).Code == codes.AlreadyExists: // unseen until now: look again, then update it
		r.looked = false
		if readErr := r.readDomain(ctx); readErr != nil || r.s.domain == nil {
			return err
		}
		return nil
	case !outcomeUnknown(err):
		r.undoAttach(ctx, r.rec.Attachments)
	}
	return err
}

func (r *vmRun) update(ctx context.Context) error {
	err := r.domainCall(ctx, "UpdateDomain", usualCall, func(ctx context.Context) (*driverv1.Domain, error) {
		a, err := r.compute().UpdateDomain(ctx, &driverv1.UpdateDomainRequest{DomainId: r.d.GetVmId(), Handle: r.rec.Handle, Mark: r.mark(), Spec: r.s.spec})
		return a.GetDomain(), err
	})
	if err == nil {
		r.defined()
		r.keep()
	}
	return err
}

// defined notes what the driver now has.
func (r *vmRun) defined() {
	r.rec.Driver, r.rec.Handle, r.rec.Made, r.rec.Gone = r.driver, r.s.domain.GetHandle(), true, time.Time{}
	r.rec.Generation, r.rec.InputHash, r.rec.DomainHash = r.d.GetGeneration(), r.s.input, r.s.specHash
}

func (r *vmRun) mark() *driverv1.OwnershipMark {
	return r.e.mark(r.d.GetVmId(), r.d.GetGeneration(), r.d.GetEpoch())
}

func (r *vmRun) start(ctx context.Context) error {
	restarted := endedByItself(vmView{Record: r.rec, Domain: r.s.domain})
	why := endWords(r.s.domain)
	if err := r.mayStart(); err != nil {
		return err
	}
	defer r.started()
	err := r.domainCall(ctx, "StartDomain", 2*usualCall, func(ctx context.Context) (*driverv1.Domain, error) {
		a, err := r.compute().StartDomain(ctx, &driverv1.StartDomainRequest{DomainId: r.d.GetVmId(), Handle: r.rec.Handle})
		return a.GetDomain(), err
	})
	if err != nil {
		return err
	}
	r.rec.Ran, r.rec.EndedGeneration, r.rec.StopAsked = true, 0, time.Time{}
	r.rec.RestartKnown, r.rec.RestartDone = true, r.d.GetSpec().GetRestartGeneration() // a start is a reboot, too
	r.keep()
	if restarted {
		r.s.ends.restarted()
		r.e.reporter.Event(r.d.GetVmId(), "Restarted", "GUEST_ENDED", "started again after it ended by itself ("+why+")")
	}
	return nil
}

// noteStop records that the end to come is our doing.
func (r *vmRun) noteStop() {
	if r.rec.StopAsked.IsZero() {
		r.rec.StopAsked = r.e.now()
		r.keep()
	}
}

// askStop asks the guest to shut down and waits for it, until something newer is wanted. A guest that does not is stopped by force by the next step.
func (r *vmRun) askStop(ctx context.Context) error {
	r.noteStop()
	grace := r.rec.StopAsked.Add(stopGrace(r.d)).Sub(r.e.now())
	callCtx, cancel := r.e.queue.interruptible(ctx, r.key)
	defer cancel()
	if !r.e.current(r.w) { // it came before the wait could be interrupted
		return nil
	}
	var dom *driverv1.Domain
	err := r.e.callUnbounded(callCtx, r.driver, "StopDomain", grace+15*time.Second, func(ctx context.Context) error {
		a, err := r.compute().StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: r.d.GetVmId(), Handle: r.rec.Handle, Grace: durationOf(grace)})
		dom = a.GetDomain()
		return err
	})
	r.looked = false
	switch {
	case err == nil:
		r.seen(dom)
		r.looked = true
	case callCtx.Err() != nil && ctx.Err() == nil: // something newer is wanted
		return nil
	case fault.Is(err, metav1.Reason_REASON_WRONG_STATE), fault.From(err).Code == codes.DeadlineExceeded:
		r.rec.StopAsked = r.e.now().Add(-stopGrace(r.d)) // the grace is over
		r.keep()
		r.e.reporter.Event(r.d.GetVmId(), "StopForced", "WRONG_STATE", "the guest did not shut down within "+people(stopGrace(r.d))+"; it is stopped by force")
	default:
		return err
	}
	return nil
}

func (r *vmRun) resume(ctx context.Context) error {
	if r.s.domain.GetState() == driverv1.DomainState_DOMAIN_STATE_BLOCKED {
		if r.s.resumed++; r.s.resumed > 1 { // once a run; then with backoff
			r.s.resumed = 0
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "halted by the hypervisor and halts again when resumed: %s", r.s.domain.GetStateDetail())
		}
	}
	return r.domainCall(ctx, "ResumeDomain", usualCall, func(ctx context.Context) (*driverv1.Domain, error) {
		a, err := r.compute().ResumeDomain(ctx, &driverv1.ResumeDomainRequest{DomainId: r.d.GetVmId(), Handle: r.rec.Handle})
		return a.GetDomain(), err
	})
}

// reboot issues one reboot. It is counted, on disk, before it is issued: if the agent dies in between, a reboot is lost rather than done twice, which
// would hit a guest that has long come up again. RebootDomain is the one call that is not idempotent.
func (r *vmRun) reboot(ctx context.Context, issue bool) error {
	force := r.d.GetForceRestartGeneration() > r.rec.RestartDone
	r.rec.RestartKnown, r.rec.RestartDone = true, r.d.GetSpec().GetRestartGeneration()
	if err := r.e.store.PutNow(r.rec); err != nil {
		return fault.New(metav1.Reason_REASON_INTERNAL, "the reboot cannot be counted: %w", err)
	}
	if !issue {
		return nil
	}
	err := r.domainCall(ctx, "RebootDomain", usualCall, func(ctx context.Context) (*driverv1.Domain, error) {
		a, err := r.compute().RebootDomain(ctx, &driverv1.RebootDomainRequest{DomainId: r.d.GetVmId(), Handle: r.rec.Handle, Force: force})
		return a.GetDomain(), err
	})
	if err != nil {
		f := fault.From(err)
		r.e.log.Warn("reboot failed", "vm", r.d.GetVmId(), "error", err)
		r.e.reporter.Event(r.d.GetVmId(), "RebootFailed", reasonOf(f), "the reboot was issued once and not confirmed: "+f.Error())
		r.looked = false
	}
	return nil
}

func (r *vmRun) deleteDomain(ctx context.Context) error {
	err := r.e.call(ctx, r.driver, "", "DeleteDomain", 2*usualCall, func(ctx context.Context) error {
		_, err := r.compute().DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: r.d.GetVmId(), Handle: r.rec.Handle})
		return err
	})
	if err != nil {
		return err
	}
	r.seen(nil)
	r.s.deleted = true
	r.e.mu.Lock()
	r.e.orphans.gone("domain", r.d.GetVmId())
	r.e.mu.Unlock()
	for _, v := range r.d.GetVolumes() { // the record may not know what was attached
		r.noteAttachment(v.GetVolumeId())
	}
	return nil
}

// wakeVolumes lets volumes that waited for the VM go on.
func (r *vmRun) wakeVolumes() {
	for _, v := range r.d.GetVolumes() {
		k := realised.Key{Kind: realised.KindVolume, ID: v.GetVolumeId()}
		r.e.forgive(k)
		r.e.queue.add(k)
	}
}

func (r *vmRun) compute() driverv1.ComputeDriverServiceClient { return r.e.plugins.Compute(r.driver) }

// domainCall is a call that answers with the domain as it is afterwards.
func (r *vmRun) domainCall(ctx context.Context, method string, deadline time.Duration, f func(context.Context) (*driverv1.Domain, error)) error {
	var dom *driverv1.Domain
	err := r.e.call(ctx, r.driver, "", method, deadline, func(ctx context.Context) (err error) {
		dom, err = f(ctx)
		return err
	})
	if err != nil {
		r.looked = false
		return err
	}
	r.seen(dom)
	return nil
}

func (r *vmRun) seen(dom *driverv1.Domain) {
	r.e.mu.Lock()
	turned := isOn(r.s.domain) != isOn(dom) || !r.s.lookedOnce
	if turned || r.s.domain.GetPid() != dom.GetPid() {
		r.s.nicsDone = nil
	}
	r.s.domain, r.s.lookedOnce = dom, true
	if dom != nil {
		r.s.deleted = false
		r.e.orphans.sawDomain(r.driver, dom)
	}
	r.e.mu.Unlock()
	if turned {
		r.portsTurn()
	}
}

// volumesWait says which volume is not ready, and when that is looked at again.
func (e *Engine) volumesWait(d *agentv1.DesiredVM) volumesWait {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range d.GetVolumes() {
		s, w := e.volumes[v.GetVolumeId()], e.wants[realised.Key{Kind: realised.KindVolume, ID: v.GetVolumeId()}]
		switch {
		case w == nil:
			return volumesWait{Message: fmt.Sprintf("disk %q waits for its volume %s to be assigned to this node", v.GetDiskName(), v.GetVolumeId())}
		case e.snapshotUnderWay(v.GetVolumeId()):
			return volumesWait{Message: fmt.Sprintf("disk %q: a snapshot of its volume is being taken", v.GetDiskName())}
		case s != nil && s.ready:
		case s != nil && s.problem != "":
			return volumesWait{Message: fmt.Sprintf("disk %q: %s", v.GetDiskName(), s.problem), Reason: s.reason, Retry: s.retry, Permanent: s.permanent == w}
		default:
			return volumesWait{Message: fmt.Sprintf("disk %q: its volume is being made", v.GetDiskName())}
		}
	}
	return volumesWait{}
}

// sharedStorage reports whether any disk can be reached from other nodes. What cannot be told counts as shared.
func (r *vmRun) sharedStorage() bool {
	for _, v := range r.d.GetVolumes() {
		r.e.mu.Lock()
		pool := r.e.wants[realised.Key{Kind: realised.KindVolume, ID: v.GetVolumeId()}].object().GetVolume().GetVolume().GetSpec().GetPoolId()
		r.e.mu.Unlock()
		p, ok := r.e.plugins.Plugin(r.e.poolDriver(pool))
		if !ok || p.Capabilities == nil || p.Capabilities.GetStorage().GetSharedPools() {
			return true
		}
	}
	return false
}

func transitional(a action) bool {
	return !slices.Contains([]action{actSettleOff, actLeaveOff, actCountReboot, actGone}, a)
}

func doingWords(a action) string {
	switch a {
	case actAttach:
		return "attaching its disks"
	case actCreate:
		return "defining it"
	case actUpdate:
		return "defining it anew"
	case actStart:
		return "starting it"
	case actAskStop, actForceStop:
		return "stopping it"
	case actPause:
		return "pausing it"
	case actResume:
		return "resuming it"
	case actReboot, actCountReboot:
		return "rebooting it"
	case actDelete:
		return "deleting it"
	case actDetach:
		return "detaching its disks"
	case actUnplug:
		return "taking a NIC out"
	case actPlug:
		return "putting a NIC in"
	case actLink:
		return "setting a link"
	}
	return "looking at it"
}
