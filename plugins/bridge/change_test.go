package bridge_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/monitor"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// foreignRules are somebody else's, in the chains that ours hang in and beside them.
const foreignRules = `
iptables-nft -t nat -N DOCKER; iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER; iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER; iptables-nft -A DOCKER-USER -j RETURN; iptables-nft -P FORWARD DROP
iptables-nft -t mangle -A PREROUTING -p tcp --dport 9 -j MARK --set-mark 7
nft add table inet firewalld; nft 'add chain inet firewalld filter_INPUT { type filter hook input priority 10; }'; nft add rule inet firewalld filter_INPUT tcp dport 9 drop
nft add table bridge theirs; nft 'add chain bridge theirs f { type filter hook forward priority 0; }'
ipset create theirs hash:ip; ipset add theirs 203.0.113.9
ip link add br-theirs type bridge`

// foreign is all of the host's filter but what is ours.
func foreign(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	table := ""
	for line := range strings.Lines(run(t, "sh", "-c", "iptables-nft-save; ip6tables-nft-save; nft list table inet firewalld; nft list table bridge theirs; ipset save theirs; ip -o link show br-theirs")) {
		if strings.HasPrefix(line, "*") {
			table = line
		}
		if line == "COMMIT\n" {
			table = ""
		}
		if strings.Contains(line, "LQ") || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "*") || line == "COMMIT\n" || strings.HasPrefix(line, ":") && strings.Contains(line, " ACCEPT ") {
			continue
		}
		b.WriteString(table + line)
	}
	return b.String()
}

// Rules of others stay as they are, byte for byte, and are reported; with Docker's policy of DROP what is allowed passes all the same. All deleted, nothing is left.
func TestForeignRules(t *testing.T) {
	run(t, "sh", "-c", foreignRules)
	t.Cleanup(func() { run(t, "sh", "-c", "nft flush ruleset; ipset destroy theirs; ip link del br-theirs") })
	before := foreign(t)
	l := launch(t)
	t.Run("used", func(t *testing.T) {
		t.Cleanup(func() { l.collect(t) })
		all := newID()
		l.apply(t, all, 1, ingress(1, 0))
		n := l.network(t, natNetwork("10.0.0.0/24", "10.0.0.1"))
		a := n.attach(t, "02:00:00:00:00:0a", []string{"10.0.0.10"}, all).plug(t)
		n.attach(t, "02:00:00:00:00:0b", []string{"10.0.0.11"}, all).plug(t)
		o := outside(t)
		a.wantPing(t, "10.0.0.11", true)
		a.wantPing(t, "192.0.2.2", true)
		_ = o
		if now := foreign(t); now != before {
			t.Errorf("before:\n%s\nnow:\n%s", before, now)
		}
	})
	if now := foreign(t); now != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, now)
	}
	if left := leftovers(t); left != "" {
		t.Error("left behind:", left)
	}
	h := health(t, l)
	if h["foreign.docker"] == "" || h["foreign.firewalld"] == "" || h["foreign.forward_policy"] != "DROP" {
		t.Error("not reported:", h)
	}
}

func health(t testing.TB, l *launched) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := driverv1.NewPluginServiceClient(l.Conn()).WatchHealth(ctx, &driverv1.WatchHealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return r.GetAttributes()
}

// Killed at any moment of a change, the plugin leaves the old set or the new one; until it is back what was in force stays so, and a guest's flow goes on.
func TestKilledMidway(t *testing.T) {
	l := launch(t)
	t.Cleanup(func() { l.collect(t) })
	set := newID()
	rules := func(base uint32) (all []*driverv1.Rule) {
		for i := range uint32(200) {
			all = append(all, ingress(6, base+i))
		}
		return append(all, ingress(1, 0))
	}
	l.apply(t, set, 1, rules(1000)...)
	n := l.network(t, &driverv1.NetworkSpec{Type: driverv1.NetworkType_NETWORK_TYPE_BRIDGE, Subnets: []*driverv1.SubnetSpec{{Cidr: "10.0.0.0/24"}}})
	a := n.attach(t, "02:00:00:00:00:0a", []string{"10.0.0.10"}, set).plug(t)
	b := n.attach(t, "02:00:00:00:00:0b", []string{"10.0.0.11"}).plug(t)
	chain := "LQi-" + name.Key(set)
	for i, after := range []time.Duration{0, 3, 10, 30, 60, 100} {
		base := uint32(2000 + 1000*(i%2))
		req := &driverv1.ApplyRuleSetRequest{RuleSet: &driverv1.RuleSet{RuleSetId: set, Mark: mark(set), Generation: int64(i + 2), Rules: rules(base)}}
		for j, r := range req.GetRuleSet().GetRules() {
			r.RuleId = fmt.Sprintf("r%d", j)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = l.ApplyRuleSet(context.WithoutCancel(t.Context()), proto.CloneOf(req))
		}()
		<-time.After(after * time.Millisecond)
		l.kill(t)
		<-done
		b.wantPing(t, "10.0.0.10", true)
		kinds := map[string]int{}
		for line := range strings.Lines(run(t, "iptables-nft-save", "-t", "mangle")) {
			if _, port, ok := strings.Cut(line, "--dport "); ok && strings.HasPrefix(line, "-A "+chain) {
				kinds[port[:1]]++
			}
		}
		if len(kinds) != 1 {
			t.Errorf("killed after %d ms: a mix of rules: %v", after, kinds)
		}
		for k, n := range kinds {
			if n != 200 {
				t.Errorf("killed after %d ms: %d rules of %s", after, n, k)
			}
		}
		l.start(t)
		if _, err := l.ApplyRuleSet(t.Context(), req); err != nil {
			t.Error(err)
		}
		r, err := l.CheckNetwork(t.Context(), &driverv1.CheckNetworkRequest{})
		if err != nil || len(r.GetDrifts()) > 0 {
			t.Error(r, err)
		}
	}
	a.wantPing(t, "10.0.0.11", false)
}

