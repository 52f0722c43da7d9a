package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// row is what came of one break.
type row struct {
	b    mutation
	took time.Duration
	err  error
}

func (r row) verdict() string {
	if r.err != nil {
		return "UNNOTICED: " + r.err.Error()
	}
	return "noticed by " + r.b.Test
}

// report writes docs/evidence/mutate.md.
func report(ctx context.Context, root string, rows []row, began time.Time) error {
	commit, err := exec.CommandContext(ctx, "git", "-C", root, "rev-parse", "HEAD").Output()
	if err != nil {
		return fmt.Errorf("git rev-parse: %w", err)
	}
	var b strings.Builder
	noticed := 0
	for _, r := range rows {
		if r.err == nil {
			noticed++
		}
	}
	fmt.Fprintf(&b, "# mutate\n\nEach line breaks one line of code that holds an invariant of [reliability.md](../reliability.md), alone; a named test must turn red.\n\n"+
		"%d breaks, %d noticed, in %s, on %s, commit %s\n\n| break | invariant | file | red test | result |\n|---|---|---|---|---|\n",
		len(rows), noticed, time.Since(began).Round(time.Second), began.UTC().Format("2006-01-02"), strings.TrimSpace(string(commit)))
	for _, r := range rows {
		result := "noticed"
		if r.err != nil {
			result = "UNNOTICED"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.b.Name, r.b.Invariant, r.b.File, r.b.Test, result)
	}
	b.WriteString("\nMade by: make mutate. The list is test/mutations.yaml.\n")
	return os.WriteFile(filepath.Join(root, "docs", "evidence", "mutate.md"), []byte(b.String()), 0o644) //nolint:gosec // a document
}
