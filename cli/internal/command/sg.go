package command

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	"github.com/limiquantix/limiquantix/cli/internal/rule"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

func (s *session) groupCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "sg",
		Aliases: []string{"security-group"},
		Short:   "Manage security groups: what may reach ports, and what they may reach",
		Long: "Manages security groups. Their rules only allow, and replies pass. What comes in and no rule of any of a port's groups allows is\n" +
			"dropped; what goes out passes unless a group says --egress deny.",
		Example: "  lqctl sg create web --rule in=tcp:80 --rule in=tcp:443\n  lqctl sg rule add web --in tcp:22 --from 10.0.0.0/8\n" +
			"  lqctl port set web/nic0 --sg web",
	}, s.groupCreate(), s.groupList(), s.groupShow(), s.groupSet(), s.groupDelete(), s.ruleCommand())
}

func egressDefault(flag string) (networkv1.EgressDefault, error) {
	return enumFlag[networkv1.EgressDefault]("--egress", flag, networkv1.EgressDefault_name, "EGRESS_DEFAULT_")
}

func (s *session) groupCreate() *cobra.Command {
	var description, egress string
	var rules, labels []string
	var noWait bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a security group",
		Long: "Creates a security group. --rule takes in=WHAT or out=WHAT, and besides from=, to=, ip=4|6, description=.\n\n" + rule.Help +
			"\n\nNothing else comes in. A group may refer to itself: sg/NAME of its own name.",
		Example: "  lqctl sg create web --rule in=tcp:80,from=0.0.0.0/0 --rule in=tcp:5432,from=sg/db --rule in=icmp:8\n" +
			"  lqctl sg create shut --egress deny --rule out=udp:53,to=192.0.2.53",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec := &networkv1.SecurityGroupSpec{Description: description}
			var err error
			if spec.EgressDefault, err = egressDefault(egress); err != nil {
				return err
			}
			for _, text := range rules {
				r, err := parseRule(text)
				if err != nil {
					return err
				}
				spec.Rules = append(spec.Rules, r)
			}
			marks, err := pairs("--label", labels)
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Groups.CreateSecurityGroup(cmd.Context(), connect.NewRequest(&networkv1.CreateSecurityGroupRequest{SecurityGroup: &networkv1.SecurityGroup{
				Meta: &metav1.ObjectMeta{Name: args[0], ProjectId: project, Labels: marks}, Spec: spec,
			}}))
			if err != nil {
				return err
			}
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetSecurityGroup(), done: "created"}}, noWait, false)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&rules, "rule", nil, "rule, for example in=tcp:80,from=10.0.0.0/8; repeatable")
	fl.StringVar(&description, "description", "", "what it is for")
	fl.StringVar(&egress, "egress", "", "what goes out and no rule allows: allow (default) or deny")
	fl.StringArrayVar(&labels, "label", nil, "label key=value; repeatable")
	complete(cmd, "egress", fixed("allow", "deny"))
	addNoWait(cmd, &noWait)
	return cmd
}

func (s *session) groupList() *cobra.Command {
	req := &networkv1.ListSecurityGroupsRequest{}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List security groups",
		Example: "  lqctl sg list\n  lqctl sg list --port web/nic0 -o wide",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			req.ProjectId = project
			if req.GetPort() != "" { // the API takes an id here
				p, err := getPort(cmd.Context(), c, req.GetPort(), project)
				if err != nil {
					return err
				}
				req.Port = p.GetMeta().GetId()
			}
			groups, err := c.ListSecurityGroups(cmd.Context(), req)
			if err != nil {
				return err
			}
			slices.SortStableFunc(groups, func(a, b *networkv1.SecurityGroup) int { return strings.Compare(nameOf(a), nameOf(b)) })
			return printList(s, groups, nameOf, render.SecurityGroupColumns(s.Now))
		},
	}
	addSelector(cmd, &req.LabelSelector)
	cmd.Flags().StringVar(&req.Port, "port", "", "only those that this port has")
	complete(cmd, "port", s.portNames)
	return cmd
}

func (s *session) groupShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Aliases:           []string{"get"},
		Short:             "Show one security group with its rules",
		Example:           "  lqctl sg show web\n  lqctl sg show web -o yaml",
		Args:              exactly("NAME"),
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
			if !s.tabular() {
				return printOne(s, g, args[0], nil)
			}
			names := newLookup(cmd.Context(), c, g.GetMeta().GetProjectId())
			return render.SecurityGroup(s.Out, g, names.group, names.node, s.Now())
		},
	}
}

func getGroup(ctx context.Context, c *api.Client, id, project string) (*networkv1.SecurityGroup, error) {
	resp, err := c.Groups.GetSecurityGroup(ctx, connect.NewRequest(&networkv1.GetSecurityGroupRequest{Id: id, ProjectId: project}))
	if err != nil {
		return nil, err
	}
	return resp.Msg.GetSecurityGroup(), nil
}

