package driver

import (
	"context"
	"fmt"
	"os"
	"strings"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// bridgeFilter are the settings by which br_netfilter hands bridged packets to iptables. They are a network namespace's own: the plugin reads those of its own.
var bridgeFilter = []string{"/proc/sys/net/bridge/bridge-nf-call-iptables", "/proc/sys/net/bridge/bridge-nf-call-ip6tables"}

// look reads whether the first layer is in force. Needs mu.
func (d *Driver) look() (changed bool) {
	why := ""
	for _, path := range bridgeFilter {
		b, err := os.ReadFile(path)
		switch {
		case err != nil:
			why = "the kernel has no br_netfilter: load the module br_netfilter"
		case strings.TrimSpace(string(b)) != "1":
			why = path[len("/proc/sys/"):] + " is not 1: set it to 1 in the network namespace of the agent"
		}
	}
	changed = why != d.inactive
	d.inactive = why
	return changed
}

// well reports health as it is. Needs mu.
func (d *Driver) well() {
	a := map[string]string{"bridge.filter": "active", "bridge.backend": "nft"}
	for k, v := range d.foreign {
		a[k] = v
	}
	if d.inactive != "" {
		a["bridge.filter"] = "inactive"
		d.Health.Set(sdk.Report{State: driverv1.HealthState_HEALTH_STATE_UNHEALTHY, Reason: filterInactive, Message: "every interface is blocked: " + d.inactive, Attributes: a})
		return
	}
	if !d.tools.filter {
		d.Health.Set(sdk.Report{
			State: driverv1.HealthState_HEALTH_STATE_UNHEALTHY, Reason: "FILTER_MISSING", Attributes: a,
			Message: "iptables-nft, nft or ipset does not work: install iptables, nftables and ipset",
		})
		return
	}
	if a["iptables.legacy"] != "" {
		d.Health.Set(sdk.Report{
			State: driverv1.HealthState_HEALTH_STATE_DEGRADED, Reason: "LEGACY_TABLES", Attributes: a,
			Message: "iptables-legacy has tables here and filters beside the nft backend: flush them and remove iptables-legacy",
		})
		return
	}
	d.Health.Healthy(a)
}

// unwell reports a failure.
func (d *Driver) unwell(reason string, err error) {
	d.Health.Set(sdk.Report{State: driverv1.HealthState_HEALTH_STATE_DEGRADED, Reason: reason, Message: err.Error(), Attributes: d.foreign})
}

// neighbours finds who else filters here. Their rules are left alone. Needs mu.
func (d *Driver) neighbours(ctx context.Context) {
	d.foreign = map[string]string{}
	if out, err := d.kernel.Run(ctx, "", "iptables-nft-save"); err == nil {
		for who, chain := range map[string]string{"docker": ":DOCKER", "kubernetes": ":KUBE-", "libvirt": ":LIBVIRT_", "ufw": ":ufw-"} {
			if n := strings.Count(out, "\n"+chain); n > 0 {
				d.foreign["foreign."+who] = fmt.Sprintf("%d chains", n)
			}
		}
		if strings.Contains(out, ":FORWARD DROP") {
			d.foreign["foreign.forward_policy"] = "DROP"
		}
	}
	if out, err := d.kernel.Run(ctx, "", "nft", "list", "tables"); err == nil && strings.Contains(out, "firewalld") {
		d.foreign["foreign.firewalld"] = "table"
	}
	for _, f := range []string{"ip_tables_names", "ip6_tables_names"} {
		if b, err := os.ReadFile("/proc/net/" + f); err == nil && strings.TrimSpace(string(b)) != "" {
			d.foreign["iptables.legacy"] = strings.Join(strings.Fields(string(b)), ",")
		}
	}
}
