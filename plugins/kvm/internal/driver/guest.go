package driver

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// agentSeconds is how long one command to the agent inside a guest may take.
const agentSeconds = 5

// GetGuestInfo asks the agent inside the guest. What an older agent does not know stays empty.
func (d *Driver) GetGuestInfo(ctx context.Context, req *driverv1.GetGuestInfoRequest) (*driverv1.GetGuestInfoResponse, error) {
	if err := checkID(req.GetDomainId()); err != nil {
		return nil, err
	}
	s := d.setting()
	have, err := s.withAgent(ctx, req.GetDomainId())
	if err != nil {
		return nil, err
	}
	var (
		info struct {
			Version string `json:"version"`
		}
		host struct {
			Name string `json:"host-name"`
		}
		system struct {
			Pretty string `json:"pretty-name"`
			Kernel string `json:"kernel-release"`
		}
		nics []struct {
			Name      string `json:"name"`
			MAC       string `json:"hardware-address"`
			Addresses []struct {
				Address string `json:"ip-address"`
				Prefix  int    `json:"prefix"`
			} `json:"ip-addresses"`
		}
	)
	for _, ask := range []struct {
		command string
		into    any
		must    bool
	}{{"guest-info", &info, true}, {"guest-get-host-name", &host, false}, {"guest-get-osinfo", &system, false}, {"guest-network-get-interfaces", &nics, false}} {
		if err := s.ask(ctx, have, ask.command, ask.into); err != nil && (ask.must || ctx.Err() != nil) {
			return nil, err
		}
	}
	out := &driverv1.GetGuestInfoResponse{Hostname: host.Name, OsName: system.Pretty, KernelRelease: system.Kernel, AgentVersion: info.Version}
	for _, n := range nics {
		g := &driverv1.GuestInterface{Name: n.Name, Mac: n.MAC}
		for _, a := range n.Addresses {
			g.Addresses = append(g.Addresses, fmt.Sprintf("%s/%d", a.Address, a.Prefix))
		}
		out.Interfaces = append(out.Interfaces, g)
	}
	return out, nil
}

// withAgent reads a running domain whose guest's agent is connected.
func (s setting) withAgent(ctx context.Context, id string) (*domain, error) {
	have, err := s.find(ctx, id)
	if err != nil {
		return nil, err
	}
	if have.GetState() != driverv1.DomainState_DOMAIN_STATE_RUNNING || !have.GetGuestAgentConnected() {
		return nil, fault.New(metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE, "the agent inside domain %s is not connected", id).WithRemedy("install and start qemu-guest-agent in the guest")
	}
	return have, nil
}

func (s setting) ask(ctx context.Context, have *domain, command string, into any) error {
	question, err := json.Marshal(map[string]string{"execute": command})
	if err != nil {
		return err
	}
	answer, err := connection.Alone(ctx, s.conn, command, func(l *libvirt.Libvirt) (libvirt.OptString, error) {
		return l.QEMUDomainAgentCommand(have.lv, string(question), agentSeconds, 0)
	})
	if err != nil {
		return err
	}
	wrapped := struct {
		Return any `json:"return"`
	}{into}
	if len(answer) == 0 {
		err = fmt.Errorf("no answer")
	} else {
		err = json.Unmarshal([]byte(answer[0]), &wrapped)
	}
	if err != nil {
		return fault.New(metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE, "%s in domain %s: %w", command, have.GetDomainId(), err)
	}
	return nil
}
