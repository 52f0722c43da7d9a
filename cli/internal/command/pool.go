package command

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func (s *session) poolCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "pool",
		Short:   "Manage storage pools: where volumes and images lie",
		Example: "  lqctl pool create fast --driver local -p path=/srv/fast\n  lqctl pool list",
	}, s.poolCreate(), s.poolList(), s.poolShow(), s.poolSet(), s.poolDelete())
}

// poolFlags are what a pool is made of.
type poolFlags struct {
	driver     string
	parameters []string
	secrets    []string
	selector   []string
	labels     []string
	overcommit float64
	cordon     bool
	uncordon   bool
	noWait     bool
}

func (f *poolFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.parameters, "parameter", "p", nil, "parameter of the driver, key=value; repeatable")
	fl.StringArrayVar(&f.secrets, "secret-file", nil, "secret of the driver, name=FILE, or name=- for standard input; repeatable; never on the command line itself")
	fl.StringArrayVar(&f.selector, "node-selector", nil, "label of the nodes that use the pool, key=value; repeatable; default: every node that has the driver")
	fl.Float64Var(&f.overcommit, "overcommit", 0, "room that volumes may promise per byte of capacity; 0 = no limit")
	addNoWait(cmd, &f.noWait)
}

// secret reads the files that --secret-file names.
func (f *poolFlags) read(stdin io.Reader) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, s := range f.secrets {
		name, file, ok := strings.Cut(s, "=")
		if !ok || name == "" || file == "" {
			return nil, failure.Usage("--secret-file %q is not name=FILE", s).WithFix("write for example --secret-file key=/etc/ceph/client.key")
		}
		var b []byte
		var err error
		if file == "-" {
			b, err = io.ReadAll(io.LimitReader(stdin, 64<<10+1))
		} else {
			b, err = os.ReadFile(file)
		}
		if err != nil {
			return nil, failure.Usage("--secret-file %s: %w", name, err).WithFix("name a file that you can read")
		}
		out[name] = []byte(strings.TrimRight(string(b), "\r\n")) // an editor's last line end is no part of a key
	}
	return out, nil
}

func (s *session) poolCreate() *cobra.Command {
	var f poolFlags
	cmd := &cobra.Command{
		Use:   "create NAME --driver DRIVER",
		Short: "Create a storage pool and wait until a node can use it",
		Example: "  lqctl pool create fast --driver local -p path=/srv/fast --overcommit 2\n" +
			"  lqctl pool create rbd --driver ceph -p monitors=10.0.0.1:6789 -p pool=vms -p user=lq --secret-file key=client.lq.key",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.driver == "" {
				return failure.Usage("--driver is missing").WithFix("name a storage driver: a plugin that nodes run, for example local (lqctl node show NODE lists them)")
			}
			spec := &storagev1.StoragePoolSpec{Driver: f.driver, Overcommit: f.overcommit}
			var err error
			if spec.Parameters, err = pairs("--parameter", f.parameters); err != nil {
				return err
			}
			if spec.NodeSelector, err = pairs("--node-selector", f.selector); err != nil {
				return err
			}
			labels, err := pairs("--label", f.labels)
			if err != nil {
				return err
			}
			if spec.Secrets, err = f.read(s.In); err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Pools.CreateStoragePool(cmd.Context(), connect.NewRequest(&storagev1.CreateStoragePoolRequest{StoragePool: &storagev1.StoragePool{
				Meta: &metav1.ObjectMeta{Name: args[0], ProjectId: project, Labels: labels}, Spec: spec,
			}}))
			if err != nil {
				return err
			}
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetStoragePool(), done: "created"}}, f.noWait, false)
		},
	}
	cmd.Flags().StringVar(&f.driver, "driver", "", "storage driver, by plugin name")
	cmd.Flags().StringArrayVar(&f.labels, "label", nil, "label key=value; repeatable")
	f.register(cmd)
	return cmd
}

func (s *session) poolList() *cobra.Command {
	var selector string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List storage pools",
		Example: "  lqctl pool list\n  lqctl pool list -o wide",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			pools, err := c.ListPools(cmd.Context(), project, selector)
			if err != nil {
				return err
			}
			slices.SortStableFunc(pools, func(a, b *storagev1.StoragePool) int { return strings.Compare(nameOf(a), nameOf(b)) })
			return printList(s, pools, nameOf, render.PoolColumns(s.Now))
		},
	}
	addSelector(cmd, &selector)
	return cmd
}

