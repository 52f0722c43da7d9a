package command

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/contexts"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
)

func (s *session) contextCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "context",
		Short:   "Choose among controllers",
		Example: "  lqctl context set lab --server https://lab.example:8080 --token-file ~/lab.token --ca-file ~/lab.pem\n  lqctl context use lab",
	}, s.contextList(), s.contextUse(), s.contextSet(), s.contextDelete(), s.contextShow())
}

// contextNames completes the names of contexts.
func (s *session) contextNames(string) []string {
	f, err := s.contexts()
	if err != nil {
		return nil
	}
	return f.Names()
}

func (s *session) contextList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List contexts",
		Example: "  lqctl context list",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			f, err := s.contexts()
			if err != nil {
				return err
			}
			if !s.tabular() && s.format() != render.Names {
				return s.printPlain(map[string]any{"current": f.Current, "items": f.Contexts})
			}
			if s.format() == render.Names {
				for _, n := range f.Names() {
					fmt.Fprintln(s.Out, n)
				}
				return nil
			}
			return render.NewPrinter(s.Out, []render.Column[contexts.Context]{
				{Title: "CURRENT", Value: func(c contexts.Context) string {
					if c.Name == f.Current {
						return "*"
					}
					return " "
				}},
				{Title: "NAME", Value: func(c contexts.Context) string { return c.Name }},
				{Title: "SERVER", Value: func(c contexts.Context) string { return c.Server }},
				{Title: "PROJECT", Value: func(c contexts.Context) string { return c.Project }},
			}, false).Print(f.Contexts)
		},
	}
}

func (s *session) contextUse() *cobra.Command {
	return &cobra.Command{
		Use:               "use NAME",
		Short:             "Make a context the current one",
		Example:           "  lqctl context use lab",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.contextNames),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := s.contexts()
			if err != nil {
				return err
			}
			if f.Find(args[0]) == nil {
				return noContext(f, args[0])
			}
			f.Current = args[0]
			if err := contexts.Save(contexts.Path(s.Getenv), f); err != nil {
				return err
			}
			s.say("%s is the current context", args[0])
			return nil
		},
	}
}

func (s *session) contextSet() *cobra.Command {
	var tokenStdin bool
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Make or change a context from --server, --token-file, --ca-file and --project",
		Long: "Makes a context, or changes those of its settings that are given. The first context becomes the current one.\n" +
			"--token-file is noted as a path; --token-stdin reads the token itself and keeps it in the file of contexts (mode 0600).",
		Example: "  lqctl context set lab --server https://lab.example:8080 --token-file ~/lab.token\n" +
			"  lqctl context set lab --token-stdin < token\n  lqctl context set lab --project team-a",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.contextNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := s.contexts()
			if err != nil {
				return err
			}
			ctx := contexts.Context{Name: args[0], Server: api.DefaultServer}
			if old := f.Find(args[0]); old != nil {
				ctx = *old
			}
			if err := s.changeContext(cmd, &ctx, tokenStdin); err != nil {
				return err
			}
			f.Put(ctx)
			if f.Current == "" {
				f.Current = ctx.Name
			}
			if err := contexts.Save(contexts.Path(s.Getenv), f); err != nil {
				return err
			}
			s.say("context %s set", ctx.Name)
			return nil
		},
	}
	cmd.Flags().BoolVar(&tokenStdin, "token-stdin", false, "read the token from standard input and keep it")
	return cmd
}

func (s *session) changeContext(cmd *cobra.Command, ctx *contexts.Context, tokenStdin bool) error {
	if cmd.Flags().Changed("server") {
		if _, err := api.CheckServer(s.global.server); err != nil {
			return failure.Usage("%w", err).WithFix("give scheme, host and port")
		}
		ctx.Server = s.global.server
	}
	if cmd.Flags().Changed("token-file") {
		ctx.TokenFile, ctx.Token = s.global.tokenFile, ""
	}
	if cmd.Flags().Changed("ca-file") {
		ctx.CAFile = s.global.caFile
	}
	if cmd.Flags().Changed("project") {
		ctx.Project = s.global.project
	}
	if tokenStdin {
		data, err := io.ReadAll(io.LimitReader(s.In, 64<<10))
		if err != nil {
			return err
		}
		if ctx.Token = strings.TrimSpace(string(data)); ctx.Token == "" {
			return failure.Usage("standard input holds no token").WithFix("lqctl context set %s --token-stdin < FILE", ctx.Name)
		}
		ctx.TokenFile = ""
	}
	return nil
}

func (s *session) contextDelete() *cobra.Command {
	return &cobra.Command{
		Use:               "delete NAME",
		Aliases:           []string{"rm"},
		Short:             "Forget a context",
		Example:           "  lqctl context delete lab",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.contextNames),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := s.contexts()
			if err != nil {
				return err
			}
			if !f.Remove(args[0]) {
				return noContext(f, args[0])
			}
			if err := contexts.Save(contexts.Path(s.Getenv), f); err != nil {
				return err
			}
			s.say("context %s deleted", args[0])
			return nil
		},
	}
}

func (s *session) contextShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "Show which controller is called, and where that is known from; never the token",
		Example: "  lqctl context show\n  lqctl context show --context lab",
		Args:    exactly(),
		RunE: func(*cobra.Command, []string) error {
			c, err := s.connection()
			if err != nil {
				return err
			}
			token := "none"
			if c.token != "" {
				token = "from " + c.tokenFrom
			}
			if !s.tabular() && s.format() != render.Names {
				return s.printPlain(map[string]any{
					"context": c.context, "server": c.server, "serverFrom": c.serverFrom, "token": token, "caFile": c.caFile, "project": c.project,
				})
			}
			return render.Describe(s.Out, []render.Field{
				{Name: "Context", Value: c.context},
				{Name: "Server", Value: c.server + " (" + c.serverFrom + ")"},
				{Name: "Token", Value: token},
				{Name: "CA file", Value: c.caFile},
				{Name: "Project", Value: c.project},
			})
		},
	}
}
