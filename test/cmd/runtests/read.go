package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// tally counts tests; subtests count, a test with subtests does too.
type tally struct {
	passed, failed, skipped int
	broken                  bool     // a package did not build or ended without a test's failure
	failures                []string // what failed, in short
}

func (t *tally) add(o tally) {
	t.passed += o.passed
	t.failed += o.failed
	t.skipped += o.skipped
	t.broken = t.broken || o.broken
	t.failures = append(t.failures, o.failures...)
}

// event is a line of go test -json, see `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

const (
	mostLines = 2000 // of one test's output that are kept
	mostShort = 10   // of those that are told once more at the end
)

// read counts events and prints the output of what failed.
func read(r io.Reader, verbose bool) (t tally) {
	output := map[string][]string{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if json.Unmarshal(sc.Bytes(), &e) != nil {
			fmt.Println(sc.Text())
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			if len(output[key]) < mostLines {
				output[key] = append(output[key], e.Output)
			}
			continue
		case "pass", "fail", "skip":
		default:
			continue
		}
		if e.Test == "" && e.Action == "skip" { // a package without test files
			continue
		}
		if e.Action == "fail" && e.Test == "" { // what never ended says why: a time limit, a panic
			for open, lines := range output {
				if strings.HasPrefix(open, key) && open != key {
					fmt.Printf("--- DID NOT END: %s\n%s", open, strings.Join(lines, ""))
					t.failures = append(t.failures, "did not end: "+open)
					delete(output, open)
				}
			}
		}
		if e.Action == "fail" || e.Action == "skip" && e.Test != "" {
			fmt.Printf("--- %s: %s\n%s", strings.ToUpper(e.Action), key, strings.Join(output[key], ""))
			t.failures = append(t.failures, inShort(e, output[key]))
		} else if verbose {
			fmt.Printf("%s %s (%.2fs)\n", e.Action, key, e.Elapsed)
		}
		delete(output, key)
		switch {
		case e.Test == "":
			t.broken = t.broken || e.Action == "fail"
		case e.Action == "pass":
			t.passed++
		case e.Action == "fail":
			t.failed++
		default:
			t.skipped++
		}
	}
	return t
}

// inShort is the beginning of what the test itself said, without logs of programs; a package's end is told by its last lines.
func inShort(e event, output []string) string {
	var said []string
	for _, line := range output {
		text := strings.TrimSpace(line)
		if text == "" || strings.HasPrefix(text, "{") || strings.HasPrefix(text, "=== ") {
			continue
		}
		said = append(said, "    "+text[:min(len(text), 300)])
	}
	if len(said) > mostShort {
		if e.Test == "" {
			said = said[len(said)-mostShort:]
		}
		said = said[:mostShort]
	}
	return fmt.Sprintf("%s: %s %s (%.1fs)\n%s", e.Action, e.Package, e.Test, e.Elapsed, strings.Join(said, "\n"))
}
