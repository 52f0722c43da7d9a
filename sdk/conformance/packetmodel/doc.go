// Package packetmodel says of a packet whether it must pass, from the contract alone (comments of limiquantix.driver.v1's RuleSet, Rule and AddressSet). It
// knows nothing of chains, flows tables or any compiler of rules, and it is slow and simple on purpose: what it says is what drivers are compared with.
package packetmodel
