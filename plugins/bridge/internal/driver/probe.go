package driver

import (
	"context"
	"os/exec"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/filter"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/link"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// tools are what works on this node, found by trying.
type tools struct {
	filter  bool // both layers load
	nat     bool
	dnsmasq bool
	ipv6    bool
	vxlan   bool
	vlan    bool
	limits  bool
}

// Probes for what the driver needs of each layer; --test checks them against the kernel without putting them in force.
const (
	probeFilter = "*mangle\n:LQ-PROBE - [0:0]\n-A LQ-PROBE -m physdev --physdev-in lqtprobe -m conntrack --ctstate NEW -m connmark --mark 0x0/0xfff0000 -j MARK --set-xmark 0x0/0x1\nCOMMIT\n" +
		"*raw\n:LQ-PROBE - [0:0]\n-A LQ-PROBE -i lqbprobe -j CT --zone-orig 1\nCOMMIT\n"
	probeNAT    = "*nat\n:LQ-PROBE - [0:0]\n-A LQ-PROBE -p udp -m udp --dport 53 -j REDIRECT --to-ports 1\nCOMMIT\n"
	probeFrames = "table bridge limiquantix-probe {\n map m { type ifname : verdict; }\n chain c { type filter hook forward priority 100; meta mark & 0x1 == 0x1 accept; iifname vmap @m; @th,64,128 0x1 drop; }\n}\n"
)

func probe(ctx context.Context, k *filter.Kernel) tools {
	works := func(input, tool string, args ...string) bool {
		_, err := k.Run(ctx, input, tool, args...)
		return err == nil
	}
	t := tools{
		filter: works(probeFilter, "iptables-nft-restore", "--noflush", "--test") && works(probeFrames, "nft", "--check", "-f", "-") && works("", "ipset", "list", "-n"),
		nat:    works(probeNAT, "iptables-nft-restore", "--noflush", "--test"),
		ipv6:   works(probeFilter, "ip6tables-nft-restore", "--noflush", "--test"),
	}
	for _, tool := range []string{"dnsmasq", "setpriv"} {
		if _, err := exec.LookPath(tool); err != nil {
			break
		}
		t.dnsmasq = tool == "setpriv"
	}
	t.vxlan, t.vlan, t.limits = link.Try("lqbprobe")
	return t
}

// types of network that work here.
func (t tools) types() []driverv1.NetworkType {
	types := []driverv1.NetworkType{driverv1.NetworkType_NETWORK_TYPE_BRIDGE}
	if t.vxlan {
		types = append(types, driverv1.NetworkType_NETWORK_TYPE_VXLAN)
	}
	if t.vlan {
		types = append(types, driverv1.NetworkType_NETWORK_TYPE_VLAN)
	}
	return types
}

func (t tools) capabilities(uplinks []string) *driverv1.NetworkCapabilities {
	c := &driverv1.NetworkCapabilities{
		Types: t.types(), Bindings: []driverv1.InterfaceBindingKind{driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_BRIDGE_PORT}, MaxMtu: 65535, Uplinks: uplinks,
		Features: []driverv1.NetworkFeature{driverv1.NetworkFeature_NETWORK_FEATURE_DRIFT_EVENTS},
	}
	for _, f := range []struct {
		works   bool
		feature driverv1.NetworkFeature
	}{
		{t.filter, driverv1.NetworkFeature_NETWORK_FEATURE_SECURITY_RULES},
		{t.dnsmasq, driverv1.NetworkFeature_NETWORK_FEATURE_DHCP},
		{t.dnsmasq, driverv1.NetworkFeature_NETWORK_FEATURE_DNS},
		{t.nat, driverv1.NetworkFeature_NETWORK_FEATURE_NAT},
		{t.filter, driverv1.NetworkFeature_NETWORK_FEATURE_ROUTED},
		{t.nat, driverv1.NetworkFeature_NETWORK_FEATURE_PORT_FORWARDS},
		{t.ipv6, driverv1.NetworkFeature_NETWORK_FEATURE_IPV6},
		{t.limits, driverv1.NetworkFeature_NETWORK_FEATURE_LIMITS},
	} {
		if f.works {
			c.Features = append(c.Features, f.feature)
		}
	}
	return c
}
