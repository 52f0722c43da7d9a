package command

import (
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/render"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func (s *session) snapshotCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "snapshot",
		Aliases: []string{"snap"},
		Short:   "Manage snapshots: volumes as they were at one time",
		Example: "  lqctl snapshot create monday --volume data\n  lqctl snapshot restore monday",
	}, s.snapshotCreate(), s.snapshotList(), s.snapshotShow(), s.snapshotRestore(), s.snapshotExport(), s.snapshotDelete())
}

// consistencies are the words of --consistency.
var consistencies = map[string]storagev1.SnapshotConsistency{
	"if-possible": storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_QUIESCE_IF_POSSIBLE,
	"crash":       storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_CRASH,
	"quiesced":    storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_QUIESCED,
}

func (s *session) snapshotCreate() *cobra.Command {
	var volume, consistency string
	var labels []string
	var noWait bool
	words := []string{"if-possible", "crash", "quiesced"}
	cmd := &cobra.Command{
		Use:     "create NAME --volume VOLUME",
		Short:   "Take a snapshot of a volume, also while a guest uses it",
		Example: "  lqctl snapshot create monday --volume data\n  lqctl snapshot create clean --volume data --consistency quiesced",
		Args:    exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			how, ok := consistencies[consistency]
			if !ok {
				return unknownValue("--consistency", consistency, words)
			}
			marks, err := pairs("--label", labels)
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Snapshots.CreateSnapshot(cmd.Context(), connect.NewRequest(&storagev1.CreateSnapshotRequest{Snapshot: &storagev1.Snapshot{
				Meta: &metav1.ObjectMeta{Name: args[0], ProjectId: project, Labels: marks}, Spec: &storagev1.SnapshotSpec{VolumeId: volume, Consistency: how},
			}}))
			if err != nil {
				return err
			}
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetSnapshot(), done: "taken"}}, noWait, false)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&volume, "volume", "", "volume to take it of, by name or id")
	fl.StringVar(&consistency, "consistency", words[0], "if-possible: the guest is brought to rest when its agent answers; crash: it is not asked; quiesced: it is, or no snapshot is taken")
	fl.StringArrayVar(&labels, "label", nil, "label key=value; repeatable")
	complete(cmd, "volume", s.volumeNames)
	complete(cmd, "consistency", fixed(words...))
	addNoWait(cmd, &noWait)
	return cmd
}

func (s *session) snapshotList() *cobra.Command {
	req := &storagev1.ListSnapshotsRequest{}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List snapshots",
		Example: "  lqctl snapshot list\n  lqctl snapshot list --volume data",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			req.ProjectId = project
			snapshots, err := c.ListSnapshots(cmd.Context(), req)
			if err != nil {
				return err
			}
			slices.SortStableFunc(snapshots, func(a, b *storagev1.Snapshot) int { return strings.Compare(nameOf(a), nameOf(b)) })
			return printList(s, snapshots, nameOf, render.SnapshotColumns(s.Now))
		},
	}
	addSelector(cmd, &req.LabelSelector)
	cmd.Flags().StringVar(&req.Volume, "volume", "", "only those of this volume")
	cmd.Flags().StringVar(&req.Pool, "pool", "", "only those in this pool")
	complete(cmd, "volume", s.volumeNames)
	complete(cmd, "pool", s.poolNames)
	return cmd
}

func (s *session) snapshotShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Aliases:           []string{"get"},
		Short:             "Show one snapshot",
		Example:           "  lqctl snapshot show monday",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.snapshotNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Snapshots.GetSnapshot(cmd.Context(), connect.NewRequest(&storagev1.GetSnapshotRequest{Id: args[0], ProjectId: project}))
			if err != nil {
				return err
			}
			return printOne(s, resp.Msg.GetSnapshot(), args[0], render.SnapshotFields(resp.Msg.GetSnapshot(), s.Now()))
		},
	}
}

func (s *session) snapshotRestore() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:               "restore NAME",
		Short:             "Set the snapshot's volume back; VMs that use it must be stopped",
		Example:           "  lqctl snapshot restore monday",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.snapshotNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Snapshots.RestoreSnapshot(cmd.Context(), connect.NewRequest(&storagev1.RestoreSnapshotRequest{Id: args[0], ProjectId: project}))
			if err != nil {
				return err
			}
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetSnapshot(), done: "restored"}}, noWait, false)
		},
	}
	addNoWait(cmd, &noWait)
	return cmd
}

func (s *session) snapshotDelete() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:               "delete NAME...",
		Aliases:           []string{"rm"},
		Short:             "Delete snapshots; volumes made from them stay whole",
		Example:           "  lqctl snapshot delete monday",
		Args:              some("NAME"),
		ValidArgsFunction: completeArgs(0, s.snapshotNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			var items []accepted
			var errs []error
			for _, name := range args {
				resp, err := c.Snapshots.DeleteSnapshot(cmd.Context(), connect.NewRequest(&storagev1.DeleteSnapshotRequest{Id: name, ProjectId: project}))
				if err != nil {
					errs = append(errs, err)
					continue
				}
				it := accepted{name: name, op: resp.Msg.GetOperation(), object: resp.Msg.GetSnapshot(), done: "deleted"}
				if resp.Msg.GetSnapshot() == nil {
					it.object, it.done = &storagev1.Snapshot{}, "is gone already"
				}
				items = append(items, it)
			}
			return s.join(append(errs, nonNil(s.settle(cmd.Context(), c, items, noWait, len(args) > 1))...))
		},
	}
	addNoWait(cmd, &noWait)
	return cmd
}
