package network

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/limiquantix/limiquantix/test/stack"
)

// outside serves HTTP on the fabric and says who asked.
func outside(t *testing.T) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(stack.FabricAddress, "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = w.Write([]byte("you are " + host))
	})}}
	s.Start()
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// Two guests on the default network of one node get their addresses and names by DHCP and DNS, reach each other and the world by NAT, are reached by a port forward,
// and lose and gain what their groups allow while they run. When all is deleted nothing of it is left on the node.
func TestBridge(t *testing.T) {
	f := start(t, []string{"bridge"}, "n1")
	h := f.Hosts[0]
	before := footprint(t, h)
	port := outside(t)

	lq(t, f, "sg", "create", "web", "--rule", "in=icmp", "--rule", "in=tcp:80")
	a := launch(t, f, "a", "n1", "network=default,sg=web")
	b := launch(t, f, "b", "n1", "network=default")
	a.ready()
	b.ready()

	if log := lq(t, f, "vm", "logs", "a"); !strings.Contains(log, "DHCP-BOUND "+a.address(0)+" ") {
		t.Errorf("a did not lease %s:\n%s", a.address(0), log)
	}
	b.soon(ping(a.address(0)), true)
	b.soon(fetch(a.address(0), "80"), true)
	if out := b.must("nslookup a.default.internal"); !strings.Contains(out, a.address(0)) {
		t.Errorf("the name of a: %s", out)
	}
	if _, ok := a.do(ping(b.address(0))); ok {
		t.Error("b answers a ping that its group does not allow")
	}

	if got := a.must(fetch(stack.FabricAddress, port)); got != "you are "+h.Address {
		t.Errorf("the world answers %q, want that it saw %s", got, h.Address)
	}

	lq(t, f, "network", "set", "default", "--forward", "tcp:8080:"+a.address(0)+":80")
	reached := func() bool {
		r, err := http.Get("http://" + h.Address + ":8080") //nolint:gosec,noctx // a guest of ours
		if err != nil {
			return false
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK
	}
	until(t, "the forwarded port leads to a", reached)

	lq(t, f, "sg", "rule", "remove", "web", "--in", "tcp:80")
	b.soon(fetch(a.address(0), "80"), false)
	if reached() {
		t.Error("the forwarded port leads to a although no rule allows it any more")
	}
	b.must(ping(a.address(0)))

	atRest(t, h)
	lq(t, f, "vm", "delete", "a", "b")
	lq(t, f, "network", "delete", "default")
	lq(t, f, "sg", "delete", "web")
	nothingLeft(t, h, before)
}

// atRest wants that a node's agent has nothing to do.
func atRest(t *testing.T, h *stack.Host) {
	t.Helper()
	err := stack.AtRest(t.Context(), func(ctx context.Context) ([]byte, error) {
		out, err := h.Node.Command(ctx, "bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/9177; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3`).Output()
		return out, err
	})
	if err != nil {
		t.Error(err)
	}
}

// nothingLeft waits until a host has what it had before, and nothing else.
func nothingLeft(t *testing.T, h *stack.Host, before string) {
	t.Helper()
	err := stack.Until(t.Context(), settle, h.Name+" is as it was before", func() (bool, string) {
		after := footprint(t, h)
		return after == before, cmp.Diff(strings.Split(before, "\n"), strings.Split(after, "\n"))
	})
	if err != nil {
		t.Error(err)
	}
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	if err := stack.Until(t.Context(), settle, what, func() (bool, string) { return cond(), "" }); err != nil {
		t.Fatal(err)
	}
}

// footprint is all that network drivers make on a host: links, addresses, routes, rules, sets, namespaces and DHCP servers. The tables and chains that iptables makes for
// itself do not count.
func footprint(t *testing.T, h *stack.Host) string {
	t.Helper()
	out, err := h.Sh(t.Context(), `ip -br link | cut -d' ' -f1; ip -br addr | sort; ip rule; ip -6 rule; ip route show table all; ip netns
iptables-save | grep -E '^-A|^:.* - '; ip6tables-save | grep -E '^-A|^:.* - '; nft list tables | grep -vE '^table ip6? (raw|mangle|nat|filter)$'; ipset list -name; pgrep -a dnsmasq
ovs-vsctl --timeout=5 --bare --columns=name list bridge 2>/dev/null || true`)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
