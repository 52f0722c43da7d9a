package driver

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// agentSeconds is how long one command to the agent inside a guest may take.
const agentSeconds = 5

// GetGuestInfo asks the agent inside the guest.
func (d *Driver) GetGuestInfo(ctx context.Context, req *driverv1.GetGuestInfoRequest) (*driverv1.GetGuestInfoResponse, error) {
	if err := checkID(req.GetDomainId()); err != nil {
		return nil, err
	}
	s := d.setting()
	have, dom, err := d.find(ctx, s, req.GetDomainId())
	if err != nil {
		return nil, err
	}
	if have.GetState() != driverv1.DomainState_DOMAIN_STATE_RUNNING || !have.GetGuestAgentConnected() {
		return nil, fault.New(metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE, "the agent inside domain %s is not connected", req.GetDomainId()).WithRemedy("install and start qemu-guest-agent in the guest")
	}
	var (
		info struct{ Version string }
		host struct {
			Name string `json:"host-name"`
		}
		osinfo struct {
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
	for cmd, into := range map[string]any{"guest-info": &info, "guest-get-host-name": &host, "guest-get-osinfo": &osinfo, "guest-network-get-interfaces": &nics} {
		if err := s.agent(ctx, dom, cmd, into); err != nil {
			return nil, err
		}
	}
	out := &driverv1.GetGuestInfoResponse{Hostname: host.Name, OsName: osinfo.Pretty, KernelRelease: osinfo.Kernel, AgentVersion: info.Version}
	for _, n := range nics {
		g := &driverv1.GuestInterface{Name: n.Name, Mac: n.MAC}
		for _, a := range n.Addresses {
			g.Addresses = append(g.Addresses, fmt.Sprintf("%s/%d", a.Address, a.Prefix))
		}
		out.Interfaces = append(out.Interfaces, g)
	}
	return out, nil
}

func (s setting) agent(ctx context.Context, dom libvirt.Domain, cmd string, into any) error {
	var answer libvirt.OptString
	err := s.conn.Do(ctx, cmd, func(l *libvirt.Libvirt) error {
		a, err := l.QEMUDomainAgentCommand(dom, `{"execute":"`+cmd+`"}`, agentSeconds, 0)
		answer = a
		return err
	})
	if err != nil {
		return err
	}
	if len(answer) == 0 {
		return fault.New(metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE, "%s: no answer", cmd)
	}
	wrapped := struct {
		Return any `json:"return"`
	}{into}
	if err := json.Unmarshal([]byte(answer[0]), &wrapped); err != nil {
		return fault.New(metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE, "%s: %w", cmd, err)
	}
	return nil
}
