package driver

import (
	"context"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// throttle gives a disk of a running domain the limits of its spec; 0 lifts one.
func (s setting) throttle(ctx context.Context, have *domain, disk *driverv1.DomainDisk) error {
	dev, ok := have.live.Disk(disk.GetDiskId())
	if !ok {
		return nil // it was plugged in just now, with its limits
	}
	l := disk.GetLimits()
	params := []libvirt.TypedParam{
		{Field: "total_iops_sec", Value: *libvirt.NewTypedParamValueUllong(uint64(l.GetIops()))},            //nolint:gosec // checked
		{Field: "total_bytes_sec", Value: *libvirt.NewTypedParamValueUllong(uint64(l.GetBytesPerSecond()))}, //nolint:gosec // checked
	}
	_, err := connection.Alone(ctx, s.conn, "throttle disk "+disk.GetDiskId(), func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainSetBlockIOTune(have.lv, dev.Target, params, uint32(libvirt.DomainAffectLive))
	})
	return err
}
