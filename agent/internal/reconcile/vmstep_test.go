package reconcile

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

var now = time.Unix(10000, 0)

// steady is a VM that runs as wanted.
func steady() vmView {
	return vmView{
		Want: &agentv1.DesiredVM{VmId: "v", Generation: 3, Spec: &computev1.VMSpec{
			DesiredPower: computev1.PowerState_POWER_STATE_RUNNING, StopGrace: durationpb.New(time.Minute),
		}},
		Confirmed: true, InputHash: "i", Now: now,
		Record: realised.Record{InputHash: "i", DomainHash: "d", RestartKnown: true, Ran: true},
		Domain: &driverv1.Domain{State: driverv1.DomainState_DOMAIN_STATE_RUNNING},
	}
}

func wants(p computev1.PowerState) func(*vmView) {
	return func(v *vmView) { v.Want.Spec.DesiredPower = p }
}

func is(s driverv1.DomainState) func(*vmView) { return func(v *vmView) { v.Domain.State = s } }

func off(why driverv1.StopReason) func(*vmView) {
	return func(v *vmView) {
		v.Domain.State, v.Domain.StopReason, v.Attached, v.DomainHash = driverv1.DomainState_DOMAIN_STATE_STOPPED, why, true, "d"
	}
}

func policy(p computev1.RunPolicy) func(*vmView) {
	return func(v *vmView) { v.Want.Spec.RunPolicy = p }
}

