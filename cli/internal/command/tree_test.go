package command

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Every command says what it does and shows how.
func TestEveryCommandHasHelp(t *testing.T) {
	t.Parallel()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s: no short help", c.CommandPath())
		}
		if c.Runnable() && !strings.Contains(c.Example, "lqctl") {
			t.Errorf("%s: no example", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&App{Getenv: func(string) string { return "" }}).Root())
}

func TestEveryVerbIsThere(t *testing.T) {
	t.Parallel()
	root := (&App{Getenv: func(string) string { return "" }}).Root()
	for parent, verbs := range map[string]string{
		"vm":           "create list show set start stop reboot pause resume delete console logs events wait explain nic",
		"vm nic":       "add remove list",
		"network":      "create list show set delete topology",
		"port":         "create list show set delete stats why",
		"sg":           "create list show set delete rule",
		"sg rule":      "add remove list",
		"image":        "import list show delete",
		"pool":         "create list show set delete",
		"volume":       "create list show resize attach detach delete",
		"snapshot":     "create list show restore delete",
		"node":         "list show cordon uncordon delete token orphans",
		"node orphans": "adopt remove",
		"node token":   "create list delete",
		"op":           "list show cancel wait",
		"context":      "list use set delete show",
		"":             "why apply delete version completion",
	} {
		for _, verb := range strings.Fields(verbs) {
			path := append(strings.Fields(parent), verb)
			if c, _, err := root.Find(path); err != nil || c.Name() != verb {
				t.Errorf("lqctl %s is missing", strings.Join(path, " "))
			}
		}
	}
}

func TestCompletion(t *testing.T) {
	b := newBench(t)
	b.ok("vm", "create", "web", "--no-wait")
	b.ok("vm", "create", "db", "--no-wait")
	b.server.Nodes = []*computev1.Node{{Meta: &metav1.ObjectMeta{Name: "host1"}}}
	for _, name := range []string{"lan", "wide", "office"} {
		b.ok("network", "create", name)
	}
	b.ok("sg", "create", "web")
	b.ok("port", "create", "vip", "--network", "lan", "--sg", "web")
	b.ok("vm", "create", "n", "--nic", "network=lan,sg=web", "--no-wait")
	for args, want := range map[string]string{
		"vm show ":                  "web db n",
		"vm show web ":              "",
		"vm delete web ":            "web db n",
		"node cordon ":              "host1",
		"vm create x --node ":       "host1",
		"network show ":             "lan wide office",
		"network delete lan ":       "lan wide office",
		"port create x --network ":  "lan wide office",
		"port why ":                 "vip n/nic0",
		"port list --sg ":           "web",
		"port create x --link ":     "up down",
		"sg rule add ":              "web",
		"sg rule add web --from ":   "sg/web",
		"sg set web --egress ":      "allow deny",
		"network create x --type ":  "bridge vlan vxlan ovs",
		"network list -o ":          "table wide json yaml name",
		"vm list -o ":               "table wide json yaml name",
		"vm create x --run-policy ": "always on-failure manual",
		"vm wait web --for g":       "guest-agent",
	} {
		got := b.ok(append([]string{"__complete"}, strings.Split(args, " ")...)...)
		var words []string
		for _, line := range strings.Split(got, "\n") {
			if line != "" && !strings.HasPrefix(line, ":") {
				words = append(words, line)
			}
		}
		if want == "guest-agent" && slices.Contains(words, want) { // the shell narrows fixed lists itself
			continue
		}
		if strings.Join(words, " ") != want {
			t.Errorf("%q: %q, want %q", args, words, want)
		}
	}
	if got := b.ok("completion", "bash"); !strings.Contains(got, "__complete") {
		t.Error("no bash completion")
	}
	b.env["LQCTL_SERVER"] = "http://127.0.0.1:1"
	if got := b.ok("__complete", "vm", "show", ""); strings.Contains(got, "web") {
		t.Error(got)
	}
}
