package conformance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// diskBytes is the size of the disks that checks make.
const diskBytes = 4 << 20

// diskChecks are about disks that come and go, and that are switched to an overlay.
func diskChecks() []*Check {
	plug, online := driverv1.ComputeFeature_COMPUTE_FEATURE_DISK_HOTPLUG, driverv1.ComputeFeature_COMPUTE_FEATURE_SNAPSHOT_SWITCH
	return []*Check{
		{Name: "compute/disk/cold", Contract: "AttachDisk and DetachDisk of a domain that does not run, with every kind of source: repeated, OK; what was attached is the spec that has it.", Compute: plug, run: diskCold},
		{Name: "compute/disk/hot", Contract: "AttachDisk adds a disk live; DetachDisk returns when the guest has let it go, or FAILED_PRECONDITION. The process stays.", Compute: plug, run: diskHot},
		{Name: "compute/disk/other-spec-conflicts", Contract: "Same disk id, other spec: ALREADY_EXISTS.", Compute: plug, run: diskOther},
		{Name: "compute/disk/absent", Contract: "DetachDisk of what is absent: OK. AttachDisk to a domain that is absent: NOT_FOUND.", Compute: plug, run: diskAbsent},
		{Name: "compute/switch/repeated", Contract: "SwitchDisk makes a running domain use an overlay; already used: OK. The process stays, and the spec with the overlay is what runs and what is defined.", Compute: online, run: switchRepeated},
		{Name: "compute/switch/refused", Contract: "SwitchDisk of a domain that does not run: FAILED_PRECONDITION. Of an absent domain or disk: NOT_FOUND.", Compute: online, run: switchRefused},
	}
}

// diskVerbs are the changing calls on disks, each to be borne under each fault.
func diskVerbs() []verb {
	return []verb{
		{name: "attach-disk", needs: int32(driverv1.ComputeFeature_COMPUTE_FEATURE_DISK_HOTPLUG), prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			d := e.started(t)
			disk := e.newDisk(t, driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE)
			return func(ctx context.Context) error {
				_, err := e.compute().AttachDisk(ctx, &driverv1.AttachDiskRequest{DomainId: d.id, Disk: disk})
				return err
			}, func(t T) { d.is(t, disk) }
		}},
		{name: "switch-disk", needs: int32(driverv1.ComputeFeature_COMPUTE_FEATURE_SNAPSHOT_SWITCH), prepare: func(t T, e *Env) (func(context.Context) error, func(T)) {
			d, disk := e.withDisk(t)
			call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id})
			over := proto.CloneOf(disk)
			over.Source = overlay(t, disk.GetSource())
			return func(ctx context.Context) error {
				_, err := e.compute().SwitchDisk(ctx, &driverv1.SwitchDiskRequest{DomainId: d.id, DiskId: disk.GetDiskId(), Source: over.GetSource()})
				return err
			}, func(t T) { d.is(t, over) }
		}},
	}
}

// is fails the check unless the domain is, and runs as, its spec with the disks.
func (d *domain) is(t T, disks ...*driverv1.DomainDisk) {
	t.Helper()
	req := d.createRequest()
	req.Spec = proto.CloneOf(d.spec)
	req.Spec.Disks = append(req.Spec.Disks, disks...)
	if got := call(t, d.e.compute().CreateDomain, req).GetDomain(); got.GetRestartRequired() {
		t.Errorf("it runs as something else: %v", got)
	}
}

// newDisk is a disk of a new source of a kind; nil = the options make none of that kind.
func (e *Env) newDisk(t T, kind driverv1.DiskSourceKind) *driverv1.DomainDisk {
	t.Helper()
	id := newID()
	if e.o.Compute.Disk != nil {
		source, err := e.o.Compute.Disk(kind)
		must(t, fmt.Sprintf("make a source of %s", kind), err)
		if source != nil {
			return &driverv1.DomainDisk{DiskId: id, Source: source}
		}
	}
	if kind != driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE {
		return nil
	}
	path := filepath.Join(tempDir(t), id+".raw")
	must(t, "make a file", os.WriteFile(path, nil, 0o666)) //nolint:gosec // guests' processes write to it
	must(t, "make a file", os.Truncate(path, diskBytes))
	return &driverv1.DomainDisk{DiskId: id, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_File{
		File: &driverv1.FileSource{Path: path, Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW},
	}}}
}

// newDisks are disks of all the kinds that the plugin advertises and the options can make.
func (e *Env) newDisks(t T) (disks []*driverv1.DomainDisk) {
	t.Helper()
	for _, kind := range e.caps().GetCompute().GetDiskSources() {
		if disk := e.newDisk(t, kind); disk != nil {
			disks = append(disks, disk)
		}
	}
	if len(disks) == 0 {
		t.Fatalf("no kind of source that is advertised can be tried: %v", e.caps().GetCompute().GetDiskSources())
	}
	return disks
}

// withDisk makes a domain with a disk in a raw file, which its spec does not name.
func (e *Env) withDisk(t T) (*domain, *driverv1.DomainDisk) {
	t.Helper()
	d, disk := e.newDomain(t, "disk"), e.newDisk(t, driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE)
	req := d.createRequest()
	req.Spec = proto.CloneOf(d.spec)
	req.Spec.Disks = append(req.Spec.Disks, disk)
	call(t, e.compute().CreateDomain, req)
	return d, disk
}

