package driver

import (
	"context"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// GetStats reads figures of all our running domains in one libvirt call; libvirt skips what a busy domain cannot tell (NOWAIT).
func (d *Driver) GetStats(ctx context.Context, _ *driverv1.GetStatsRequest) (*driverv1.GetStatsResponse, error) {
	s, out := d.setting(), &driverv1.GetStatsResponse{}
	err := s.conn.Do(ctx, "read stats", func(l *libvirt.Libvirt) error {
		records, err := l.ConnectGetAllDomainStats(nil, 0, uint32(libvirt.ConnectGetAllDomainsStatsActive|libvirt.ConnectGetAllDomainsStatsNowait))
		if err != nil {
			return err
		}
		for _, r := range records {
			defined, err := l.DomainGetXMLDesc(r.Dom, libvirt.DomainXMLInactive) // from libvirtd's memory: no guest is asked
			if err != nil {
				continue // went away meanwhile
			}
			if m, _ := domainxml.ReadMark(defined); !s.ours(m) {
				continue
			}
			ids, err := domainxml.DeviceIDs(defined)
			if err != nil {
				return err
			}
			out.Domains = append(out.Domains, statsOf(idOf(r.Dom.UUID), r.Params, ids))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func statsOf(id string, params []libvirt.TypedParam, ids map[string]string) *driverv1.DomainStats {
	s := &driverv1.DomainStats{DomainId: id, SampleTime: timestamppb.Now(), MemoryUnusedBytes: -1}
	n := map[string]int64{}
	for _, p := range params {
		switch v := p.Value.I.(type) {
		case int32:
			n[p.Field] = int64(v)
		case uint32:
			n[p.Field] = int64(v)
		case int64:
			n[p.Field] = v
		case uint64:
			n[p.Field] = int64(v)
		}
	}
	s.CpuTimeNs, s.Vcpus = n["cpu.time"], int32(n["vcpu.current"])
	s.MemoryBytes, s.MemoryRssBytes = n["balloon.current"]<<10, n["balloon.rss"]<<10
	if v, ok := n["balloon.unused"]; ok {
		s.MemoryUnusedBytes = v << 10
	}
	if s.GetCpuTimeNs() == 0 && len(n) < 3 {
		s.Error = "the domain is busy"
	}
	for i := range n["block.count"] {
		p := "block." + strconv.FormatInt(i, 10) + "."
		if ids[name(params, p+"name")] == "" {
			continue // the seed medium
		}
		s.Disks = append(s.Disks, &driverv1.DiskStats{
			DiskId: ids[name(params, p+"name")], ReadBytes: n[p+"rd.bytes"], ReadRequests: n[p+"rd.reqs"], WriteBytes: n[p+"wr.bytes"], WriteRequests: n[p+"wr.reqs"],
			FlushRequests: n[p+"fl.reqs"], CapacityBytes: n[p+"capacity"], AllocationBytes: n[p+"allocation"],
		})
	}
	for i := range n["net.count"] {
		p := "net." + strconv.FormatInt(i, 10) + "."
		s.Interfaces = append(s.Interfaces, &driverv1.InterfaceStats{
			// what the tap receives the guest sent
			InterfaceId: ids[name(params, p+"name")], TransmitBytes: n[p+"rx.bytes"], TransmitPackets: n[p+"rx.pkts"], TransmitDrops: n[p+"rx.drop"],
			ReceiveBytes: n[p+"tx.bytes"], ReceivePackets: n[p+"tx.pkts"], ReceiveDrops: n[p+"tx.drop"],
		})
	}
	return s
}

func name(params []libvirt.TypedParam, field string) string {
	for _, p := range params {
		if p.Field == field {
			if v, ok := p.Value.I.(string); ok {
				return strings.TrimSpace(v)
			}
		}
	}
	return ""
}
