package command

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/manifest"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

// kindVerbs are the calls for objects of one kind.
type kindVerbs struct {
	get    func(ctx context.Context, c *api.Client, name, project string) (manifest.Object, error)
	create func(ctx context.Context, c *api.Client, o manifest.Object) (*operationv1.Operation, manifest.Object, error)
	update func(ctx context.Context, c *api.Client, o manifest.Object, paths *fieldmaskpb.FieldMask) (*operationv1.Operation, manifest.Object, error)
	// remove returns no object for one that is gone already.
	remove func(ctx context.Context, c *api.Client, name, project string) (*operationv1.Operation, proto.Message, error)
	// final reads an object once a change of it is made; nil keeps it as accepted.
	final func(c *api.Client, o manifest.Object) func(context.Context) (proto.Message, string, error)
	// word stands before names in what is said; VMs have none.
	word string
}

var verbsOf = map[string]kindVerbs{
	manifest.KindVM: {
		get: func(ctx context.Context, c *api.Client, name, project string) (manifest.Object, error) {
			return getVM(ctx, c, name, project)
		},
		create: func(ctx context.Context, c *api.Client, o manifest.Object) (*operationv1.Operation, manifest.Object, error) {
			resp, err := c.VMs.CreateVM(ctx, connect.NewRequest(&computev1.CreateVMRequest{Vm: o.(*computev1.VM)}))
			if err != nil {
				return nil, nil, err
			}
			return resp.Msg.GetOperation(), resp.Msg.GetVm(), nil
		},
		update: func(ctx context.Context, c *api.Client, o manifest.Object, paths *fieldmaskpb.FieldMask) (*operationv1.Operation, manifest.Object, error) {
			resp, err := c.VMs.UpdateVM(ctx, connect.NewRequest(&computev1.UpdateVMRequest{Vm: o.(*computev1.VM), UpdateMask: paths}))
			if err != nil {
				return nil, nil, err
			}
			return resp.Msg.GetOperation(), resp.Msg.GetVm(), nil
		},
		remove: func(ctx context.Context, c *api.Client, name, project string) (*operationv1.Operation, proto.Message, error) {
			resp, err := c.VMs.DeleteVM(ctx, connect.NewRequest(&computev1.DeleteVMRequest{Id: name, ProjectId: project}))
			if err != nil {
				return nil, nil, err
			}
			return resp.Msg.GetOperation(), present(resp.Msg.GetVm()), nil
		},
		final: func(c *api.Client, o manifest.Object) func(context.Context) (proto.Message, string, error) {
			return vmNow(c, o.(*computev1.VM))
		},
	},
	manifest.KindNetwork: {
		word: "network ",
		get: func(ctx context.Context, c *api.Client, name, project string) (manifest.Object, error) {
			return getNetwork(ctx, c, name, project)
		},
		create: func(ctx context.Context, c *api.Client, o manifest.Object) (*operationv1.Operation, manifest.Object, error) {
			resp, err := c.Networks.CreateNetwork(ctx, connect.NewRequest(&networkv1.CreateNetworkRequest{Network: o.(*networkv1.Network)}))
			if err != nil {
				return nil, nil, err
			}
			return resp.Msg.GetOperation(), resp.Msg.GetNetwork(), nil
		},
		update: func(ctx context.Context, c *api.Client, o manifest.Object, paths *fieldmaskpb.FieldMask) (*operationv1.Operation, manifest.Object, error) {
			resp, err := c.Networks.UpdateNetwork(ctx, connect.NewRequest(&networkv1.UpdateNetworkRequest{Network: o.(*networkv1.Network), UpdateMask: paths}))
			if err != nil {
				return nil, nil, err
			}
			return resp.Msg.GetOperation(), resp.Msg.GetNetwork(), nil
		},
		remove: deleteNetwork,
		final: func(c *api.Client, o manifest.Object) func(context.Context) (proto.Message, string, error) {
			return networkNow(c, o.(*networkv1.Network))
		},
	},
	manifest.KindPort: {
		word: "port ",
		get: func(ctx context.Context, c *api.Client, name, project string) (manifest.Object, error) {
			return getPort(ctx, c, name, project)
		},
		create: func(ctx context.Context, c *api.Client, o manifest.Object) (*operationv1.Operation, manifest.Object, error) {
			resp, err := c.Ports.CreatePort(ctx, connect.NewRequest(&networkv1.CreatePortRequest{Port: o.(*networkv1.Port)}))
			if err != nil {
				return nil, nil, err
			}
			return resp.Msg.GetOperation(), resp.Msg.GetPort(), nil
		},
		update: func(ctx context.Context, c *api.Client, o manifest.Object, paths *fieldmaskpb.FieldMask) (*operationv1.Operation, manifest.Object, error) {
			resp, err := c.Ports.UpdatePort(ctx, connect.NewRequest(&networkv1.UpdatePortRequest{Port: o.(*networkv1.Port), UpdateMask: paths}))
			if err != nil {
				return nil, nil, err
			}
			return resp.Msg.GetOperation(), resp.Msg.GetPort(), nil
		},
		remove: deletePort,
		final: func(c *api.Client, o manifest.Object) func(context.Context) (proto.Message, string, error) {
			return portNow(c, o.(*networkv1.Port))
		},
	},
	manifest.KindSecurityGroup: {
		word: "security group ",
		get: func(ctx context.Context, c *api.Client, name, project string) (manifest.Object, error) {
			return getGroup(ctx, c, name, project)
		},
		create: func(ctx context.Context, c *api.Client, o manifest.Object) (*operationv1.Operation, manifest.Object, error) {
			resp, err := c.Groups.CreateSecurityGroup(ctx, connect.NewRequest(&networkv1.CreateSecurityGroupRequest{SecurityGroup: o.(*networkv1.SecurityGroup)}))
			if err != nil {
				return nil, nil, err
			}
			return resp.Msg.GetOperation(), resp.Msg.GetSecurityGroup(), nil
		},
		update: func(ctx context.Context, c *api.Client, o manifest.Object, paths *fieldmaskpb.FieldMask) (*operationv1.Operation, manifest.Object, error) {
			resp, err := c.Groups.UpdateSecurityGroup(ctx, connect.NewRequest(&networkv1.UpdateSecurityGroupRequest{SecurityGroup: o.(*networkv1.SecurityGroup), UpdateMask: paths}))
			if err != nil {
				return nil, nil, err
			}
			return resp.Msg.GetOperation(), resp.Msg.GetSecurityGroup(), nil
		},
		remove: deleteGroup,
	},
}
