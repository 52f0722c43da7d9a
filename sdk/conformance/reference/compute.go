package reference

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// The tables of domains: what is defined, what is, what the console printed.
const (
	specTable    = "domain-spec"
	domainTable  = "domain"
	consoleTable = "console"
)

type computeDriver struct {
	driverv1.UnimplementedComputeDriverServiceServer
	*driver
}

func computeCapabilities(cfg config) *driverv1.ComputeCapabilities {
	caps := &driverv1.ComputeCapabilities{
		Features: []driverv1.ComputeFeature{
			driverv1.ComputeFeature_COMPUTE_FEATURE_PAUSE, driverv1.ComputeFeature_COMPUTE_FEATURE_REBOOT,
			driverv1.ComputeFeature_COMPUTE_FEATURE_CONSOLE, driverv1.ComputeFeature_COMPUTE_FEATURE_CONSOLE_LOG,
		},
		DiskSources:       []driverv1.DiskSourceKind{driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE},
		InterfaceBindings: []driverv1.InterfaceBindingKind{driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_TAP},
	}
	if cfg.OnlineDisks {
		caps.Features = append(caps.Features, onlineFeatures()...)
	}
	if cfg.OnlineInterfaces {
		caps.Features = append(caps.Features, interfaceFeatures()...)
	}
	return caps
}

func (c *computeDriver) GetNodeResources(context.Context, *driverv1.GetNodeResourcesRequest) (*driverv1.GetNodeResourcesResponse, error) {
	return &driverv1.GetNodeResourcesResponse{
		Architecture: "x86_64", CpuModel: "simulated", CpuSockets: 1, CpuCores: int32(runtime.NumCPU()), CpuThreads: 1, Cpus: int32(runtime.NumCPU()),
		MemoryBytes: 8 << 30, Hypervisor: "reference", MachineTypes: []string{"q35"},
		Accelerator: &driverv1.AcceleratorVerdict{Requested: "auto", Accelerator: "tcg", Reason: "nothing is accelerated: there is no hypervisor", ProbeDuration: durationpb.New(0)},
	}, nil
}

func (c *computeDriver) ValidateDomain(_ context.Context, req *driverv1.ValidateDomainRequest) (*driverv1.ValidateDomainResponse, error) {
	if err := checkID("domain_id", req.GetDomainId()); err != nil {
		return nil, err
	}
	r := &driverv1.ValidateDomainResponse{}
	for _, v := range violations(req.GetSpec()) {
		r.Violations = append(r.Violations, &driverv1.FieldViolation{Field: v.Field, Description: v.Description})
	}
	return r, nil
}

// violations is what is wrong with a spec.
func violations(s *driverv1.DomainSpec) (v []fault.Violation) {
	bad := func(wrong bool, field, description string) {
		if wrong {
			v = append(v, fault.Violation{Field: field, Description: description})
		}
	}
	bad(s.GetCpu().GetVcpus() < 1, "spec.cpu.vcpus", "must be at least 1")
	bad(s.GetMemoryBytes() <= 0 || s.GetMemoryBytes()%(1<<20) != 0, "spec.memory_bytes", "must be a multiple of 1 MiB, more than 0")
	bad(s.GetMaxMemoryBytes() != 0 && s.GetMaxMemoryBytes() < s.GetMemoryBytes(), "spec.max_memory_bytes", "must not be less than memory_bytes")
	bad(s.GetBoot().GetFirmware() == driverv1.Firmware_FIRMWARE_UEFI, "spec.boot.firmware", "UEFI is not advertised")
	bad(s.GetBoot().GetKernelPath() != "", "spec.boot.kernel_path", "direct kernel boot is not advertised")
	bad(s.GetCloudInit() != nil, "spec.cloud_init", "cloud-init is not advertised")
	for i, d := range s.GetDisks() {
		_, isFile := d.GetSource().GetSource().(*driverv1.DiskSource_File)
		bad(!isFile, fmt.Sprintf("spec.disks[%d].source", i), "only files are advertised")
	}
	return v
}

