package command

import (
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/quantity"
)

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: failure.ExitHelp()}
}

func quantitiesTopic() *cobra.Command {
	return &cobra.Command{Use: "quantities", Short: "How to write amounts of memory and disk", Long: quantity.Help + "\n"}
}

func environmentTopic() *cobra.Command {
	return &cobra.Command{Use: "environment", Short: "Environment variables and files", Long: `lqctl looks for the controller in this order: --server, --context, LQCTL_SERVER,
LQCTL_CONTEXT, the current context, http://127.0.0.1:8080.

  LQCTL_SERVER      controller's URL
  LQCTL_CONTEXT     context to use instead of the current one
  LQCTL_TOKEN       bearer token
  LQCTL_TOKEN_FILE  file with the bearer token
  LQCTL_CA_FILE     PEM file with the CA of the controller's certificate
  LQCTL_PROJECT     project

Contexts are kept in ~/.config/limiquantix/contexts.yaml (mode 0600). A context's token
goes to its own server only. For a controller on this host the admin token is found in
` + DefaultAdminTokenFile + `, by those who may read it.
`}
}

// addCompletionExamples completes cobra's own commands, so that no command is without an example.
func addCompletionExamples(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Example = "  lqctl help vm create\n  lqctl help exit-codes"
		case "completion":
			c.Example = "  source <(lqctl completion bash)"
			for _, shell := range c.Commands() {
				shell.Example = "  lqctl completion " + shell.Name()
			}
		}
	}
}
