package dnsmasq

import (
	"net/netip"
	"strings"
	"testing"
)

func good() Config {
	return Config{
		Dir: "/run/x", Interface: "lqb0", UID: 8000001, DNSPort: 20001, Domain: "a.internal", MTU: 1450,
		Subnets: []Subnet{
			{
				CIDR: netip.MustParsePrefix("10.0.0.0/24"), DHCP: true, Router: netip.MustParseAddr("10.0.0.1"), DNS: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
				Routes: []Route{{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParseAddr("10.0.0.2")}},
			},
			{CIDR: netip.MustParsePrefix("fd00::/64"), DHCP: true, DNS: []netip.Addr{netip.MustParseAddr("fd00::1")}},
		},
		Hosts:   []Host{{MAC: "02:00:00:00:00:0a", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("fd00::5")}, Name: "web"}, {MAC: "02:00:00:00:00:0b"}},
		Records: []Record{{Name: "db", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.6")}}},
	}
}

func TestFiles(t *testing.T) {
	c := good()
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	if got, want := c.hosts(), "02:00:00:00:00:0a,10.0.0.5,[fd00::5],web\n"; got != want {
		t.Errorf("hosts %q, want %q", got, want)
	}
	if got, want := c.names(), "10.0.0.6 db\n"; got != want {
		t.Errorf("names %q, want %q", got, want)
	}
	conf := c.conf()
	for _, want := range []string{
		"port=20001\n", "interface=lqb0\n", "bind-interfaces\n", "local=/a.internal/\n", "dhcp-range=set:subnet0,10.0.0.0,static,255.255.255.0,3600\n",
		"dhcp-option=tag:subnet0,option:router,10.0.0.1\n", "dhcp-option=tag:subnet0,option:mtu,1450\n",
		"dhcp-option=tag:subnet0,option:classless-static-route,10.9.0.0/16,10.0.0.2,0.0.0.0/0,10.0.0.1\n",
		"dhcp-range=set:subnet1,fd00::,static,64,3600\n", "enable-ra\n", "dhcp-option=tag:subnet1,option6:dns-server,[fd00::1]\n", "dhcp-ignore=tag:!known\n",
	} {
		if !strings.Contains(conf, want) {
			t.Errorf("no %q in:\n%s", want, conf)
		}
	}
}

// A newline, a quote or a comma would begin another statement: nothing that has one is written.
func TestInjection(t *testing.T) {
	for _, evil := range []string{"a\ndhcp-script=/bin/sh", "a,b", `a"b`, "a b", "-a", "a#b", "\x00", "a\r", "a..b", strings.Repeat("a", 64)} {
		for what, spoil := range map[string]func(*Config){
			"domain":    func(c *Config) { c.Domain = evil },
			"host":      func(c *Config) { c.Hosts[0].Name = evil },
			"name":      func(c *Config) { c.Records[0].Name = evil },
			"MAC":       func(c *Config) { c.Hosts[0].MAC = evil },
			"interface": func(c *Config) { c.Interface = evil + "!" },
			"directory": func(c *Config) { c.Dir = evil },
		} {
			c := good()
			spoil(&c)
			if c.Check() == nil {
				t.Errorf("%s %q is taken", what, evil)
			}
			if err := Ensure(t.Context(), c); err == nil {
				t.Errorf("%s %q is served", what, evil)
			}
		}
	}
}
