package command

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/nearest"
)

// group makes a command that only holds others: alone it prints its help, with an unknown verb it says which was meant.
func (s *session) group(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(children...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return unknownVerb(cmd, args[0])
	}
	return cmd
}

func unknownVerb(cmd *cobra.Command, word string) error {
	var verbs []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() || c.Name() == "help" {
			verbs = append(verbs, c.Name())
			verbs = append(verbs, c.Aliases...)
		}
	}
	e := failure.Usage("unknown command %q for %q", word, cmd.CommandPath()).WithFix("%s --help lists the commands", cmd.CommandPath())
	if near := nearest.Word(word, verbs); near != "" {
		e.Message += fmt.Sprintf("; did you mean %q?", near)
		e.Fix = cmd.CommandPath() + " " + near
	}
	return e
}

// flagError explains a flag that could not be read. Where the flag only seems wrong because the verb before it is, it explains the verb.
func (s *session) flagError(cmd *cobra.Command, err error) error {
	if cmd.HasSubCommands() {
		if _, rest, findErr := cmd.Root().Find(s.args); findErr == nil {
			for _, word := range rest {
				if !strings.HasPrefix(word, "-") {
					if sub, _, _ := cmd.Find([]string{word}); sub == cmd {
						return unknownVerb(cmd, word)
					}
					break
				}
			}
		}
	}
	e := failure.Usage("%w", err).WithFix("%s --help lists the flags", cmd.CommandPath())
	var absent *pflag.NotExistError
	if !errors.As(err, &absent) {
		return e
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if absent.GetSpecifiedShortnames() != "" {
		e.Message = fmt.Sprintf("unknown flag -%s", absent.GetSpecifiedName())
		return e
	}
	e.Message = fmt.Sprintf("unknown flag --%s", absent.GetSpecifiedName())
	if near := nearest.Word(absent.GetSpecifiedName(), names); near != "" {
		e.Message += fmt.Sprintf("; did you mean --%s?", near)
	}
	return e
}

// exactly takes these arguments, each once.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return failure.Usage("%s is missing", names[len(args)]).WithFix("usage: %s", cmd.UseLine())
		case len(args) > len(names):
			return failure.Usage("%q is one argument too many", args[len(names)]).WithFix("usage: %s", cmd.UseLine())
		}
		return nil
	}
}

// atMost takes an argument, or none.
func atMost(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return failure.Usage("%q is one argument too many", args[1]).WithFix("usage: %s takes one %s", cmd.CommandPath(), name)
		}
		return nil
	}
}

// some takes one or more of an argument.
func some(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return failure.Usage("%s is missing", name).WithFix("usage: %s", cmd.UseLine())
		}
		return nil
	}
}

// unknownValue is the failure for a word that is none of those known.
func unknownValue(flag, value string, known []string) error {
	e := failure.Usage("unknown value %q for %s", value, flag).WithFix("use one of %s", strings.Join(known, ", "))
	if near := nearest.Word(value, known); near != "" {
		e.Message += fmt.Sprintf("; did you mean %q?", near)
	}
	return e
}

// pairs reads "key=value" strings as a map.
func pairs(flag string, items []string) (map[string]string, error) {
	if len(items) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, item := range items {
		k, v, ok := strings.Cut(item, "=")
		if !ok || k == "" {
			return nil, failure.Usage("%s %q is not of the form key=value", flag, item).WithFix("write for example %s app=web", flag)
		}
		if _, twice := out[k]; twice {
			return nil, failure.Usage("%s gives %q twice", flag, k).WithFix("give each key once")
		}
		out[k] = v
	}
	return out, nil
}
