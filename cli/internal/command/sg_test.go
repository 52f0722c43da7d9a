package command

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

func TestSecurityGroups(t *testing.T) {
	b := newBench(t)
	b.lan()
	b.ok("sg", "create", "db", "--description", "databases", "--egress", "deny", "--rule", "in=tcp:5432,from=sg/web", "--rule", "in=tcp:8000-8010,from=2001:db8::/64,description=v6", "--rule", "in=icmp:8:0",
		"--rule", "out=udp:53,to=192.0.2.53", "--rule", "in=47", "--rule", "in=any,from=sg/db", "--rule", "in=tcp:22,ip=4", "--label", "a=b")
	golden(t, "sg-create.json", b.ok("sg", "show", "db", "-o", "json"))
	golden(t, "sg-show.txt", b.ok("security-group", "show", "db"))
	golden(t, "sg-show-web.txt", b.ok("sg", "show", "web"))
	golden(t, "sg-list.txt", b.ok("sg", "list"))
	if got := b.ok("sg", "list", "--port", "web/nic0", "-o", "name"); got != "web\n" {
		t.Errorf("%q", got)
	}
	b.ok("sg", "create", "shut")
	if got := b.ok("sg", "show", "shut"); !strings.HasSuffix(got, "\nNo rules: nothing comes in.\n") {
		t.Error(got)
	}
	b.ok("sg", "set", "db", "--egress", "allow", "--description", "d", "--label", "a-", "--label", "c=d")
	if g := b.server.Groups[len(b.server.Groups)-2]; g.GetSpec().GetEgressDefault() != networkv1.EgressDefault_EGRESS_DEFAULT_ALLOW || g.GetSpec().GetDescription() != "d" || g.GetMeta().GetLabels()["c"] != "d" || len(g.GetMeta().GetLabels()) != 1 || len(g.GetSpec().GetRules()) != 7 {
		t.Errorf("%v", g)
	}
	b.fails(failure.ExitState, []string{"sg", "delete", "web"}, "in use")
	b.fails(failure.ExitNotFound, []string{"sg", "create", "x", "--rule", "in=tcp:80,from=sg/absent"}, `no security group "absent"`)
	if got := b.ok("sg", "delete", "shut", "db"); got != "shut deleted (0s)\ndb deleted (0s)\n" {
		t.Errorf("%q", got)
	}
}

// Rules come and go one by one; a dry run says which ports it is about, and changes nothing.
func TestRules(t *testing.T) {
	b := newBench(t)
	b.lan()
	const dry = "web: valid; it would change 1 port; nothing was changed\n  web/nic0\n"
	if got := b.ok("sg", "rule", "add", "web", "--in", "udp:53", "--dry-run"); got != dry {
		t.Errorf("%q", got)
	}
	rules := func() int { return len(b.server.Groups[0].GetSpec().GetRules()) }
	if rules() != 2 {
		t.Fatalf("%v", b.server.Groups[0])
	}
	added := b.ok("sg", "rule", "add", "web", "--in", "udp:53", "--from", "10.0.0.0/8", "--description", "dns")
	id := b.server.Groups[0].GetSpec().GetRules()[2].GetId()
	if added != "web has rule "+id+" (0s)\n  on 1 port\n" {
		t.Errorf("%q", added)
	}
	if got := b.ok("sg", "rule", "add", "web", "--in", "udp:53", "--from", "10.0.0.0/8"); rules() != 3 || !strings.HasPrefix(got, "web has rule "+id) {
		t.Errorf("twice: %q", got)
	}
	golden(t, "sg-rule-list.txt", b.ok("sg", "rule", "list", "web"))
	if got := b.ok("sg", "rule", "remove", "web", "--in", "udp:53", "--from", "10.0.0.0/8", "--dry-run"); got != dry || rules() != 3 {
		t.Errorf("%q", got)
	}
	if got := b.ok("sg", "rule", "remove", "web", "--in", "udp:53", "--from", "10.0.0.0/8"); got != "web is without rule "+id+" (0s)\n  on 1 port\n" || rules() != 2 {
		t.Errorf("%q", got)
	}
	if got := b.ok("sg", "rule", "rm", "web", "--in", "tcp:5432", "--from", "sg/web", "--no-wait"); !strings.HasPrefix(got, "op-") || rules() != 1 {
		t.Errorf("%q", got)
	}
	b.fails(failure.ExitNotFound, []string{"sg", "rule", "remove", "web", "--in", "udp:53"}, "has no rule with --in udp:53", "lqctl sg rule list web")
	b.fails(failure.ExitNotFound, []string{"sg", "rule", "remove", "web", "0b8f"}, "has no rule 0b8f")
	b.ok("sg", "rule", "add", "web", "--in", "tcp:1")
	b.ok("sg", "rule", "add", "web", "--in", "tcp:2")
	b.fails(failure.ExitUsage, []string{"sg", "rule", "remove", "web", "rule"}, `begin with "rule"`)
	last := b.server.Groups[0].GetSpec().GetRules()[2].GetId()
	b.ok("sg", "rule", "remove", "web", last)
	if rules() != 2 {
		t.Errorf("%v", b.server.Groups[0])
	}
	var resp networkv1.AddRuleResponse
	if err := protojson.Unmarshal([]byte(b.ok("sg", "rule", "add", "web", "--in", "udp:1", "--dry-run", "-o", "json")), &resp); err != nil || resp.GetAffectedPortCount() != 1 {
		t.Errorf("%v %v", err, &resp)
	}
	if got := b.ok("sg", "set", "web", "--egress", "deny", "--dry-run"); got != dry || b.server.Groups[0].GetSpec().GetEgressDefault() != 0 {
		t.Errorf("%q", got)
	}
	if got := b.ok("sg", "set", "web", "--description", "", "--dry-run"); got != "web: valid; no port would change; nothing was changed\n" {
		t.Errorf("%q", got)
	}
}

