package command

import (
	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// limitFlags are a volume's limits.
type limitFlags struct{ iops, bandwidth string }

// read is what the flags say; "none", or nothing, is no limit.
func (f limitFlags) read() (q *storagev1.VolumeQos, err error) {
	q = &storagev1.VolumeQos{}
	if f.iops != "" && f.iops != none {
		if q.Iops, err = quantity.ParseExact(f.iops); err != nil {
			return nil, failure.Usage("--iops: %w", err).WithFix("give a whole number, or none")
		}
	}
	if f.bandwidth != "" && f.bandwidth != none {
		if q.BytesPerSecond, err = quantity.ParseBytes(f.bandwidth); err != nil {
			return nil, failure.Usage("--bandwidth: %w", err).WithFix("write for example 100M, or none")
		}
	}
	return q, nil
}

func (s *session) volumeSet() *cobra.Command {
	var limits limitFlags
	var shared, protect, noWait bool
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a volume: limits while a guest uses it, protection, sharing",
		Long: "Changes what the flags name and nothing else. Limits hold at once, also for a guest that runs; --shared changes only while\n" +
			"nothing uses the volume.",
		Example:           "  lqctl volume set data --iops 500 --bandwidth 50M\n  lqctl volume set data --iops none\n  lqctl volume set data --protect",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.volumeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			qos, err := limits.read()
			if err != nil {
				return err
			}
			paths := changedPaths(cmd, map[string]string{
				"iops": "spec.qos.iops", "bandwidth": "spec.qos.bytes_per_second", "shared": "spec.shared", "protect": "spec.delete_protection",
			})
			if len(paths) == 0 {
				return nothingToChange(cmd)
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Volumes.UpdateVolume(cmd.Context(), connect.NewRequest(&storagev1.UpdateVolumeRequest{
				Volume: &storagev1.Volume{
					Meta: &metav1.ObjectMeta{Name: args[0], ProjectId: project}, Spec: &storagev1.VolumeSpec{Qos: qos, Shared: shared, DeleteProtection: protect},
				},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
			}))
			if err != nil {
				return err
			}
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetVolume(), done: "changed"}}, noWait, false)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&limits.iops, "iops", "", "limit of reads and writes per second; none = no limit")
	fl.StringVar(&limits.bandwidth, "bandwidth", "", "limit of bytes per second, for example 100M; none = no limit")
	fl.BoolVar(&shared, "shared", false, "let several VMs write it at once")
	fl.BoolVar(&protect, "protect", false, "refuse to delete it")
	addNoWait(cmd, &noWait)
	return cmd
}
