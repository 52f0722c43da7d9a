package command

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/render"
)

// printOne prints an object: table describes it for people.
func printOne[M proto.Message](s *session, item M, name string, fields []render.Field) error {
	switch s.format() {
	case render.AsJSON:
		return render.JSON(s.Out, item)
	case render.AsYAML:
		return render.YAML(s.Out, item)
	case render.Names:
		_, err := fmt.Fprintln(s.Out, name)
		return err
	}
	return render.Describe(s.Out, fields)
}

// printList prints objects.
func printList[M proto.Message](s *session, items []M, name func(M) string, columns []render.Column[M]) error {
	switch s.format() {
	case render.AsJSON:
		return render.JSONList(s.Out, items)
	case render.AsYAML:
		return render.YAMLList(s.Out, items)
	case render.Names:
		for _, item := range items {
			if _, err := fmt.Fprintln(s.Out, name(item)); err != nil {
				return err
			}
		}
		return nil
	}
	return render.NewPrinter(s.Out, columns, s.format() == render.Wide).Print(items)
}

// streamer prints objects one by one as they change.
func streamer[M proto.Message](s *session, name func(M) string, columns []render.Column[M]) func(...M) error {
	table := render.NewPrinter(s.Out, columns, s.format() == render.Wide)
	return func(items ...M) error {
		if s.format() == render.Table || s.format() == render.Wide {
			return table.Print(items)
		}
		for _, item := range items {
			var err error
			switch s.format() {
			case render.AsJSON:
				err = render.JSONLine(s.Out, item)
			case render.AsYAML:
				if _, err = fmt.Fprintln(s.Out, "---"); err == nil {
					err = render.YAML(s.Out, item)
				}
			default:
				_, err = fmt.Fprintln(s.Out, name(item))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// tabular reports whether output is for people.
func (s *session) tabular() bool { return s.format() == render.Table || s.format() == render.Wide }

// say prints what was done, unless -q or a format for programs was asked for.
func (s *session) say(format string, args ...any) {
	if s.tabular() && !s.global.quiet {
		fmt.Fprintf(s.Out, format+"\n", args...)
	}
}

// printPlain prints what is no message of the API, as JSON or YAML.
func (s *session) printPlain(v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if s.format() == render.AsYAML {
		return render.WriteYAML(s.Out, raw)
	}
	_, err = fmt.Fprintf(s.Out, "%s\n", raw)
	return err
}
