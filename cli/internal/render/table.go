// Package render prints objects: tables for people, protobuf's JSON for programs.
package render

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// Format is how objects are printed.
type Format string

// The formats.
const (
	Table  Format = "table"
	Wide   Format = "wide"
	AsJSON Format = "json"
	AsYAML Format = "yaml"
	Names  Format = "name"
)

// Formats are the names of all formats.
var Formats = []string{string(Table), string(Wide), string(AsJSON), string(AsYAML), string(Names)}

// Column is one column of a table of T.
type Column[T any] struct {
	Title string
	Wide  bool // in wide tables only
	Value func(T) string
}

// Printer prints rows of a table; its columns stay where the first rows put them.
type Printer[T any] struct {
	w       io.Writer
	columns []Column[T]
	widths  []int
}

// NewPrinter makes a printer for a growing table.
func NewPrinter[T any](w io.Writer, columns []Column[T], wide bool) *Printer[T] {
	p := &Printer[T]{w: w}
	for _, c := range columns {
		if wide || !c.Wide {
			p.columns = append(p.columns, c)
		}
	}
	return p
}

// Print prints rows, with the header before the first.
func (p *Printer[T]) Print(items []T) error {
	var rows [][]string
	if p.widths == nil {
		header := make([]string, len(p.columns))
		for i, c := range p.columns {
			header[i] = c.Title
		}
		rows, p.widths = append(rows, header), make([]int, len(p.columns))
	}
	for _, item := range items {
		row := make([]string, len(p.columns))
		for i, c := range p.columns {
			row[i] = oneLine(c.Value(item))
		}
		rows = append(rows, row)
	}
	for _, row := range rows {
		for i, cell := range row {
			p.widths[i] = max(p.widths[i], len([]rune(cell)))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			line += cell + strings.Repeat(" ", p.widths[i]-len([]rune(cell))+3)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(p.w, b.String())
	return err
}

// Field is one line of a description.
type Field struct{ Name, Value string }

// Describe prints fields one under another; those without a value are left out.
func Describe(w io.Writer, fields []Field) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range fields {
		if f.Value != "" {
			fmt.Fprintf(tw, "%s:\t%s\n", f.Name, oneLine(f.Value))
		}
	}
	return tw.Flush()
}

// oneLine keeps control characters of foreign text off the terminal, and "-" where there is nothing.
func oneLine(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// Labels prints labels as a selector would name them.
func Labels(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}

// Enum prints an enum's value in lower case, without what all values begin with.
func Enum(v fmt.Stringer, prefix string) string {
	s := strings.TrimPrefix(v.String(), prefix)
	if s == "UNSPECIFIED" {
		return ""
	}
	return strings.ReplaceAll(strings.ToLower(s), "_", "-")
}

// Age prints how long ago something was, in its largest unit or two.
func Age(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return ""
	}
	return Span(now.Sub(t.AsTime()))
}

// Span prints a length of time in its largest unit or two.
func Span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Time prints a time of the server.
func Time(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}
