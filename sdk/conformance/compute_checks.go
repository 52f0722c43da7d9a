package conformance

import (
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const compute = driverv1.DriverKind_DRIVER_KIND_COMPUTE

// computeChecks are what every compute driver must pass.
func computeChecks() []*Check {
	checks := []*Check{
		{Name: "compute/node/resources", Contract: "GetNodeResources describes CPU, memory and the accelerator, found by trying.", run: nodeResources},
		{Name: "compute/validate/says-what-create-says", Contract: "An empty list means CreateDomain will not refuse the spec; a bad spec has a violation, and no effect.", run: validateHonest},
		{Name: "compute/create/defines-stopped", Contract: "CreateDomain defines a domain, stopped, with our mark.", run: createDefines},
		{Name: "compute/create/same-spec-is-ok", Contract: "Same id and spec: OK, same answer, also when it runs.", run: createSame},
		{Name: "compute/create/other-spec-conflicts", Contract: "Same id, other spec: ALREADY_EXISTS; the domain stays as it was.", run: createOther},
		{Name: "compute/create/odd-names", Contract: "The name is for people; a driver never uses it as a path or key.", run: createOddNames},
		{Name: "compute/ids/wrong-ones-are-refused", Contract: "An id that is no UUID is INVALID_ARGUMENT in every call.", run: wrongIDs},
		{Name: "compute/get/absent", Contract: "GetDomain, StartDomain of what is absent: NOT_FOUND.", run: absentIsNotFound},
		{Name: "compute/delete/absent-is-ok", Contract: "Delete, detach or stop of what is absent = OK.", run: absentIsOK},
		{Name: "compute/delete/leaves-nothing", Contract: "DeleteDomain removes the domain, stopping it by force if it runs; the id can be used again.", run: deleteLeavesNothing},
		{Name: "compute/handle/empty-or-given", Contract: "Handles are at most 16 KiB; a call with an empty handle works too.", run: handles},
		{Name: "compute/list/only-ours", Contract: "List calls return only objects whose mark has the cluster and node of Configure. Nothing else is ever touched.", run: listOnlyOurs},
		{Name: "compute/list/survives-kill", Contract: "A domain outlives plugin, agent and their restarts, with mark, handle, process and start time.", run: survivesKill},
		{Name: "compute/stats/of-what-runs", Contract: "GetStats returns figures of all our domains that run, in one answer.", run: statsOfRunning},
		{Name: "compute/events/arrive", Contract: "WatchEvents reports what happened to our domains; events after a cursor are replayed.", run: eventsArrive},
		{Name: "compute/capabilities/honest", Contract: "What is not advertised answers UNIMPLEMENTED, and nothing else does.", run: capabilitiesHonest},
		{Name: "compute/console/opens", Contract: "OpenConsole: the first message is empty and says that the console is open.", Compute: driverv1.ComputeFeature_COMPUTE_FEATURE_CONSOLE, run: consoleOpens},
		{Name: "compute/console-log/reads", Contract: "ReadConsoleLog reads what the console has printed, from an offset.", Compute: driverv1.ComputeFeature_COMPUTE_FEATURE_CONSOLE_LOG, run: consoleLogReads},
	}
	checks = append(checks, powerChecks()...)
	checks = append(checks, diskChecks()...)
	checks = append(checks, interfaceChecks()...)
	checks = append(checks, faultChecks("compute", slices.Concat(computeVerbs(), diskVerbs(), interfaceVerbs()), func(c *Check, v verb) {
		c.Compute = driverv1.ComputeFeature(v.needs)
	})...)
	for _, c := range checks {
		c.Kind = compute
	}
	return checks
}

// domain is one domain under check.
type domain struct {
	e    *Env
	id   string
	spec *driverv1.DomainSpec
}

// newDomain thinks of a domain, and deletes it when the check ends if it was made.
func (e *Env) newDomain(t T, name string) *domain {
	d := &domain{e: e, id: newID(), spec: e.o.Compute.Spec(name)}
	t.Cleanup(func() {
		ctx, cancel := cleanupContext()
		defer cancel()
		if _, err := e.compute().DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: d.id}); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return d
}

// defined makes a domain.
func (e *Env) defined(t T) *domain {
	t.Helper()
	d := e.newDomain(t, "conformance")
	d.create(t)
	return d
}

// started makes a domain that runs.
func (e *Env) started(t T) *domain {
	t.Helper()
	d := e.defined(t)
	call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id})
	return d
}

