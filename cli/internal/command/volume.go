package command

import (
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func (s *session) volumeCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "volume",
		Aliases: []string{"vol"},
		Short:   "Manage volumes: disks that stand by themselves",
		Example: "  lqctl volume create data --size 20G\n  lqctl volume attach data web",
	}, s.volumeCreate(), s.volumeList(), s.volumeShow(), s.volumeSet(), s.volumeResize(), s.volumeMove(), s.volumeExport(), s.volumeAttach(), s.volumeDetach(), s.volumeDelete())
}

func (s *session) volumeCreate() *cobra.Command {
	var size, pool, format, from string
	var labels []string
	var limits limitFlags
	var shared, noWait bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a volume: blank, from an image, from a snapshot, or as a clone",
		Example: "  lqctl volume create data --size 20G --pool fast\n  lqctl volume create root --from image/debian --size 10G\n" +
			"  lqctl volume create copy --from snapshot/monday",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec := &storagev1.VolumeSpec{PoolId: pool, Shared: shared}
			var err error
			if size == "" && from == "" {
				return failure.Usage("--size is missing").WithFix("give for example --size 20G, or --from what the volume is made from")
			}
			if size != "" {
				if spec.SizeBytes, err = quantity.ParseBytes(size); err != nil {
					return failure.Usage("--size: %w", err).WithFix("write for example 512M or 20G")
				}
			}
			if from != "" {
				if spec.Source, err = parseSource(from); err != nil {
					return err
				}
			}
			switch format {
			case "":
			case "raw":
				spec.Format = storagev1.VolumeFormat_VOLUME_FORMAT_RAW
			case "qcow2":
				spec.Format = storagev1.VolumeFormat_VOLUME_FORMAT_QCOW2
			default:
				return unknownValue("--format", format, []string{"raw", "qcow2"})
			}
			if limits != (limitFlags{}) {
				if spec.Qos, err = limits.read(); err != nil {
					return err
				}
			}
			marks, err := pairs("--label", labels)
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Volumes.CreateVolume(cmd.Context(), connect.NewRequest(&storagev1.CreateVolumeRequest{Volume: &storagev1.Volume{
				Meta: &metav1.ObjectMeta{Name: args[0], ProjectId: project, Labels: marks}, Spec: spec,
			}}))
			if err != nil {
				return err
			}
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetVolume(), done: "created"}}, noWait, false)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&size, "size", "", "size that a guest sees, for example 20G; default: its source's")
	fl.StringVar(&pool, "pool", "", "pool that it lies in; default: local")
	fl.StringVar(&format, "format", "", "raw or qcow2; default: the pool's")
	fl.StringVar(&from, "from", "", "what it is made from: image/NAME, snapshot/NAME or volume/NAME")
	fl.StringArrayVar(&labels, "label", nil, "label key=value; repeatable")
	fl.StringVar(&limits.iops, "iops", "", "limit of reads and writes per second; default: none")
	fl.StringVar(&limits.bandwidth, "bandwidth", "", "limit of bytes per second, for example 100M; default: none")
	fl.BoolVar(&shared, "shared", false, "let several VMs write it at once")
	complete(cmd, "pool", s.poolNames)
	complete(cmd, "format", fixed("raw", "qcow2"))
	addNoWait(cmd, &noWait)
	return cmd
}

func (s *session) volumeList() *cobra.Command {
	req := &storagev1.ListVolumesRequest{}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List volumes, those that live with a VM included",
		Example: "  lqctl volume list\n  lqctl volume list --pool fast -o wide",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			req.ProjectId = project
			volumes, err := c.ListVolumes(cmd.Context(), req)
			if err != nil {
				return err
			}
			slices.SortStableFunc(volumes, func(a, b *storagev1.Volume) int { return strings.Compare(nameOf(a), nameOf(b)) })
			return printList(s, volumes, nameOf, render.VolumeColumns(s.Now))
		},
	}
	addSelector(cmd, &req.LabelSelector)
	cmd.Flags().StringVar(&req.Pool, "pool", "", "only those in this pool")
	cmd.Flags().StringVar(&req.Node, "node", "", "only those that this node holds")
	complete(cmd, "pool", s.poolNames)
	complete(cmd, "node", s.nodeNames)
	return cmd
}

func (s *session) volumeShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Aliases:           []string{"get"},
		Short:             "Show one volume",
		Example:           "  lqctl volume show data\n  lqctl volume show data -o yaml",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Volumes.GetVolume(cmd.Context(), connect.NewRequest(&storagev1.GetVolumeRequest{Id: args[0], ProjectId: project}))
			if err != nil {
				return err
			}
			return printOne(s, resp.Msg.GetVolume(), args[0], render.VolumeFields(resp.Msg.GetVolume(), s.Now()))
		},
	}
}

