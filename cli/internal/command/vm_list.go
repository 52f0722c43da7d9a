package command

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func (s *session) vmList() *cobra.Command {
	var selector, node string
	var phases []string
	var watch bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List VMs",
		Long:    "Lists VMs. A * after the status says that a part of the spec waits for a restart.",
		Example: "  lqctl vm list\n  lqctl vm list -l app=web -o wide\n  lqctl vm list --phase failed,pending\n  lqctl vm list -w",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			req := &computev1.ListVMsRequest{ProjectId: project, LabelSelector: selector, Node: node}
			if req.Phases, err = vmPhases(phases); err != nil {
				return err
			}
			if watch {
				if node != "" || len(phases) > 0 {
					return failure.Usage("-w cannot be combined with --node or --phase").WithFix("narrow the watch with -l")
				}
				return s.watchVMs(cmd, c, req)
			}
			vms, err := c.ListVMs(cmd.Context(), req)
			if err != nil {
				return err
			}
			slices.SortStableFunc(vms, func(a, b *computev1.VM) int { return strings.Compare(nameOf(a), nameOf(b)) })
			return printList(s, vms, nameOf, render.VMColumns(s.Now))
		},
	}
	addSelector(cmd, &selector)
	addWatch(cmd, &watch)
	cmd.Flags().StringVar(&node, "node", "", "only those on this node")
	cmd.Flags().StringSliceVar(&phases, "phase", nil, "only those in these phases: "+strings.Join(phaseNames(), ", "))
	complete(cmd, "node", s.nodeNames)
	complete(cmd, "phase", fixed(phaseNames()...))
	return cmd
}

func (s *session) watchVMs(cmd *cobra.Command, c *api.Client, list *computev1.ListVMsRequest) error {
	show := streamer(s, nameOf[*computev1.VM], render.VMColumns(s.Now))
	var present []*computev1.VM // until the first bookmark: so that the table's columns fit
	opening := true
	req := &computev1.WatchVMsRequest{ProjectId: list.GetProjectId(), LabelSelector: list.GetLabelSelector()}
	err := c.WatchVMs(cmd.Context(), req, func(e *computev1.WatchVMsResponse) error {
		switch e.GetType() {
		case computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK:
			if !opening {
				return nil
			}
			opening = false
			return show(present...)
		case computev1.WatchEventType_WATCH_EVENT_TYPE_REMOVED:
			if e.GetVm().GetStatus() != nil {
				e.Vm.Status.Phase, e.Vm.Status.Message = computev1.VMPhase_VM_PHASE_DELETING, "gone"
			}
		}
		if opening {
			present = append(present, e.GetVm())
			return nil
		}
		return show(e.GetVm())
	})
	return endless(cmd, err)
}

// endless makes the end of a command that has none of its own a silent one: --timeout is success, Ctrl-C an interrupt.
func endless(cmd *cobra.Command, err error) error {
	switch {
	case err != nil && (errors.Is(cmd.Context().Err(), context.DeadlineExceeded) || api.Overdue(cmd.Context(), err)):
		return nil // --timeout asked for the end
	case err == nil || cmd.Context().Err() == nil:
		return err
	}
	e := *failure.From(cmd.Context().Err())
	e.Silent = true
	return &e
}

func phaseNames() []string {
	var out []string
	for i := int32(1); i < int32(len(computev1.VMPhase_name)); i++ {
		out = append(out, render.Enum(computev1.VMPhase(i), "VM_PHASE_"))
	}
	return out
}

func vmPhases(words []string) ([]computev1.VMPhase, error) {
	var out []computev1.VMPhase
	for _, w := range words {
		i := slices.Index(phaseNames(), strings.ToLower(w))
		if i < 0 {
			return nil, unknownValue("--phase", w, phaseNames())
		}
		out = append(out, computev1.VMPhase(i+1))
	}
	return out, nil
}
