package command

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	"github.com/limiquantix/limiquantix/cli/internal/rule"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

func (s *session) ruleCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "rule",
		Short:   "Add, remove and list rules of a security group",
		Long:    rule.Help,
		Example: "  lqctl sg rule add web --in tcp:80\n  lqctl sg rule list web\n  lqctl sg rule remove web --in tcp:80",
	}, s.ruleAdd(), s.ruleRemove(), s.ruleList())
}

// ruleFlags describe a rule.
type ruleFlags struct{ in, out, from, to, ip, description string }

func (f *ruleFlags) register(s *session, cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.in, "in", "", "what may come in: tcp:80, udp:8000-8010, icmp:8, any, ...")
	fl.StringVar(&f.out, "out", "", "what may go out")
	fl.StringVar(&f.from, "from", "", "with --in, where it comes from: CIDR, address or sg/NAME; default: anybody")
	fl.StringVar(&f.to, "to", "", "with --out, where it goes: CIDR, address or sg/NAME; default: anybody")
	fl.StringVar(&f.ip, "ip", "", "only this IP version: 4 or 6")
	complete(cmd, "ip", fixed("4", "6"))
	for _, flag := range []string{"from", "to"} {
		complete(cmd, flag, func(prefix string) []string {
			var out []string
			for _, name := range s.groupNames(prefix) {
				out = append(out, "sg/"+name)
			}
			return out
		})
	}
}

func (f *ruleFlags) given() bool { return f.in != "" || f.out != "" }

// rule makes the rule; dash stands before the names of its parts in messages: "--" for flags.
func (f *ruleFlags) rule(dash string) (*networkv1.SecurityRule, error) {
	r := &networkv1.SecurityRule{Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS, Description: f.description}
	what, remote, flag, side := f.in, f.from, dash+"in", dash+"from"
	if f.out != "" {
		r.Direction = networkv1.RuleDirection_RULE_DIRECTION_EGRESS
		what, remote, flag, side = f.out, f.to, dash+"out", dash+"to"
	}
	example := "write for example in=tcp:80,from=10.0.0.0/8"
	if dash != "" {
		example = "write for example --in tcp:80 --from 10.0.0.0/8"
	}
	switch {
	case f.in != "" && f.out != "":
		return nil, failure.Usage("%sin and %sout exclude each other", dash, dash).WithFix("make two rules")
	case f.in == "" && f.out == "":
		return nil, failure.Usage("neither %sin nor %sout is given", dash, dash).WithFix("%s", example)
	case f.in != "" && f.to != "":
		return nil, failure.Usage("%sto is for %sout", dash, dash).WithFix("name the other side of what comes in with %sfrom", dash)
	case f.out != "" && f.from != "":
		return nil, failure.Usage("%sfrom is for %sin", dash, dash).WithFix("name the other side of what goes out with %sto", dash)
	}
	if err := rule.ParseTraffic(r, what); err != nil {
		return nil, failure.Usage("%s: %w", flag, err).WithFix("%s", example)
	}
	if err := rule.ParseRemote(r, remote); err != nil {
		return nil, failure.Usage("%s: %w", side, err).WithFix("%s", example)
	}
	switch f.ip {
	case "":
	case "4":
		r.IpVersion = networkv1.IpVersion_IP_VERSION_4
	case "6":
		r.IpVersion = networkv1.IpVersion_IP_VERSION_6
	default:
		return nil, unknownValue(dash+"ip", f.ip, []string{"4", "6"})
	}
	if err := rule.Check(r); err != nil {
		return nil, failure.Usage("%s: %w", flag, err).WithFix("let protocol, addresses and IP version fit each other")
	}
	return r, nil
}

// parseRule reads "in=tcp:80,from=10.0.0.0/8".
func parseRule(text string) (*networkv1.SecurityRule, error) {
	parts, err := settings(text, "in", "out", "from", "to", "ip", "description")
	if err != nil {
		return nil, failure.Usage("--rule %q: %w", text, err).WithFix("write for example --rule in=tcp:80,from=10.0.0.0/8")
	}
	f := &ruleFlags{}
	to := map[string]*string{"in": &f.in, "out": &f.out, "from": &f.from, "to": &f.to, "ip": &f.ip, "description": &f.description}
	for _, p := range parts {
		if p.value == "" {
			return nil, failure.Usage("--rule %q: %s is empty", text, p.key).WithFix("write for example --rule in=tcp:80,from=10.0.0.0/8")
		}
		if *to[p.key] != "" {
			return nil, failure.Usage("--rule %q gives %s twice", text, p.key).WithFix("give --rule once for each rule")
		}
		*to[p.key] = p.value
	}
	r, err := f.rule("")
	if err != nil {
		e := failure.From(err)
		e.Message = fmt.Sprintf("--rule %q: %s", text, e.Message)
		return nil, e
	}
	return r, nil
}

