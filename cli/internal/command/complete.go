package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// completionTime bounds a look at the controller while a user waits for a completion.
const completionTime = 2 * time.Second

// complete registers a flag's completion.
func complete(cmd *cobra.Command, flag string, words func(prefix string) []string) {
	// It fails only for a flag that does not exist, which a test of the tree would show.
	_ = cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return words(prefix), cobra.ShellCompDirectiveNoFileComp
	})
}

// fixed completes a flag from a list.
func fixed(words ...string) func(string) []string { return func(string) []string { return words } }

// completeArgs completes arguments; at most max of them (0 = any number).
func completeArgs(limit int, words func(prefix string) []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if limit > 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return words(prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// names asks the controller; what cannot be asked completes to nothing.
func (s *session) names(ask func(ctx context.Context, project string) ([]string, error)) []string {
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	_, project, err := s.dial()
	if err != nil {
		return nil
	}
	found, err := ask(ctx, project)
	if err != nil {
		return nil
	}
	return found
}

func (s *session) vmNames(string) []string {
	return s.names(func(ctx context.Context, project string) ([]string, error) {
		vms, err := s.client.ListVMs(ctx, &computev1.ListVMsRequest{ProjectId: project})
		return namesOf(vms), err
	})
}

func (s *session) nodeNames(string) []string {
	return s.names(func(ctx context.Context, _ string) ([]string, error) {
		nodes, err := s.client.ListNodes(ctx, "")
		return namesOf(nodes), err
	})
}

func (s *session) imageNames(string) []string {
	return s.names(func(ctx context.Context, project string) ([]string, error) {
		images, err := s.client.ListImages(ctx, project, "")
		return namesOf(images), err
	})
}

func (s *session) poolNames(string) []string {
	return s.names(func(ctx context.Context, project string) ([]string, error) {
		pools, err := s.client.ListPools(ctx, project, "")
		return namesOf(pools), err
	})
}

func (s *session) volumeNames(string) []string {
	return s.names(func(ctx context.Context, project string) ([]string, error) {
		volumes, err := s.client.ListVolumes(ctx, &storagev1.ListVolumesRequest{ProjectId: project})
		return namesOf(volumes), err
	})
}

func (s *session) snapshotNames(string) []string {
	return s.names(func(ctx context.Context, project string) ([]string, error) {
		snapshots, err := s.client.ListSnapshots(ctx, &storagev1.ListSnapshotsRequest{ProjectId: project})
		return namesOf(snapshots), err
	})
}

func (s *session) networkNames(string) []string {
	return s.names(func(ctx context.Context, project string) ([]string, error) {
		networks, err := s.client.ListNetworks(ctx, &networkv1.ListNetworksRequest{ProjectId: project})
		return namesOf(networks), err
	})
}

func (s *session) portNames(string) []string {
	return s.names(func(ctx context.Context, project string) ([]string, error) {
		ports, err := s.client.ListPorts(ctx, &networkv1.ListPortsRequest{ProjectId: project})
		var out []string
		for names, i := newLookup(ctx, s.client, project), 0; i < len(ports); i++ {
			out = append(out, names.title(ports[i]))
		}
		return out, err
	})
}

func (s *session) groupNames(string) []string {
	return s.names(func(ctx context.Context, project string) ([]string, error) {
		groups, err := s.client.ListSecurityGroups(ctx, &networkv1.ListSecurityGroupsRequest{ProjectId: project})
		return namesOf(groups), err
	})
}

func (s *session) operationIDs(string) []string {
	return s.names(func(ctx context.Context, project string) ([]string, error) {
		ops, err := s.client.ListOperations(ctx, &operationv1.ListOperationsRequest{
			ProjectId: project, States: []operationv1.OperationState{operationv1.OperationState_OPERATION_STATE_RUNNING},
		}, 100)
		var ids []string
		for _, op := range ops {
			ids = append(ids, op.GetId()+"\t"+op.GetVerb()+" "+op.GetObjectName())
		}
		return ids, err
	})
}
