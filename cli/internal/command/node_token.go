package command

import (
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func (s *session) tokenCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "token",
		Short:   "Manage join tokens: each lets one agent enrol, once",
		Example: "  lqctl node token create host2 > host2.token\n  lqctl node token list",
	}, s.tokenCreate(), s.tokenList(), s.tokenDelete())
}

func (s *session) tokenCreate() *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:     "create NODE",
		Short:   "Make a join token for a node of this name; it is shown once",
		Example: "  lqctl node token create host2 > host2.token\n  lqctl node token create host2 --ttl 24h",
		Args:    exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if ttl < 0 {
				return failure.Usage("--ttl must not be negative").WithFix("write for example --ttl 24h, at most 168h")
			}
			c, _, err := s.dial()
			if err != nil {
				return err
			}
			req := &computev1.CreateJoinTokenRequest{NodeName: args[0]}
			if ttl > 0 {
				req.Ttl = durationpb.New(ttl)
			}
			resp, err := c.Nodes.CreateJoinToken(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			if !s.tabular() {
				return printOne(s, resp.Msg, resp.Msg.GetJoinToken().GetId(), nil)
			}
			fmt.Fprintln(s.Out, resp.Msg.GetToken())
			if !s.global.quiet {
				fmt.Fprintf(s.Err, "Good for node %s only, once, until %s; it is not shown again.\n", args[0], render.Time(resp.Msg.GetJoinToken().GetExpireTime()))
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long it is good, at most 168h; 0 = 1h")
	return cmd
}

func (s *session) tokenList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List join tokens that are good now, without their secrets",
		Example: "  lqctl node token list",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Nodes.ListJoinTokens(cmd.Context(), connect.NewRequest(&computev1.ListJoinTokensRequest{}))
			if err != nil {
				return err
			}
			return printList(s, resp.Msg.GetJoinTokens(), func(t *computev1.JoinToken) string { return t.GetId() }, render.TokenColumns(s.Now))
		},
	}
}

func (s *session) tokenDelete() *cobra.Command {
	return &cobra.Command{
		Use:     "delete ID...",
		Aliases: []string{"rm"},
		Short:   "Revoke join tokens",
		Example: "  lqctl node token delete 3f0c9a7e",
		Args:    some("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := s.dial()
			if err != nil {
				return err
			}
			for _, id := range args {
				if _, err := c.Nodes.DeleteJoinToken(cmd.Context(), connect.NewRequest(&computev1.DeleteJoinTokenRequest{Id: id})); err != nil {
					return err
				}
				s.say("token %s deleted", id)
			}
			return nil
		},
	}
}
