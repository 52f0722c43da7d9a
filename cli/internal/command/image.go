package command

import (
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/render"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func (s *session) imageCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "image",
		Short:   "Manage images: what disks start from, kernels and initrds",
		Example: "  lqctl image import debian --file debian.qcow2 --format qcow2\n  lqctl image list",
	}, s.imageImport(), s.imageList(), s.imageShow(), s.imageDelete())
}

func (s *session) imageList() *cobra.Command {
	var selector string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List images",
		Example: "  lqctl image list\n  lqctl image list -l os=debian -o wide",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			images, err := c.ListImages(cmd.Context(), project, selector)
			if err != nil {
				return err
			}
			slices.SortStableFunc(images, func(a, b *storagev1.Image) int { return strings.Compare(nameOf(a), nameOf(b)) })
			return printList(s, images, nameOf, render.ImageColumns(s.Now))
		},
	}
	addSelector(cmd, &selector)
	return cmd
}

func (s *session) imageShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Aliases:           []string{"get"},
		Short:             "Show one image with its copies",
		Example:           "  lqctl image show debian\n  lqctl image show debian -o json",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.imageNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Images.GetImage(cmd.Context(), connect.NewRequest(&storagev1.GetImageRequest{Id: args[0], ProjectId: project}))
			if err != nil {
				return err
			}
			return printOne(s, resp.Msg.GetImage(), args[0], render.ImageFields(resp.Msg.GetImage(), s.Now()))
		},
	}
}

func (s *session) imageDelete() *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:               "delete NAME...",
		Aliases:           []string{"rm"},
		Short:             "Delete images and their copies",
		Example:           "  lqctl image delete debian",
		Args:              some("NAME"),
		ValidArgsFunction: completeArgs(0, s.imageNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			var items []accepted
			var errs []error
			for _, name := range args {
				resp, err := c.Images.DeleteImage(cmd.Context(), connect.NewRequest(&storagev1.DeleteImageRequest{Id: name, ProjectId: project}))
				if err != nil {
					errs = append(errs, err)
					continue
				}
				it := accepted{name: name, op: resp.Msg.GetOperation(), object: resp.Msg.GetImage(), done: "deleted"}
				if resp.Msg.GetImage() == nil {
					it.object, it.done = &storagev1.Image{}, "is gone already"
				}
				items = append(items, it)
			}
			if err := s.settle(cmd.Context(), c, items, noWait, len(args) > 1); err != nil {
				errs = append(errs, err)
			}
			return s.join(errs)
		},
	}
	addNoWait(cmd, &noWait)
	return cmd
}