func (c *computeDriver) CreateDomain(ctx context.Context, req *driverv1.CreateDomainRequest) (*driverv1.CreateDomainResponse, error) {
	id := req.GetDomainId()
	if err := checkID("domain_id", id); err != nil && !c.defect("any-id") {
		return nil, err
	}
	if err := c.checkMark(req.GetMark(), id); err != nil {
		return nil, err
	}
	if v := violations(req.GetSpec()); len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	unlock, err := c.keys.Lock("domain/" + id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, made := &driverv1.Domain{}, false
	err = c.change(ctx, func(x *tx) error {
		if x.get(domainTable, id, d) {
			switch {
			case !c.ours(d.GetMark()):
				return notOurs("domain", id)
			case d.GetSpecHash() != hash(req.GetSpec()) && !c.defect("create-ignores-spec"):
				return conflict("domain", id)
			case c.defect("create-once"):
				return conflict("domain", id)
			}
			return nil
		}
		d = &driverv1.Domain{
			DomainId: id, Mark: req.GetMark(), State: driverv1.DomainState_DOMAIN_STATE_STOPPED, StopReason: driverv1.StopReason_STOP_REASON_NEVER_STARTED,
			Handle: handleOf(id), SpecHash: hash(req.GetSpec()), Accelerator: "tcg",
		}
		if c.defect("no-mark") {
			d.Mark = nil
		}
		made = true
		x.did(driverv1.DomainEventType_DOMAIN_EVENT_TYPE_DEFINED, id, req.GetMark())
		if err := x.put(specTable, id, req.GetSpec()); err != nil {
			return err
		}
		return x.put(domainTable, id, d)
	})
	if err != nil {
		return nil, err
	}
	if made {
		c.event(d, driverv1.DomainEventType_DOMAIN_EVENT_TYPE_DEFINED)
	}
	return &driverv1.CreateDomainResponse{Domain: d}, nil
}

// on changes one domain of ours under its key. f reports whether it changed anything. The domain is nil when it is absent.
func (c *computeDriver) on(ctx context.Context, id string, typ driverv1.DomainEventType, f func(x *tx, d *driverv1.Domain) (bool, error)) (*driverv1.Domain, error) {
	if err := checkID("domain_id", id); err != nil {
		return nil, err
	}
	unlock, err := c.keys.Lock("domain/" + id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d, changed := &driverv1.Domain{}, false
	err = c.change(ctx, func(x *tx) (err error) {
		if !x.get(domainTable, id, d) {
			d = nil
		} else if !c.ours(d.GetMark()) && !c.defect("touches-foreign") {
			return notOurs("domain", id)
		}
		if changed, err = f(x, d); err != nil || !changed || d == nil {
			return err
		}
		x.did(typ, id, d.GetMark())
		if !x.has(domainTable, id) {
			return nil
		}
		return x.put(domainTable, id, d)
	})
	if err != nil {
		return nil, err
	}
	if changed {
		c.event(d, typ)
	}
	return d, nil
}

func (c *computeDriver) event(d *driverv1.Domain, typ driverv1.DomainEventType) {
	if !c.defect("no-events") {
		c.base.Events.Domain(d.GetDomainId(), typ, d.GetState(), "")
	}
}

func absentDomain(id string) error {
	return notFound(metav1.Reason_REASON_DOMAIN_NOT_FOUND, "domain", id)
}

func (c *computeDriver) StartDomain(ctx context.Context, req *driverv1.StartDomainRequest) (*driverv1.StartDomainResponse, error) {
	d, err := c.on(ctx, req.GetDomainId(), driverv1.DomainEventType_DOMAIN_EVENT_TYPE_STARTED, func(x *tx, d *driverv1.Domain) (bool, error) {
		switch {
		case d == nil:
			return false, absentDomain(req.GetDomainId())
		case runs(d) && !c.defect("start-twice"):
			return false, nil
		}
		now := time.Now()
		d.State, d.StopReason = driverv1.DomainState_DOMAIN_STATE_RUNNING, 0
		d.Pid, d.StartTime = now.UnixMilli()%1_000_000+1000, timestamppb.New(now) // a number as good as a process id
		var spec driverv1.DomainSpec
		x.get(specTable, d.GetDomainId(), &spec)
		if c.onlineInterfaces() {
			d.Interfaces = nil
			for _, n := range spec.GetInterfaces() {
				d.Interfaces = append(d.Interfaces, plugged(n))
			}
		}
		x.putBytes(consoleTable, d.GetDomainId(), fmt.Appendf(x.bytes(consoleTable, d.GetDomainId()), "booted %q\r\n", spec.GetName()))
		return true, nil
	})
	return &driverv1.StartDomainResponse{Domain: d}, err
}

func (c *computeDriver) StopDomain(ctx context.Context, req *driverv1.StopDomainRequest) (*driverv1.StopDomainResponse, error) {
	typ, reason := driverv1.DomainEventType_DOMAIN_EVENT_TYPE_SHUTDOWN, driverv1.StopReason_STOP_REASON_SHUTDOWN
	if req.GetForce() {
		typ, reason = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_STOPPED, driverv1.StopReason_STOP_REASON_FORCED
	}
	d, err := c.on(ctx, req.GetDomainId(), typ, func(x *tx, d *driverv1.Domain) (bool, error) {
		if !runs(d) {
			return false, nil
		}
		if d.GetState() == driverv1.DomainState_DOMAIN_STATE_PAUSED && !req.GetForce() {
			return false, wrongState("domain %s is paused: its guest cannot obey", d.GetDomainId())
		}
		d.State, d.StopReason, d.Pid, d.StartTime = driverv1.DomainState_DOMAIN_STATE_STOPPED, reason, 0, nil
		if c.onlineInterfaces() {
			d.Interfaces = nil
		}
		x.del(frozenDomainTable, d.GetDomainId())
		return true, nil
	})
	return &driverv1.StopDomainResponse{Domain: d}, err
}

func (c *computeDriver) RebootDomain(ctx context.Context, req *driverv1.RebootDomainRequest) (*driverv1.RebootDomainResponse, error) {
	d, err := c.on(ctx, req.GetDomainId(), driverv1.DomainEventType_DOMAIN_EVENT_TYPE_REBOOTED, func(_ *tx, d *driverv1.Domain) (bool, error) {
		return true, mustRun(req.GetDomainId(), d)
	})
	return &driverv1.RebootDomainResponse{Domain: d}, err
}

func (c *computeDriver) PauseDomain(ctx context.Context, req *driverv1.PauseDomainRequest) (*driverv1.PauseDomainResponse, error) {
	d, err := c.on(ctx, req.GetDomainId(), driverv1.DomainEventType_DOMAIN_EVENT_TYPE_PAUSED, func(_ *tx, d *driverv1.Domain) (bool, error) {
		return setState(req.GetDomainId(), d, driverv1.DomainState_DOMAIN_STATE_PAUSED)
	})
	return &driverv1.PauseDomainResponse{Domain: d}, err
}

func (c *computeDriver) ResumeDomain(ctx context.Context, req *driverv1.ResumeDomainRequest) (*driverv1.ResumeDomainResponse, error) {
	d, err := c.on(ctx, req.GetDomainId(), driverv1.DomainEventType_DOMAIN_EVENT_TYPE_RESUMED, func(_ *tx, d *driverv1.Domain) (bool, error) {
		return setState(req.GetDomainId(), d, driverv1.DomainState_DOMAIN_STATE_RUNNING)
	})
	return &driverv1.ResumeDomainResponse{Domain: d}, err
}

func (c *computeDriver) DeleteDomain(ctx context.Context, req *driverv1.DeleteDomainRequest) (*driverv1.DeleteDomainResponse, error) {
	_, err := c.on(ctx, req.GetDomainId(), driverv1.DomainEventType_DOMAIN_EVENT_TYPE_UNDEFINED, func(x *tx, d *driverv1.Domain) (bool, error) {
		if d == nil {
			if c.defect("delete-unknown-fails") {
				return false, absentDomain(req.GetDomainId())
			}
			return false, nil
		}
		for _, table := range []string{domainTable, specTable, consoleTable, frozenDomainTable} {
			x.del(table, d.GetDomainId())
		}
		return true, nil
	})
	return &driverv1.DeleteDomainResponse{}, err
}

func (c *computeDriver) GetDomain(_ context.Context, req *driverv1.GetDomainRequest) (*driverv1.GetDomainResponse, error) {
	d, err := c.read(req.GetDomainId())
	return &driverv1.GetDomainResponse{Domain: d}, err
}

// read reads one domain of ours.
func (c *computeDriver) read(id string) (*driverv1.Domain, error) {
	if err := checkID("domain_id", id); err != nil {
		return nil, err
	}
	d := &driverv1.Domain{}
	return d, c.do(func(x *tx) error {
		if !x.get(domainTable, id, d) {
			return absentDomain(id)
		}
		if !c.ours(d.GetMark()) && !c.defect("touches-foreign") {
			return notOurs("domain", id)
		}
		return nil
	})
}

func (c *computeDriver) ListDomains(context.Context, *driverv1.ListDomainsRequest) (*driverv1.ListDomainsResponse, error) {
	r := &driverv1.ListDomainsResponse{}
	return r, c.do(func(x *tx) error {
		for _, id := range x.keys(domainTable) {
			d := &driverv1.Domain{}
			if !x.get(domainTable, id, d) {
				continue
			}
			if c.ours(d.GetMark()) || c.defect("lists-foreign") {
				r.Domains = append(r.Domains, d)
			} else {
				r.ForeignCount++
			}
		}
		return nil
	})
}

func (c *computeDriver) GetStats(context.Context, *driverv1.GetStatsRequest) (*driverv1.GetStatsResponse, error) {
	r := &driverv1.GetStatsResponse{}
	return r, c.do(func(x *tx) error {
		for _, id := range x.keys(domainTable) {
			d, spec := &driverv1.Domain{}, &driverv1.DomainSpec{}
			if !x.get(domainTable, id, d) || !x.get(specTable, id, spec) || !c.ours(d.GetMark()) || !runs(d) {
				continue
			}
			r.Domains = append(r.Domains, &driverv1.DomainStats{
				DomainId: id, SampleTime: timestamppb.Now(), CpuTimeNs: int64(time.Since(d.GetStartTime().AsTime())),
				Vcpus: spec.GetCpu().GetVcpus(), MemoryBytes: spec.GetMemoryBytes(), MemoryUnusedBytes: -1,
			})
		}
		return nil
	})
}

// UpdateDomain takes another spec for the next start, at once when the domain is stopped, or when only disks come and go and the driver does that.
func (c *computeDriver) UpdateDomain(ctx context.Context, req *driverv1.UpdateDomainRequest) (*driverv1.UpdateDomainResponse, error) {
	if v := violations(req.GetSpec()); len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	if err := c.checkMark(req.GetMark(), req.GetDomainId()); err != nil {
		return nil, err
	}
	d, err := c.on(ctx, req.GetDomainId(), driverv1.DomainEventType_DOMAIN_EVENT_TYPE_DEFINED, func(x *tx, d *driverv1.Domain) (bool, error) {
		if d == nil {
			return false, absentDomain(req.GetDomainId())
		}
		h := hash(req.GetSpec())
		if d.GetSpecHash() == h && proto.Equal(d.GetMark(), req.GetMark()) {
			return false, nil
		}
		before := &driverv1.DomainSpec{}
		x.get(specTable, d.GetDomainId(), before)
		d.RestartRequired = d.GetRestartRequired() || runs(d) && d.GetSpecHash() != h && !(c.onlineDisks() && samePlugged(before, req.GetSpec()))
		d.Mark, d.SpecHash = req.GetMark(), h
		return true, x.put(specTable, d.GetDomainId(), req.GetSpec())
	})
	return &driverv1.UpdateDomainResponse{Domain: d}, err
}

func runs(d *driverv1.Domain) bool {
	return d.GetState() == driverv1.DomainState_DOMAIN_STATE_RUNNING || d.GetState() == driverv1.DomainState_DOMAIN_STATE_PAUSED
}

func mustRun(id string, d *driverv1.Domain) error {
	switch {
	case d == nil:
		return absentDomain(id)
	case !runs(d):
		return wrongState("domain %s does not run", id)
	}
	return nil
}

func setState(id string, d *driverv1.Domain, to driverv1.DomainState) (bool, error) {
	if err := mustRun(id, d); err != nil {
		return false, err
	}
	changed := d.GetState() != to
	d.State = to
	return changed, nil
}
