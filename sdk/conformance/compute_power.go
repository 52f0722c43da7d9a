package conformance

import (
	"context"

	"google.golang.org/grpc/codes"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	stopped = driverv1.DomainState_DOMAIN_STATE_STOPPED
	running = driverv1.DomainState_DOMAIN_STATE_RUNNING
	paused  = driverv1.DomainState_DOMAIN_STATE_PAUSED
)

// powerChecks are about starting, stopping and pausing.
func powerChecks() []*Check {
	pause, reboot := driverv1.ComputeFeature_COMPUTE_FEATURE_PAUSE, driverv1.ComputeFeature_COMPUTE_FEATURE_REBOOT
	return []*Check{
		{Name: "compute/start/runs", Contract: "StartDomain starts a defined domain; already running: OK, the same process.", run: startRuns},
		{Name: "compute/stop/forced", Contract: "StopDomain with force stops at once; stopped: OK.", run: stopForced},
		{Name: "compute/stop/asked", Contract: "StopDomain asks the guest and returns when it is off, or FAILED_PRECONDITION when grace is over and the domain runs on.", run: stopAsked},
		{Name: "compute/pause/and-resume", Contract: "Already paused: OK. Already running: OK. The process stays.", Compute: pause, run: pauseResume},
		{Name: "compute/pause/not-running", Contract: "Pausing what does not run: FAILED_PRECONDITION.", Compute: pause, run: pauseStopped},
		{Name: "compute/pause/start-is-ok", Contract: "StartDomain of what is paused: OK.", Compute: pause, run: startPaused},
		{Name: "compute/reboot/forced", Contract: "RebootDomain with force resets; same process afterwards.", Compute: reboot, run: rebootForced},
		{Name: "compute/reboot/not-running", Contract: "RebootDomain of what does not run: FAILED_PRECONDITION.", Compute: reboot, run: rebootStopped},
	}
}

func startRuns(t T, e *Env) {
	d := e.defined(t)
	a := call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id}).GetDomain()
	if a.GetState() != running || a.GetStartTime() == nil {
		t.Errorf("started: %v", a)
	}
	b := call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id}).GetDomain()
	if a.GetPid() != b.GetPid() || a.GetStartTime().AsTime() != b.GetStartTime().AsTime() {
		t.Errorf("started again it is another process: %v, %v", a, b)
	}
}

func stopForced(t T, e *Env) {
	d := e.started(t)
	for range 2 {
		got := call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: d.id, Force: true}).GetDomain()
		if got.GetState() != stopped {
			t.Errorf("stopped: %v", got)
		}
	}
	if got := d.wantState(t, stopped); got.GetPid() != 0 || got.GetStopReason() == driverv1.StopReason_STOP_REASON_UNSPECIFIED {
		t.Errorf("pid %d, reason %s", got.GetPid(), got.GetStopReason())
	}
}

func stopAsked(t T, e *Env) {
	d := e.started(t)
	_, err := e.compute().StopDomain(within(t), &driverv1.StopDomainRequest{DomainId: d.id, Grace: seconds(e.graceSeconds())})
	if e.o.Compute.GuestReboots {
		must(t, "stop", err)
		d.wantState(t, stopped)
		return
	}
	wantCode(t, "stop", err, codes.OK, codes.FailedPrecondition)
	want := stopped
	if err != nil {
		want = running
	}
	eventually(t, callTimeout, "the state that the answer says: "+want.String(), func() bool {
		s := d.get(t).GetState()
		return s == want || want == running && s == driverv1.DomainState_DOMAIN_STATE_STOPPING
	})
}

// graceSeconds is how long a guest may take to obey; one that does not is not waited for long.
func (e *Env) graceSeconds() int64 {
	if e.o.Compute.GuestReboots {
		return 60
	}
	return 1
}

