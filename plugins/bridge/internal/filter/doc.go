// Package filter renders what networks, interfaces and rule sets mean into two layers of packet filter, and brings the kernel to that by difference.
//
// The first layer is iptables (nft backend), mangle table: it sees what is bridged by way of br_netfilter, tracks connections, and marks what it accepts: one bit when
// the sender may send, one when the receiver may receive. The second layer is a table of nft's bridge family: it drops every frame from a guest without the first bit, every
// frame to a guest without the second, and all that lies about its sender. It does not know rules, so that flushing either layer closes and never opens.
//
// Render is pure. Everything about the kernel is in Kernel.
package filter
