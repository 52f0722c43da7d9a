package command

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/manifest"
	"github.com/limiquantix/limiquantix/cli/internal/rule"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

// resolve writes what a document wants as the API reads it back, so that the two can be compared: names become ids, and rules that are there already get
// their ids and their place.
func resolve(ctx context.Context, c *api.Client, have, want manifest.Object) error {
	project := have.GetMeta().GetProjectId()
	groupID := func(name string) (string, error) {
		g, err := getGroup(ctx, c, name, project)
		return g.GetMeta().GetId(), err
	}
	switch want := want.(type) {
	case *networkv1.Network:
		for _, f := range want.GetSpec().GetForwards() {
			if f.GetPortId() == "" {
				continue
			}
			p, err := getPort(ctx, c, f.GetPortId(), project)
			if err != nil {
				return err
			}
			f.Target = &networkv1.NetworkForward_PortId{PortId: p.GetMeta().GetId()}
		}
	case *networkv1.Port:
		spec := want.GetSpec()
		if spec.GetNetworkId() != "" {
			n, err := getNetwork(ctx, c, spec.GetNetworkId(), project)
			if err != nil {
				return err
			}
			spec.NetworkId = n.GetMeta().GetId()
		}
		for i, name := range spec.GetSecurityGroupIds() {
			id, err := groupID(name)
			if err != nil {
				return err
			}
			spec.SecurityGroupIds[i] = id
		}
	case *networkv1.SecurityGroup:
		ids := map[string]string{}
		for _, r := range want.GetSpec().GetRules() {
			name := r.GetSecurityGroupId()
			if name == "" {
				continue
			}
			if ids[name] == "" {
				id, err := groupID(name)
				if err != nil {
					return err
				}
				ids[name] = id
			}
			r.Remote = &networkv1.SecurityRule_SecurityGroupId{SecurityGroupId: ids[name]}
		}
		if want.GetSpec() != nil {
			want.Spec.Rules = matchRules(have.(*networkv1.SecurityGroup).GetSpec().GetRules(), want.GetSpec().GetRules())
		}
	}
	return nil
}

// matchRules gives rules that allow what one that is there already does that one's id and place; what is new comes last. The order of rules means nothing.
func matchRules(have, want []*networkv1.SecurityRule) []*networkv1.SecurityRule {
	var out []*networkv1.SecurityRule
	left := slices.Clone(want)
	for _, h := range have {
		i := slices.IndexFunc(left, func(w *networkv1.SecurityRule) bool { return w.GetId() == h.GetId() })
		if i < 0 {
			i = slices.IndexFunc(left, func(w *networkv1.SecurityRule) bool { return w.GetId() == "" && rule.Same(w, h) })
		}
		if i < 0 {
			continue
		}
		w := left[i]
		left = slices.Delete(left, i, i+1)
		if rule.Same(w, h) {
			same := proto.CloneOf(h)
			same.Description = w.GetDescription()
			w = same
		}
		out = append(out, w)
	}
	return append(out, left...)
}

// withoutForwards is what of a network can be made so before its ports are there: all but forwards that lead to ports. ok reports whether there are such.
func withoutForwards(d manifest.Document) (early manifest.Document, ok bool) {
	n, network := d.Object.(*networkv1.Network)
	leads := func(f *networkv1.NetworkForward) bool { return f.GetPortId() != "" }
	if !network || !slices.ContainsFunc(n.GetSpec().GetForwards(), leads) {
		return d, false
	}
	n = proto.CloneOf(n)
	n.Spec.Forwards = slices.DeleteFunc(n.Spec.Forwards, leads)
	d.Object = n
	d.Paths = slices.DeleteFunc(slices.Clone(d.Paths), func(p string) bool { return p == "spec.forwards" }) // those that are there stay until the new ones come
	return d, true
}

// and is what came of two changes of one object, of which the first made as much of it as could be made then.
func (it accepted) and(later accepted) accepted {
	if later.op == nil {
		later.op = it.op
	}
	if it.done == "created" || later.done == "unchanged" {
		later.done = it.done
	}
	later.changes = append(it.changes, later.changes...)
	if it.done == "created" {
		later.changes = nil
	}
	if later.final == nil {
		later.final = it.final
	}
	return later
}

// makeShells makes the groups of the documents that are not there, where one of them refers to one that comes later: first without such rules, so that
// groups may refer to each other. It returns the operations of those that it made, by the documents' places.
func makeShells(ctx context.Context, c *api.Client, docs []manifest.Document, project string) (map[int]*operationv1.Operation, error) {
	place := map[string]int{}
	for i, d := range docs {
		if d.Kind == manifest.KindSecurityGroup {
			place[d.Object.GetMeta().GetName()] = i
		}
	}
	ahead := func(i int) func(*networkv1.SecurityRule) bool {
		return func(r *networkv1.SecurityRule) bool { return place[r.GetSecurityGroupId()] > i }
	}
	needed := false
	for i, d := range docs {
		g, ok := d.Object.(*networkv1.SecurityGroup)
		needed = needed || ok && slices.ContainsFunc(g.GetSpec().GetRules(), ahead(i))
	}
	made := map[int]*operationv1.Operation{}
	for i, d := range docs {
		g, ok := d.Object.(*networkv1.SecurityGroup)
		if !needed || !ok {
			continue
		}
		name, project := placed(g, project)
		_, err := getGroup(ctx, c, name, project)
		if err == nil {
			continue
		}
		if !failure.IsCode(err, codes.NotFound) {
			return nil, err
		}
		shell := proto.CloneOf(g)
		if shell.GetSpec() != nil {
			shell.Spec.Rules = slices.DeleteFunc(shell.Spec.Rules, ahead(i))
		}
		op, _, err := verbsOf[d.Kind].create(ctx, c, shell)
		if err != nil {
			return nil, err
		}
		made[i] = op
	}
	return made, nil
}
