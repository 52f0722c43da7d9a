// Package packetgen draws policies and packets for the packet oracle: rule sets, address sets and ports at random, and packets that lie close to the edges of what
// these allow. The same seed draws the same. A case that a driver fails is made smaller as long as it fails.
package packetgen
