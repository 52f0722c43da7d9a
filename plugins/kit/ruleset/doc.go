// Package ruleset is the one compiler of security rules. It takes the neutral messages of the driver contract (RuleSet, AddressSet), refuses what is wrong as a whole and by
// field, and yields plans that plugins only render: for each direction and address family a sorted list of matches without a redundant one. Nothing here does I/O.
//
//   - Compile makes a Plan of a RuleSet; ParseMembers makes Members of an address set's strings.
//   - Registry knows which generations are in force and what a call of ApplyRuleSet, UpdateAddressSet or CollectGarbage would change; a plugin makes it so and then commits.
//   - Diff and Gone say what differs between two plans; Policy says whether a packet or a tracked flow is allowed, for cutting those that no longer are.
//
// ICMP (1) is a protocol of IPv4 and ICMPv6 (58) one of IPv6: a rule on either applies to that family alone.
package ruleset