func (d *domain) createRequest() *driverv1.CreateDomainRequest {
	return &driverv1.CreateDomainRequest{DomainId: d.id, Mark: d.e.mark(d.id), Spec: d.spec}
}

func (d *domain) create(t T) *driverv1.Domain {
	t.Helper()
	return call(t, d.e.compute().CreateDomain, d.createRequest()).GetDomain()
}

func (d *domain) get(t T) *driverv1.Domain {
	t.Helper()
	return call(t, d.e.compute().GetDomain, &driverv1.GetDomainRequest{DomainId: d.id}).GetDomain()
}

func (d *domain) wantState(t T, want driverv1.DomainState) *driverv1.Domain {
	t.Helper()
	got := d.get(t)
	if got.GetState() != want {
		t.Errorf("it is %s (%s), want %s", got.GetState(), got.GetStateDetail(), want)
	}
	return got
}

// ours lists our domains by id, and fails the check when one is there twice.
func (e *Env) ours(t T) map[string]*driverv1.Domain {
	t.Helper()
	byID := map[string]*driverv1.Domain{}
	for _, d := range call(t, e.compute().ListDomains, &driverv1.ListDomainsRequest{}).GetDomains() {
		if byID[d.GetDomainId()] != nil {
			t.Errorf("%s is listed twice", d.GetDomainId())
		}
		byID[d.GetDomainId()] = d
	}
	return byID
}

func nodeResources(t T, e *Env) {
	r := call(t, e.compute().GetNodeResources, &driverv1.GetNodeResourcesRequest{})
	if r.GetCpus() < 1 || r.GetMemoryBytes() < 1<<20 || r.GetArchitecture() == "" {
		t.Errorf("cpus %d, memory %d, architecture %q", r.GetCpus(), r.GetMemoryBytes(), r.GetArchitecture())
	}
	if a := r.GetAccelerator().GetAccelerator(); a != "kvm" && a != "tcg" || r.GetAccelerator().GetReason() == "" {
		t.Errorf("accelerator %q, known by %q", a, r.GetAccelerator().GetReason())
	}
}

func validateHonest(t T, e *Env) {
	d := e.newDomain(t, "valid")
	if v := call(t, e.compute().ValidateDomain, &driverv1.ValidateDomainRequest{DomainId: d.id, Spec: d.spec}).GetViolations(); len(v) > 0 {
		t.Fatalf("the good spec: %v", v)
	}
	if e.ours(t)[d.id] != nil {
		t.Errorf("validating made the domain")
	}
	d.create(t)
	bad := e.newDomain(t, "bad")
	bad.spec.Cpu = &driverv1.DomainCpu{Vcpus: 0}
	bad.spec.MemoryBytes = -1
	if v := call(t, e.compute().ValidateDomain, &driverv1.ValidateDomainRequest{DomainId: bad.id, Spec: bad.spec}).GetViolations(); len(v) < 2 {
		t.Errorf("no CPU and negative memory are %d violations: %v", len(v), v)
	}
	refused(t, "creating the bad spec", e.compute().CreateDomain, bad.createRequest(), codes.InvalidArgument, codes.OutOfRange)
	if e.ours(t)[bad.id] != nil {
		t.Errorf("the refused domain was made")
	}
}

func createDefines(t T, e *Env) {
	d := e.newDomain(t, "defined")
	got := d.create(t)
	if got.GetState() != driverv1.DomainState_DOMAIN_STATE_STOPPED || got.GetDomainId() != d.id || got.GetSpecHash() == "" {
		t.Errorf("created: %v", got)
	}
	read := d.wantState(t, driverv1.DomainState_DOMAIN_STATE_STOPPED)
	if !proto.Equal(read.GetMark(), e.mark(d.id)) {
		t.Errorf("its mark is %v, want %v", read.GetMark(), e.mark(d.id))
	}
	if l := e.ours(t)[d.id]; l == nil || l.GetState() != driverv1.DomainState_DOMAIN_STATE_STOPPED {
		t.Errorf("listed: %v", l)
	}
}

