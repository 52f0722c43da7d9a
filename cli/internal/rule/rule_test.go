package rule

import (
	"strings"
	"testing"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

func name(id string) string { return id }

// What is read is printed the same way.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, traffic := range []string{"tcp", "tcp:80", "udp:8000-8010", "sctp:1", "icmp", "icmp:8", "icmp:8:0", "icmpv6:135:0", "any", "47", "0", "255"} {
		for _, remote := range []string{"", "0.0.0.0/0", "10.0.0.0/8", "2001:db8::/64", "sg/web"} {
			r := &networkv1.SecurityRule{Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS}
			if err := ParseTraffic(r, traffic); err != nil {
				t.Fatal(err)
			}
			if err := ParseRemote(r, remote); err != nil {
				t.Fatal(err)
			}
			if Traffic(r) != traffic || remote != "" && Remote(r, name) != remote {
				t.Errorf("%q %q: %q %q", traffic, remote, Traffic(r), Remote(r, name))
			}
			want := "--in " + traffic
			if remote != "" {
				want += " --from " + remote
			}
			if got := Text(r, name); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			if !Same(r, r) {
				t.Error("differs from itself")
			}
		}
	}
	r := &networkv1.SecurityRule{}
	if err := ParseRemote(r, "10.1.2.3"); err != nil || r.GetCidr() != "10.1.2.3/32" {
		t.Errorf("%v, %v", r, err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"tcp:0":           `"0" is no port (1-65535)`,
		"tcp:65536":       `"65536" is no port`,
		"tcp:65535-1":     "write 1-65535",
		"tcp:80-":         `"" is no port`,
		"tcp:80:90":       "more than protocol and ports",
		"icmp:256":        "no type of icmp (0-255)",
		"icmp:8:256":      "no code of icmp (0-255)",
		"icmp:8:0:0":      "more than protocol, type and code",
		"any:80":          "write tcp:80 or udp:80",
		"256":             "numbers are 0-255",
		"-1":              "numbers are 0-255",
		"6:80":            "write them by name",
		"tpc:80":          `did you mean "tcp"?`,
		"":                "unknown protocol",
		"hypertext":       "use one of tcp, udp",
		"@10.0.0.1/8":     "write 10.0.0.0/8, or 10.0.0.1/32",
		"@web":            "a group is written sg/web",
		"@sg/":            "write sg/NAME",
		"@10.0.0.0/33":    "is no address and no CIDR",
		"@::ffff:1.2.3.4": "is no address and no CIDR",
		"@fe80::1%eth0":   "is no address and no CIDR",
	} {
		r := &networkv1.SecurityRule{}
		var err error
		if remote, ok := strings.CutPrefix(in, "@"); ok {
			err = ParseRemote(r, remote)
		} else {
			err = ParseTraffic(r, in)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	v4, v6 := networkv1.IpVersion_IP_VERSION_4, networkv1.IpVersion_IP_VERSION_6
	for _, tc := range []struct {
		protocol, cidr string
		version        networkv1.IpVersion
		want           string
	}{
		{protocol: "icmp", cidr: "::/0", want: "write icmpv6"},
		{protocol: "icmpv6", cidr: "0.0.0.0/0", want: "write icmp"},
		{protocol: "icmp", version: v6, want: "icmp is for IPv4; leave the version out"},
		{protocol: "tcp", cidr: "::/0", version: v4, want: "::/0 is not IPv4; leave the version out"},
		{protocol: "tcp", cidr: "::/0", version: v6},
		{protocol: "icmp", cidr: "10.0.0.0/8", version: v4},
		{protocol: "any"},
	} {
		r := &networkv1.SecurityRule{Protocol: tc.protocol, IpVersion: tc.version}
		if tc.cidr != "" {
			r.Remote = &networkv1.SecurityRule_Cidr{Cidr: tc.cidr}
		}
		if err := Check(r); (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v, want %q", r, err, tc.want)
		}
	}
}

func TestSame(t *testing.T) {
	t.Parallel()
	in := networkv1.RuleDirection_RULE_DIRECTION_INGRESS
	a := &networkv1.SecurityRule{Id: "1", Direction: in, Protocol: "tcp", PortFirst: 80, Remote: &networkv1.SecurityRule_Cidr{Cidr: "10.0.0.0/8"}}
	b := &networkv1.SecurityRule{Id: "2", Description: "web", Direction: in, Protocol: "6", PortFirst: 80, PortLast: 80, IpVersion: networkv1.IpVersion_IP_VERSION_4, Remote: &networkv1.SecurityRule_Cidr{Cidr: "10.0.0.0/8"}}
	if !Same(a, b) {
		t.Error("what is implied counts")
	}
	b.PortLast = 81
	if Same(a, b) {
		t.Error("ports do not count")
	}
	if !Same(&networkv1.SecurityRule{Direction: in}, &networkv1.SecurityRule{Direction: in, Protocol: "any"}) || Versions(a) != "4" || Versions(&networkv1.SecurityRule{Protocol: "icmpv6"}) != "6" || Versions(&networkv1.SecurityRule{}) != "4+6" {
		t.Error("defaults")
	}
	if got := Text(&networkv1.SecurityRule{Direction: in, Protocol: "tcp", PortFirst: 22, PortLast: 22, IpVersion: networkv1.IpVersion_IP_VERSION_6}, name); got != "--in tcp:22 --ip 6" {
		t.Error(got)
	}
}
