// Package rule reads and prints rules of security groups as people write them: tcp:80, udp:5000-5010, icmp:8, icmpv6, 47, any; from 10.0.0.0/8 or sg/web.
package rule

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/nearest"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// Help explains the notation.
const Help = `What a rule allows:
  tcp, tcp:80, tcp:8000-8010    also udp and sctp; without ports: all of them
  icmp, icmp:8, icmp:8:0        ICMP, of a type, with a code; icmpv6 alike
  47                            a protocol by its number, 0-255
  any                           everything
and the other side of it:
  0.0.0.0/0, 2001:db8::/64      addresses; one address stands for itself alone
  sg/NAME                       whoever has that group
  (nothing)                     anybody, IPv4 and IPv6`

// protocols are the words for protocols, with the versions of IP that they imply.
var protocols = []struct {
	word    string
	number  string
	version networkv1.IpVersion
	ports   bool
}{
	{"tcp", "6", 0, true},
	{"udp", "17", 0, true},
	{"sctp", "132", 0, true},
	{"icmp", "1", networkv1.IpVersion_IP_VERSION_4, false},
	{"icmpv6", "58", networkv1.IpVersion_IP_VERSION_6, false},
	{"any", "", 0, false},
}

func words() []string {
	var out []string
	for _, p := range protocols {
		out = append(out, p.word)
	}
	return out
}

// ParseTraffic reads what a rule allows: protocol with ports, or with type and code.
func ParseTraffic(r *networkv1.SecurityRule, text string) error {
	parts := strings.Split(text, ":")
	word := strings.ToLower(parts[0])
	r.Protocol = word
	rest := parts[1:]
	for _, p := range protocols {
		switch {
		case p.word != word:
			continue
		case p.ports && len(rest) == 1:
			return parsePorts(r, rest[0])
		case p.version != 0 && len(rest) >= 1 && len(rest) <= 2:
			return parseTypes(r, rest)
		case len(rest) > 0 && p.ports:
			return fmt.Errorf("%q has more than protocol and ports; write for example %s:8000-8010", text, word)
		case len(rest) > 0 && p.version != 0:
			return fmt.Errorf("%q has more than protocol, type and code; write for example %s:8:0", text, word)
		case len(rest) > 0:
			return fmt.Errorf("%q: any has no ports; write tcp:%s or udp:%s", text, rest[0], rest[0])
		}
		return nil
	}
	n, err := strconv.Atoi(word)
	switch {
	case err == nil && (n < 0 || n > 255):
		return fmt.Errorf("protocol %d is none: numbers are 0-255", n)
	case err == nil && len(rest) > 0:
		return fmt.Errorf("%q: ports are for tcp, udp and sctp, types for icmp and icmpv6; write them by name", text)
	case err == nil:
		r.Protocol = strconv.Itoa(n)
		return nil
	}
	if near := nearest.Word(word, words()); near != "" {
		return fmt.Errorf("unknown protocol %q; did you mean %q?", parts[0], near)
	}
	return fmt.Errorf("unknown protocol %q; use one of %s, or a number 0-255", parts[0], strings.Join(words(), ", "))
}

func parsePorts(r *networkv1.SecurityRule, text string) error {
	first, last, ranged := strings.Cut(text, "-")
	var err error
	if r.PortFirst, err = port(first); err != nil {
		return err
	}
	r.PortLast = r.GetPortFirst()
	if ranged {
		if r.PortLast, err = port(last); err != nil {
			return err
		}
		if r.GetPortLast() < r.GetPortFirst() {
			return fmt.Errorf("ports %s: the first is above the last; write %d-%d", text, r.GetPortLast(), r.GetPortFirst())
		}
	}
	return nil
}

func port(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port (1-65535)", text)
	}
	return uint32(n), nil
}

func parseTypes(r *networkv1.SecurityRule, parts []string) error {
	for i, field := range []**uint32{&r.IcmpType, &r.IcmpCode} {
		if i >= len(parts) {
			break
		}
		n, err := strconv.ParseUint(parts[i], 10, 8)
		if err != nil {
			return fmt.Errorf("%q is no %s of %s (0-255)", parts[i], []string{"type", "code"}[i], r.GetProtocol())
		}
		*field = proto.Uint32(uint32(n))
	}
	return nil
}

// ParseRemote reads the other side of a rule; "" is anybody.
func ParseRemote(r *networkv1.SecurityRule, text string) error {
	if text == "" {
		return nil
	}
	for _, prefix := range []string{"sg/", "security-group/"} {
		if name, ok := strings.CutPrefix(text, prefix); ok {
			if name == "" {
				return fmt.Errorf("%q names no group; write sg/NAME", text)
			}
			r.Remote = &networkv1.SecurityRule_SecurityGroupId{SecurityGroupId: name}
			return nil
		}
	}
	cidr, err := CIDR(text)
	if err != nil {
		if strings.ContainsAny(text, ".:/") {
			return err
		}
		return fmt.Errorf("%q is neither an address, a CIDR nor a group; a group is written sg/%s", text, text)
	}
	r.Remote = &networkv1.SecurityRule_Cidr{Cidr: cidr}
	return nil
}

// CIDR reads a CIDR whose host bits are zero; an address stands for itself alone.
func CIDR(text string) (string, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()).String(), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return "", fmt.Errorf("%q is no address and no CIDR like 10.0.0.0/8 or 2001:db8::/64", text)
	}
	if p.Masked() != p {
		return "", fmt.Errorf("%q has bits beyond its /%d; write %s, or %s/%d for the one address", text, p.Bits(), p.Masked(), p.Addr(), p.Addr().BitLen())
	}
	return p.String(), nil
}

// Check finds parts of a rule that can never match together.
func Check(r *networkv1.SecurityRule) error {
	implied := versionOf(r.GetProtocol())
	if v := r.GetIpVersion(); v != 0 && implied != 0 && v != implied {
		return fmt.Errorf("%s is for IPv%d; leave the version out", r.GetProtocol(), number(implied))
	} else if v != 0 {
		implied = v
	}
	if p, err := netip.ParsePrefix(r.GetCidr()); err == nil && implied != 0 && p.Addr().Is4() != (implied == networkv1.IpVersion_IP_VERSION_4) {
		if w := r.GetProtocol(); versionOf(w) != 0 {
			return fmt.Errorf("%s is for IPv%d, and %s is not; write %s", w, number(implied), r.GetCidr(), map[string]string{"icmp": "icmpv6", "icmpv6": "icmp"}[w])
		}
		return fmt.Errorf("%s is not IPv%d; leave the version out", r.GetCidr(), number(implied))
	}
	return nil
}

func versionOf(protocol string) networkv1.IpVersion {
	for _, p := range protocols {
		if p.word == protocol || p.number != "" && p.number == protocol {
			return p.version
		}
	}
	return 0
}

// number is a version of IP as people count them.
func number(v networkv1.IpVersion) int {
	return map[networkv1.IpVersion]int{networkv1.IpVersion_IP_VERSION_4: 4, networkv1.IpVersion_IP_VERSION_6: 6}[v]
}