func (s *session) ruleAdd() *cobra.Command {
	var f ruleFlags
	var noWait, dryRun bool
	cmd := &cobra.Command{
		Use:   "add GROUP --in|--out WHAT",
		Short: "Allow something, at once on every port that has the group",
		Long:  rule.Help,
		Example: "  lqctl sg rule add web --in tcp:80 --from 0.0.0.0/0\n  lqctl sg rule add db --in tcp:5432 --from sg/web\n" +
			"  lqctl sg rule add web --in icmp:8 --dry-run\n  lqctl sg rule add shut --out udp:53 --to 192.0.2.53",
		Args:              exactly("GROUP"),
		ValidArgsFunction: completeArgs(1, s.groupNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.rule("--")
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Groups.AddRule(cmd.Context(), connect.NewRequest(&networkv1.AddRuleRequest{Id: args[0], ProjectId: project, Rule: r, DryRun: dryRun}))
			if err != nil {
				return err
			}
			if dryRun {
				return s.sayAffected(cmd.Context(), c, resp.Msg, resp.Msg.GetSecurityGroup(), resp.Msg)
			}
			it := accepted{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetSecurityGroup(), done: "has rule " + resp.Msg.GetRule().GetId()}
			it.changes = []string{onPorts(resp.Msg)}
			return s.settle(cmd.Context(), c, []accepted{it}, noWait, false)
		},
	}
	f.register(s, cmd)
	cmd.Flags().StringVar(&f.description, "description", "", "what the rule is for")
	addDryRun(cmd, &dryRun)
	addNoWait(cmd, &noWait)
	return cmd
}

// onPorts says on how many ports a change is in force.
func onPorts(ports affected) string { return "on " + counted(ports.GetAffectedPortCount(), "port") }

// counted is a number with its noun.
func counted(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (s *session) ruleRemove() *cobra.Command {
	var f ruleFlags
	var noWait, dryRun bool
	cmd := &cobra.Command{
		Use:     "remove GROUP [RULE]",
		Aliases: []string{"rm", "delete"},
		Short:   "Take a rule away; flows that only it allowed are cut",
		Long: "Takes a rule away, named by its id (or the begin of it, as long as no other begins so), or by what it allows: --in or --out, with\n" +
			"--from, --to and --ip as it was added. Flows that only it allowed are cut.",
		Example: "  lqctl sg rule remove web 0b8f5f1e\n  lqctl sg rule remove web --in tcp:80 --from 0.0.0.0/0 --dry-run",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && f.given() {
				return failure.Usage("a rule is named by its id or by what it allows, not by both").WithFix("leave one of them out")
			}
			if f.given() {
				return exactly("GROUP")(cmd, args)
			}
			return exactly("GROUP", "RULE")(cmd, args)
		},
		ValidArgsFunction: completeArgs(1, s.groupNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			want := &networkv1.SecurityRule{}
			var err error
			if f.given() {
				if want, err = f.rule("--"); err != nil {
					return err
				}
			} else {
				want.Id = args[1]
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			id, err := findRule(cmd.Context(), c, args[0], project, want)
			if err != nil {
				return err
			}
			resp, err := c.Groups.RemoveRule(cmd.Context(), connect.NewRequest(&networkv1.RemoveRuleRequest{Id: args[0], ProjectId: project, RuleId: id, DryRun: dryRun}))
			if err != nil {
				return err
			}
			if dryRun {
				return s.sayAffected(cmd.Context(), c, resp.Msg, resp.Msg.GetSecurityGroup(), resp.Msg)
			}
			it := accepted{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetSecurityGroup(), done: "is without rule " + id}
			it.changes = []string{onPorts(resp.Msg)}
			return s.settle(cmd.Context(), c, []accepted{it}, noWait, false)
		},
	}
	f.register(s, cmd)
	addDryRun(cmd, &dryRun)
	addNoWait(cmd, &noWait)
	return cmd
}

// findRule is the id of the rule that is meant: the one with this id or the begin of it, or the one that allows the same.
func findRule(ctx context.Context, c *api.Client, group, project string, want *networkv1.SecurityRule) (string, error) {
	g, err := getGroup(ctx, c, group, project)
	if err != nil {
		return "", err
	}
	if ref := want.GetSecurityGroupId(); ref != "" { // read rules name groups by id
		other, err := getGroup(ctx, c, ref, g.GetMeta().GetProjectId())
		if err != nil {
			return "", err
		}
		want.Remote = &networkv1.SecurityRule_SecurityGroupId{SecurityGroupId: other.GetMeta().GetId()}
	}
	var found []string
	for _, r := range g.GetSpec().GetRules() {
		switch {
		case want.GetId() == "" && rule.Same(r, want), want.GetId() != "" && r.GetId() == want.GetId():
			return r.GetId(), nil
		case want.GetId() != "" && strings.HasPrefix(r.GetId(), want.GetId()):
			found = append(found, r.GetId())
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", failure.Usage("%d rules of %s begin with %q: %s", len(found), group, want.GetId(), strings.Join(found, ", ")).WithFix("give more of the id")
	}
	what := want.GetId()
	if what == "" {
		what = "with " + rule.Text(want, newLookup(ctx, c, g.GetMeta().GetProjectId()).group)
	}
	return "", failure.New(failure.ExitNotFound, "NOT_FOUND", "security group %s has no rule %s", group, what).WithFix("lqctl sg rule list %s shows which there are", group)
}

func (s *session) ruleList() *cobra.Command {
	return &cobra.Command{
		Use:               "list GROUP",
		Aliases:           []string{"ls"},
		Short:             "List the rules of a security group",
		Example:           "  lqctl sg rule list web\n  lqctl sg rule list web -o json",
		Args:              exactly("GROUP"),
		ValidArgsFunction: completeArgs(1, s.groupNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			g, err := getGroup(cmd.Context(), c, args[0], project)
			if err != nil {
				return err
			}
			names := newLookup(cmd.Context(), c, g.GetMeta().GetProjectId())
			return printList(s, g.GetSpec().GetRules(), (*networkv1.SecurityRule).GetId, render.RuleColumns(names.group))
		},
	}
}