// overlay makes an empty overlay of a file, as a storage driver does.
func overlay(t T, of *driverv1.DiskSource) *driverv1.DiskSource {
	t.Helper()
	format := "raw"
	if of.GetFile().GetFormat() == driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		format = "qcow2"
	}
	path := of.GetFile().GetPath() + ".overlay"
	out, err := exec.CommandContext(t.Context(), "qemu-img", "create", "-q", "-f", "qcow2", "-b", of.GetFile().GetPath(), "-F", format, path).CombinedOutput()
	must(t, "make an overlay: "+string(out), err)
	must(t, "make an overlay", os.Chmod(path, 0o666)) //nolint:gosec // guests' processes write to it
	return &driverv1.DiskSource{Source: &driverv1.DiskSource_File{File: &driverv1.FileSource{Path: path, Format: driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2}}}
}

func diskCold(t T, e *Env) {
	d := e.defined(t)
	disks := e.newDisks(t)
	for _, disk := range disks {
		for range 2 {
			call(t, e.compute().AttachDisk, &driverv1.AttachDiskRequest{DomainId: d.id, Disk: disk})
		}
	}
	d.is(t, disks...)
	call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id})
	d.wantState(t, running)
	call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: d.id, Force: true})
	for _, disk := range disks {
		for range 2 {
			call(t, e.compute().DetachDisk, &driverv1.DetachDiskRequest{DomainId: d.id, DiskId: disk.GetDiskId()})
		}
	}
	d.is(t)
}

func diskHot(t T, e *Env) {
	d := e.started(t)
	before := d.get(t)
	disks := e.newDisks(t)
	for _, disk := range disks {
		for range 2 {
			call(t, e.compute().AttachDisk, &driverv1.AttachDiskRequest{DomainId: d.id, Disk: disk})
		}
	}
	d.is(t, disks...)
	for _, disk := range disks {
		detach := func() error {
			_, err := e.compute().DetachDisk(within(t), &driverv1.DetachDiskRequest{DomainId: d.id, DiskId: disk.GetDiskId()})
			wantCode(t, "detach", err, codes.OK, codes.FailedPrecondition)
			return err
		}
		if e.o.Compute.GuestReboots { // it lets go once it is up
			eventually(t, callTimeout, "the guest lets go", func() bool { return detach() == nil })
		} else {
			_ = detach() // as it likes
			call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: d.id, Force: true})
		}
		call(t, e.compute().DetachDisk, &driverv1.DetachDiskRequest{DomainId: d.id, DiskId: disk.GetDiskId()})
	}
	d.is(t)
	if after := d.get(t); e.o.Compute.GuestReboots && after.GetPid() != before.GetPid() {
		t.Errorf("process %d became %d", before.GetPid(), after.GetPid())
	}
}

func diskOther(t T, e *Env) {
	d, disk := e.withDisk(t)
	other := proto.CloneOf(disk)
	other.ReadOnly = true
	refused(t, "the disk with another spec", e.compute().AttachDisk, &driverv1.AttachDiskRequest{DomainId: d.id, Disk: other}, codes.AlreadyExists)
	d.is(t, disk)
}

func diskAbsent(t T, e *Env) {
	d := e.defined(t)
	call(t, e.compute().DetachDisk, &driverv1.DetachDiskRequest{DomainId: d.id, DiskId: newID()})
	call(t, e.compute().DetachDisk, &driverv1.DetachDiskRequest{DomainId: newID(), DiskId: newID()})
	disk := e.newDisk(t, driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE)
	refused(t, "attach to an absent domain", e.compute().AttachDisk, &driverv1.AttachDiskRequest{DomainId: newID(), Disk: disk}, codes.NotFound)
	disk.DiskId = "../x"
	refused(t, "attach of a disk with a wrong id", e.compute().AttachDisk, &driverv1.AttachDiskRequest{DomainId: d.id, Disk: disk}, codes.InvalidArgument)
	d.is(t)
}

func switchRepeated(t T, e *Env) {
	d, disk := e.withDisk(t)
	before := call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id}).GetDomain()
	over := proto.CloneOf(disk)
	over.Source = overlay(t, disk.GetSource())
	for range 2 {
		got := call(t, e.compute().SwitchDisk, &driverv1.SwitchDiskRequest{DomainId: d.id, DiskId: disk.GetDiskId(), Source: over.GetSource()}).GetDomain()
		if got.GetPid() != before.GetPid() || got.GetRestartRequired() || got.GetSpecHash() == before.GetSpecHash() {
			t.Errorf("was %v, switched: %v", before, got)
		}
	}
	d.is(t, over)
	call(t, e.compute().StopDomain, &driverv1.StopDomainRequest{DomainId: d.id, Force: true})
	call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id})
	d.is(t, over)
}

func switchRefused(t T, e *Env) {
	d, disk := e.withDisk(t)
	req := &driverv1.SwitchDiskRequest{DomainId: d.id, DiskId: disk.GetDiskId(), Source: overlay(t, disk.GetSource())}
	refused(t, "a domain that does not run", e.compute().SwitchDisk, req, codes.FailedPrecondition)
	call(t, e.compute().StartDomain, &driverv1.StartDomainRequest{DomainId: d.id})
	other := proto.CloneOf(req)
	other.DiskId = newID()
	refused(t, "an absent disk", e.compute().SwitchDisk, other, codes.NotFound)
	other.DomainId = newID()
	refused(t, "an absent domain", e.compute().SwitchDisk, other, codes.NotFound)
	d.is(t, disk)
}