func (s *session) volumeResize() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:               "resize NAME SIZE",
		Short:             "Grow a volume, also while a guest uses it",
		Example:           "  lqctl volume resize data 40G",
		Args:              exactly("NAME", "SIZE"),
		ValidArgsFunction: completeArgs(1, s.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := quantity.ParseBytes(args[1])
			if err != nil {
				return failure.Usage("SIZE: %w", err).WithFix("write for example 40G")
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Volumes.ResizeVolume(cmd.Context(), connect.NewRequest(&storagev1.ResizeVolumeRequest{Id: args[0], ProjectId: project, SizeBytes: size}))
			if err != nil {
				return err
			}
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetVolume(), done: "has " + quantity.FormatBytes(size)}}, noWait, false)
		},
	}
	addNoWait(cmd, &noWait)
	return cmd
}

func (s *session) volumeMove() *cobra.Command {
	req := &storagev1.MoveVolumeRequest{}
	var noWait bool
	cmd := &cobra.Command{
		Use:   "move NAME POOL",
		Short: "Move a volume that nothing uses to another pool",
		Long: "Moves a volume that nothing uses, and that has no snapshots, to another pool. One node that reaches both copies it; it is deleted\n" +
			"where it was once it is whole where it shall be, so that whatever breaks in between one of the two is the volume.",
		Example:           "  lqctl volume move data rbd",
		Args:              exactly("NAME", "POOL"),
		ValidArgsFunction: completeArgs(1, s.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			req.Id, req.Pool, req.ProjectId = args[0], args[1], project
			resp, err := c.Volumes.MoveVolume(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetVolume(), done: "lies in pool " + args[1]}}, noWait, false)
		},
	}
	cmd.Flags().StringVar(&req.Node, "node", "", "node that shall hold it, in a pool that is each node's own; default: chosen")
	complete(cmd, "node", s.nodeNames)
	addNoWait(cmd, &noWait)
	return cmd
}

func (s *session) volumeAttach() *cobra.Command {
	req := &storagev1.AttachVolumeRequest{}
	var noWait bool
	cmd := &cobra.Command{
		Use:               "attach NAME VM",
		Short:             "Add a volume as a disk to a VM; a running guest gets it at once",
		Example:           "  lqctl volume attach data web",
		Args:              exactly("NAME", "VM"),
		ValidArgsFunction: completeArgs(1, s.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			req.Id, req.Vm, req.ProjectId = args[0], args[1], project
			resp, err := c.Volumes.AttachVolume(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetVolume(), done: "attached to " + args[1]}}, noWait, false)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&req.DiskName, "disk", "", "name of the disk within the VM; default: the volume's name")
	fl.StringVar(&req.Serial, "serial", "", "serial number that the guest sees; default: made from the volume's id")
	fl.BoolVar(&req.ReadOnly, "read-only", false, "let the guest only read")
	addNoWait(cmd, &noWait)
	return cmd
}

func (s *session) volumeDetach() *cobra.Command {
	var vm string
	var noWait bool
	cmd := &cobra.Command{
		Use:               "detach NAME",
		Short:             "Take a volume's disk out of its VM; a running guest is asked to let go of it",
		Example:           "  lqctl volume detach data",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Volumes.DetachVolume(cmd.Context(), connect.NewRequest(&storagev1.DetachVolumeRequest{Id: args[0], ProjectId: project, Vm: vm}))
			if err != nil {
				return err
			}
			it := accepted{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetVolume(), done: "detached"}
			if it.op == nil {
				it.done = "is not attached"
			}
			return s.settle(cmd.Context(), c, []accepted{it}, noWait, false)
		},
	}
	cmd.Flags().StringVar(&vm, "vm", "", "VM to take it from; needed only where it is attached to several")
	addNoWait(cmd, &noWait)
	return cmd
}

func (s *session) volumeDelete() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:               "delete NAME...",
		Aliases:           []string{"rm"},
		Short:             "Delete volumes with their data",
		Example:           "  lqctl volume delete data",
		Args:              some("NAME"),
		ValidArgsFunction: completeArgs(0, s.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			var items []accepted
			var errs []error
			for _, name := range args {
				resp, err := c.Volumes.DeleteVolume(cmd.Context(), connect.NewRequest(&storagev1.DeleteVolumeRequest{Id: name, ProjectId: project}))
				if err != nil {
					errs = append(errs, err)
					continue
				}
				it := accepted{name: name, op: resp.Msg.GetOperation(), object: resp.Msg.GetVolume(), done: "deleted"}
				if resp.Msg.GetVolume() == nil {
					it.object, it.done = &storagev1.Volume{}, "is gone already"
				}
				items = append(items, it)
			}
			return s.join(append(errs, nonNil(s.settle(cmd.Context(), c, items, noWait, len(args) > 1))...))
		},
	}
	addNoWait(cmd, &noWait)
	return cmd
}
