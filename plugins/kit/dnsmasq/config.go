package dnsmasq

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
)

// Config is what one dnsmasq serves.
type Config struct {
	Dir       string // its own directory: configuration, leases, marker
	Interface string // device that it serves; nothing else is listened on
	UID       uint32 // user that it runs as
	DNSPort   int    // where it answers names; 0 = it does not
	Domain    string
	MTU       int
	Subnets   []Subnet
	Hosts     []Host
	Records   []Record
}

// Subnet is a range in which the hosts' addresses lie.
type Subnet struct {
	CIDR         netip.Prefix
	DHCP         bool
	Router       netip.Addr   // zero = none announced
	DNS          []netip.Addr // announced
	Routes       []Route
	LeaseSeconds int
	Foreign      bool // the device has no address in it
}

// Route is a route that hosts get.
type Route struct {
	Destination netip.Prefix
	NextHop     netip.Addr
}

// Host is who gets an address.
type Host struct {
	MAC       string
	Addresses []netip.Addr
	Name      string // may be empty
}

// Record is a name with its addresses.
type Record struct {
	Name      string
	Addresses []netip.Addr
}

var (
	labels    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
	mac       = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)
	ifaceName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,15}$`)
	dirName   = regexp.MustCompile(`^/[A-Za-z0-9/_.-]*$`)
)

// Check refuses what must not be written into a configuration.
func (c *Config) Check() error {
	var errs []error
	bad := func(wrong bool, format string, a ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	bad(!dirName.MatchString(c.Dir), "directory %q", c.Dir)
	bad(!ifaceName.MatchString(c.Interface), "interface %q", c.Interface)
	bad(c.Domain != "" && !labels.MatchString(c.Domain), "domain %q", c.Domain)
	for _, s := range c.Subnets {
		bad(!s.CIDR.IsValid(), "subnet without CIDR")
		for _, r := range s.Routes {
			bad(!r.Destination.IsValid() || !r.NextHop.IsValid(), "route of %s", s.CIDR)
		}
	}
	for _, h := range c.Hosts {
		bad(!mac.MatchString(h.MAC), "MAC address %q", h.MAC)
		bad(h.Name != "" && !labels.MatchString(h.Name), "host name %q", h.Name)
		for _, a := range h.Addresses {
			bad(!a.IsValid() || a.Zone() != "", "address of host %q", h.Name)
		}
	}
	for _, r := range c.Records {
		bad(!labels.MatchString(r.Name), "name %q", r.Name)
		for _, a := range r.Addresses {
			bad(!a.IsValid() || a.Zone() != "", "address of name %q", r.Name)
		}
	}
	return errors.Join(errs...)
}

func (c *Config) path(name string) string { return filepath.Join(c.Dir, name) }

const (
	confFile   = "dnsmasq.conf"
	hostsFile  = "names"
	dhcpFile   = "hosts"
	leasesFile = "leases"
	logFile    = "log"
	markerFile = "process.json"
)

// conf is what takes a restart to change.
func (c *Config) conf() string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	line("port=%d", c.DNSPort)
	line("interface=%s", c.Interface)
	line("bind-interfaces")
	line("except-interface=lo")
	line("pid-file=")
	line("log-facility=%s", c.path(logFile))
	line("no-hosts")
	line("addn-hosts=%s", c.path(hostsFile))
	line("domain-needed")
	line("bogus-priv")
	line("no-ping")
	if c.Domain != "" {
		line("domain=%s", c.Domain)
		line("local=/%s/", c.Domain)
		line("expand-hosts")
	}
	dhcp := false
	for i, s := range c.Subnets {
		if s.DHCP {
			dhcp = true
			c.subnet(line, i, s)
		}
	}
	if dhcp {
		line("dhcp-authoritative")
		line("dhcp-ignore=tag:!known")
		line("dhcp-hostsfile=%s", c.path(dhcpFile))
		line("dhcp-leasefile=%s", c.path(leasesFile))
		line("dhcp-lease-max=65536")
	}
	return b.String()
}

func (c *Config) subnet(line func(string, ...any), i int, s Subnet) {
	lease := s.LeaseSeconds
	if lease == 0 {
		lease = 3600
	}
	tag := fmt.Sprintf("subnet%d", i)
	if s.CIDR.Addr().Is6() {
		line("dhcp-range=set:%s,%s,static,%d,%d", tag, s.CIDR.Addr(), s.CIDR.Bits(), lease)
		line("enable-ra")
		if c.MTU >= 1280 {
			line("ra-param=%s,mtu:%d,0,1800", c.Interface, c.MTU)
		}
		if len(s.DNS) > 0 {
			line("dhcp-option=tag:%s,option6:dns-server,%s", tag, list(s.DNS, "[", "]"))
		}
		return
	}
	line("dhcp-range=set:%s,%s,static,%s,%d", tag, s.CIDR.Addr(), mask(s.CIDR.Bits()), lease)
	if s.Foreign {
		line("shared-network=%s,%s", c.Interface, s.CIDR.Addr())
	}
	if s.Router.IsValid() {
		line("dhcp-option=tag:%s,option:router,%s", tag, s.Router)
	} else {
		line("dhcp-option=tag:%s,option:router", tag) // none, instead of ourselves
	}
	if len(s.DNS) > 0 {
		line("dhcp-option=tag:%s,option:dns-server,%s", tag, list(s.DNS, "", ""))
	} else {
		line("dhcp-option=tag:%s,option:dns-server", tag)
	}
	if c.MTU > 0 {
		line("dhcp-option=tag:%s,option:mtu,%d", tag, c.MTU)
	}
	if len(s.Routes) > 0 {
		var parts []string
		for _, r := range s.Routes {
			parts = append(parts, r.Destination.String(), r.NextHop.String())
		}
		if s.Router.IsValid() { // who takes option 121 ignores option 3
			parts = append(parts, "0.0.0.0/0", s.Router.String())
		}
		line("dhcp-option=tag:%s,option:classless-static-route,%s", tag, strings.Join(parts, ","))
	}
}

func list(as []netip.Addr, before, after string) string {
	var parts []string
	for _, a := range as {
		parts = append(parts, before+a.String()+after)
	}
	return strings.Join(parts, ",")
}

func mask(bits int) string {
	m := uint32(0xffffffff) << (32 - bits)
	return fmt.Sprintf("%d.%d.%d.%d", byte(m>>24), byte(m>>16), byte(m>>8), byte(m))
}

// hosts is who gets which address.
func (c *Config) hosts() string {
	var b strings.Builder
	for _, h := range c.Hosts {
		if len(h.Addresses) == 0 {
			continue
		}
		b.WriteString(h.MAC)
		for _, a := range h.Addresses {
			if a.Is6() {
				fmt.Fprintf(&b, ",[%s]", a)
			} else {
				fmt.Fprintf(&b, ",%s", a)
			}
		}
		if h.Name != "" {
			b.WriteString("," + h.Name)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// names is what DNS answers.
func (c *Config) names() string {
	var b strings.Builder
	for _, r := range c.Records {
		for _, a := range r.Addresses {
			fmt.Fprintf(&b, "%s %s\n", a, r.Name)
		}
	}
	return b.String()
}