func TestNextStep(t *testing.T) {
	t.Parallel()
	const (
		stopped  = computev1.PowerState_POWER_STATE_STOPPED
		paused   = computev1.PowerState_POWER_STATE_PAUSED
		pausedD  = driverv1.DomainState_DOMAIN_STATE_PAUSED
		stopping = driverv1.DomainState_DOMAIN_STATE_STOPPING
		blocked  = driverv1.DomainState_DOMAIN_STATE_BLOCKED
		shutdown = driverv1.StopReason_STOP_REASON_SHUTDOWN
		crashed  = driverv1.StopReason_STOP_REASON_CRASHED
	)
	absent := func(v *vmView) { v.Want.Absent = true }
	asked := func(ago time.Duration) func(*vmView) { return func(v *vmView) { v.Record.StopAsked = now.Add(-ago) } }
	for name, tc := range map[string]struct {
		change   []func(*vmView)
		do       action
		realised bool
	}{
		"steady":                  {nil, actNone, true},
		"pause":                   {[]func(*vmView){wants(paused)}, actPause, false},
		"resume":                  {[]func(*vmView){is(pausedD)}, actResume, false},
		"paused as wanted":        {[]func(*vmView){wants(paused), is(pausedD)}, actNone, true},
		"blocked goes on":         {[]func(*vmView){is(blocked)}, actResume, false},
		"stop asks first":         {[]func(*vmView){wants(stopped)}, actAskStop, false},
		"stop of a halted guest":  {[]func(*vmView){wants(stopped), is(pausedD)}, actResume, false},
		"grace left":              {[]func(*vmView){wants(stopped), asked(59 * time.Second)}, actAskStop, false},
		"grace over":              {[]func(*vmView){wants(stopped), asked(time.Minute)}, actForceStop, false},
		"stop by force":           {[]func(*vmView){wants(stopped), func(v *vmView) { v.Want.ForceStop = true }}, actForceStop, false},
		"off is noted":            {[]func(*vmView){wants(stopped), off(shutdown)}, actSettleOff, true},
		"off":                     {[]func(*vmView){wants(stopped), off(shutdown), func(v *vmView) { v.Record.Ran = false }}, actNone, true},
		"wanted while stopping":   {[]func(*vmView){is(stopping), asked(time.Second)}, actWait, false},
		"does not stop after all": {[]func(*vmView){is(stopping), asked(time.Hour)}, actNone, true},
		"our stop, wanted again":  {[]func(*vmView){off(shutdown), asked(time.Second)}, actStart, false},
		"never started":           {[]func(*vmView){off(driverv1.StopReason_STOP_REASON_NEVER_STARTED), func(v *vmView) { v.Record.Ran = false }}, actStart, false},
		"host boot: attach first": {[]func(*vmView){off(driverv1.StopReason_STOP_REASON_HOST), func(v *vmView) { v.Attached = false }}, actAttach, false},
		"host boot":               {[]func(*vmView){off(driverv1.StopReason_STOP_REASON_HOST)}, actStart, false},
		"host boot, shared disks, nobody confirmed": {[]func(*vmView){
			off(driverv1.StopReason_STOP_REASON_HOST), func(v *vmView) { v.Confirmed, v.SharedStorage = false, true },
		}, actWait, false},
		"host boot, shared disks, confirmed": {[]func(*vmView){
			off(driverv1.StopReason_STOP_REASON_HOST), func(v *vmView) { v.SharedStorage = true },
		}, actStart, false},
		"host boot, own disks, nobody confirmed": {[]func(*vmView){off(driverv1.StopReason_STOP_REASON_HOST), func(v *vmView) { v.Confirmed = false }}, actStart, false},
		"source moved":                           {[]func(*vmView){off(driverv1.StopReason_STOP_REASON_HOST), func(v *vmView) { v.DomainHash = "e" }}, actUpdate, false},
		"guest shutdown":                         {[]func(*vmView){off(shutdown)}, actLeaveOff, true},
		"guest shutdown, noted":                  {[]func(*vmView){off(shutdown), func(v *vmView) { v.Record.EndedGeneration = 3 }}, actNone, true},
		"guest shutdown, then wanted":            {[]func(*vmView){off(shutdown), func(v *vmView) { v.Record.EndedGeneration = 2 }}, actStart, false},
		"guest shutdown, always":                 {[]func(*vmView){off(shutdown), policy(computev1.RunPolicy_RUN_POLICY_ALWAYS)}, actStart, false},
		"crash":                                  {[]func(*vmView){off(crashed)}, actStart, false},
		"crash, wait":                            {[]func(*vmView){off(crashed), func(v *vmView) { v.RestartAt = now.Add(time.Second) }}, actWait, false},
		"crash, manual":                          {[]func(*vmView){off(crashed), policy(computev1.RunPolicy_RUN_POLICY_MANUAL)}, actLeaveOff, true},
		"reboot":                                 {[]func(*vmView){func(v *vmView) { v.Want.Spec.RestartGeneration = 1 }}, actReboot, false},
		"reboot done":                            {[]func(*vmView){func(v *vmView) { v.Want.Spec.RestartGeneration, v.Record.RestartDone = 1, 1 }}, actNone, true},
		"reboot of a halted guest":               {[]func(*vmView){wants(paused), is(pausedD), func(v *vmView) { v.Want.Spec.RestartGeneration = 1 }}, actCountReboot, false},
		"unknown whether rebooted":               {[]func(*vmView){func(v *vmView) { v.Want.Spec.RestartGeneration, v.Record.RestartKnown = 1, false }}, actNone, true},
		"no domain":                              {[]func(*vmView){func(v *vmView) { v.Domain = nil }}, actAttach, false},
		"attached":                               {[]func(*vmView){func(v *vmView) { v.Domain, v.Attached = nil, true }}, actCreate, false},
		"off and not made yet":                   {[]func(*vmView){wants(stopped), func(v *vmView) { v.Domain, v.Attached = nil, true }}, actCreate, false},
		"no volume yet":                          {[]func(*vmView){func(v *vmView) { v.Domain = nil; v.Volumes.Message = "no" }}, actWait, false},
		"a running guest needs no volumes to stay": {[]func(*vmView){func(v *vmView) { v.Volumes.Message = "the pool is away" }}, actNone, true},
		"changed": {[]func(*vmView){func(v *vmView) { v.InputHash, v.Attached = "j", true }}, actUpdate, false},
		"changed, user-data unknown": {[]func(*vmView){func(v *vmView) {
			v.InputHash, v.Confirmed = "j", false
			v.Want.Spec.CloudInit = &computev1.CloudInit{UserDataSha256: "s"}
		}}, actWait, false},
		"state unknown":               {[]func(*vmView){is(driverv1.DomainState_DOMAIN_STATE_UNKNOWN)}, actWait, false},
		"absent":                      {[]func(*vmView){absent}, actDelete, false},
		"absent, half deleted before": {[]func(*vmView){absent, func(v *vmView) { v.Domain = nil }}, actDelete, false},
		"absent, disks attached": {[]func(*vmView){absent, func(v *vmView) {
			v.Domain, v.Deleted, v.Record.Attachments = nil, true, []realised.Attachment{{VolumeID: "x"}}
		}}, actDetach, false},
		"gone": {[]func(*vmView){absent, func(v *vmView) { v.Domain, v.Deleted = nil, true }}, actGone, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := steady()
			for _, c := range tc.change {
				c(&v)
			}
			d := nextStep(v)
			if d.Do != tc.do || d.Realised != tc.realised {
				t.Errorf("action %d, realised %v; want %d, %v (%+v)", d.Do, d.Realised, tc.do, tc.realised, d)
			}
			if d.Do == actWait && d.Message == "" {
				t.Error("a wait that says nothing")
			}
		})
	}
}

func TestEndingsBackOff(t *testing.T) {
	t.Parallel()
	var n endings
	at := now
	for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		n.runs(&driverv1.Domain{State: driverv1.DomainState_DOMAIN_STATE_RUNNING}, at)
		if got := n.restartAt(at).Sub(at); got != want {
			t.Errorf("wait %s, want %s", got, want)
		}
		if again := n.restartAt(at.Add(time.Millisecond)); again.Sub(at) != want {
			t.Error("one end was counted twice")
		}
		n.restarted()
	}
	n.runs(&driverv1.Domain{State: driverv1.DomainState_DOMAIN_STATE_RUNNING}, at)
	at = at.Add(steadyAfter)
	if got := n.restartAt(at).Sub(at); got != restartMin {
		t.Errorf("after a long run: wait %s", got)
	}
}
