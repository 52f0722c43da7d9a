package filter

import (
	"net/netip"

	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Model is all that is filtered on a node.
type Model struct {
	Networks []*Network
	Ports    []*Port
	RuleSets []*RuleSet
	Blocked  bool // the first layer is not in force: every port is shut
}

// Network is a network as the filter sees it.
type Network struct {
	Key      string
	Bridge   string
	Tunnel   string // its VXLAN device; empty = none
	Outside  string // its uplink, or its VLAN device; empty = none
	Number   uint32 // 1-4095
	Zone     uint32
	Subnets  []Subnet
	Egress   driverv1.EgressMode
	Forwards []*driverv1.NetworkForward
	MAC      string // the gateway's; empty = none
	DNSPort  int    // where the network's own DNS server listens; 0 = none
}

// Subnet is a range of addresses.
type Subnet struct {
	CIDR    netip.Prefix
	Gateway netip.Addr // zero = the node has none
	DHCP    bool
}

// Port is an interface.
type Port struct {
	Key       string
	Tap       string
	MAC       string
	Network   *Network
	Addresses []netip.Addr
	Extra     []netip.Prefix
	RuleSets  []string // keys
	DenyOut   bool     // what no rule allows out is dropped
	Blocked   bool     // nothing passes
}

// RuleSet is a compiled rule set.
type RuleSet struct {
	Key  string
	Plan *ruleset.Plan
}

// Bits of a packet's mark. The driver owns the upper half; the network's number lies below the verdicts.
const (
	markOut     = 0x10000000 // the sender may send it
	markIn      = 0x20000000 // the receiver may receive it
	markNode    = 0x40000000 // the frame is for the node itself: to be routed, unless it is for an address of the network
	markNetwork = 0x0fff0000
	markAll     = 0xffff0000
	shift       = 16
)

// NetworkMark is the mark of a network's packets, and its mask.
func NetworkMark(number uint32) (mark, mask uint32) { return number << shift, markNetwork }
