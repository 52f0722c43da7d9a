package reference

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// frozenDomainTable holds until when the file systems of a domain's guest are frozen.
const frozenDomainTable = "domain-frozen"

const (
	defaultFrozen = 10 * time.Second
	mostFrozen    = 5 * time.Minute
)

// onlineFeatures are those of a driver whose disks come, go, grow and are switched while a domain runs, and whose guests come to rest for it.
func onlineFeatures() []driverv1.ComputeFeature {
	return []driverv1.ComputeFeature{
		driverv1.ComputeFeature_COMPUTE_FEATURE_DISK_HOTPLUG, driverv1.ComputeFeature_COMPUTE_FEATURE_DISK_RESIZE,
		driverv1.ComputeFeature_COMPUTE_FEATURE_SNAPSHOT_SWITCH, driverv1.ComputeFeature_COMPUTE_FEATURE_GUEST_AGENT,
	}
}

func (d *driver) onlineDisks() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg.OnlineDisks
}

// withSpec changes the spec of one domain of ours, which runs or not, and keeps the domain as it is otherwise.
func (c *computeDriver) withSpec(ctx context.Context, id string, f func(d *driverv1.Domain, s *driverv1.DomainSpec) error) (*driverv1.Domain, error) {
	return c.on(ctx, id, driverv1.DomainEventType_DOMAIN_EVENT_TYPE_DEFINED, func(x *tx, d *driverv1.Domain) (bool, error) {
		if d == nil {
			return false, absentDomain(id)
		}
		spec := &driverv1.DomainSpec{}
		x.get(specTable, id, spec)
		before := hash(spec) + hash(d)
		if err := f(d, spec); err != nil || hash(spec)+hash(d) == before {
			return false, err
		}
		d.SpecHash = hash(spec)
		return true, x.put(specTable, id, spec)
	})
}

// AttachDisk adds a disk, at once.
func (c *computeDriver) AttachDisk(ctx context.Context, req *driverv1.AttachDiskRequest) (*driverv1.AttachDiskResponse, error) {
	if !c.onlineDisks() {
		return c.UnimplementedComputeDriverServiceServer.AttachDisk(ctx, req)
	}
	disk := req.GetDisk()
	if err := checkID("disk.disk_id", disk.GetDiskId()); err != nil {
		return nil, err
	}
	d, err := c.withSpec(ctx, req.GetDomainId(), func(_ *driverv1.Domain, s *driverv1.DomainSpec) error {
		if have := diskOf(s, disk.GetDiskId()); have != nil {
			if !proto.Equal(have, disk) {
				return conflict("disk", disk.GetDiskId())
			}
			return nil
		}
		s.Disks = append(s.Disks, disk)
		if v := violations(s); len(v) > 0 {
			return fault.Invalid(v...)
		}
		return nil
	})
	return &driverv1.AttachDiskResponse{Domain: d}, err
}

// DetachDisk removes a disk; every guest lets it go.
func (c *computeDriver) DetachDisk(ctx context.Context, req *driverv1.DetachDiskRequest) (*driverv1.DetachDiskResponse, error) {
	if !c.onlineDisks() {
		return c.UnimplementedComputeDriverServiceServer.DetachDisk(ctx, req)
	}
	d, err := c.withSpec(ctx, req.GetDomainId(), func(_ *driverv1.Domain, s *driverv1.DomainSpec) error {
		s.Disks = slices.DeleteFunc(s.Disks, func(d *driverv1.DomainDisk) bool { return d.GetDiskId() == req.GetDiskId() })
		return nil
	})
	if fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
		err = nil
	}
	return &driverv1.DetachDiskResponse{Domain: d}, err
}

// SwitchDisk makes a running domain write to an overlay.
func (c *computeDriver) SwitchDisk(ctx context.Context, req *driverv1.SwitchDiskRequest) (*driverv1.SwitchDiskResponse, error) {
	if !c.onlineDisks() {
		return c.UnimplementedComputeDriverServiceServer.SwitchDisk(ctx, req)
	}
	d, err := c.withSpec(ctx, req.GetDomainId(), func(d *driverv1.Domain, s *driverv1.DomainSpec) error {
		disk := diskOf(s, req.GetDiskId())
		switch {
		case disk == nil:
			return notFound(metav1.Reason_REASON_VOLUME_NOT_FOUND, "disk", req.GetDiskId())
		case !runs(d):
			return wrongState("domain %s does not run: nothing has the disk open", d.GetDomainId())
		}
		disk.Source = req.GetSource()
		return nil
	})
	return &driverv1.SwitchDiskResponse{Domain: d}, err
}

