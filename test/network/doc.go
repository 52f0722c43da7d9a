// Package network runs networks whole: a controller and several nodes, each a network namespace with a libvirtd, an agent and the network plugins of its own,
// joined by a bridge that is the world outside; and guests that boot, get addresses, and reach what they may.
package network
