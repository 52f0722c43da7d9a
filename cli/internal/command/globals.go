package command

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/contexts"
	"github.com/limiquantix/limiquantix/cli/internal/render"
)

// globals are the flags that every command has.
type globals struct {
	output    string
	server    string
	tokenFile string
	caFile    string
	context   string
	project   string
	timeout   time.Duration
	quiet     bool
}

func (g *globals) register(s *session, root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVarP(&g.output, "output", "o", string(render.Table), "output: "+strings.Join(render.Formats, ", "))
	f.StringVar(&g.server, "server", "", "controller's URL")
	f.StringVar(&g.tokenFile, "token-file", "", "file with the bearer token")
	f.StringVar(&g.caFile, "ca-file", "", "PEM file with the CA of the controller's certificate")
	f.StringVar(&g.context, "context", "", "context to use instead of the current one")
	f.StringVar(&g.project, "project", "", "project; lists without it show all")
	f.DurationVar(&g.timeout, "timeout", 0, "longest time for the command, waits included; 0 = no end")
	f.BoolVarP(&g.quiet, "quiet", "q", false, "print neither progress nor what was done")
	_ = root.RegisterFlagCompletionFunc("output", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return formatsOf(cmd), cobra.ShellCompDirectiveNoFileComp
	})
	complete(root, "context", func(string) []string {
		f, err := contexts.Load(contexts.Path(s.Getenv))
		if err != nil {
			return nil
		}
		return f.Names()
	})
}

func (s *session) format() render.Format { return render.Format(s.global.output) }

// wantsJSON reports whether failures are to be JSON, also where the command line could not be read.
func (s *session) wantsJSON() bool {
	if s.global.output == string(render.AsJSON) {
		return true
	}
	i := slices.IndexFunc(s.args, func(a string) bool { return a == "-o" || a == "--output" })
	return i >= 0 && i+1 < len(s.args) && s.args[i+1] == "json" ||
		slices.Contains(s.args, "-ojson") || slices.Contains(s.args, "-o=json") || slices.Contains(s.args, "--output=json")
}

// addNoWait registers --no-wait.
func addNoWait(cmd *cobra.Command, v *bool) {
	cmd.Flags().BoolVar(v, "no-wait", false, "return when the controller has accepted it; print the operation's id")
}

// addSelector registers -l.
func addSelector(cmd *cobra.Command, v *string) {
	cmd.Flags().StringVarP(v, "selector", "l", "", "only those with these labels: a=b,c!=d,e,!f")
}

// addWatch registers -w.
func addWatch(cmd *cobra.Command, v *bool) {
	cmd.Flags().BoolVarP(v, "watch", "w", false, "go on with each change until Ctrl-C")
}