// ResizeDisk grows the volume that a disk of a running domain is: its file, as it were, is open there.
func (c *computeDriver) ResizeDisk(ctx context.Context, req *driverv1.ResizeDiskRequest) (*driverv1.ResizeDiskResponse, error) {
	if !c.onlineDisks() {
		return c.UnimplementedComputeDriverServiceServer.ResizeDisk(ctx, req)
	}
	_, err := c.on(ctx, req.GetDomainId(), 0, func(x *tx, d *driverv1.Domain) (bool, error) {
		if d == nil {
			return false, absentDomain(req.GetDomainId())
		}
		spec := &driverv1.DomainSpec{}
		x.get(specTable, d.GetDomainId(), spec)
		disk := diskOf(spec, req.GetDiskId())
		if disk == nil {
			return false, notFound(metav1.Reason_REASON_VOLUME_NOT_FOUND, "disk", req.GetDiskId())
		}
		pool, file := placeOf(disk.GetSource())
		volume, _, _ := strings.Cut(file, ".")
		v := &driverv1.Volume{}
		if !runs(d) || !x.get(volumeTable, pool+"/"+volume, v) || v.GetSizeBytes() >= req.GetSizeBytes() {
			return false, nil
		}
		v.SizeBytes = roundUp(req.GetSizeBytes())
		return false, x.put(volumeTable, pool+"/"+volume, v)
	})
	return &driverv1.ResizeDiskResponse{}, err
}

// placeOf is where the file of a source would lie: its pool, and its name there without the extension.
func placeOf(src *driverv1.DiskSource) (pool, file string) {
	path := src.GetFile().GetPath()
	return filepath.Base(filepath.Dir(path)), strings.TrimSuffix(filepath.Base(path), ".raw")
}

func diskOf(s *driverv1.DomainSpec, id string) *driverv1.DomainDisk {
	for _, d := range s.GetDisks() {
		if d.GetDiskId() == id {
			return d
		}
	}
	return nil
}

// samePlugged reports whether two specs differ at most in disks that are in one of them only.
func samePlugged(a, b *driverv1.DomainSpec) bool {
	a, b = proto.CloneOf(a), proto.CloneOf(b)
	a.Disks = slices.DeleteFunc(a.Disks, func(d *driverv1.DomainDisk) bool { return diskOf(b, d.GetDiskId()) == nil })
	b.Disks = slices.DeleteFunc(b.Disks, func(d *driverv1.DomainDisk) bool { return diskOf(a, d.GetDiskId()) == nil })
	return proto.Equal(a, b)
}

// GetGuestInfo answers for the agent inside a guest, which only somebody who changes the journal connects.
func (c *computeDriver) GetGuestInfo(ctx context.Context, req *driverv1.GetGuestInfoRequest) (*driverv1.GetGuestInfoResponse, error) {
	if !c.onlineDisks() {
		return c.UnimplementedComputeDriverServiceServer.GetGuestInfo(ctx, req)
	}
	_, err := c.guest(ctx, req.GetDomainId(), nil)
	return &driverv1.GetGuestInfoResponse{Hostname: "guest"}, err
}

// QuiesceDomain freezes the guest's file systems.
func (c *computeDriver) QuiesceDomain(ctx context.Context, req *driverv1.QuiesceDomainRequest) (*driverv1.QuiesceDomainResponse, error) {
	if !c.onlineDisks() {
		return c.UnimplementedComputeDriverServiceServer.QuiesceDomain(ctx, req)
	}
	most := defaultFrozen
	if t := req.GetMaxFrozen(); t != nil {
		most = t.AsDuration()
	}
	if most <= 0 || most > mostFrozen {
		return nil, fault.Invalid(fault.Violation{Field: "max_frozen", Description: fmt.Sprintf("must be above 0 and at most %s", mostFrozen)})
	}
	_, err := c.guest(ctx, req.GetDomainId(), func(x *tx) {
		x.putBytes(frozenDomainTable, req.GetDomainId(), []byte(time.Now().Add(most).Format(time.RFC3339Nano)))
	})
	return &driverv1.QuiesceDomainResponse{FrozenCount: 1}, err
}

// ThawDomain thaws the guest's file systems.
func (c *computeDriver) ThawDomain(ctx context.Context, req *driverv1.ThawDomainRequest) (*driverv1.ThawDomainResponse, error) {
	if !c.onlineDisks() {
		return c.UnimplementedComputeDriverServiceServer.ThawDomain(ctx, req)
	}
	r := &driverv1.ThawDomainResponse{}
	_, err := c.guest(ctx, req.GetDomainId(), func(x *tx) {
		until, err := time.Parse(time.RFC3339Nano, string(x.bytes(frozenDomainTable, req.GetDomainId())))
		if err == nil && time.Now().Before(until) { // else it thawed by itself
			r.ThawedCount = 1
		}
		x.del(frozenDomainTable, req.GetDomainId())
	})
	return r, err
}

// guest does something with the agent inside a guest, if it answers.
func (c *computeDriver) guest(ctx context.Context, id string, f func(*tx)) (*driverv1.Domain, error) {
	return c.on(ctx, id, 0, func(x *tx, d *driverv1.Domain) (bool, error) {
		if err := mustRun(id, d); err != nil {
			return false, err
		}
		if !d.GetGuestAgentConnected() || d.GetState() != driverv1.DomainState_DOMAIN_STATE_RUNNING {
			return false, fault.New(metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE, "no agent answers in the guest of domain %s", id)
		}
		if f != nil {
			f(x)
		}
		return false, nil
	})
}
