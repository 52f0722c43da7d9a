package command

import (
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/render"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// formatsKey is the annotation of commands whose -o takes other words than the usual ones, which come separated by spaces.
const formatsKey = "formats"

func (s *session) networkTopology() *cobra.Command {
	req := &networkv1.GetNetworkTopologyRequest{}
	cmd := &cobra.Command{
		Use:   "topology [NETWORK]",
		Short: "Show nodes, networks, ports, VMs and security groups with their state now",
		Long: "Shows what is connected with what, of one moment: each node, the networks on it, the ports in them with their groups, and the VMs\n" +
			"that use them; then what is on no node, and the groups. A state that was not reported lately is said to be the last known.\n\n" +
			"-o tree (default), dot (for Graphviz), json or yaml (the API's own graph).",
		Example:           "  lqctl network topology\n  lqctl network topology lan --node host1\n  lqctl network topology -o dot | dot -Tsvg > network.svg",
		Annotations:       map[string]string{formatsKey: "tree dot json yaml"},
		Args:              atMost("NETWORK"),
		ValidArgsFunction: completeArgs(1, s.networkNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			req.ProjectId = project
			if len(args) > 0 {
				req.Network = args[0]
			}
			resp, err := c.Networks.GetNetworkTopology(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			switch s.format() {
			case "dot":
				return render.TopologyDot(s.Out, resp.Msg)
			case render.AsJSON, render.AsYAML:
				return printOne(s, resp.Msg, "", nil)
			}
			return render.TopologyTree(s.Out, resp.Msg)
		},
	}
	cmd.Flags().StringVar(&req.Node, "node", "", "only what touches this node")
	complete(cmd, "node", s.nodeNames)
	return cmd
}

// formatsOf are the words that a command's -o takes.
func formatsOf(cmd *cobra.Command) []string {
	if words := cmd.Annotations[formatsKey]; words != "" {
		return strings.Fields(words)
	}
	return slices.Clone(render.Formats)
}