func (s *session) poolShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Aliases:           []string{"get"},
		Short:             "Show one storage pool, and how it is on each node",
		Example:           "  lqctl pool show local",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.poolNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Pools.GetStoragePool(cmd.Context(), connect.NewRequest(&storagev1.GetStoragePoolRequest{Id: args[0], ProjectId: project}))
			if err != nil {
				return err
			}
			return printOne(s, resp.Msg.GetStoragePool(), args[0], render.PoolFields(resp.Msg.GetStoragePool(), s.Now()))
		},
	}
}

func (s *session) poolSet() *cobra.Command {
	var f poolFlags
	cmd := &cobra.Command{
		Use:               "set NAME",
		Short:             "Change a storage pool",
		Long:              "Change a storage pool. --parameter and --node-selector replace all that were set before; of secrets only those named change.",
		Example:           "  lqctl pool set fast --overcommit 3\n  lqctl pool set fast --cordon",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.poolNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, mask := &storagev1.StoragePoolSpec{Overcommit: f.overcommit, Cordoned: f.cordon}, &fieldmaskpb.FieldMask{}
			var err error
			if spec.Parameters, err = pairs("--parameter", f.parameters); err != nil {
				return err
			}
			if spec.NodeSelector, err = pairs("--node-selector", f.selector); err != nil {
				return err
			}
			if spec.Secrets, err = f.read(s.In); err != nil {
				return err
			}
			if f.cordon && f.uncordon {
				return failure.Usage("--cordon and --uncordon exclude each other").WithFix("give one of them")
			}
			for flag, path := range map[string]string{
				"parameter": "spec.parameters", "secret-file": "spec.secrets", "node-selector": "spec.node_selector", "overcommit": "spec.overcommit", "cordon": "spec.cordoned", "uncordon": "spec.cordoned",
			} {
				if cmd.Flags().Changed(flag) {
					mask.Paths = append(mask.Paths, path)
				}
			}
			if len(mask.GetPaths()) == 0 {
				return failure.Usage("nothing is to be changed").WithFix("give a flag, for example --overcommit 2")
			}
			slices.Sort(mask.Paths)
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Pools.UpdateStoragePool(cmd.Context(), connect.NewRequest(&storagev1.UpdateStoragePoolRequest{
				StoragePool: &storagev1.StoragePool{Meta: &metav1.ObjectMeta{Name: args[0], ProjectId: project}, Spec: spec}, UpdateMask: mask,
			}))
			if err != nil {
				return err
			}
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: resp.Msg.GetStoragePool(), done: "changed"}}, f.noWait, false)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&f.cordon, "cordon", false, "put nothing new here")
	cmd.Flags().BoolVar(&f.uncordon, "uncordon", false, "let new volumes and images come")
	return cmd
}

func (s *session) poolDelete() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:               "delete NAME...",
		Aliases:           []string{"rm"},
		Short:             "Delete storage pools in which nothing is kept; the places themselves stay as they are",
		Example:           "  lqctl pool delete fast",
		Args:              some("NAME"),
		ValidArgsFunction: completeArgs(0, s.poolNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			var items []accepted
			var errs []error
			for _, name := range args {
				resp, err := c.Pools.DeleteStoragePool(cmd.Context(), connect.NewRequest(&storagev1.DeleteStoragePoolRequest{Id: name, ProjectId: project}))
				if err != nil {
					errs = append(errs, err)
					continue
				}
				it := accepted{name: name, op: resp.Msg.GetOperation(), object: resp.Msg.GetStoragePool(), done: "deleted"}
				if resp.Msg.GetStoragePool() == nil {
					it.object, it.done = &storagev1.StoragePool{}, "is gone already"
				}
				items = append(items, it)
			}
			return s.join(append(errs, nonNil(s.settle(cmd.Context(), c, items, noWait, len(args) > 1))...))
		},
	}
	addNoWait(cmd, &noWait)
	return cmd
}

// source reads what a volume is made from: "image/debian", "snapshot/monday", "volume/data".
func parseSource(text string) (*storagev1.VolumeSource, error) {
	kind, name, _ := strings.Cut(text, "/")
	if name != "" {
		switch kind {
		case "image":
			return &storagev1.VolumeSource{Source: &storagev1.VolumeSource_ImageId{ImageId: name}}, nil
		case "snapshot":
			return &storagev1.VolumeSource{Source: &storagev1.VolumeSource_SnapshotId{SnapshotId: name}}, nil
		case "volume":
			return &storagev1.VolumeSource{Source: &storagev1.VolumeSource_VolumeId{VolumeId: name}}, nil
		}
	}
	return nil, failure.Usage("--from %q says neither image, snapshot nor volume", text).WithFix("write %s", fmt.Sprintf("%q, %q or %q", "image/NAME", "snapshot/NAME", "volume/NAME"))
}