func TestGroupRefuses(t *testing.T) {
	b := newBench(t)
	for args, want := range map[string]string{
		"create":                                          "NAME is missing",
		"create g --rule tcp:80":                          `--rule "tcp:80": unknown key "tcp:80"`,
		"create g --rule in=":                             "in is empty",
		"create g --rule from=10.0.0.0/8":                 "neither in nor out is given",
		"create g --rule in=tcp:80,out=tcp:80":            "exclude each other",
		"create g --rule in=tcp:80,in=tcp:81":             "gives in twice",
		"create g --rule in=tcp:80,to=10.0.0.0/8":         "to is for out",
		"create g --rule in=tcp:0":                        `--rule "in=tcp:0": in: "0" is no port`,
		"create g --rule in=tcp:80,form=10.0.0.0/8":       `did you mean "from"?`,
		"create g --egress drop":                          "use one of allow, deny",
		"rule add g":                                      "neither --in nor --out is given",
		"rule add g --in tcp:80 --out tcp:80":             "exclude each other",
		"rule add g --in tcp:80 --to 10.0.0.0/8":          "--to is for --out",
		"rule add g --out tcp:80 --from 10.0.0.0/8":       "--from is for --in",
		"rule add g --in tcp:65535-1":                     "write 1-65535",
		"rule add g --in tcp:0":                           `--in: "0" is no port (1-65535)`,
		"rule add g --in 256":                             "numbers are 0-255",
		"rule add g --in icmp --from ::/0":                "write icmpv6",
		"rule add g --in tcp:80 --from 10.0.0.1/8":        "--from: \"10.0.0.1/8\" has bits beyond its /8; write 10.0.0.0/8",
		"rule add g --in tcp:80 --from web":               "a group is written sg/web",
		"rule add g --in tcp:80 --ip 5":                   `unknown value "5" for --ip`,
		"rule add g --in tcp:80 --from 10.0.0.0/8 --ip 6": "is not IPv6",
		"rule remove g":                                   "RULE is missing",
		"rule remove g x --in tcp:80":                     "not by both",
		"set g":                                           "nothing to change",
		"set g --egress no":                               "use one of allow, deny",
		"rule ad g --in tcp:80":                           `did you mean "add"?`,
	} {
		b.fails(failure.ExitUsage, append([]string{"sg"}, strings.Fields(args)...), want)
	}
	b.server.Lock()
	defer b.server.Unlock()
	if len(b.server.Calls) > 0 {
		t.Errorf("calls were made: %v", b.server.Calls)
	}
}
