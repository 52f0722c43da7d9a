package driver

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// domain is one of ours as libvirt has it.
type domain struct {
	*driverv1.Domain
	lv      libvirt.Domain
	defined *domainxml.Facts // for its next start
	live    *domainxml.Facts // as it runs; nil = it does not
}

// GetDomain reads one domain.
func (d *Driver) GetDomain(ctx context.Context, req *driverv1.GetDomainRequest) (*driverv1.GetDomainResponse, error) {
	if err := checkID(req.GetDomainId()); err != nil {
		return nil, err
	}
	have, err := d.setting().find(ctx, req.GetDomainId())
	if err != nil {
		return nil, err
	}
	return &driverv1.GetDomainResponse{Domain: have.Domain}, nil
}

// ListDomains reads all domains of ours.
func (d *Driver) ListDomains(ctx context.Context, _ *driverv1.ListDomainsRequest) (*driverv1.ListDomainsResponse, error) {
	s := d.setting()
	return connection.Do(ctx, s.conn, "list domains", func(l *libvirt.Libvirt) (*driverv1.ListDomainsResponse, error) {
		all, _, err := l.ConnectListAllDomains(1, 0)
		if err != nil {
			return nil, err
		}
		out := &driverv1.ListDomainsResponse{}
		for _, dom := range all {
			have, err := s.read(l, dom)
			switch {
			case fault.Is(err, metav1.Reason_REASON_NOT_OURS):
				out.ForeignCount++
			case libvirt.IsNotFound(err): // went away meanwhile
			case err != nil:
				return nil, err
			default:
				out.Domains = append(out.Domains, have.Domain)
			}
		}
		return out, nil
	})
}

// find reads a domain by id: DOMAIN_NOT_FOUND when absent, NOT_OURS when it lacks our mark.
func (s setting) find(ctx context.Context, id string) (*domain, error) {
	return connection.Do(ctx, s.conn, "read domain "+id, func(l *libvirt.Libvirt) (*domain, error) {
		dom, err := l.DomainLookupByUUID(uuidOf(id))
		if err != nil {
			return nil, err
		}
		return s.read(l, dom)
	})
}

// read describes a domain. It asks libvirtd only, never QEMU: a guest that hangs does not delay it.
func (s setting) read(l *libvirt.Libvirt, dom libvirt.Domain) (*domain, error) {
	id := idOf(dom.UUID)
	defined, err := readXML(l, dom, libvirt.DomainXMLInactive)
	if err != nil {
		return nil, err
	}
	if !s.oursMark(defined.Mark) {
		return nil, fault.New(metav1.Reason_REASON_NOT_OURS, "domain %s (%s) does not carry our mark", id, dom.Name).WithRemedy("it is left alone; remove it by hand if it is not wanted")
	}
	state, reason, err := l.DomainGetState(dom, 0)
	if err != nil {
		return nil, err
	}
	out := &domain{lv: dom, defined: defined, Domain: &driverv1.Domain{
		DomainId: id, Mark: defined.Mark.Ownership(), SpecHash: defined.Mark.Hash(), Accelerator: accelOf(defined.Type),
		StateDetail: fmt.Sprintf("libvirt state %d reason %d", state, reason),
	}}
	out.State, out.StopReason = s.stateOf(id, state, reason)
	if !running(out.State) {
		return out, nil
	}
	if p, ok := s.finder.Find(id); ok {
		out.Pid, out.StartTime = p.PID, timestamppb.New(p.Start)
	}
	if out.live, err = readXML(l, dom, 0); err != nil {
		return nil, err
	}
	out.GuestAgentConnected, out.VncSocketPath, out.Accelerator = out.live.AgentConnected, out.live.VNCSocket, accelOf(out.live.Type)
	out.RestartRequired = out.live.Mark == nil || out.live.Mark.Running() != defined.Mark.Running()
	out.Interfaces = interfacesOf(out.live)
	return out, nil
}

func readXML(l *libvirt.Libvirt, dom libvirt.Domain, flags libvirt.DomainXMLFlags) (*domainxml.Facts, error) {
	text, err := l.DomainGetXMLDesc(dom, flags)
	if err != nil {
		return nil, err
	}
	return domainxml.Read(text)
}

func accelOf(domainType string) string {
	if domainType == "qemu" {
		return "tcg"
	}
	return "kvm"
}

// interfacesOf are a running domain's interfaces; a user-mode one has no device on the node.
func interfacesOf(live *domainxml.Facts) (out []*driverv1.DomainInterfaceStatus) {
	if live.Mark == nil {
		return nil
	}
	for _, d := range live.Mark.Devices {
		if d.Kind != mark.Interface {
			continue
		}
		st := &driverv1.DomainInterfaceStatus{InterfaceId: d.ID, LinkUp: true}
		if n, ok := live.Interface(d.ID); ok {
			st.Device, st.LinkUp = n.Target, n.LinkUp
		}
		out = append(out, st)
	}
	return out
}

// running reports whether a process stands behind a domain, or may soon: whatever is not known to be off.
func running(s driverv1.DomainState) bool {
	return s != driverv1.DomainState_DOMAIN_STATE_STOPPED && s != driverv1.DomainState_DOMAIN_STATE_CRASHED
}

func (s setting) stateOf(id string, state, reason int32) (driverv1.DomainState, driverv1.StopReason) {
	switch libvirt.DomainState(state) {
	case libvirt.DomainRunning, libvirt.DomainBlocked:
		return driverv1.DomainState_DOMAIN_STATE_RUNNING, 0
	case libvirt.DomainPaused:
		switch libvirt.DomainPausedReason(reason) {
		case libvirt.DomainPausedIoerror:
			return driverv1.DomainState_DOMAIN_STATE_BLOCKED, 0
		case libvirt.DomainPausedStartingUp: // of a start that somebody gave up waiting for
			return driverv1.DomainState_DOMAIN_STATE_UNKNOWN, 0
		}
		return driverv1.DomainState_DOMAIN_STATE_PAUSED, 0
	case libvirt.DomainPmsuspended:
		return driverv1.DomainState_DOMAIN_STATE_PAUSED, 0
	case libvirt.DomainShutdown:
		return driverv1.DomainState_DOMAIN_STATE_STOPPING, 0
	case libvirt.DomainCrashed:
		return driverv1.DomainState_DOMAIN_STATE_CRASHED, driverv1.StopReason_STOP_REASON_CRASHED
	case libvirt.DomainShutoff:
		return s.offOf(id, libvirt.DomainShutoffReason(reason))
	}
	return driverv1.DomainState_DOMAIN_STATE_UNKNOWN, 0
}

func (s setting) offOf(id string, reason libvirt.DomainShutoffReason) (driverv1.DomainState, driverv1.StopReason) {
	switch reason {
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
	// libvirt does not know: it forgets the reason when it restarts.
	switch boot, err := os.ReadFile(s.files(id).Started); {
	case err != nil:
		return driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_NEVER_STARTED
	case strings.TrimSpace(string(boot)) != s.host.GetBootId():
		return driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_HOST
	}
	return driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_UNSPECIFIED
}
