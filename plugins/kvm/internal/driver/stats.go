package driver

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	defaultStatsLimit = 2 * time.Second       // for one domain
	statsShare        = 50 * time.Millisecond // what each domain adds to the time of the call for all of them
	statsAtOnce       = 8
	statsFlags        = libvirt.ConnectGetAllDomainsStatsActive | libvirt.ConnectGetAllDomainsStatsNowait
)

// GetStats reads figures of all our running domains in one libvirt call; libvirt leaves out what a domain with another call under way cannot tell (NOWAIT).
// A QEMU that hangs holds that call up: then each domain is asked by itself, and those that do not answer have their error set.
func (d *Driver) GetStats(ctx context.Context, req *driverv1.GetStatsRequest) (*driverv1.GetStatsResponse, error) {
	s, limit := d.setting(), defaultStatsLimit
	if t := req.GetPerDomainTimeout(); t != nil && t.AsDuration() > 0 {
		limit = t.AsDuration()
	}
	ours, err := s.active(ctx)
	if err != nil || len(ours) == 0 {
		return &driverv1.GetStatsResponse{}, err
	}
	short, cancel := context.WithTimeout(ctx, limit+time.Duration(len(ours))*statsShare)
	defer cancel()
	records, err := s.figures(short, nil)
	out := &driverv1.GetStatsResponse{}
	switch {
	case err == nil:
		for _, r := range records {
			if a, ok := ours[idOf(r.Dom.UUID)]; ok {
				out.Domains = append(out.Domains, statsOf(a, r.Params))
			}
		}
	case fault.Is(err, metav1.Reason_REASON_BACKEND_TIMEOUT) && ctx.Err() == nil:
		out.Domains = s.eachByItself(ctx, ours, limit)
	default:
		return nil, err
	}
	return out, nil
}

// activeDomain is a running domain of ours.
type activeDomain struct {
	lv   libvirt.Domain
	live *domainxml.Facts
}

// active lists our running domains, from libvirtd's memory: no guest is asked.
func (s setting) active(ctx context.Context) (map[string]activeDomain, error) {
	return connection.Do(ctx, s.conn, "list running domains", func(l *libvirt.Libvirt) (map[string]activeDomain, error) {
		list, _, err := l.ConnectListAllDomains(1, libvirt.ConnectListDomainsActive)
		if err != nil {
			return nil, err
		}
		out := map[string]activeDomain{}
		for _, dom := range list {
			f, err := readXML(l, dom, 0)
			if libvirt.IsNotFound(err) {
				continue // went away meanwhile
			}
			if err != nil {
				return nil, err
			}
			if s.oursMark(f.Mark) {
				out[idOf(dom.UUID)] = activeDomain{dom, f}
			}
		}
		return out, nil
	})
}

func (s setting) figures(ctx context.Context, of []libvirt.Domain) ([]libvirt.DomainStatsRecord, error) {
	return connection.Alone(ctx, s.conn, "read stats", func(l *libvirt.Libvirt) ([]libvirt.DomainStatsRecord, error) {
		return l.ConnectGetAllDomainStats(of, 0, uint32(statsFlags))
	})
}

func (s setting) eachByItself(ctx context.Context, ours map[string]activeDomain, limit time.Duration) []*driverv1.DomainStats {
	var (
		mu    sync.Mutex
		out   []*driverv1.DomainStats
		all   sync.WaitGroup
		slots = make(chan struct{}, statsAtOnce)
	)
	for id, a := range ours {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			one, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			records, err := s.figures(one, []libvirt.Domain{a.lv})
			var st *driverv1.DomainStats
			switch {
			case err != nil:
				st = &driverv1.DomainStats{DomainId: id, SampleTime: timestamppb.Now(), MemoryUnusedBytes: -1, Error: err.Error()}
			case len(records) == 0:
				return // stopped meanwhile
			default:
				st = statsOf(a, records[0].Params)
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, st)
		})
	}
	all.Wait()
	return out
}

// busy is the error of a domain of which libvirt tells only what it knows without asking QEMU.
const busy = "another call on the domain is under way, or its QEMU does not answer: only figures of the host are here"

func statsOf(a activeDomain, params []libvirt.TypedParam) *driverv1.DomainStats {
	n, text := map[string]int64{}, map[string]string{}
	for _, p := range params {
		switch v := p.Value.I.(type) {
		case int32:
			n[p.Field] = int64(v)
		case uint32:
			n[p.Field] = int64(v)
		case int64:
			n[p.Field] = v
		case uint64:
			n[p.Field] = int64(v) //nolint:gosec // counters
		case string:
			text[p.Field] = v
		}
	}
	s := &driverv1.DomainStats{
		DomainId: idOf(a.lv.UUID), SampleTime: timestamppb.Now(), CpuTimeNs: n["cpu.time"], Vcpus: int32(n["vcpu.current"]), //nolint:gosec // small
		MemoryBytes: n["balloon.current"] << 10, MemoryRssBytes: n["balloon.rss"] << 10, MemoryUnusedBytes: -1,
	}
	if v, ok := n["balloon.unused"]; ok {
		s.MemoryUnusedBytes = v << 10
	}
	if _, asked := n["balloon.rss"]; !asked { // every domain of ours has a balloon; libvirt leaves this out when it may not ask QEMU
		s.Error = busy
	}
	byTarget := map[string]string{}
	for _, d := range append(a.live.Disks, a.live.Interfaces...) {
		byTarget[d.Target] = d.ID
	}
	for i := range n["block.count"] {
		p := "block." + strconv.FormatInt(i, 10) + "."
		id := byTarget[text[p+"name"]]
		if id == "" {
			continue // the seed
		}
		s.Disks = append(s.Disks, &driverv1.DiskStats{
			DiskId: id, ReadBytes: n[p+"rd.bytes"], ReadRequests: n[p+"rd.reqs"], WriteBytes: n[p+"wr.bytes"], WriteRequests: n[p+"wr.reqs"],
			FlushRequests: n[p+"fl.reqs"], CapacityBytes: n[p+"capacity"], AllocationBytes: n[p+"allocation"],
		})
	}
	for i := range n["net.count"] {
		p := "net." + strconv.FormatInt(i, 10) + "."
		s.Interfaces = append(s.Interfaces, &driverv1.InterfaceStats{
			// libvirt has turned the tap's view round: rx is what the guest received
			InterfaceId: byTarget[text[p+"name"]], ReceiveBytes: n[p+"rx.bytes"], ReceivePackets: n[p+"rx.pkts"], ReceiveDrops: n[p+"rx.drop"],
			TransmitBytes: n[p+"tx.bytes"], TransmitPackets: n[p+"tx.pkts"], TransmitDrops: n[p+"tx.drop"],
		})
	}
	return s
}