func createSame(t T, e *Env) {
	d := e.newDomain(t, "same")
	a := d.create(t)
	b := d.create(t)
	if a.GetSpecHash() != b.GetSpecHash() || a.GetState() != b.GetState() {
		t.Errorf("answered %v, then %v", a, b)
	}
	call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id})
	if c := d.create(t); c.GetState() != driverv1.DomainState_DOMAIN_STATE_RUNNING || c.GetSpecHash() != a.GetSpecHash() {
		t.Errorf("while it runs: %v", c)
	}
}

func createOther(t T, e *Env) {
	d := e.defined(t)
	before := d.get(t)
	req := d.createRequest()
	req.Spec = proto.CloneOf(d.spec)
	req.Spec.MemoryBytes += 64 << 20
	refused(t, "other memory", e.compute().CreateDomain, req, codes.AlreadyExists)
	if after := d.get(t); after.GetSpecHash() != before.GetSpecHash() {
		t.Errorf("the refused spec changed the domain")
	}
}

func createOddNames(t T, e *Env) {
	for _, name := range []string{
		strings.Repeat("x", 128), "../../../etc/passwd", "-rf", "a b\tc", `"'<&>;$(reboot)|`, "näme-日本語", "%s%n", ".", strings.Repeat("é", 64),
	} {
		d := e.newDomain(t, name)
		if _, err := e.compute().CreateDomain(within(t), d.createRequest()); err != nil {
			t.Errorf("name %q: %v", name, err)
			continue
		}
		if e.ours(t)[d.id] == nil {
			t.Errorf("name %q: not listed", name)
		}
		call(t, e.compute().DeleteDomain, &driverv1.DeleteDomainRequest{DomainId: d.id})
	}
	// The same name twice is no conflict: names are no keys.
	e.defined(t)
	e.defined(t)
}

func wrongIDs(t T, e *Env) {
	c := e.compute()
	for _, id := range []string{"", "x", "../../etc", newID() + "/..", strings.ToUpper("ABCDEF00-0000-4000-8000-00000000000g"), strings.Repeat("a", 36)} {
		d := &domain{e: e, id: id, spec: e.o.Compute.Spec("wrong")}
		refused(t, "create "+id, c.CreateDomain, d.createRequest(), codes.InvalidArgument)
		refused(t, "get "+id, c.GetDomain, &driverv1.GetDomainRequest{DomainId: id}, codes.InvalidArgument)
		refused(t, "start "+id, c.StartDomain, &driverv1.StartDomainRequest{DomainId: id}, codes.InvalidArgument)
		refused(t, "stop "+id, c.StopDomain, &driverv1.StopDomainRequest{DomainId: id, Force: true}, codes.InvalidArgument)
		refused(t, "delete "+id, c.DeleteDomain, &driverv1.DeleteDomainRequest{DomainId: id}, codes.InvalidArgument)
	}
	d := e.newDomain(t, "mark")
	req := d.createRequest()
	req.Mark = e.mark(newID())
	refused(t, "a mark of another object", c.CreateDomain, req, codes.InvalidArgument)
	req.Mark = nil
	refused(t, "no mark", c.CreateDomain, req, codes.InvalidArgument)
}

func absentIsNotFound(t T, e *Env) {
	id := newID()
	refused(t, "get", e.compute().GetDomain, &driverv1.GetDomainRequest{DomainId: id}, codes.NotFound)
	refused(t, "start", e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: id}, codes.NotFound)
	d := &domain{e: e, id: id, spec: e.o.Compute.Spec("absent")}
	refused(t, "update", e.compute().UpdateDomain, &driverv1.UpdateDomainRequest{DomainId: id, Mark: e.mark(id), Spec: d.spec}, codes.NotFound, codes.Unimplemented)
}

func absentIsOK(t T, e *Env) {
	id := newID()
	call(t, e.compute().DeleteDomain, &driverv1.DeleteDomainRequest{DomainId: id})
	call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: id, Force: true})
	call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: id})
}

