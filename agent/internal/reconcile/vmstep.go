package reconcile

import (
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// vmView is all that the decision about a VM depends on.
type vmView struct {
	Want *agentv1.DesiredVM
	// Confirmed: a controller said so to this run of the agent; else it is from the state file.
	Confirmed bool
	// SharedStorage: some disk can be reached from other nodes.
	SharedStorage bool
	Record        realised.Record
	Domain        *driverv1.Domain // nil = absent
	InputHash     string
	Volumes       volumesWait
	// Ports: what its NICs wait for before a definition is made with them, or it is started.
	Ports volumesWait
	// Nics: what of the NICs of a domain that runs is not as wanted, and can be changed now.
	Nics nicChange
	// Deleted: the driver said that nothing of the domain is left.
	Deleted bool
	// Attached: volumes and images were attached by this run of the agent; DomainHash is then of the definition that results.
	Attached   bool
	DomainHash string
	// RestartAt is the earliest time for a start after the guest ended by itself.
	RestartAt time.Time
	Now       time.Time
}

// volumesWait says what a VM's volumes, or its ports, wait for; an empty message = all are ready.
type volumesWait struct {
	Message   string
	Reason    string
	Retry     time.Time // zero = when something changes
	Permanent bool      // it can never be made as it is wanted
}

// action is the one thing to do next with a VM.
type action int

const (
	actNone        action = iota // as wanted
	actWait                      // nothing can be done now
	actAttach                    // attach volumes and images
	actCreate                    // define
	actUpdate                    // define anew
	actStart                     //
	actAskStop                   // ask the guest to shut down
	actForceStop                 //
	actPause                     //
	actResume                    //
	actReboot                    // once, counted before it is done
	actCountReboot               // count a reboot that there is nothing left to do for
	actSettleOff                 // note that it is off as wanted
	actLeaveOff                  // note that the guest ended by itself and stays off
	actDelete                    // remove the domain
	actDetach                    // detach its volumes
	actGone                      // note that nothing is left
	actUnplug                    // take NICs out while it runs
	actPlug                      // put NICs in while it runs
	actLink                      // set links up or down
)

// decision is what to do, and how the VM stands meanwhile.
type decision struct {
	Do      action
	Phase   computev1.VMPhase
	Step    string
	Reason  string
	Message string
	After   time.Duration // for actWait: when to look again; never = when something changes
	// Realised: spec and power are as wanted.
	Realised bool
	// GuestStopped: the guest ended by itself and run policy leaves it off.
	GuestStopped bool
	// Permanent: it can never be as wanted.
	Permanent bool
}

// nextStep decides what to do next with a VM.
func nextStep(v vmView) decision {
	if v.Want.GetAbsent() {
		return stepAbsent(v)
	}
	if d, ok := stepDefine(v); ok {
		return d
	}
	if v.Want.GetSpec().GetDesiredPower() == computev1.PowerState_POWER_STATE_STOPPED {
		return stepOff(v)
	}
	if !isOn(v.Domain) {
		return stepStart(v)
	}
	return stepRunning(v)
}

func isOn(d *driverv1.Domain) bool {
	switch d.GetState() {
	case driverv1.DomainState_DOMAIN_STATE_RUNNING, driverv1.DomainState_DOMAIN_STATE_PAUSED, driverv1.DomainState_DOMAIN_STATE_STOPPING,
		driverv1.DomainState_DOMAIN_STATE_BLOCKED:
		return true
	}
	return false
}

func wantsOn(d *agentv1.DesiredVM) bool {
	return d.GetSpec().GetDesiredPower() != computev1.PowerState_POWER_STATE_STOPPED
}

func stepAbsent(v vmView) decision {
	d := decision{Phase: computev1.VMPhase_VM_PHASE_DELETING}
	switch {
	case !v.Deleted: // also when no domain is seen: an interrupted delete leaves files
		d.Do, d.Step = actDelete, "delete"
	case len(v.Record.Attachments) > 0:
		d.Do, d.Step = actDetach, "detach"
	default:
		d.Do, d.Realised = actGone, true
	}
	return d
}

// stepDefine brings the definition up to date; false when it is.
func stepDefine(v vmView) (decision, bool) {
	defined, on := v.Domain != nil, isOn(v.Domain)
	d := decision{Phase: computev1.VMPhase_VM_PHASE_PROVISIONING, Do: actWait, After: never}
	if defined {
		d.Phase = phaseOf(v.Domain)
	}
	if defined && v.Domain.GetState() == driverv1.DomainState_DOMAIN_STATE_UNKNOWN {
		d.Reason, d.Message, d.After = "BACKEND_UNAVAILABLE", "the hypervisor cannot tell its state: "+v.Domain.GetStateDetail(), 2*time.Second
		d.Phase = computev1.VMPhase_VM_PHASE_UNKNOWN
		return d, true
	}
	changed := !defined || v.Record.InputHash != v.InputHash
	stale := defined && v.Attached && v.Record.DomainHash != "" && v.DomainHash != v.Record.DomainHash
	fresh := defined && !on && wantsOn(v.Want) && !v.Attached && !staysOff(v) // sources may be others since the host booted
	if !changed && !stale && !fresh {
		return d, false
	}
	if (changed || stale) && !v.Confirmed && lacksUserData(v.Want) {
		d.Reason, d.Message = "WAITS_FOR_CONTROLLER", "its definition has to be made anew, which waits for a controller: secrets are not kept on the node"
		return d, true
	}
	if v.Volumes.Message != "" {
		return waitForVolumes(v, d), true
	}
	if v.Ports.Message != "" {
		return waitForPorts(v, d), true
	}
	switch {
	case !v.Attached:
		d.Do, d.Step = actAttach, "attach"
	case !defined:
		d.Do, d.Step = actCreate, "define"
	default:
		d.Do, d.Step = actUpdate, "define"
	}
	return d, true
}

func waitForVolumes(v vmView, d decision) decision {
	d.Step, d.Reason = "volume", "WAITS_FOR_VOLUME"
	return waitFor(v, v.Volumes, d)
}

// waitForPorts waits until all ports are in place. That one is kept shut is no reason to wait.
func waitForPorts(v vmView, d decision) decision {
	d.Do, d.Step, d.Reason, d.After = actWait, "port", "WAITS_FOR_PORT", never
	return waitFor(v, v.Ports, d)
}

func waitFor(v vmView, w volumesWait, d decision) decision {
	d.Message, d.Permanent = w.Message, w.Permanent
	if w.Reason != "" {
		d.Reason = w.Reason
	}
	if d.Permanent && v.Domain == nil {
		d.Phase = computev1.VMPhase_VM_PHASE_FAILED
	}
	if left := w.Retry.Sub(v.Now); !w.Retry.IsZero() && left > 0 {
		d.After = left
	}
	return d
}

// endedByItself reports whether the guest ran and is off without our doing.
func endedByItself(v vmView) bool {
	return v.Record.Ran && v.Record.StopAsked.IsZero() && v.Domain != nil && !isOn(v.Domain)
}

// staysOff reports whether run policy leaves a guest off that ended by itself. A later wish to run counts more.
func staysOff(v vmView) bool {
	if !wantsOn(v.Want) || !endedByItself(v) {
		return false
	}
	if e := v.Record.EndedGeneration; e != 0 {
		return v.Want.GetGeneration() == e
	}
	switch v.Want.GetSpec().GetRunPolicy() {
	case computev1.RunPolicy_RUN_POLICY_ALWAYS:
		return false
	case computev1.RunPolicy_RUN_POLICY_MANUAL:
		return true
	}
	return v.Domain.GetStopReason() == driverv1.StopReason_STOP_REASON_SHUTDOWN
}

// stepStart starts a VM that is off and shall run, unless its guest ended by itself and shall stay so.
func stepStart(v vmView) decision {
	if staysOff(v) {
		d := decision{
			Phase: computev1.VMPhase_VM_PHASE_STOPPED, Reason: "GUEST_SHUTDOWN", Message: "the guest shut itself down; its run policy leaves it off",
			Realised: true, GuestStopped: true,
		}
		if v.Domain.GetStopReason() != driverv1.StopReason_STOP_REASON_SHUTDOWN {
			d.Reason, d.Message = "GUEST_CRASHED", "it ended unexpectedly; its run policy leaves it off"
		}
		if v.Record.EndedGeneration == 0 {
			d.Do = actLeaveOff
		}
		return d
	}
	d := decision{Phase: computev1.VMPhase_VM_PHASE_STARTING, Step: "start", Do: actStart}
	if !v.Confirmed && v.SharedStorage {
		d.Do, d.Phase, d.After = actWait, computev1.VMPhase_VM_PHASE_STOPPED, never
		d.Reason, d.Message = "WAITS_FOR_CONTROLLER", "its disks can be reached from other nodes: a controller must confirm that it shall run here"
		return d
	}
	if wait := v.RestartAt.Sub(v.Now); wait > 0 && endedByItself(v) {
		d.Do, d.After, d.Reason = actWait, wait, "GUEST_ENDED"
		d.Message = "it ended by itself (" + endWords(v.Domain) + "); started again in " + people(wait)
	}
	if d.Do == actStart && v.Ports.Message != "" { // its rules come first
		d.Phase = computev1.VMPhase_VM_PHASE_STOPPED
		d = waitForPorts(v, d)
	}
	return d
}

func endWords(d *driverv1.Domain) string {
	switch d.GetStopReason() {
	case driverv1.StopReason_STOP_REASON_SHUTDOWN:
		return "guest shutdown"
	case driverv1.StopReason_STOP_REASON_CRASHED:
		return "crash"
	case driverv1.StopReason_STOP_REASON_HOST:
		return "the host went down"
	case driverv1.StopReason_STOP_REASON_FORCED:
		return "stopped by somebody on the host"
	case driverv1.StopReason_STOP_REASON_FAILED:
		return "it could not start"
	}
	if d.GetStateDetail() != "" {
		return d.GetStateDetail()
	}
	return "unknown reason"
}

// stepRunning brings a VM that is on to RUNNING or PAUSED.
func stepRunning(v vmView) decision {
	d := decision{Phase: phaseOf(v.Domain)}
	state := v.Domain.GetState()
	paused := v.Want.GetSpec().GetDesiredPower() == computev1.PowerState_POWER_STATE_PAUSED
	if asked := v.Record.StopAsked; !asked.IsZero() && state == driverv1.DomainState_DOMAIN_STATE_STOPPING {
		// It was asked to shut down and is wanted again: it ends first, and is started then. One that does not end runs on.
		if left := asked.Add(stopGrace(v.Want)).Sub(v.Now); left > 0 {
			d.Do, d.Phase, d.Step, d.After = actWait, computev1.VMPhase_VM_PHASE_STOPPING, "stop", min(left, 2*time.Second)
			d.Reason, d.Message = "STOPPING", "it was asked to shut down before; started again when it has"
			return d
		}
	}
	reboot := v.Record.RestartKnown && v.Want.GetSpec().GetRestartGeneration() > v.Record.RestartDone
	switch {
	case state == driverv1.DomainState_DOMAIN_STATE_BLOCKED:
		d.Do, d.Step, d.Reason, d.Message = actResume, "resume", "BLOCKED", "halted by the hypervisor: "+v.Domain.GetStateDetail()
	case reboot && paused:
		d.Do = actCountReboot
	case reboot && state == driverv1.DomainState_DOMAIN_STATE_RUNNING:
		d.Do, d.Step = actReboot, "reboot"
	case paused && state != driverv1.DomainState_DOMAIN_STATE_PAUSED:
		d.Do, d.Step = actPause, "pause"
	case !paused && state == driverv1.DomainState_DOMAIN_STATE_PAUSED:
		d.Do, d.Step = actResume, "resume"
	case state == driverv1.DomainState_DOMAIN_STATE_RUNNING && !v.Nics.none():
		d.Step, d.Do = "nic", v.Nics.next()
	case state == driverv1.DomainState_DOMAIN_STATE_RUNNING && len(v.Nics.awaited) > 0 && v.Ports.Message != "":
		d = waitForPorts(v, d)
	default:
		d.Realised = true
	}
	return d
}

// stepOff brings a VM to STOPPED: it asks the guest, and takes force when asked to or when the grace is over.
func stepOff(v vmView) decision {
	if !isOn(v.Domain) {
		d := decision{Phase: computev1.VMPhase_VM_PHASE_STOPPED, Realised: true}
		r := v.Record
		if r.Ran || r.EndedGeneration != 0 || !r.StopAsked.IsZero() || !r.RestartKnown || v.Want.GetSpec().GetRestartGeneration() != r.RestartDone {
			d.Do = actSettleOff
		}
		return d
	}
	d := decision{Phase: computev1.VMPhase_VM_PHASE_STOPPING, Step: "stop", Do: actAskStop}
	asked := v.Record.StopAsked
	switch {
	case v.Want.GetForceStop(), !asked.IsZero() && !v.Now.Before(asked.Add(stopGrace(v.Want))):
		d.Do = actForceStop
	case v.Domain.GetState() == driverv1.DomainState_DOMAIN_STATE_PAUSED:
		d.Do, d.Step = actResume, "resume" // a halted guest hears nothing
	case v.Domain.GetState() == driverv1.DomainState_DOMAIN_STATE_BLOCKED:
		d.Do = actForceStop
	}
	return d
}

const defaultStopGrace = time.Minute

func stopGrace(d *agentv1.DesiredVM) time.Duration {
	if g := d.GetSpec().GetStopGrace(); g != nil {
		return min(max(g.AsDuration(), 0), time.Hour)
	}
	return defaultStopGrace
}

// phaseOf is the phase of a domain as it stands.
func phaseOf(d *driverv1.Domain) computev1.VMPhase {
	switch d.GetState() {
	case driverv1.DomainState_DOMAIN_STATE_RUNNING:
		return computev1.VMPhase_VM_PHASE_RUNNING
	case driverv1.DomainState_DOMAIN_STATE_STOPPING:
		return computev1.VMPhase_VM_PHASE_STOPPING
	case driverv1.DomainState_DOMAIN_STATE_PAUSED, driverv1.DomainState_DOMAIN_STATE_BLOCKED:
		return computev1.VMPhase_VM_PHASE_PAUSED
	case driverv1.DomainState_DOMAIN_STATE_UNKNOWN:
		return computev1.VMPhase_VM_PHASE_UNKNOWN
	}
	return computev1.VMPhase_VM_PHASE_STOPPED
}
