package domain

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

const (
	// DefaultSecurityGroupName is the name of the group that ports of a project get when they name none.
	DefaultSecurityGroupName = "default"

	// KindSecurityGroup is what Operation.object_kind says of groups.
	KindSecurityGroup = "SecurityGroup"

	// The verbs of operations on groups.
	VerbCreateSecurityGroup = "CreateSecurityGroup"
	VerbUpdateSecurityGroup = "UpdateSecurityGroup"
	VerbDeleteSecurityGroup = "DeleteSecurityGroup"
	VerbAddRule             = "AddRule"
	VerbRemoveRule          = "RemoveRule"
)

// DefaultSecurityGroup is a project's group for ports that name none: members reach each other and the world, nothing else comes in.
func DefaultSecurityGroup(project string, now time.Time) *networkv1.SecurityGroup {
	g := &networkv1.SecurityGroup{
		Meta: NewMeta(NewID(now), DefaultSecurityGroupName, project, nil, nil),
		Spec: &networkv1.SecurityGroupSpec{
			Description:   "Ports that name no group: what comes from each other, and all that they begin themselves.",
			EgressDefault: networkv1.EgressDefault_EGRESS_DEFAULT_ALLOW,
		},
		Status: &networkv1.SecurityGroupStatus{},
	}
	g.Meta.CreateTime, g.Meta.UpdateTime = timestamppb.New(now), timestamppb.New(now)
	g.Spec.Rules = []*networkv1.SecurityRule{{
		Id: NewID(now), Description: "From members of this group.", Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: AnyProtocol,
		Remote: &networkv1.SecurityRule_SecurityGroupId{SecurityGroupId: g.Meta.Id},
	}}
	return g
}

// AnyProtocol is the protocol of a rule that looks at none.
const AnyProtocol = "any"
