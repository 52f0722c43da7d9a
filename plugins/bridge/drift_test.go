package bridge_test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Whatever is flushed, it never opens, and is put right; nft flush ruleset, which takes away both layers at once, within the bound of the docs (ten times that here).
func TestFlushed(t *testing.T) {
	const bound = 2500 * time.Millisecond
	run(t, "sh", "-c", foreignRules)
	t.Cleanup(func() { run(t, "sh", "-c", "nft flush ruleset; ipset destroy theirs; ip link del br-theirs") })
	l := launch(t)
	t.Cleanup(func() { l.collect(t) })
	set, sources := newID(), newID()
	rule := ingress(6, 80)
	rule.RuleId, rule.Remote = "r", &driverv1.Rule_AddressSetId{AddressSetId: sources}
	if _, err := l.ApplyRuleSet(t.Context(), &driverv1.ApplyRuleSetRequest{
		RuleSet:     &driverv1.RuleSet{RuleSetId: set, Mark: mark(set), Generation: 1, Rules: []*driverv1.Rule{rule}},
		AddressSets: []*driverv1.AddressSet{{AddressSetId: sources, Mark: mark(sources), Generation: 1, Members: []string{"10.0.0.0/24"}}},
	}); err != nil {
		t.Fatal(err)
	}
	n := l.network(t, natNetwork("10.0.0.0/24", "10.0.0.1"))
	a := n.attach(t, "02:00:00:00:00:0a", []string{"10.0.0.10"}, set).plug(t)
	b := n.attach(t, "02:00:00:00:00:0b", []string{"10.0.0.11"}).plug(t)
	a.start(t, "busybox", "httpd", "-f", "-p", "80")
	clean := func() bool {
		r, err := l.CheckNetwork(t.Context(), &driverv1.CheckNetworkRequest{})
		return err == nil && len(r.GetDrifts()) == 0
	}
	if !clean() {
		r, _ := l.CheckNetwork(t.Context(), &driverv1.CheckNetworkRequest{})
		t.Fatal(r)
	}
	for _, flush := range []string{
		"iptables-nft -F", "iptables-nft -t mangle -F", "iptables-nft -t raw -F", "iptables-nft -t mangle -F LQ-PRE", "iptables-nft -t mangle -D FORWARD -j LQ-FWD",
		"ip6tables-nft -t mangle -F", "nft flush table bridge limiquantix", "nft delete table bridge limiquantix", "nft flush ruleset",
	} {
		if out, err := exec.Command("sh", "-c", flush).CombinedOutput(); err != nil {
			t.Fatal(flush, err, string(out))
		}
		began, others := time.Now(), foreign(t) // what the flush has left of other people's
		if !strings.HasPrefix(flush, "nft") && b.pings("10.0.0.10") {
			t.Error(flush, "opened")
		}
		// repaired without anybody asking
		for !clean() {
			if time.Since(began) > bound {
				t.Fatal(flush, "is not repaired")
			}
		}
		t.Log(flush, "repaired after", time.Since(began))
		if now := foreign(t); now != others {
			t.Errorf("%s: others' rules before the repair:\n%s\nafter:\n%s", flush, others, now)
		}
		b.wantPing(t, "10.0.0.10", false)
		if out, err := b.command("curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "http://10.0.0.10/").CombinedOutput(); string(out) != "404" {
			t.Error(flush, "what is allowed does not pass any more:", string(out), err)
		}
	}
}

// Devices, addresses, rules of routing, members of ipsets and dnsmasq that somebody takes away come back, a guest is connected again, and each time an event says so.
func TestTakenAway(t *testing.T) {
	l := launch(t)
	t.Cleanup(func() { l.collect(t) })
	set, sources := newID(), newID()
	rule := ingress(1, 0)
	rule.RuleId, rule.Remote = "r", &driverv1.Rule_AddressSetId{AddressSetId: sources}
	if _, err := l.ApplyRuleSet(t.Context(), &driverv1.ApplyRuleSetRequest{
		RuleSet:     &driverv1.RuleSet{RuleSetId: set, Mark: mark(set), Generation: 1, Rules: []*driverv1.Rule{rule}},
		AddressSets: []*driverv1.AddressSet{{AddressSetId: sources, Mark: mark(sources), Generation: 1, Members: []string{"10.0.0.0/24"}}},
	}); err != nil {
		t.Fatal(err)
	}
	n := l.network(t, natNetwork("10.0.0.0/24", "10.0.0.1"))
	a := n.attach(t, "02:00:00:00:00:0a", []string{"10.0.0.10"}, set).plug(t)
	b := n.attach(t, "02:00:00:00:00:0b", []string{"10.0.0.11"}, set).plug(t)
	b.wantPing(t, "10.0.0.10", true)
	events, err := driverv1.NewPluginServiceClient(l.Conn()).WatchEvents(t.Context(), &driverv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// Nothing was said so far of what the driver did itself: the first event is of the first damage.
	bridge := name.Bridge(n.id)
	dns := "/run/limiquantix/bridge/dnsmasq/" + name.Key(n.id) + "/process.json"
	for _, damage := range []string{
		"ip addr flush dev " + bridge,
		"ip link set " + bridge + " alias nobody",
		"ip link set " + bridge + " down",
		"ip rule del pref 5100 fwmark 0x10000/0xfff0000",
		"ipset flush " + name.Set4(sources),
		"kill $(sed 's/.*pid\":\\([0-9]*\\).*/\\1/' " + dns + ")",
		"ip link del " + bridge,
	} {
		if out, err := exec.Command("sh", "-c", damage).CombinedOutput(); err != nil {
			t.Fatal(damage, err, string(out))
		}
		e, err := events.Recv()
		if err != nil {
			t.Fatal(damage, err)
		}
		t.Log(damage, "->", e.GetNetworkDrift().GetDetail())
		if id := e.GetNetworkDrift().GetObjectId(); id != n.id && id != sources {
			t.Error(damage, "is said to be of", id)
		}
		b.wantPing(t, "10.0.0.10", true)
		a.wantPing(t, "10.0.0.1", true)
	}
	r, err := l.CheckNetwork(t.Context(), &driverv1.CheckNetworkRequest{})
	if err != nil || len(r.GetDrifts()) > 0 {
		t.Error(r, err)
	}
}
