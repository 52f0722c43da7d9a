package server

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// access says who may call a method of the agent port.
type access int

const (
	// nodeSelf: a node with a good certificate, for itself.
	nodeSelf access = iota + 1
	// anyone: no certificate is asked for.
	anyone
	// denied: nobody; the method is for the public port.
	denied
)

// rule is what the agent port asks before it passes a call on.
type rule struct {
	access access
	// names is the node that a request names, id or name; nil or "" = none, and then it is the caller.
	names func(proto.Message) string
}

// agentRules has one rule for every method of every service on the agent port. A method without one keeps the controller from starting, and a test
// says so before that.
var agentRules = map[string]rule{
	agentv1.AgentService_Enrol_FullMethodName:        {access: anyone},
	agentv1.AgentService_Renew_FullMethodName:        {access: nodeSelf},
	agentv1.AgentService_WatchDesired_FullMethodName: {access: nodeSelf},
	agentv1.AgentService_ReportStatus_FullMethodName: {access: nodeSelf},
	agentv1.AgentService_Tunnel_FullMethodName:       {access: nodeSelf},

	computev1.NodeService_RegisterNode_FullMethodName: {access: nodeSelf, names: func(m proto.Message) string {
		return m.(interface{ GetNode() *computev1.Node }).GetNode().GetMeta().GetId()
	}},
	computev1.NodeService_Heartbeat_FullMethodName: {access: nodeSelf, names: func(m proto.Message) string {
		return m.(interface{ GetNodeId() string }).GetNodeId()
	}},
	computev1.NodeService_GetNode_FullMethodName: {access: nodeSelf, names: func(m proto.Message) string {
		return m.(interface{ GetId() string }).GetId()
	}},
	computev1.NodeService_ListNodes_FullMethodName:       {access: denied},
	computev1.NodeService_UpdateNode_FullMethodName:      {access: denied},
	computev1.NodeService_DeleteNode_FullMethodName:      {access: denied},
	computev1.NodeService_CordonNode_FullMethodName:      {access: denied},
	computev1.NodeService_UncordonNode_FullMethodName:    {access: denied},
	computev1.NodeService_WatchNodes_FullMethodName:      {access: denied},
	computev1.NodeService_ExplainNode_FullMethodName:     {access: denied},
	computev1.NodeService_ListOrphans_FullMethodName:     {access: denied},
	computev1.NodeService_AdoptOrphan_FullMethodName:     {access: denied},
	computev1.NodeService_RemoveOrphan_FullMethodName:    {access: denied},
	computev1.NodeService_CreateJoinToken_FullMethodName: {access: denied},
	computev1.NodeService_ListJoinTokens_FullMethodName:  {access: denied},
	computev1.NodeService_DeleteJoinToken_FullMethodName: {access: denied},
}

// checkRules compares what is registered with the rules: neither may have what the other lacks.
func checkRules(services map[string]grpc.ServiceInfo, rules map[string]rule) error {
	var wrong []error
	seen := map[string]bool{}
	for service, info := range services {
		for _, m := range info.Methods {
			full := "/" + service + "/" + m.Name
			seen[full] = true
			if r, ok := rules[full]; !ok || !slices.Contains([]access{nodeSelf, anyone, denied}, r.access) {
				wrong = append(wrong, fmt.Errorf("agent port: no rule says who may call %s", full))
			}
		}
	}
	for full := range rules {
		if !seen[full] {
			wrong = append(wrong, fmt.Errorf("agent port: a rule names %s, which is not served", full))
		}
	}
	return errors.Join(wrong...)
}