func (s *session) groupSet() *cobra.Command {
	var description, egress string
	var labels []string
	var noWait, dryRun bool
	cmd := &cobra.Command{
		Use:               "set NAME",
		Short:             "Change a security group's description, labels, or what happens to what goes out; rules: lqctl sg rule",
		Example:           "  lqctl sg set web --egress deny --dry-run\n  lqctl sg set web --description \"web servers\" --label tier=front",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.groupNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec := &networkv1.SecurityGroupSpec{Description: description}
			var err error
			if spec.EgressDefault, err = egressDefault(egress); err != nil {
				return err
			}
			if _, err := changeLabels(nil, labels); err != nil {
				return err
			}
			paths := changedPaths(cmd, map[string]string{"description": "spec.description", "egress": "spec.egress_default"})
			if len(paths) == 0 && len(labels) == 0 {
				return nothingToChange(cmd)
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			var resp *connect.Response[networkv1.UpdateSecurityGroupResponse]
			err = unlessStale(func() error {
				have, err := getGroup(cmd.Context(), c, args[0], project)
				if err != nil {
					return err
				}
				meta, mask := &metav1.ObjectMeta{Id: have.GetMeta().GetId()}, slices.Clone(paths)
				if len(labels) > 0 { // the whole map is written, so it must not have changed
					meta.Etag = have.GetMeta().GetEtag()
					if meta.Labels, err = changeLabels(have.GetMeta().GetLabels(), labels); err != nil {
						return err
					}
					mask = append(mask, "meta.labels")
				}
				resp, err = c.Groups.UpdateSecurityGroup(cmd.Context(), connect.NewRequest(&networkv1.UpdateSecurityGroupRequest{
					SecurityGroup: &networkv1.SecurityGroup{Meta: meta, Spec: spec}, UpdateMask: &fieldmaskpb.FieldMask{Paths: mask}, DryRun: dryRun,
				}))
				return err
			})
			if err != nil {
				return err
			}
			if dryRun {
				return s.sayAffected(cmd.Context(), c, resp.Msg, resp.Msg.GetSecurityGroup(), resp.Msg)
			}
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetSecurityGroup(), done: "changed"}}, noWait, false)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&description, "description", "", "what it is for")
	fl.StringVar(&egress, "egress", "", "what goes out and no rule allows: allow or deny")
	fl.StringArrayVar(&labels, "label", nil, "label key=value to set, or key- to remove; repeatable")
	complete(cmd, "egress", fixed("allow", "deny"))
	addDryRun(cmd, &dryRun)
	addNoWait(cmd, &noWait)
	return cmd
}

func (s *session) groupDelete() *cobra.Command {
	return s.deleteVerb(&cobra.Command{
		Short:             "Delete security groups that no port has and no group refers to",
		Example:           "  lqctl sg delete web",
		ValidArgsFunction: completeArgs(0, s.groupNames),
	}, deleteGroup)
}

func deleteGroup(ctx context.Context, c *api.Client, name, project string) (*operationv1.Operation, proto.Message, error) {
	resp, err := c.Groups.DeleteSecurityGroup(ctx, connect.NewRequest(&networkv1.DeleteSecurityGroupRequest{Id: name, ProjectId: project}))
	if err != nil {
		return nil, nil, err
	}
	return resp.Msg.GetOperation(), present(resp.Msg.GetSecurityGroup()), nil
}

// addDryRun registers --dry-run.
func addDryRun(cmd *cobra.Command, v *bool) {
	cmd.Flags().BoolVar(v, "dry-run", false, "let the controller check it and say which ports would change, and change nothing")
}

// affected is an answer that says which ports a change is about.
type affected interface {
	GetAffectedPortIds() []string
	GetAffectedPortCount() int64
}

// sayAffected says which ports a change would be about; programs get the whole answer.
func (s *session) sayAffected(ctx context.Context, c *api.Client, resp proto.Message, g *networkv1.SecurityGroup, ports affected) error {
	if !s.tabular() {
		return printOne(s, resp, nameOf(g), nil)
	}
	names := newLookup(ctx, c, g.GetMeta().GetProjectId())
	var list []string
	for _, id := range ports.GetAffectedPortIds() {
		list = append(list, names.port(id))
	}
	slices.Sort(list)
	if n := ports.GetAffectedPortCount(); n == 0 {
		s.say("%s: valid; no port would change; nothing was changed", nameOf(g))
	} else {
		s.say("%s: valid; it would change %s; nothing was changed", nameOf(g), counted(n, "port"))
	}
	for _, name := range list {
		s.say("  %s", name)
	}
	if more := ports.GetAffectedPortCount() - int64(len(list)); more > 0 {
		s.say("  and %d more", more)
	}
	return nil
}
