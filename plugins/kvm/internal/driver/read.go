package driver

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// GetDomain reads one domain.
func (d *Driver) GetDomain(ctx context.Context, req *driverv1.GetDomainRequest) (*driverv1.GetDomainResponse, error) {
	if err := checkID(req.GetDomainId()); err != nil {
		return nil, err
	}
	dom, _, err := d.find(ctx, d.setting(), req.GetDomainId())
	if err != nil {
		return nil, err
	}
	return &driverv1.GetDomainResponse{Domain: dom}, nil
}

// ListDomains reads all domains of ours.
func (d *Driver) ListDomains(ctx context.Context, _ *driverv1.ListDomainsRequest) (*driverv1.ListDomainsResponse, error) {
	s, out := d.setting(), &driverv1.ListDomainsResponse{}
	err := s.conn.Do(ctx, "list domains", func(l *libvirt.Libvirt) error {
		doms, _, err := l.ConnectListAllDomains(1, 0)
		if err != nil {
			return err
		}
		for _, dom := range doms {
			r, err := s.read(l, dom)
			switch {
			case fault.Is(err, metav1.Reason_REASON_NOT_OURS):
				out.ForeignCount++
			case libvirt.IsNotFound(err): // went away meanwhile
			case err != nil:
				return err
			default:
				out.Domains = append(out.Domains, r)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// find reads a domain by id: DOMAIN_NOT_FOUND when absent, NOT_OURS when it lacks our mark.
func (d *Driver) find(ctx context.Context, s setting, id string) (out *driverv1.Domain, dom libvirt.Domain, err error) {
	err = s.conn.Do(ctx, "read domain "+id, func(l *libvirt.Libvirt) error {
		found, err := l.DomainLookupByUUID(uuidOf(id))
		if err != nil {
			return err
		}
		r, err := s.read(l, found)
		if err != nil {
			return err
		}
		out, dom = r, found
		return nil
	})
	if err != nil {
		return nil, libvirt.Domain{}, err
	}
	return out, dom, nil
}

// read describes a domain.
func (s setting) read(l *libvirt.Libvirt, dom libvirt.Domain) (*driverv1.Domain, error) {
	id := idOf(dom.UUID)
	defined, err := l.DomainGetXMLDesc(dom, libvirt.DomainXMLInactive)
	if err != nil {
		return nil, err
	}
	m, hash := domainxml.ReadMark(defined)
	if !s.ours(m) {
		return nil, fault.New(metav1.Reason_REASON_NOT_OURS, "domain %s (%s) does not carry our mark", id, dom.Name).WithRemedy("it is left alone; remove or rename it by hand")
	}
	state, reason, err := l.DomainGetState(dom, 0)
	if err != nil {
		return nil, err
	}
	out := &driverv1.Domain{DomainId: id, Mark: m, SpecHash: hash, Accelerator: s.verdict.Accelerator}
	out.State, out.StopReason = stateOf(state, reason)
	out.StateDetail = "libvirt state " + strconv.Itoa(int(state)) + " reason " + strconv.Itoa(int(reason))
	f := s.files(id)
	if running(out.State) {
		out.Pid, out.StartTime = processOf(id)
		if _, err := os.Lstat(f.VNCSocket); err == nil {
			out.VncSocketPath = f.VNCSocket
		}
		if x, err := l.DomainGetXMLDesc(dom, 0); err == nil {
			out.GuestAgentConnected = strings.Contains(x, "name='org.qemu.guest_agent.0' state='connected'")
			if strings.HasPrefix(x, "<domain type='qemu'") {
				out.Accelerator = "tcg"
			} else {
				out.Accelerator = "kvm"
			}
		}
	}
	return out, nil
}

// running reports whether a process stands behind a domain, or may soon: whatever is not known to be off.
func running(s driverv1.DomainState) bool {
	return s != driverv1.DomainState_DOMAIN_STATE_STOPPED && s != driverv1.DomainState_DOMAIN_STATE_CRASHED
}

func stateOf(state, reason int32) (driverv1.DomainState, driverv1.StopReason) {
	switch libvirt.DomainState(state) {
	case libvirt.DomainRunning, libvirt.DomainBlocked:
		return driverv1.DomainState_DOMAIN_STATE_RUNNING, 0
	case libvirt.DomainPaused, libvirt.DomainPmsuspended:
		switch libvirt.DomainPausedReason(reason) {
		case libvirt.DomainPausedIoerror:
			return driverv1.DomainState_DOMAIN_STATE_BLOCKED, 0
		case libvirt.DomainPausedStartingUp: // of a start that somebody gave up waiting for
			return driverv1.DomainState_DOMAIN_STATE_UNKNOWN, 0
		}
		return driverv1.DomainState_DOMAIN_STATE_PAUSED, 0
	case libvirt.DomainShutdown:
		return driverv1.DomainState_DOMAIN_STATE_STOPPING, 0
	case libvirt.DomainCrashed:
		return driverv1.DomainState_DOMAIN_STATE_CRASHED, driverv1.StopReason_STOP_REASON_CRASHED
	case libvirt.DomainShutoff:
		switch libvirt.DomainShutoffReason(reason) {
		case libvirt.DomainShutoffShutdown:
			return driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_SHUTDOWN
		case libvirt.DomainShutoffDestroyed:
			return driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_FORCED
		case libvirt.DomainShutoffCrashed:
			return driverv1.DomainState_DOMAIN_STATE_CRASHED, driverv1.StopReason_STOP_REASON_CRASHED
		case libvirt.DomainShutoffMigrated:
			return driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_MIGRATED
		case libvirt.DomainShutoffFailed:
			return driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_FAILED
		case libvirt.DomainShutoffDaemon:
			return driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_HOST
		}
		return driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_NEVER_STARTED
	}
	return driverv1.DomainState_DOMAIN_STATE_UNKNOWN, 0
}

// processOf finds a domain's QEMU by its -uuid argument in /proc: libvirt does not tell the pid, and its pid file may lie in another namespace.
func processOf(id string) (pid int64, start *timestamppb.Timestamp) {
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, nil
	}
	for _, p := range dirs {
		b, err := os.ReadFile(p)
		if err != nil || !strings.Contains(string(b), "\x00-uuid\x00"+id+"\x00") {
			continue
		}
		dir := filepath.Dir(p)
		n, err := strconv.ParseInt(filepath.Base(dir), 10, 64)
		if err != nil {
			continue
		}
		return n, startTime(dir)
	}
	return 0, nil
}

// startTime computes when a process started from field 22 of its stat file, in clock ticks of 10 ms since boot.
func startTime(dir string) *timestamppb.Timestamp {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil
	}
	i := strings.LastIndexByte(string(stat), ')')
	if i < 0 {
		return nil
	}
	fields := strings.Fields(string(stat[i+1:]))
	boot, err := os.ReadFile("/proc/stat")
	if err != nil || len(fields) < 20 {
		return nil
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		return nil
	}
	for _, line := range strings.Split(string(boot), "\n") {
		if rest, ok := strings.CutPrefix(line, "btime "); ok {
			if sec, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64); err == nil {
				return timestamppb.New(time.Unix(sec, 0).Add(time.Duration(ticks) * 10 * time.Millisecond))
			}
		}
	}
	return nil
}
