package unimplemented

import (
	"context"

	"connectrpc.com/connect"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
)

// SecurityGroup implements networkv1connect.SecurityGroupServiceHandler: every call says which release brings it.
type SecurityGroup struct{}

var _ networkv1connect.SecurityGroupServiceHandler = SecurityGroup{}

// CreateSecurityGroup comes later.
func (SecurityGroup) CreateSecurityGroup(context.Context, *connect.Request[networkv1.CreateSecurityGroupRequest]) (*connect.Response[networkv1.CreateSecurityGroupResponse], error) {
	return nil, NetworkMethod("CreateSecurityGroup")
}

// GetSecurityGroup comes later.
func (SecurityGroup) GetSecurityGroup(context.Context, *connect.Request[networkv1.GetSecurityGroupRequest]) (*connect.Response[networkv1.GetSecurityGroupResponse], error) {
	return nil, NetworkMethod("GetSecurityGroup")
}

// ListSecurityGroups comes later.
func (SecurityGroup) ListSecurityGroups(context.Context, *connect.Request[networkv1.ListSecurityGroupsRequest]) (*connect.Response[networkv1.ListSecurityGroupsResponse], error) {
	return nil, NetworkMethod("ListSecurityGroups")
}

// UpdateSecurityGroup comes later.
func (SecurityGroup) UpdateSecurityGroup(context.Context, *connect.Request[networkv1.UpdateSecurityGroupRequest]) (*connect.Response[networkv1.UpdateSecurityGroupResponse], error) {
	return nil, NetworkMethod("UpdateSecurityGroup")
}

// DeleteSecurityGroup comes later.
func (SecurityGroup) DeleteSecurityGroup(context.Context, *connect.Request[networkv1.DeleteSecurityGroupRequest]) (*connect.Response[networkv1.DeleteSecurityGroupResponse], error) {
	return nil, NetworkMethod("DeleteSecurityGroup")
}

// AddRule comes later.
func (SecurityGroup) AddRule(context.Context, *connect.Request[networkv1.AddRuleRequest]) (*connect.Response[networkv1.AddRuleResponse], error) {
	return nil, NetworkMethod("AddRule")
}

// RemoveRule comes later.
func (SecurityGroup) RemoveRule(context.Context, *connect.Request[networkv1.RemoveRuleRequest]) (*connect.Response[networkv1.RemoveRuleResponse], error) {
	return nil, NetworkMethod("RemoveRule")
}
