package command

import (
	"fmt"
	"slices"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

var whyKinds = []string{"vm", "node", "image"}

func (s *session) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "why [vm|node|image] NAME",
		Short: "Say why something is as it is: what is done, what failed, when it is tried next, whom it waits for",
		Long: "Why says, for anything that is not as it is wanted, which driver call is under way and for how long, what failed last and what to do about it, " +
			"how often it was tried, when it is tried next, and whom it waits for: the scheduler, a node, a driver, a volume, an image copy, an agent that is not connected.\n\n" +
			"What a node is at is known to the controller that leads; another one says so.",
		Example: "  lqctl why web\n  lqctl why node host1\n  lqctl why image debian",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && !slices.Contains(whyKinds, args[0]) {
				return unknownValue("the kind of "+args[1], args[0], whyKinds)
			}
			if len(args) > 2 {
				return failure.Usage("%q is one argument too many", args[2]).WithFix("usage: %s", cmd.UseLine())
			}
			return some("NAME")(cmd, args)
		},
		ValidArgsFunction: completeArgs(2, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name := "vm", args[len(args)-1]
			if len(args) == 2 {
				kind = args[0]
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			var x *computev1.Explanation
			suggestion := ""
			switch kind {
			case "vm":
				resp, err := c.VMs.ExplainVM(cmd.Context(), connect.NewRequest(&computev1.ExplainVMRequest{Id: name, ProjectId: project}))
				if err != nil {
					return err
				}
				x, suggestion = resp.Msg.GetExplanation(), resp.Msg.GetSuggestion()
			case "node":
				resp, err := c.Nodes.ExplainNode(cmd.Context(), connect.NewRequest(&computev1.ExplainNodeRequest{Id: name}))
				if err != nil {
					return err
				}
				x = resp.Msg.GetExplanation()
			case "image":
				resp, err := c.Images.GetImage(cmd.Context(), connect.NewRequest(&storagev1.GetImageRequest{Id: name, ProjectId: project}))
				if err != nil {
					return err
				}
				x = whyImage(resp.Msg.GetImage())
			}
			if !s.tabular() {
				return printOne(s, x, name, nil)
			}
			if err := render.Explanation(s.Out, x, s.Now()); err != nil {
				return err
			}
			if suggestion != "" && !x.GetAsWanted() {
				fmt.Fprintf(s.Out, "  It would fit: %s\n", suggestion)
			}
			return nil
		},
	}
}

// whyImage explains an image by what its copies say.
func whyImage(img *storagev1.Image) *computev1.Explanation {
	st := img.GetStatus()
	x := &computev1.Explanation{
		ObjectKind: "Image", ObjectId: img.GetMeta().GetId(), ObjectName: img.GetMeta().GetName(), State: render.Enum(st.GetPhase(), "IMAGE_PHASE_"), Wanted: "READY",
		AsWanted: st.GetPhase() == storagev1.ImagePhase_IMAGE_PHASE_READY && img.GetMeta().GetDeleteTime() == nil, Summary: st.GetMessage(),
	}
	if img.GetMeta().GetDeleteTime() != nil {
		x.Wanted, x.Since = "gone", img.GetMeta().GetDeleteTime()
	}
	ready := 0
	for _, c := range st.GetCopies() {
		if c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY && x.GetWanted() != "gone" {
			ready++
			continue
		}
		x.Parts = append(x.Parts, &computev1.Explanation{
			ObjectKind: "Copy", ObjectId: c.GetNodeId(), ObjectName: "on node " + c.GetNodeId(), State: render.Enum(c.GetPhase(), "IMAGE_COPY_PHASE_"), Wanted: "READY",
			Summary: c.GetMessage(), Since: c.GetTransitionTime(), WaitsFor: "node " + c.GetNodeId(),
		})
	}
	if x.GetSummary() == "" {
		x.Summary = fmt.Sprintf("%d of %d copies are ready", ready, len(st.GetCopies()))
	}
	switch {
	case x.GetAsWanted():
	case len(x.GetParts()) > 0:
		x.WaitsFor = x.GetParts()[0].GetWaitsFor()
	default:
		x.WaitsFor = "its content to be uploaded"
	}
	return x
}
