package failure

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Print shows a failure: three lines for people, or one JSON object.
func Print(w io.Writer, e *Error, asJSON bool) {
	if e == nil || e.Silent {
		return
	}
	if asJSON {
		printJSON(w, e)
		return
	}
	fmt.Fprintf(w, "error: %s\n", indent(e.Message))
	if len(e.Violations) > 1 {
		for _, v := range e.Violations {
			fmt.Fprintf(w, "  %s: %s\n", v.Field, v.Description)
		}
	}
	fmt.Fprintf(w, "reason: %s\n", e.Reason)
	fmt.Fprintf(w, "fix: %s\n", indent(e.Fix))
}

func indent(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n  ") }

type jsonViolation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

func printJSON(w io.Writer, e *Error) {
	out := struct {
		Message    string            `json:"message"`
		Reason     string            `json:"reason"`
		Fix        string            `json:"fix"`
		ExitCode   int               `json:"exitCode"`
		Operation  string            `json:"operation,omitempty"`
		Violations []jsonViolation   `json:"violations,omitempty"`
		Metadata   map[string]string `json:"metadata,omitempty"`
	}{Message: e.Message, Reason: e.Reason, Fix: e.Fix, ExitCode: e.Exit, Operation: e.Operation, Metadata: e.Metadata}
	for _, v := range e.Violations {
		out.Violations = append(out.Violations, jsonViolation{v.Field, v.Description})
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(map[string]any{"error": out}) // stderr is gone: nobody is left to tell
}