func deleteLeavesNothing(t T, e *Env) {
	d := e.started(t)
	call(t, e.compute().DeleteDomain, &driverv1.DeleteDomainRequest{DomainId: d.id})
	refused(t, "get", e.compute().GetDomain, &driverv1.GetDomainRequest{DomainId: d.id}, codes.NotFound)
	if e.ours(t)[d.id] != nil {
		t.Errorf("it is still listed")
	}
	d.spec.MemoryBytes += 64 << 20 // nothing of the old one is in the way
	d.create(t)
}

func handles(t T, e *Env) {
	d := e.defined(t)
	h := d.get(t).GetHandle()
	if len(h) > 16<<10 {
		t.Errorf("a handle of %d bytes", len(h))
	}
	for _, handle := range [][]byte{nil, h} {
		call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id, Handle: handle})
		got := call(t, e.compute().GetDomain, &driverv1.GetDomainRequest{DomainId: d.id, Handle: handle}).GetDomain()
		if got.GetState() != driverv1.DomainState_DOMAIN_STATE_RUNNING {
			t.Errorf("with a handle of %d bytes: %s", len(handle), got.GetState())
		}
		call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: d.id, Handle: handle, Force: true})
	}
}

func listOnlyOurs(t T, e *Env) {
	d := e.started(t)
	other := e.as(t, newID())
	r := call(t, other.compute().ListDomains, &driverv1.ListDomainsRequest{})
	for _, l := range r.GetDomains() {
		t.Errorf("another node lists %s, marked %v", l.GetDomainId(), l.GetMark())
	}
	if r.GetForeignCount() < 1 {
		t.Errorf("another node counts %d foreign domains", r.GetForeignCount())
	}
	refused(t, "another node's get", other.compute().GetDomain, &driverv1.GetDomainRequest{DomainId: d.id}, codes.PermissionDenied)
	for _, s := range call(t, other.compute().GetStats, &driverv1.GetStatsRequest{}).GetDomains() {
		t.Errorf("another node has figures of %s", s.GetDomainId())
	}
	refused(t, "another node's stop", other.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: d.id, Force: true}, codes.PermissionDenied)
	refused(t, "another node's delete", other.compute().DeleteDomain, &driverv1.DeleteDomainRequest{DomainId: d.id}, codes.PermissionDenied)
	d.wantState(t, driverv1.DomainState_DOMAIN_STATE_RUNNING)
}

func survivesKill(t T, e *Env) {
	idle, runs := e.defined(t), e.started(t)
	before := runs.get(t)
	e.kill(t)
	idle.wantState(t, driverv1.DomainState_DOMAIN_STATE_STOPPED)
	after := runs.wantState(t, driverv1.DomainState_DOMAIN_STATE_RUNNING)
	if before.GetPid() != after.GetPid() || !proto.Equal(before.GetStartTime(), after.GetStartTime()) || before.GetSpecHash() != after.GetSpecHash() ||
		!proto.Equal(before.GetMark(), after.GetMark()) {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
	l := e.ours(t)
	if l[idle.id] == nil || l[runs.id] == nil {
		t.Errorf("not listed any more")
	}
	call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: runs.id, Handle: before.GetHandle(), Force: true})
	runs.wantState(t, driverv1.DomainState_DOMAIN_STATE_STOPPED)
}

func statsOfRunning(t T, e *Env) {
	runs, idle := e.started(t), e.defined(t)
	seen := map[string]*driverv1.DomainStats{}
	for _, s := range call(t, e.compute().GetStats, &driverv1.GetStatsRequest{}).GetDomains() {
		seen[s.GetDomainId()] = s
	}
	s := seen[runs.id]
	if s == nil || s.GetError() != "" || s.GetSampleTime() == nil || s.GetVcpus() != runs.spec.GetCpu().GetVcpus() || s.GetMemoryBytes() <= 0 {
		t.Errorf("figures of what runs: %v", s)
	}
	if seen[idle.id] != nil {
		t.Errorf("figures of what does not run: %v", seen[idle.id])
	}
}