func pauseResume(t T, e *Env) {
	d := e.started(t)
	before := d.get(t)
	for range 2 {
		if got := call(t, e.compute().PauseDomain, &driverv1.PauseDomainRequest{DomainId: d.id}).GetDomain(); got.GetState() != paused {
			t.Errorf("paused: %v", got)
		}
	}
	d.wantState(t, paused)
	for range 2 {
		if got := call(t, e.compute().ResumeDomain, &driverv1.ResumeDomainRequest{DomainId: d.id}).GetDomain(); got.GetState() != running {
			t.Errorf("resumed: %v", got)
		}
	}
	if after := d.wantState(t, running); after.GetPid() != before.GetPid() {
		t.Errorf("process %d became %d", before.GetPid(), after.GetPid())
	}
	call(t, e.compute().PauseDomain, &driverv1.PauseDomainRequest{DomainId: d.id})
	call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: d.id, Force: true})
	d.wantState(t, stopped)
}

func pauseStopped(t T, e *Env) {
	d := e.defined(t)
	refused(t, "pause", e.compute().PauseDomain, &driverv1.PauseDomainRequest{DomainId: d.id}, codes.FailedPrecondition)
	refused(t, "resume", e.compute().ResumeDomain, &driverv1.ResumeDomainRequest{DomainId: d.id}, codes.FailedPrecondition)
	refused(t, "pause of what is absent", e.compute().PauseDomain, &driverv1.PauseDomainRequest{DomainId: newID()}, codes.NotFound)
}

func startPaused(t T, e *Env) {
	d := e.started(t)
	call(t, e.compute().PauseDomain, &driverv1.PauseDomainRequest{DomainId: d.id})
	call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id})
}

func rebootForced(t T, e *Env) {
	d := e.started(t)
	before := d.get(t)
	call(t, e.compute().RebootDomain, &driverv1.RebootDomainRequest{DomainId: d.id, Force: true})
	if after := d.wantState(t, running); after.GetPid() != before.GetPid() {
		t.Errorf("process %d became %d", before.GetPid(), after.GetPid())
	}
}

func rebootStopped(t T, e *Env) {
	d := e.defined(t)
	refused(t, "reboot", e.compute().RebootDomain, &driverv1.RebootDomainRequest{DomainId: d.id, Force: true}, codes.FailedPrecondition)
	refused(t, "reboot of what is absent", e.compute().RebootDomain, &driverv1.RebootDomainRequest{DomainId: newID(), Force: true}, codes.NotFound)
}

// computeVerbs are the changing calls of the compute contract, each to be borne under each fault. RebootDomain is not among them: it is not idempotent.
func computeVerbs() []verb {
	state := func(d *domain, want driverv1.DomainState) func(T) {
		return func(t T) {
			d.wantState(t, want)
			if d.e.ours(t)[d.id] == nil {
				t.Errorf("not listed")
			}
		}
	}
	pause := int32(driverv1.ComputeFeature_COMPUTE_FEATURE_PAUSE)
	return []verb{
		{name: "create", prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			d := e.newDomain(t, "fault")
			return func(ctx context.Context) error {
				_, err := e.compute().CreateDomain(ctx, d.createRequest())
				return err
			}, state(d, stopped)
		}},
		{name: "start", prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			d := e.defined(t)
			return func(ctx context.Context) error {
				_, err := e.compute().StartDomain(ctx, &driverv1.StartDomainRequest{DomainId: d.id})
				return err
			}, state(d, running)
		}},
		{name: "stop", prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			d := e.started(t)
			return func(ctx context.Context) error {
				_, err := e.compute().StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: d.id, Force: true})
				return err
			}, state(d, stopped)
		}},
		{name: "pause", needs: pause, prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			d := e.started(t)
			return func(ctx context.Context) error {
				_, err := e.compute().PauseDomain(ctx, &driverv1.PauseDomainRequest{DomainId: d.id})
				return err
			}, state(d, paused)
		}},
		{name: "delete", prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			d := e.started(t)
			return func(ctx context.Context) error {
					_, err := e.compute().DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: d.id})
					return err
				}, func(t T) {
					refused(t, "get", e.compute().GetDomain, &driverv1.GetDomainRequest{DomainId: d.id}, codes.NotFound)
				}
		}},
	}
}
