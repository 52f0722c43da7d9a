package reconcile

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// settleIn is how long after the agent's start a VM that was never looked at is not reported as unknown.
const settleIn = 5 * time.Second

// report tells how the VM stands.
func (r *vmRun) report(dec decision, p problem) {
	e, dom := r.e, r.s.domain
	if !e.current(r.w) {
		return // said by the run for what is wanted now
	}
	st := &computev1.VMStatus{
		Phase: dec.Phase, Reason: dec.Reason, Message: dec.Message,
		ObservedRestartGeneration: r.rec.RestartDone,
		RestartRequired:           dom.GetRestartRequired(), GuestAgentConnected: dom.GetGuestAgentConnected(), VncSocketPath: dom.GetVncSocketPath(),
	}
	if isOn(dom) {
		st.Pid, st.StartTime, st.Accelerator = dom.GetPid(), dom.GetStartTime(), dom.GetAccelerator()
	}
	if p.reason != "" {
		st.Reason, st.Message = p.reason, p.message
	}
	if (p.reason != "" || dec.Do == actWait) && p.retry > 0 {
		st.NextRetryTime = timestamppb.New(e.now().Add(p.retry))
	}
	if st.Reason == "" {
		if trouble := e.diskTrouble(r.d); trouble != "" {
			st.Reason, st.Message = fault.ReasonName(metav1.Reason_REASON_POOL_UNHEALTHY), trouble
		}
	}
	if st.Reason == "" {
		st.Reason, st.Message = e.portTrouble(r.d)
	}
	r.describeDevices(st)
	e.mu.Lock()
	if g := r.s.guest; g != nil && dom.GetGuestAgentConnected() {
		st.Guest = guestInfo(g)
	}
	e.mu.Unlock()
	rep := &agentv1.VMReport{
		VmId: r.d.GetVmId(), Epoch: r.d.GetEpoch(), Status: st, GuestStopped: dec.GuestStopped, PermanentFailure: p.permanent, Step: dec.Step,
		AttemptedGeneration: r.d.GetGeneration(), Phases: r.s.phases.of(r.d.GetGeneration()),
	}
	rep.ObservedGeneration = min(r.rec.Generation, r.d.GetGeneration()-1)
	if dec.Realised {
		rep.ObservedGeneration = r.d.GetGeneration()
	}
	rep.ObservedGeneration = max(rep.ObservedGeneration, 0)
	st.ObservedGeneration = rep.ObservedGeneration
	e.reporter.VM(rep)
}

func (r *vmRun) describeDevices(st *computev1.VMStatus) {
	ids := volumeIDs(r.d)
	for _, disk := range r.d.GetSpec().GetDisks() {
		id := ids[disk.GetName()]
		ds := &computev1.DiskStatus{Name: disk.GetName(), VolumeId: id}
		for _, a := range r.rec.Attachments {
			ds.Attached = ds.Attached || a.VolumeID == id
		}
		r.e.mu.Lock()
		if v := r.e.volumes[id]; v != nil {
			ds.SizeBytes = v.volume.GetSizeBytes()
		}
		r.e.mu.Unlock()
		st.Disks = append(st.Disks, ds)
	}
	ports := portIDs(r.d)
	for _, nic := range r.d.GetSpec().GetNics() {
		ns := &computev1.NICStatus{Name: nic.GetName(), Mac: nic.GetMac()}
		id := interfaceID(r.d.GetVmId(), nic.GetName())
		if nic.GetUser() == nil {
			id = ports[nic.GetName()]
			r.e.mu.Lock()
			spec := r.e.wants[portKey(id)].object().GetPort().GetSpec()
			r.e.mu.Unlock()
			ns.PortId, ns.IpAddresses, ns.Mac = id, spec.GetIpAddresses(), cmp.Or(spec.GetMac(), nic.GetMac())
		}
		for _, i := range r.s.domain.GetInterfaces() {
			if i.GetInterfaceId() == id {
				ns.Device = i.GetDevice()
			}
		}
		st.Nics = append(st.Nics, ns)
	}
}

