package conformance

import driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"

// packetChecks are what every network driver must pass when it is seen by packets.
func packetChecks() []*Check {
	checks := []*Check{
		{Name: "network/packets/first", Contract: "An interface passes no packet before its rule sets are in force.", run: firstPacket},
		{Name: "network/packets/no-rules", Contract: "No rule sets: nothing passes in, everything lawful passes out.", run: withoutRules},
		{Name: "network/packets/refused-set", Contract: "An invalid rule: INVALID_ARGUMENT, the last good set stays.", run: refusedStays},
		{Name: "network/packets/spoofing", Contract: "Frames with another source MAC or address, ARP and ND for others, router advertisements and DHCP servers' answers are dropped.", run: spoofing},
		{Name: "network/packets/link-down", Contract: "While the link shall be down no packet passes.", run: linkDown},
		{Name: "network/packets/detach", Contract: "DetachInterface removes an interface's place and everything made for it.", run: detachLeavesNothing},
		{Name: "network/packets/window", Contract: "A change is one atomic step, and a driver killed in the middle of one leaves the old state or the new one: nothing forbidden passes, no allowed flow is cut.", run: openWindow},
		{Name: "network/packets/disturbed", Contract: "Whatever somebody else removes of what is the driver's, nothing forbidden passes, and it comes back by itself.", Disturbed: true, run: disturbed},
		{Name: "network/packets/policies", Contract: "A packet passes when any rule of any set allows it, or it answers one that passed; else it is dropped. Flows that only a removed rule or member allowed are cut.", run: randomPolicies},
		{Name: "network/packets/node", Contract: "Rules hold for what goes between a guest and the node too.", Network: driverv1.NetworkFeature_NETWORK_FEATURE_NAT, run: nodeAndGuest},
		{Name: "network/packets/limits", Contract: "Limits on an interface's traffic hold.", Network: driverv1.NetworkFeature_NETWORK_FEATURE_LIMITS, run: limits},
	}
	for _, c := range checks {
		if c.Kind, c.Packets = network, true; c.Network == 0 {
			c.Network = rules
		}
	}
	return checks
}
