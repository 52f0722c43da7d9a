package netspec

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Owner is the cluster and node whose objects a driver makes.
type Owner struct{ ClusterID, NodeID string }

// OwnerOf is the owner that a plugin's host facts name.
func OwnerOf(h *driverv1.HostFacts) Owner { return Owner{h.GetClusterId(), h.GetNodeId()} }

// Owns reports whether a mark is of this owner.
func (o Owner) Owns(m *driverv1.OwnershipMark) bool {
	return m.GetClusterId() == o.ClusterID && m.GetNodeId() == o.NodeID
}

// IsUUID reports whether s is a UUID in lower case with hyphens.
func IsUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f'):
			return false
		}
	}
	return true
}

// IDViolations says what is wrong with an id.
func IDViolations(field, id string) []fault.Violation {
	if IsUUID(id) {
		return nil
	}
	return []fault.Violation{{Field: field, Description: fmt.Sprintf("%.60q is not a UUID in lower case", id)}}
}

// CheckID is IDViolations as an error.
func CheckID(field, id string) error {
	if v := IDViolations(field, id); len(v) > 0 {
		return fault.Invalid(v...)
	}
	return nil
}

// MarkViolations says what is wrong with the mark of an object.
func MarkViolations(field string, m *driverv1.OwnershipMark, id string, o Owner) (v []fault.Violation) {
	if m.GetObjectId() != id {
		v = append(v, fault.Violation{Field: field + ".object_id", Description: "must be the object's id"})
	}
	if m.GetClusterId() != o.ClusterID {
		v = append(v, fault.Violation{Field: field + ".cluster_id", Description: "must be the cluster of Configure"})
	}
	if m.GetNodeId() != o.NodeID {
		v = append(v, fault.Violation{Field: field + ".node_id", Description: "must be the node of Configure"})
	}
	return v
}

// DeviceName makes a device's name of a prefix and an id: at most 15 characters, always the same. It has 60 bits of the id's hash when the prefix has at most 3 characters, so two ids do
// not collide by chance; whoever makes a device checks the mark of one that is there all the same.
func DeviceName(prefix, id string) string {
	sum := sha256.Sum256([]byte(id))
	return prefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:min(12, 15-len(prefix))]
}

// ParseMAC reads a MAC address as the contract has them: unicast, lower case with colons.
func ParseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	switch {
	case err != nil || len(mac) != 6 || mac.String() != s:
		return nil, fmt.Errorf("%.40q is not a MAC address in lower case with colons", s)
	case mac[0]&1 != 0:
		return nil, fmt.Errorf("%s is a multicast address", s)
	case mac.String() == "00:00:00:00:00:00":
		return nil, errors.New("is zero")
	}
	return mac, nil
}

// LinkLocal is the IPv6 link-local address that follows from a MAC address (EUI-64): the one that an interface may use beside its own addresses.
func LinkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// ParseAddr reads an address in canonical form, without zone, neither unspecified nor mapped IPv4.
func ParseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || a.Zone() != "" || a.Is4In6():
		return netip.Addr{}, fmt.Errorf("%.60q is not an IPv4 or IPv6 address", s)
	case a.IsUnspecified():
		return netip.Addr{}, fmt.Errorf("%s is the unspecified address", s)
	}
	return a, nil
}

// ParseCIDR reads a CIDR with host bits zero.
func ParseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%.60q is not a CIDR", s)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has host bits; the network is %s", s, p.Masked())
	}
	return p, nil
}

// ParseAddressOrCIDR reads either; an address becomes a prefix of full length.
func ParseAddressOrCIDR(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return ParseCIDR(s)
	}
	a, err := ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%.60q is neither an address nor a CIDR", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// isLabel reports whether s is a DNS label: 1-63 characters of a-z, A-Z, 0-9 and '-', the latter neither first nor last.
func isLabel(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (c != '-' || i == 0 || i == len(s)-1) {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// isDomain reports whether s is one or more labels with dots between them.
func isDomain(s string) bool {
	for l := range strings.SplitSeq(s, ".") {
		if !isLabel(l) {
			return false
		}
	}
	return len(s) <= 253
}
