package bridge_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// outside makes a host beyond the node: 192.0.2.2, reached by the node's address 192.0.2.1.
func outside(t *testing.T) space {
	t.Helper()
	o := newSpace(t, "o")
	run(t, "ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", string(o))
	t.Cleanup(func() { runQuiet("ip", "link", "del", "up0") })
	run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "up0")
	run(t, "ip", "link", "set", "up0", "up")
	o.run(t, "ip", "addr", "add", "192.0.2.2/24", "dev", "eth0")
	o.run(t, "ip", "link", "set", "eth0", "up")
	return o
}

// get fetches a page, and is what the server says of who asked.
func (s space) get(url string) (string, bool) {
	out, err := s.command("curl", "-s", "-m", "5", url).CombinedOutput()
	return strings.TrimSpace(string(out)), err == nil
}

func (s space) wantGet(t testing.TB, url, want string) {
	t.Helper()
	got := ""
	for range 3 {
		if got, _ = s.get(url); got == want {
			return
		}
	}
	t.Errorf("%s: %s says %q, want %q", s, url, got, want)
}

// serve answers HTTP with who the namespace is and who asked.
func (s space) serve(t testing.TB, says string) {
	t.Helper()
	dir := t.TempDir()
	cgi := filepath.Join(dir, "cgi-bin")
	if err := os.Mkdir(cgi, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho 'Content-Type: text/plain'\necho\necho " + says + " $(echo $REMOTE_ADDR | tr -d [] | sed s/::ffff://)\n"
	if err := os.WriteFile(filepath.Join(cgi, "who"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s.start(t, "busybox", "httpd", "-f", "-p", "80", "-h", dir)
	for range 100 {
		if _, err := s.command("curl", "-s", "-m", "1", "http://127.0.0.1/cgi-bin/who").CombinedOutput(); err == nil {
			return
		}
	}
	t.Fatal("no answer from the server")
}

// Two networks with the same addresses on one node: each reaches the world with the node's address and is reached by its own port forward, by name its own, and neither sees the other.
func TestEqualNetworks(t *testing.T) {
	l := launch(t)
	t.Cleanup(func() { l.collect(t) })
	o := outside(t)
	o.serve(t, "outside")
	web := newID()
	l.apply(t, web, 1, ingress(6, 80))
	var nets []*network
	var guests []*guest
	for i, port := range []uint32{8001, 8002} {
		spec := natNetwork("10.0.0.0/24", "10.0.0.1")
		spec.Forwards = []*driverv1.NetworkForward{{Protocol: "tcp", ListenPort: port, TargetAddress: "10.0.0.10", TargetPort: 80}}
		spec.DnsRecords = []*driverv1.DnsRecord{{Name: "vm", IpAddresses: []string{[]string{"10.0.0.10", "10.0.0.20"}[i]}}}
		n := l.network(t, spec)
		nets = append(nets, n)
		g := n.attach(t, "02:00:00:00:00:0a", []string{"10.0.0.10"}, web).plug(t)
		g.serve(t, []string{"first", "second"}[i])
		guests = append(guests, g)
	}
	lonely := nets[1].attach(t, "02:00:00:00:00:0b", []string{"10.0.0.11"}).plug(t)
	for i, g := range guests {
		g.wantGet(t, "http://192.0.2.2/cgi-bin/who", "outside 192.0.2.1")
		o.wantGet(t, "http://192.0.2.1:"+[]string{"8001", "8002"}[i]+"/cgi-bin/who", []string{"first", "second"}[i]+" 192.0.2.2")
		g.wantPing(t, "10.0.0.1", true)
		out, _ := g.command("busybox", "nslookup", "vm.test.internal", "10.0.0.1").CombinedOutput()
		if want := []string{"10.0.0.10", "10.0.0.20"}[i]; !strings.Contains(string(out), want) {
			t.Errorf("%s: the name vm is %s, want %s", g.space, out, want)
		}
	}
	guests[0].wantPing(t, "10.0.0.11", false) // it is in the other network
	lonely.wantGet(t, "http://10.0.0.10/cgi-bin/who", "second 10.0.0.11")
	lonely.wantPing(t, "192.0.2.2", true)
	// The forward does not pass by the rules.
	l.apply(t, web, 2, ingress(6, 81))
	if got, ok := o.get("http://192.0.2.1:8001/cgi-bin/who"); ok {
		t.Error("a forward passes by the rules:", got)
	}
	if got, ok := guests[0].get("http://10.0.0.1:22/"); ok {
		t.Error("the node is open to guests:", got)
	}
	debug(t)
	if name.Bridge(nets[0].id) == name.Bridge(nets[1].id) {
		t.Error("one bridge for two networks")
	}
}

// A guest gets its reserved address by DHCP, with gateway, DNS server and MTU, and nobody else does.
func TestLease(t *testing.T) {
	l := launch(t)
	n := l.network(t, natNetwork("10.0.0.0/24", "10.0.0.1"))
	g := n.attach(t, "02:00:00:00:00:0a", []string{"10.0.0.33"})
	g.req.Spec.Hostname = "web-1"
	g.update(t)
	g.plug(t)
	g.run(t, "ip", "addr", "flush", "dev", "eth0")
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ $1 = bound ] && echo LEASE $ip $subnet $router $dns $mtu $domain\ntrue\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out := g.run(t, "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "10", "-T", "1", "-O", "mtu", "-s", script)
	if want := "LEASE 10.0.0.33 255.255.255.0 10.0.0.1 10.0.0.1 1500 test.internal"; !strings.Contains(out, want) {
		t.Errorf("got %s, want %s", out, want)
	}
	if seen := g.update(t).GetObservedAddresses(); len(seen) == 0 || seen[0].GetIpAddress() != "10.0.0.33" {
		t.Error("seen with", seen)
	}
	// A second guest, and names, without a restart.
	pid := run(t, "cat", "/run/limiquantix/bridge/dnsmasq/"+name.Key(n.id)+"/process.json")
	h := n.attach(t, "02:00:00:00:00:0b", []string{"10.0.0.34"}).plug(t)
	n.spec.DnsRecords = []*driverv1.DnsRecord{{Name: "web-2", IpAddresses: []string{"10.0.0.34"}}}
	n.ensure(t)
	h.run(t, "ip", "addr", "flush", "dev", "eth0")
	if out := h.run(t, "busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "10", "-T", "1", "-s", script); !strings.Contains(out, "LEASE 10.0.0.34") {
		t.Error(out)
	}
	h.run(t, "ip", "addr", "add", "10.0.0.34/24", "dev", "eth0")
	if out, _ := h.command("busybox", "nslookup", "web-2.test.internal", "10.0.0.1").CombinedOutput(); !strings.Contains(string(out), "10.0.0.34") {
		t.Error(string(out))
	}
	l.kill(t)
	l.start(t)
	n.ensure(t)
	if again := run(t, "cat", "/run/limiquantix/bridge/dnsmasq/"+name.Key(n.id)+"/process.json"); again != pid {
		t.Errorf("dnsmasq was started again: %s, then %s", pid, again)
	}
}

// A routed network: guests are known outside by their own addresses, both ways and under their rules; the node itself stays shut to them.
func TestRouted(t *testing.T) {
	l := launch(t)
	t.Cleanup(func() { l.collect(t) })
	o := outside(t)
	run(t, "ip", "addr", "add", "2001:db8:f::1/64", "dev", "up0", "nodad")
	o.run(t, "ip", "addr", "add", "2001:db8:f::2/64", "dev", "eth0", "nodad")
	o.run(t, "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.1")
	o.run(t, "ip", "route", "add", "2001:db8:a::/64", "via", "2001:db8:f::1")
	o.serve(t, "outside")
	web := newID()
	l.apply(t, web, 1, ingress(6, 80))
	n := l.network(t, &driverv1.NetworkSpec{
		Type: driverv1.NetworkType_NETWORK_TYPE_BRIDGE, Egress: driverv1.EgressMode_EGRESS_MODE_ROUTED,
		Subnets: []*driverv1.SubnetSpec{{Cidr: "198.51.100.0/24", Gateway: "198.51.100.1", Dhcp: true}, {Cidr: "2001:db8:a::/64", Gateway: "2001:db8:a::1"}},
	})
	g := n.attach(t, "02:00:00:00:00:0a", []string{"198.51.100.10", "2001:db8:a::10"}, web).plug(t)
	g.serve(t, "guest")
	g.wantGet(t, "http://192.0.2.2/cgi-bin/who", "outside 198.51.100.10")
	g.wantGet(t, "http://[2001:db8:f::2]/cgi-bin/who", "outside 2001:db8:a::10")
	o.wantGet(t, "http://198.51.100.10/cgi-bin/who", "guest 192.0.2.2")
	o.wantGet(t, "http://[2001:db8:a::10]/cgi-bin/who", "guest 2001:db8:f::2")
	o.wantPing(t, "198.51.100.10", false) // no rule lets it
	if got, ok := g.get("http://192.0.2.1:22/"); ok {
		t.Error("the node is open to guests:", got)
	}
	l.apply(t, web, 2, ingress(6, 81))
	for _, url := range []string{"http://198.51.100.10/cgi-bin/who", "http://[2001:db8:a::10]/cgi-bin/who"} {
		if got, ok := o.get(url); ok {
			t.Errorf("%s passes by the rules: %s", url, got)
		}
	}
}