// changes counts the transactions in the packet filter while f runs. One before and one after it, of the test's own, show that all are seen.
func changes(t testing.TB, f func()) int {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen, ended := make(chan monitor.Change, 1024), make(chan error, 1)
	everything := func(byte, string, string, bool) bool { return true }
	go func() { ended <- monitor.Filter(ctx, everything, func(c monitor.Change) { seen <- c }) }()
	const before, after = "lqtest-before", "lqtest-after"
	nudge := func(own string) { run(t, "nft", "add table inet "+own+"; delete table inet "+own) }
	until := func(own string, again <-chan time.Time) (others int) {
		t.Helper()
		for {
			select {
			case c := <-seen:
				switch {
				case c.Lost:
					t.Fatal("changes were missed")
				case c.Touches(own):
					return others
				case !c.Touches(before):
					others++
				}
			case <-again:
				nudge(own)
			case err := <-ended:
				t.Fatal("changes are not told:", err)
			}
		}
	}
	tick := time.NewTicker(100 * time.Millisecond) // whoever listens does so at some time
	defer tick.Stop()
	until(before, tick.C)
	f()
	nudge(after)
	return until(after, nil)
}

// Sets of 1,000 and 10,000 rules, one rule more, one member more. The bounds are ten times those of a quiet machine.
func TestSpeed(t *testing.T) {
	l := launch(t)
	t.Cleanup(func() { l.collect(t) })
	timed := func(what string, bound time.Duration, f func()) {
		t.Helper()
		began := time.Now()
		f()
		took := time.Since(began)
		t.Log(what, took.Round(time.Millisecond))
		if took > bound {
			t.Errorf("%s took %s, bound %s", what, took, bound)
		}
	}
	many := func(n int) (rules []*driverv1.Rule) {
		for i := range n {
			rules = append(rules, &driverv1.Rule{
				Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: proto.Uint32(6), Ports: &driverv1.PortRange{First: uint32(1 + 2*(i%30000)), Last: uint32(1 + 2*(i%30000))},
				Remote: &driverv1.Rule_Cidr{Cidr: fmt.Sprintf("10.%d.%d.0/24", i/250, i%250)},
			})
		}
		return rules
	}
	n := l.network(t, natNetwork("10.0.0.0/24", "10.0.0.1"))
	set, big, members := newID(), newID(), newID()
	l.apply(t, set, 1)
	n.attach(t, "02:00:00:00:00:0a", []string{"10.0.0.10"}, set)
	timed("1,000 rules", 3*time.Second, func() { l.apply(t, set, 2, many(1000)...) })
	timed("1,001st rule", 3*time.Second, func() { l.apply(t, set, 3, many(1001)...) })
	timed("10,000 rules", 10*time.Second, func() { l.apply(t, big, 1, many(10000)...) })
	if _, err := l.UpdateAddressSet(t.Context(), &driverv1.UpdateAddressSetRequest{
		AddressSetId: members, Mark: mark(members), Generation: 1, Change: &driverv1.UpdateAddressSetRequest_Replace{Replace: &driverv1.AddressSetMembers{Members: []string{"10.9.0.1", "fd00::1"}}},
	}); err != nil {
		t.Fatal(err)
	}
	events := changes(t, func() {
		timed("one member", 500*time.Millisecond, func() {
			if _, err := l.UpdateAddressSet(t.Context(), &driverv1.UpdateAddressSetRequest{
				AddressSetId: members, Mark: mark(members), Generation: 2,
				Change: &driverv1.UpdateAddressSetRequest_Delta{Delta: &driverv1.AddressSetDelta{BaseGeneration: 1, Add: []string{"10.9.0.2"}}},
			}); err != nil {
				t.Fatal(err)
			}
		})
	})
	if events != 0 {
		t.Errorf("one member more changed %d things in the packet filter", events)
	}
	if out := run(t, "ipset", "save", name.Set4(members)); !strings.Contains(out, "10.9.0.2") {
		t.Error(out)
	}
	if n := changes(t, func() { l.apply(t, set, 4, many(1002)...) }); n != 1 {
		t.Errorf("one rule more took %d changes of the packet filter", n)
	}
}

// Many interfaces on one network: 20 here, LIMIQUANTIX_TEST_COUNT in a soak (500 within 60 s on a quiet machine; what counts is two iptables-restore and one nft each). The bound is twenty times that.
func TestManyPorts(t *testing.T) {
	count := 20
	if n, err := strconv.Atoi(os.Getenv("LIMIQUANTIX_TEST_COUNT")); err == nil && n > 0 {
		count = n
	}
	l := launch(t)
	t.Cleanup(func() { l.collect(t) })
	set := newID()
	l.apply(t, set, 1, ingress(1, 0))
	n := l.network(t, natNetwork("10.0.0.0/16", "10.0.0.1"))
	began := time.Now()
	for i := range count {
		n.attach(t, fmt.Sprintf("02:00:00:00:%02x:%02x", i/250, i%250), []string{fmt.Sprintf("10.0.%d.%d", 1+i/250, i%250)}, set)
	}
	took := time.Since(began)
	t.Logf("%d ports in %s, %s each", count, took.Round(time.Millisecond), (took / time.Duration(count)).Round(time.Millisecond))
	if took > time.Duration(count)*2400*time.Millisecond {
		t.Errorf("%d ports took %s", count, took)
	}
}
