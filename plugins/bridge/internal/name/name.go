// Package name makes the names that things have in the kernel from the ids that they have in the cluster. Same id, same name, on every node and after every restart.
package name

import (
	"crypto/sha256"
	"encoding/hex"
)

// Prefixes of devices. Nothing else on a node may be called so.
const (
	BridgePrefix = "lqb"
	TapPrefix    = "lqt"
	TunnelPrefix = "lqv"
	VLANPrefix   = "lqq"
	ShaperPrefix = "lqi"
)

// Key is ten hexadecimal digits of an id: enough for a node, short enough for a device's 15 characters.
func Key(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:5])
}

// Bridge is a network's bridge.
func Bridge(network string) string { return BridgePrefix + Key(network) }

// Tunnel is a network's VXLAN device.
func Tunnel(network string) string { return TunnelPrefix + Key(network) }

// VLAN is a network's VLAN device.
func VLAN(network string) string { return VLANPrefix + Key(network) }

// Tap is an interface's device.
func Tap(iface string) string { return TapPrefix + Key(iface) }

// Shaper is the device by which what comes from an interface is slowed down.
func Shaper(iface string) string { return ShaperPrefix + Key(iface) }

// Set4 and Set6 are an address set's two ipsets.
func Set4(set string) string { return "lq4-" + Key(set) }

// Set6 is the one for IPv6.
func Set6(set string) string { return "lq6-" + Key(set) }