func guestInfo(g *driverv1.GetGuestInfoResponse) *computev1.GuestInfo {
	out := &computev1.GuestInfo{Hostname: g.GetHostname(), OsName: g.GetOsName(), KernelRelease: g.GetKernelRelease()}
	for _, i := range g.GetInterfaces() {
		out.IpAddresses = append(out.IpAddresses, i.GetAddresses()...)
	}
	return out
}

func (r *vmRun) reportGone() {
	if r.e.current(r.w) {
		r.s.phases.settle(r.e.now())
		r.e.reporter.VM(&agentv1.VMReport{
			VmId: r.d.GetVmId(), Epoch: r.d.GetEpoch(), ObservedGeneration: r.d.GetGeneration(), Absent: true,
			AttemptedGeneration: r.d.GetGeneration(), Phases: r.s.phases.of(r.d.GetGeneration()),
			Status: &computev1.VMStatus{Phase: computev1.VMPhase_VM_PHASE_DELETING, ObservedGeneration: r.d.GetGeneration()},
		})
	}
}

// failed reports why the VM is not as wanted and when it is tried next.
func (r *vmRun) failed(ctx context.Context, err error) (time.Duration, string) {
	if ctx.Err() != nil {
		return never, resultFailed // the agent ends
	}
	e := r.e
	e.mu.Lock()
	r.s.failures++
	tries := r.s.failures
	p := problemOf(r.doing, err, tries)
	if p.permanent && r.d.GetAbsent() { // a deletion always goes on
		p.permanent, p.retry = false, slowMax
	}
	if p.permanent {
		r.s.permanent = r.w
	}
	e.mu.Unlock()
	e.progress.failed(r.key, r.doing, err, tries, p.retry)
	dec := decision{Phase: r.failedPhase(err, p), Step: stepWords(r.doing)}
	if p.permanent {
		p.retry = 0
	}
	if !r.s.lookedOnce && r.rec.Made && waitsForOthers(err) && time.Since(e.begun) < settleIn {
		return p.retry, resultWait // plugins are being started: what was said of the VM before still stands
	}
	r.report(dec, p)
	e.log.Warn("vm is not as wanted", "vm", r.d.GetVmId(), "name", r.d.GetName(), "doing", r.doing, "error", err, "retry", p.retry)
	if p.permanent {
		e.reporter.Event(r.d.GetVmId(), "Failed", p.reason, p.message)
		return never, resultFailed
	}
	return p.retry, resultFailed
}

// failedPhase is FAILED only for what went wrong with the VM itself: one that runs is running, and one whose plugin is away is as it was last seen.
func (r *vmRun) failedPhase(err error, p problem) computev1.VMPhase {
	switch {
	case r.d.GetAbsent():
		return computev1.VMPhase_VM_PHASE_DELETING
	case isOn(r.s.domain):
		return phaseOf(r.s.domain)
	case !p.permanent && waitsForOthers(err):
		if r.s.domain != nil {
			return phaseOf(r.s.domain)
		}
		if r.rec.Made {
			return computev1.VMPhase_VM_PHASE_UNKNOWN
		}
		return computev1.VMPhase_VM_PHASE_PROVISIONING
	}
	return computev1.VMPhase_VM_PHASE_FAILED
}

func stepWords(doing string) string {
	switch doing {
	case doingWords(actAttach):
		return "attach"
	case doingWords(actCreate):
		return "define"
	case doingWords(actStart):
		return "start"
	case doingWords(actAskStop):
		return "stop"
	case doingWords(actDelete):
		return "delete"
	case doingWords(actDetach):
		return "detach"
	case doingWords(actUnplug), doingWords(actPlug), doingWords(actLink):
		return "nic"
	}
	return ""
}
